package client

import (
	"slices"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Extension types of this application, from the range for private use (RFC 9420 §17.3).
const (
	extensionRules   mlscore.ExtensionType = 0xf0a0 // in the GroupContext: Rules
	extensionAddress mlscore.ExtensionType = 0xf0a2 // in a leaf: the token of its owner's mailbox address
)

// Bounds of Rules.
const (
	MaxName   = 256 // bytes of a conversation's name
	MaxAdmins = 256
	maxRules  = 64 << 10
)

// Rules are the rules of a conversation, in its GroupContext. Every member checks every commit against them; a commit
// that breaks them counts as one that cannot be processed.
//
// Admins may do everything. Every member may add and remove devices of its own user, and remove a device if the
// commit proves that the device's organization has revoked it.
type Rules struct {
	Version uint8    `cbor:"1,keyasint"`
	Name    string   `cbor:"2,keyasint,omitempty"`
	Admins  []UserID `cbor:"3,keyasint,omitempty"` // ascending
	// MembersAdd lets every member add users, MembersRemove lets every member remove them, MembersRename lets every
	// member change the name.
	MembersAdd    bool `cbor:"4,keyasint,omitempty"`
	MembersRemove bool `cbor:"5,keyasint,omitempty"`
	MembersRename bool `cbor:"6,keyasint,omitempty"`
}

// rulesVersion is the version of Rules that this package writes.
const rulesVersion = 1

// Check refuses rules that exceed their bounds.
func (r *Rules) Check() error {
	if r.Version != rulesVersion {
		return wire.Errorf(wire.Version, "rules", "version %d, this device knows %d", r.Version, rulesVersion)
	}
	if len(r.Name) > MaxName || !utf8.ValidString(r.Name) {
		return wire.Errorf(wire.Malformed, "rules", "name of %d bytes, at most %d of UTF-8", len(r.Name), MaxName)
	}
	if len(r.Admins) > MaxAdmins || !slices.IsSorted(r.Admins) {
		return wire.Errorf(wire.Malformed, "rules", "%d admins, at most %d, ascending", len(r.Admins), MaxAdmins)
	}
	for _, u := range r.Admins {
		if err := u.Check(); err != nil {
			return wire.Errorf(wire.Malformed, "rules", "admin: %v", err)
		}
	}
	return nil
}

// Admin reports whether a user is an admin.
func (r *Rules) Admin(u UserID) bool {
	_, ok := slices.BinarySearch(r.Admins, u)
	return ok
}

func (r *Rules) extension() (mlscore.Extension, error) {
	if err := r.Check(); err != nil {
		return mlscore.Extension{}, err
	}
	b, err := wire.Encode(r)
	return mlscore.Extension{Type: extensionRules, Data: b}, err
}

// rulesOf reads the rules of a GroupContext.
func rulesOf(x mlscore.Extensions) (*Rules, error) {
	b, ok := x.Find(extensionRules)
	if !ok {
		return nil, wire.Errorf(wire.Invalid, "rules", "the group has none")
	}
	r := new(Rules)
	return r, wire.Decode(b, maxRules, r)
}

// RulesChange is a change of the rules; nil and empty fields keep the old value.
type RulesChange struct {
	Name          *string  `cbor:"1,keyasint,omitempty"`
	Promote       []UserID `cbor:"2,keyasint,omitempty"`
	Demote        []UserID `cbor:"3,keyasint,omitempty"`
	MembersAdd    *bool    `cbor:"4,keyasint,omitempty"`
	MembersRemove *bool    `cbor:"5,keyasint,omitempty"`
	MembersRename *bool    `cbor:"6,keyasint,omitempty"`
}

// apply returns the rules after the change.
func (c *RulesChange) apply(old *Rules) *Rules {
	r := *old
	r.Admins = slices.Clone(old.Admins)
	if c.Name != nil {
		r.Name = *c.Name
	}
	r.Admins = append(r.Admins, c.Promote...)
	slices.Sort(r.Admins)
	r.Admins = slices.Compact(r.Admins)
	r.Admins = slices.DeleteFunc(r.Admins, func(u UserID) bool { return slices.Contains(c.Demote, u) })
	for _, f := range []struct{ to, from *bool }{
		{&r.MembersAdd, c.MembersAdd}, {&r.MembersRemove, c.MembersRemove}, {&r.MembersRename, c.MembersRename},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	return &r
}

// renames reports whether two rules differ only in the name.
func (r *Rules) renames(next *Rules) bool {
	a, b := *r, *next
	a.Name, b.Name = "", ""
	return slices.Equal(a.Admins, b.Admins) && a.MembersAdd == b.MembersAdd &&
		a.MembersRemove == b.MembersRemove && a.MembersRename == b.MembersRename
}
