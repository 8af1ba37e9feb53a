package directory

import (
	"context"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// An address is for one conversation: a device has a fresh one for each KeyPackage, and for each conversation that it
// founds or comes back to. A person who learns an address could otherwise add its owner to any number of
// conversations. The address of a last resort is shared, since others may have been given that KeyPackage too: it
// takes new conversations at a rate, as long as the KeyPackage is valid.

// MayRead reports whether the device at an address of this organization reads a conversation, or would when
// an entry adds the address. It changes nothing.
func (d *Directory) MayRead(ctx context.Context, id wire.ConversationID, token wire.Token) (bool, error) {
	v, err := owner(ctx, d.store, token)
	if err != nil || v == "" {
		return false, err
	}
	return d.mayRead(ctx, id, v, token)
}

// AnyReads reports whether MayRead holds for one of several addresses.
func (d *Directory) AnyReads(ctx context.Context, id wire.ConversationID, tokens ...wire.Token) (bool, error) {
	at, err := d.store.DevicesAt(ctx, tokens...)
	if err != nil {
		return false, err
	}
	for token, v := range at {
		if may, err := d.mayRead(ctx, id, v, token); err != nil || may {
			return may, err
		}
	}
	return false, nil
}

// mayRead is MayRead for the device at an address.
func (d *Directory) mayRead(ctx context.Context, id wire.ConversationID, v wire.DeviceID, token wire.Token) (bool, error) {
	use, err := d.store.Use(ctx, token, id)
	if err != nil || use != nil {
		return use != nil && !use.Refused, err
	}
	shared, err := d.shared(ctx, d.store, v, token)
	if err != nil || shared != nil {
		return shared != nil, err
	}
	used, err := used(ctx, d.store, token)
	return !used, err
}

// Bind gives an address to a conversation, and finds the device that receives there: wire.NotFound if there
// is none, or no longer. wire.Exists for an address that another conversation has; wire.Denied for a
// conversation that the device has refused; wire.Busy for a last resort over its rate. elsewhere reports
// whether a device reads another conversation at the address, for addresses of before there were records.
//
// The change is durable with the next one that waits for the disk. A repetition does no harm.
func (d *Directory) Bind(ctx context.Context, id wire.ConversationID, token wire.Token, elsewhere func(wire.DeviceID) (bool, error)) (wire.DeviceID, error) {
	v, err := d.DeviceAt(ctx, token)
	if err != nil {
		return "", err
	}
	err = d.store.Note(ctx, v.User(), func(tx recordstore.Tx) error {
		return d.bindTo(ctx, tx, id, token, v, elsewhere)
	})
	if err != nil {
		if c := wire.CodeOf(err); c == wire.Exists || c == wire.Denied || c == wire.Busy {
			d.counts.addressesRefused.Add(1)
		}
		return "", err
	}
	return v, nil
}

func (d *Directory) bindTo(ctx context.Context, tx recordstore.Tx, id wire.ConversationID, token wire.Token, v wire.DeviceID, elsewhere func(wire.DeviceID) (bool, error)) error {
	use, err := tx.Use(ctx, token, id)
	switch {
	case err != nil:
		return err
	case use != nil && use.Refused:
		return wire.Errorf(wire.Denied, "join", "the device has refused %v", id)
	case use != nil:
		return nil
	}
	use = &recordstore.Use{Token: token, Conversation: id, Since: d.now()}
	shared, err := d.shared(ctx, tx, v, token)
	if err != nil {
		return err
	}
	if shared != nil {
		if !(allowance{d.cfg.LastResortBurst, d.cfg.LastResortEvery}).take(&shared.FullAt, d.count()) {
			return wire.Errorf(wire.Busy, "join", "the last-resort KeyPackage was used too often: %d at once and one each %v are taken", d.cfg.LastResortBurst, d.cfg.LastResortEvery)
		}
		return tx.Set(ctx, shared, use)
	}
	used, err := used(ctx, tx, token)
	if err == nil && !used {
		used, err = elsewhere(v)
	}
	if err != nil {
		return err
	}
	if used {
		return wire.Errorf(wire.Exists, "join", "the address is used for another conversation: a fresh KeyPackage has another one")
	}
	return tx.Set(ctx, use)
}

// used reports whether an address was ever given to a conversation.
func used(ctx context.Context, from recordstore.Reads, token wire.Token) (bool, error) {
	n, err := from.Uses(ctx, token, 1)
	return n > 0, err
}

// shared is the record of an address that is a valid last resort's, nil for another address.
func (d *Directory) shared(ctx context.Context, from recordstore.Reads, v wire.DeviceID, token wire.Token) (*recordstore.Shared, error) {
	r, err := from.Shared(ctx, token)
	if err != nil {
		return nil, err
	}
	if r != nil {
		if r.Ends <= d.now() {
			return nil, nil
		}
		return r, nil
	}
	list, err := from.LastResorts(ctx, v) // of earlier releases, which had no record of the address
	for _, k := range list {
		if k.Address == token && k.Expires > d.now() {
			return &recordstore.Shared{Token: token, Ends: k.Expires}, err
		}
	}
	return nil, err
}

// share stages that the address of a last resort is shared. One that is there keeps its bucket.
func (d *Directory) share(ctx context.Context, tx recordstore.Tx, k *recordstore.KeyPackage) error {
	if k.Address == (wire.Token{}) {
		return nil
	}
	r, err := tx.Shared(ctx, k.Address)
	if err != nil {
		return err
	}
	if r == nil {
		r = &recordstore.Shared{Token: k.Address}
	}
	r.Ends = max(r.Ends, k.Expires)
	return tx.Set(ctx, r)
}

// Refuse makes a device's address take nothing of a conversation any more, whether it has something or not.
// A repetition does no harm. wire.NotFound if the address is not the device's.
func (d *Directory) Refuse(ctx context.Context, v wire.DeviceID, id wire.ConversationID, token wire.Token) error {
	return d.store.Update(ctx, v.User(), func(tx recordstore.Tx) error {
		owner, err := owner(ctx, tx, token)
		if err != nil {
			return err
		}
		if owner != v {
			return wire.Errorf(wire.NotFound, "refuse", "the address is not one of %s", v)
		}
		use, err := tx.Use(ctx, token, id)
		if err != nil || use != nil && use.Refused {
			return err
		}
		if use == nil { // nobody has used the address for it: the device may refuse what is about to come, within bounds
			n, err := tx.Uses(ctx, token, maxRefusals)
			if err != nil {
				return err
			}
			if n >= maxRefusals {
				return wire.Errorf(wire.Quota, "refuse", "the address has been used or refused for %d conversations", n)
			}
			if err := d.mayMake("refuse", v); err != nil {
				return err
			}
		}
		return tx.Set(ctx, &recordstore.Use{Token: token, Conversation: id, Since: d.now(), Refused: true})
	})
}

// maxRefusals bounds the records that a device itself makes of one address.
const maxRefusals = 10_000
