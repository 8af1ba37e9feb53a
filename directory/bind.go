package directory

import (
	"crypto/sha256"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// An address is for one conversation: a device has a fresh one for each KeyPackage, and for each
// conversation that it founds or comes back to. Whoever learns an address could otherwise put its owner into
// conversations without bound. The address of a last resort is shared, since others may have been given that
// KeyPackage too: it takes new conversations at a rate, as long as the KeyPackage is valid.

// boundRecord says that an address is used for a conversation.
type boundRecord struct {
	Version version   `cbor:"1,keyasint"`
	Since   wire.Time `cbor:"2,keyasint"`
	Refused bool      `cbor:"3,keyasint,omitempty"` // by the device: nothing of it is stored any more
}

func (r *boundRecord) Check() error { return r.Version.check("use of an address") }

// sharedRecord is the bucket of a last resort's address, until the KeyPackage ends.
type sharedRecord struct {
	Version version   `cbor:"1,keyasint"`
	FullAt  wire.Time `cbor:"2,keyasint"`
	Ends    wire.Time `cbor:"3,keyasint"`
}

func (r *sharedRecord) Check() error { return r.Version.check("address of a last resort") }

func (d *Directory) sharedKey(token wire.Token) []byte { return d.key(kindShared, token[:]) }

func (d *Directory) boundKey(token wire.Token, id wire.ConversationID) []byte {
	h := sha256.Sum256([]byte(id))
	return d.key(kindBound, token[:], h[:16])
}

// MayRead reports whether the device at an address of this organization reads a conversation, or would when
// an entry adds the address. It changes nothing.
func (d *Directory) MayRead(id wire.ConversationID, token wire.Token) (bool, error) {
	v, err := d.owner(token)
	if err != nil || v == "" {
		return false, err
	}
	var r boundRecord
	ok, err := d.get(d.boundKey(token, id), &r)
	if err != nil || ok {
		return ok && !r.Refused, err
	}
	shared, err := d.shared(v, token)
	if err != nil || shared != nil {
		return shared != nil, err
	}
	used, err := d.used(token)
	return !used, err
}

// Bind gives an address to a conversation, and finds the device that receives there: wire.NotFound if there
// is none, or no longer. wire.Exists for an address that another conversation has; wire.Denied for a
// conversation that the device has refused; wire.Busy for a last resort over its rate. elsewhere reports
// whether a device reads another conversation at the address, for addresses of before there were records.
//
// The change is durable with the next synchronous write to the database. A repetition does no harm.
func (d *Directory) Bind(id wire.ConversationID, token wire.Token, elsewhere func(wire.DeviceID) (bool, error)) (wire.DeviceID, error) {
	v, err := d.DeviceAt(token)
	if err != nil {
		return "", err
	}
	b := d.db.NewBatch()
	defer b.Close()
	unlock := d.lock(v.User())
	defer unlock()
	if err := d.bindTo(b, id, token, v, elsewhere); err != nil {
		if c := wire.CodeOf(err); c == wire.Exists || c == wire.Denied || c == wire.Busy {
			d.counts.addressesRefused.Add(1)
		}
		return "", err
	}
	return v, b.Commit(pebble.NoSync)
}

func (d *Directory) bindTo(b *pebble.Batch, id wire.ConversationID, token wire.Token, v wire.DeviceID, elsewhere func(wire.DeviceID) (bool, error)) error {
	key := d.boundKey(token, id)
	var r boundRecord
	ok, err := d.get(key, &r)
	if err != nil {
		return err
	}
	if ok && r.Refused {
		return wire.Errorf(wire.Denied, "join", "the device has refused %v", id)
	}
	if ok {
		return nil
	}
	shared, err := d.shared(v, token)
	if err != nil {
		return err
	}
	if shared != nil {
		bucket := bucketRecord{FullAt: shared.FullAt}
		if !(allowance{d.cfg.LastResortBurst, d.cfg.LastResortEvery}).take(&bucket, d.count()) {
			return wire.Errorf(wire.Busy, "join", "the last-resort KeyPackage was used too often: %d at once and one each %v are taken", d.cfg.LastResortBurst, d.cfg.LastResortEvery)
		}
		shared.Version, shared.FullAt = recordVersion, bucket.FullAt
		if err := set(b, d.sharedKey(token), shared); err != nil {
			return err
		}
		return set(b, key, &boundRecord{Version: recordVersion, Since: d.now()})
	}
	used, err := d.used(token)
	if err == nil && !used {
		used, err = elsewhere(v)
	}
	if err != nil {
		return err
	}
	if used {
		return wire.Errorf(wire.Exists, "join", "the address is used for another conversation: a fresh KeyPackage has another one")
	}
	return set(b, key, &boundRecord{Version: recordVersion, Since: d.now()})
}

// used reports whether an address was ever given to a conversation.
func (d *Directory) used(token wire.Token) (used bool, err error) {
	err = d.each(d.key(kindBound, token[:]), func(_, _ []byte) (bool, error) { used = true; return false, nil })
	return used, err
}

// shared is the record of an address that is a valid last resort's, nil for another address.
func (d *Directory) shared(v wire.DeviceID, token wire.Token) (*sharedRecord, error) {
	r := new(sharedRecord)
	ok, err := d.get(d.sharedKey(token), r)
	if err != nil {
		return nil, err
	}
	if ok {
		if r.Ends <= d.now() {
			return nil, nil
		}
		return r, nil
	}
	var found *sharedRecord
	prefix := d.key(kindLastResort, v.User().Name()+"/"+v.Name()+"/")
	err = d.each(prefix, func(_, value []byte) (bool, error) {
		var k keyPackageRecord
		if err := wire.Decode(value, maxRecord, &k); err != nil {
			return false, err
		}
		if k.Address == token && k.Expires > d.now() {
			found = &sharedRecord{Version: recordVersion, Ends: k.Expires}
		}
		return found == nil, nil
	})
	return found, err
}

// share stages that the address of a last resort is shared. One that is there keeps its bucket.
func (d *Directory) share(b *pebble.Batch, k *keyPackageRecord) error {
	if k.Address == (wire.Token{}) {
		return nil
	}
	var r sharedRecord
	if _, err := d.get(d.sharedKey(k.Address), &r); err != nil {
		return err
	}
	r.Version, r.Ends = recordVersion, max(r.Ends, k.Expires)
	return set(b, d.sharedKey(k.Address), &r)
}

// Refuse makes a device's address take nothing of a conversation any more, whether it has something or not.
// A repetition does no harm. wire.NotFound if the address is not the device's.
func (d *Directory) Refuse(v wire.DeviceID, id wire.ConversationID, token wire.Token) error {
	return d.update(v.User(), func(b *pebble.Batch) error {
		owner, err := d.owner(token)
		if err != nil {
			return err
		}
		if owner != v {
			return wire.Errorf(wire.NotFound, "refuse", "the address is not one of %s", v)
		}
		var r boundRecord
		if ok, err := d.get(d.boundKey(token, id), &r); err != nil || ok && r.Refused {
			return err
		}
		if r == (boundRecord{}) { // nobody has used the address for it: the device may refuse what is about to come, within bounds
			n := 0
			err := d.each(d.key(kindBound, token[:]), func(_, _ []byte) (bool, error) { n++; return n < maxRefusals, nil })
			if err != nil {
				return err
			}
			if n >= maxRefusals {
				return wire.Errorf(wire.Quota, "refuse", "the address has been used or refused for %d conversations", n)
			}
		}
		return set(b, d.boundKey(token, id), &boundRecord{Version: recordVersion, Since: d.now(), Refused: true})
	})
}

// maxRefusals bounds the records that a device itself makes of one address.
const maxRefusals = 10_000
