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
