package directory

import (
	"context"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/directory/recordstore"
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

// admits refuses a user whose account has ended. The caller has the user's lock.
func (d *Directory) admits(ctx context.Context, from recordstore.Reads, op string, u wire.UserID) error {
	a, err := from.Account(ctx, u)
	if err != nil {
		return err
	}
	if a != nil && !a.Active {
		return wire.Errorf(wire.Denied, op, "the account of %s has ended at the organization's login service", u)
	}
	return nil
}

// Accounts lists the users of the organization and those whom the provider has named, by name.
func (d *Directory) Accounts(ctx context.Context) ([]Account, error) {
	users, err := d.store.Users(ctx, d.cfg.Domain)
	if err != nil {
		return nil, err
	}
	named, err := d.store.Accounts(ctx, d.cfg.Domain)
	if err != nil {
		return nil, err
	}
	list := make([]Account, 0, len(users)+len(named))
	by := make(map[wire.UserID]bool, len(named))
	for i := range named {
		by[named[i].User] = true
		if !named[i].Deleted {
			list = append(list, accountOf(&named[i]))
		}
	}
	for i := range users {
		if !by[users[i].ID] {
			list = append(list, unnamed(&users[i]))
		}
	}
	for i := range list {
		devices, err := d.store.Devices(ctx, list[i].User)
		if err != nil {
			return nil, err
		}
		list[i].Devices = len(devices)
	}
	slices.SortFunc(list, func(a, b Account) int { return strings.Compare(string(a.User), string(b.User)) })
	return list, nil
}

// accountOf returns the account of a user whom the provider has named.
func accountOf(a *recordstore.Account) Account {
	return Account{User: a.User, External: a.External, Active: a.Active, Created: a.Created, Modified: a.Modified}
}

// unnamed returns the account of a user whom the provider has not named.
func unnamed(u *recordstore.User) Account {
	return Account{User: u.ID, Active: true, Created: u.Created, Modified: u.Created}
}

// Account is what is known of a user; wire.NotFound for one whom neither the organization nor the provider knows.
func (d *Directory) Account(ctx context.Context, u wire.UserID) (a Account, err error) {
	if err := d.checkUser("account", u); err != nil {
		return Account{}, err
	}
	named, err := d.store.Account(ctx, u)
	if err != nil {
		return Account{}, err
	}
	user, err := d.store.User(ctx, u)
	if err != nil {
		return Account{}, err
	}
	switch {
	case named != nil && !named.Deleted:
		a = accountOf(named)
	case user != nil && named == nil:
		a = unnamed(user)
	default:
		return Account{}, wire.Errorf(wire.NotFound, "account", "%s", u)
	}
	devices, err := d.store.Devices(ctx, u)
	a.Devices = len(devices)
	return a, err
}

// SetAccount notes what the provider says of a user. One who is not active any more is removed, as by RemoveUser, and
// can enrol nothing until the provider says otherwise; ended are the devices that this has revoked.
func (d *Directory) SetAccount(ctx context.Context, u wire.UserID, external string, active bool) (ended []wire.DeviceID, err error) {
	return d.setAccount(ctx, u, external, active, false)
}

// DeleteAccount ends a user whom the provider has deleted, as SetAccount does, and lists the user no more. wire.NotFound
// for one who is not listed.
func (d *Directory) DeleteAccount(ctx context.Context, u wire.UserID) (ended []wire.DeviceID, err error) {
	a, err := d.Account(ctx, u)
	if err != nil {
		return nil, err
	}
	return d.setAccount(ctx, u, a.External, false, true)
}

func (d *Directory) setAccount(ctx context.Context, u wire.UserID, external string, active, deleted bool) (ended []wire.DeviceID, err error) {
	if err := d.checkUser("account", u); err != nil {
		return nil, err
	}
	if len(external) > maxExternal {
		return nil, wire.Errorf(wire.TooLarge, "account", "an identifier of %d bytes, at most %d", len(external), maxExternal)
	}
	err = d.store.UpdateSubject(ctx, u, func(tx recordstore.Tx) error {
		now := d.now()
		r, err := tx.Account(ctx, u)
		if err != nil {
			return err
		}
		if r == nil {
			r = &recordstore.Account{User: u, Created: now}
		}
		r.External, r.Active, r.Deleted, r.Modified = external, active, deleted, now
		if err := tx.Set(ctx, r); err != nil || active {
			return err
		}
		known, err := tx.User(ctx, u)
		if err != nil || known == nil {
			return err
		}
		if ended, err = tx.Devices(ctx, u); err != nil {
			return err
		}
		return d.removeUser(ctx, tx, u)
	})
	return ended, err
}
