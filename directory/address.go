package directory

import (
	"context"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// attach stages whose an address is. It stays that device's for as long as the device is enrolled, since
// it goes on receiving there after its KeyPackage was claimed. The zero address is none.
func (d *Directory) attach(ctx context.Context, tx recordstore.Tx, token wire.Token, v wire.DeviceID, enrolled wire.Time) error {
	if token == (wire.Token{}) {
		return nil
	}
	owner, err := owner(ctx, tx, token)
	if err != nil {
		return err
	}
	if owner != "" && owner != v {
		return wire.Errorf(wire.Exists, "upload", "an address is another device's: choose a random one for each KeyPackage")
	}
	if owner == v {
		return nil
	}
	if err := d.mayMake("upload", v); err != nil {
		return err
	}
	return tx.Set(ctx, &recordstore.Address{Token: token, Device: v, Enrolled: enrolled})
}

// mayMake counts a record that a device makes of an address: a device with changed code could fill the disk otherwise.
func (d *Directory) mayMake(op string, v wire.DeviceID) error {
	if d.made.Take(string(v), d.cfg.Clock.Now()) {
		return nil
	}
	return wire.Errorf(wire.Busy, op, "%s makes addresses too fast: %d at once and one each %v are allowed; wait", v, d.cfg.AddressBurst, d.cfg.AddressEvery)
}

// Attach makes an address a device's, without a KeyPackage: for a conversation that it founds or comes
// back to by itself. A repetition does no harm. wire.Exists if it is another device's.
func (d *Directory) Attach(ctx context.Context, v wire.DeviceID, token wire.Token) error {
	if token == (wire.Token{}) {
		return wire.Errorf(wire.Malformed, "address", "the zero address is nobody's: choose 16 random bytes")
	}
	return d.store.Update(ctx, v.User(), func(tx recordstore.Tx) error {
		device, err := d.device(ctx, tx, "address", v)
		if err != nil {
			return err
		}
		return d.attach(ctx, tx, token, v, device.Enrolled)
	})
}

// DeviceAt finds the device that receives at an address; wire.NotFound if there is none, or no longer.
func (d *Directory) DeviceAt(ctx context.Context, token wire.Token) (wire.DeviceID, error) {
	v, err := owner(ctx, d.store, token)
	if err == nil && v == "" {
		err = d.noDevice()
	}
	return v, err
}

func (d *Directory) noDevice() error {
	return wire.Errorf(wire.NotFound, "address", "no device of %s receives there", d.cfg.Domain)
}

// DevicesAt finds the devices that receive at addresses. It leaves out an address at which none does.
func (d *Directory) DevicesAt(ctx context.Context, tokens ...wire.Token) (map[wire.Token]wire.DeviceID, error) {
	return d.store.DevicesAt(ctx, tokens...)
}

// owner is "" for an address that is nobody's, or of a device that was revoked.
func owner(ctx context.Context, from recordstore.Reads, token wire.Token) (wire.DeviceID, error) {
	at, err := from.DevicesAt(ctx, token)
	return at[token], err
}
