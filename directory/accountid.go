package directory

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// personRecord is the id of a user's account.
type personRecord struct {
	Version version        `cbor:"1,keyasint"`
	ID      wire.AccountID `cbor:"2,keyasint"`
	// Made is not before the userRecord was made. An earlier release removes a user without the personRecord, so a
	// userRecord that is younger is of another person.
	Made wire.Time `cbor:"3,keyasint"`
}

func (r *personRecord) Check() error { return r.Version.check("person") }

func (d *Directory) personKey(u wire.UserID) []byte { return d.key(kindPerson, u.Name()) }

// accountID returns the id of a user's account, and stages one for a user who has none: users of earlier releases get it
// with their next certificate. The caller holds the user's lock.
func (d *Directory) accountID(b *pebble.Batch, u wire.UserID) (wire.AccountID, error) {
	var user userRecord
	known, err := d.get(d.userKey(u), &user)
	if err != nil {
		return wire.AccountID{}, err
	}
	var r personRecord
	ok, err := d.get(d.personKey(u), &r)
	if err != nil || ok && known && r.Made >= user.Created {
		return r.ID, err
	}
	id, err := d.random(len(r.ID))
	if err != nil {
		return wire.AccountID{}, err
	}
	r = personRecord{Version: recordVersion, ID: wire.AccountID(id), Made: max(d.now(), user.Created)}
	return r.ID, set(b, d.personKey(u), &r)
}
