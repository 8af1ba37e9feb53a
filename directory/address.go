package directory

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// attach stages whose an address is. It stays that device's for as long as the device is enrolled, since
// it goes on receiving there after its KeyPackage was claimed. The zero address is none.
func (d *Directory) attach(b *pebble.Batch, token wire.Token, v wire.DeviceID, enrolled wire.Time) error {
	if token == (wire.Token{}) {
		return nil
	}
	owner, err := d.owner(token)
	if err != nil {
		return err
	}
	if owner != "" && owner != v {
		return wire.Errorf(wire.Exists, "upload", "an address is another device's: choose a random one for each KeyPackage")
	}
	return set(b, d.key(kindAddress, token[:]), &addressRecord{Version: recordVersion, Device: v, Enrolled: enrolled})
}

// Attach makes an address a device's, without a KeyPackage: for a conversation that it founds or comes
// back to by itself. A repetition does no harm. wire.Exists if it is another device's.
func (d *Directory) Attach(v wire.DeviceID, token wire.Token) error {
	if token == (wire.Token{}) {
		return wire.Errorf(wire.Malformed, "address", "the zero address is nobody's: choose 16 random bytes")
	}
	return d.update(v.User(), func(b *pebble.Batch) error {
		device, err := d.device("address", v)
		if err != nil {
			return err
		}
		return d.attach(b, token, v, device.Enrolled)
	})
}

// DeviceAt finds the device that receives at an address; wire.NotFound if there is none, or no longer.
func (d *Directory) DeviceAt(token wire.Token) (wire.DeviceID, error) {
	v, err := d.owner(token)
	if err == nil && v == "" {
		err = wire.Errorf(wire.NotFound, "address", "no device of %s receives there", d.cfg.Domain)
	}
	return v, err
}

// owner is "" for an address that is nobody's, or of a device that was revoked.
func (d *Directory) owner(token wire.Token) (wire.DeviceID, error) {
	var r addressRecord
	ok, err := d.get(d.key(kindAddress, token[:]), &r)
	if err != nil || !ok {
		return "", err
	}
	var device deviceRecord
	ok, err = d.get(d.deviceKey(r.Device), &device)
	if err != nil || !ok || device.Enrolled != r.Enrolled {
		return "", err
	}
	return r.Device, nil
}
