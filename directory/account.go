package directory

import (
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// maxExternal bounds the identifier that an identity provider has for an account, in bytes.
const maxExternal = 512

// Account is what an identity provider has said of a user (SCIM, RFC 7643 §4.1). A user of whom it has said nothing is
// active.
type Account struct {
	User     wire.UserID
	External string // the provider's own identifier; "" for none
	Active   bool
	Created  wire.Time
	Modified wire.Time
	Devices  int
}

// accountRecord is kept of a user whom the provider has named. It outlives the user: one whose account has ended can
// enrol nothing, whatever tokens and invitations there are.
type accountRecord struct {
	Version  version   `cbor:"1,keyasint"`
	External string    `cbor:"2,keyasint,omitempty"`
	Active   bool      `cbor:"3,keyasint,omitempty"`
	Deleted  bool      `cbor:"4,keyasint,omitempty"` // the provider does not list the user any more
	Created  wire.Time `cbor:"5,keyasint"`
	Modified wire.Time `cbor:"6,keyasint"`
}

func (r *accountRecord) Check() error { return r.Version.check("account") }

func (d *Directory) accountKey(u wire.UserID) []byte { return d.key(kindAccount, u.Name()) }

// admits refuses a user whose account has ended. The caller has the user's lock.
func (d *Directory) admits(op string, u wire.UserID) error {
	var r accountRecord
	ok, err := d.get(d.accountKey(u), &r)
	if err != nil {
		return err
	}
	if ok && !r.Active {
		return wire.Errorf(wire.Denied, op, "the account of %s has ended at the organization's login service", u)
	}
	return nil
}

// Accounts lists the users of the organization and those whom the provider has named, by name.
func (d *Directory) Accounts() ([]Account, error) {
	names := make(map[string]bool)
	for _, kind := range []byte{kindUser, kindAccount} {
		prefix := d.key(kind)
		err := d.each(prefix, func(key, _ []byte) (bool, error) {
			names[string(key[len(prefix):])] = true
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	list := make([]Account, 0, len(names))
	for name := range names {
		u, err := wire.NewUserID(d.cfg.Domain, name)
		if err != nil {
			return nil, err
		}
		switch a, err := d.Account(u); {
		case wire.CodeOf(err) == wire.NotFound: // deleted by the provider, or removed meanwhile
		case err != nil:
			return nil, err
		default:
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b Account) int { return strings.Compare(string(a.User), string(b.User)) })
	return list, nil
}

// Account is what is known of a user; wire.NotFound for one whom neither the organization nor the provider knows.
func (d *Directory) Account(u wire.UserID) (Account, error) {
	if err := d.checkUser("account", u); err != nil {
		return Account{}, err
	}
	var r accountRecord
	named, err := d.get(d.accountKey(u), &r)
	if err != nil {
		return Account{}, err
	}
	var user userRecord
	known, err := d.get(d.userKey(u), &user)
	if err != nil {
		return Account{}, err
	}
	devices, err := d.Devices(u)
	if err != nil {
		return Account{}, err
	}
	switch {
	case named && !r.Deleted:
		return Account{u, r.External, r.Active, r.Created, r.Modified, len(devices)}, nil
	case known && !named:
		return Account{u, "", true, user.Created, user.Created, len(devices)}, nil
	}
	return Account{}, wire.Errorf(wire.NotFound, "account", "%s", u)
}

// SetAccount notes what the provider says of a user. One who is not active any more is removed, as by RemoveUser, and
// can enrol nothing until the provider says otherwise; ended are the devices that this has revoked.
func (d *Directory) SetAccount(u wire.UserID, external string, active bool) (ended []wire.DeviceID, err error) {
	return d.setAccount(u, external, active, false)
}

// DeleteAccount ends a user whom the provider has deleted, as SetAccount does, and lists the user no more. wire.NotFound
// for one who is not listed.
func (d *Directory) DeleteAccount(u wire.UserID) (ended []wire.DeviceID, err error) {
	a, err := d.Account(u)
	if err != nil {
		return nil, err
	}
	return d.setAccount(u, a.External, false, true)
}

func (d *Directory) setAccount(u wire.UserID, external string, active, deleted bool) (ended []wire.DeviceID, err error) {
	if err := d.checkUser("account", u); err != nil {
		return nil, err
	}
	if len(external) > maxExternal {
		return nil, wire.Errorf(wire.TooLarge, "account", "an identifier of %d bytes, at most %d", len(external), maxExternal)
	}
	d.subjects.Lock()
	defer d.subjects.Unlock()
	err = d.update(u, func(b *pebble.Batch) error {
		now := d.now()
		r := accountRecord{Created: now}
		if _, err := d.get(d.accountKey(u), &r); err != nil {
			return err
		}
		r.Version, r.External, r.Active, r.Deleted, r.Modified = recordVersion, external, active, deleted, now
		if err := set(b, d.accountKey(u), &r); err != nil || active {
			return err
		}
		known, err := d.get(d.userKey(u), new(userRecord))
		if err != nil || !known {
			return err
		}
		if ended, err = d.Devices(u); err != nil {
			return err
		}
		return d.removeUser(b, u)
	})
	return ended, err
}
