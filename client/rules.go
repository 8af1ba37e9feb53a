package client

import (
	"slices"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Extensions of this application, of the range for private use (RFC 9420 §17.3).
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

// Rules are what the members of a conversation agree on, in its GroupContext. Every member checks every
// commit against them; one that breaks them counts as one that cannot be processed.
//
// Admins may do everything. Everybody may remove devices of the own user and add them, and remove a
// device of which the commit proves that its organization has revoked it.
type Rules struct {
	Version uint8         `cbor:"1,keyasint"`
	Name    string        `cbor:"2,keyasint,omitempty"`
	Admins  []wire.UserID `cbor:"3,keyasint,omitempty"` // ascending
	// MembersAdd lets every member add users, MembersRemove remove them, MembersRename change the name.
	MembersAdd    bool `cbor:"4,keyasint,omitempty"`
	MembersRemove bool `cbor:"5,keyasint,omitempty"`
	MembersRename bool `cbor:"6,keyasint,omitempty"`
}

// rulesVersion is the version of Rules that this package writes.
const rulesVersion = 1

// Check refuses rules over their bounds.
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
func (r *Rules) Admin(u wire.UserID) bool {
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

// RulesChange is what is to become of the rules; nil and empty fields stay.
type RulesChange struct {
	Name          *string       `cbor:"1,keyasint,omitempty"`
	Promote       []wire.UserID `cbor:"2,keyasint,omitempty"`
	Demote        []wire.UserID `cbor:"3,keyasint,omitempty"`
	MembersAdd    *bool         `cbor:"4,keyasint,omitempty"`
	MembersRemove *bool         `cbor:"5,keyasint,omitempty"`
	MembersRename *bool         `cbor:"6,keyasint,omitempty"`
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
	r.Admins = slices.DeleteFunc(r.Admins, func(u wire.UserID) bool { return slices.Contains(c.Demote, u) })
	for _, f := range []struct{ to, from *bool }{
		{&r.MembersAdd, c.MembersAdd}, {&r.MembersRemove, c.MembersRemove}, {&r.MembersRename, c.MembersRename},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	return &r
}

// renames reports whether two rules differ in nothing but the name.
func (r *Rules) renames(next *Rules) bool {
	a, b := *r, *next
	a.Name, b.Name = "", ""
	return slices.Equal(a.Admins, b.Admins) && a.MembersAdd == b.MembersAdd &&
		a.MembersRemove == b.MembersRemove && a.MembersRename == b.MembersRename
}
