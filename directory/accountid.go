package directory

import (
	"context"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// accountID returns the id of a user's account, and stages one for a user who has none: users of earlier releases get it
// with their next certificate.
func (d *Directory) accountID(ctx context.Context, tx recordstore.Tx, u wire.UserID) (wire.AccountID, error) {
	user, err := tx.User(ctx, u)
	if err != nil {
		return wire.AccountID{}, err
	}
	r, err := tx.Person(ctx, u)
	if err != nil {
		return wire.AccountID{}, err
	}
	if r != nil && user != nil && r.Made >= user.Created {
		return r.ID, nil
	}
	made := d.now()
	if user != nil {
		made = max(made, user.Created)
	}
	id, err := d.random(len(wire.AccountID{}))
	if err != nil {
		return wire.AccountID{}, err
	}
	r = &recordstore.Person{User: u, ID: wire.AccountID(id), Made: made}
	return r.ID, tx.Set(ctx, r)
}
