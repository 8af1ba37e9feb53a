package client

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A sibling is another device of the same user. A certificate of the organization shows that the organization wants
// the device, not that the user does: an operator can enrol a device for any user. So a device adds a sibling to
// conversations only if it knows the sibling's signature key:
//
//   - the user has compared a number on both devices (ConfirmDevice), or
//   - the sibling enrolled with a code that this device made (InviteDevice). The code carries a secret that
//     the node does not get. The sibling proves by a MAC in its KeyPackages that it has the secret, and
//     knows by a hash in the code the key of the device that invited it.
//
// The device knows a key, not a name: a device that is enrolled again under an old name is a different one.

// recordSibling and the others are letters of records, as in records.go.
const (
	recordSibling  = 't' // SHA-256 of a signature key → siblingRecord
	recordSiblings = 'T' // nothing → siblingRecord: this device decides which siblings it knows
	recordOffer    = 'v' // SHA-256 of a secret → offerRecord
	recordProof    = 'V' // nothing → offerRecord: the MAC that this device presents
)

// siblingRecord is a device of the same user whose key this device knows.
type siblingRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Device  DeviceID  `cbor:"2,keyasint,omitempty"`
	Since   wire.Time `cbor:"3,keyasint"`
}

// offerRecord is a secret from a code, or the MAC that was made with the secret; valid until Ends.
type offerRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Secret  []byte    `cbor:"2,keyasint"`
	Ends    wire.Time `cbor:"3,keyasint"`
}

const (
	// extensionProof is an extension of KeyPackages: the MAC of a device that enrolled with another device's code.
	extensionProof mlscore.ExtensionType = 0xf0a8
	// offerSize is the size of a secret, in bytes: 128 bits.
	offerSize = 16
	// maxOffers bounds the secrets that are kept at once. The oldest is dropped.
	maxOffers = 32
	// offerLife is how long a secret is kept: the device that made it may be away when the other device enrols.
	offerLife = 30 * 24 * time.Hour
)

func siblingKey(key []byte) []byte {
	h := sha256.Sum256(key)
	return recordKey(recordSibling, h[:])
}

// proofOf returns the MAC of a device and its key under the secret of a code.
func proofOf(secret []byte, device DeviceID, key []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte("mlsfed device proof 1\x00"))
	m.Write([]byte(device))
	m.Write([]byte{0})
	m.Write(key)
	return m.Sum(nil)
}

// isKnownKey reports whether a signature key belongs to this device or to a known sibling.
func (d *Device) isKnownKey(u *unit, key []byte) (bool, error) {
	if bytes.Equal(key, d.self.Public) {
		return true, nil
	}
	return u.getRecord(siblingKey(key), new(siblingRecord))
}

// addKnownKey records a sibling's key as known.
func (d *Device) addKnownKey(u *unit, device DeviceID, key []byte) error {
	return u.putRecord(siblingKey(key), &siblingRecord{Version: recordVersion, Device: device, Since: d.now()})
}

// beginSiblings is for a device that was enrolled by a build without confirmations: the device will know those
// siblings that share a conversation with it now. Later siblings have to be confirmed.
func (d *Device) beginSiblings(u *unit) error {
	ok, err := u.getRecord(recordKey(recordSiblings), new(siblingRecord))
	if err != nil || ok {
		return err
	}
	err = d.eachActive(u, func(t *conversation) (err error) {
		t.group.Public().Members(func(m mlscore.Member) bool {
			if device, bad := deviceOf(m.Credential); bad == nil && device.User() == d.self.Device.User() {
				err = d.addKnownKey(u, device, m.SignatureKey)
			}
			return err == nil
		})
		return err
	})
	if err != nil {
		return err
	}
	return d.decideSiblings(u)
}

// decideSiblings records that this device knows only the siblings for which it has a record.
func (d *Device) decideSiblings(u *unit) error {
	return u.putRecord(recordKey(recordSiblings), &siblingRecord{Version: recordVersion, Since: d.now()})
}

// offers returns the secrets of open codes of this device.
func (d *Device) offers(u *unit) (map[string]*offerRecord, error) {
	open := make(map[string]*offerRecord)
	err := u.Scan(recordKey(recordOffer), func(key, value []byte) error {
		r := new(offerRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return err
		}
		if r.Ends < d.now() {
			u.delete(key)
			return nil
		}
		open[string(key)] = r
		return nil
	})
	return open, err
}

// offer makes the secret of a code, and returns the data that the code carries: the secret and the SHA-256 of this
// device's key.
func (d *Device) offer(u *unit) (string, error) {
	self, err := d.enrolled()
	if err != nil {
		return "", err
	}
	open, err := d.offers(u)
	if err != nil {
		return "", err
	}
	for len(open) >= maxOffers {
		oldest := ""
		for key, r := range open {
			if oldest == "" || r.Ends < open[oldest].Ends {
				oldest = key
			}
		}
		u.delete([]byte(oldest))
		delete(open, oldest)
	}
	secret := make([]byte, offerSize)
	if err := d.random(secret); err != nil {
		return "", err
	}
	name, own := sha256.Sum256(secret), sha256.Sum256(self.Public)
	ends := d.now() + wire.Time(offerLife.Milliseconds())
	err = u.putRecord(recordKey(recordOffer, name[:]), &offerRecord{Version: recordVersion, Secret: secret, Ends: ends})
	return base64.RawURLEncoding.EncodeToString(append(slices.Clone(secret), own[:]...)), err
}

// splitCode splits a code into the part for the node and the part that another device has added; the latter is nil
// for a code of an operator.
func splitCode(code string) (node string, carried []byte, err error) {
	node, rest, ok := strings.Cut(code, "~")
	if !ok {
		return node, nil, nil
	}
	carried, err = base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(carried) != offerSize+sha256.Size {
		return "", nil, badInvitation("the code of another device is damaged")
	}
	return node, carried, nil
}

// accept stores the data that a code carried: the proof that this device presents, and the key of the device that
// made the code.
func (d *Device) accept(u *unit, carried []byte) error {
	if carried == nil {
		return nil
	}
	proof := proofOf(carried[:offerSize], d.self.Device, d.self.Public)
	ends := d.now() + wire.Time(offerLife.Milliseconds())
	if err := u.putRecord(recordKey(recordProof), &offerRecord{Version: recordVersion, Secret: proof, Ends: ends}); err != nil {
		return err
	}
	return u.putRecord(recordKey(recordSibling, carried[offerSize:]), &siblingRecord{Version: recordVersion, Since: d.now()})
}

// proof returns the extension of this device's KeyPackages, or none if the device did not enrol with another device's
// code.
func (d *Device) proof(u *unit) (mlscore.Extensions, error) {
	r := new(offerRecord)
	ok, err := u.getRecord(recordKey(recordProof), r)
	if err != nil || !ok || r.Ends < d.now() {
		return nil, err
	}
	return mlscore.Extensions{{Type: extensionProof, Data: r.Secret}}, nil
}

// proves reports whether a KeyPackage, whose signature and name were checked, belongs to a known sibling or proves
// that its device enrolled with a code of this device. Each code makes one key known.
func (d *Device) proves(u *unit, a addition) (bool, error) {
	kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
	if err != nil {
		return false, err
	}
	key := kp.LeafNode.SignatureKey
	if ok, err := d.isKnownKey(u, key); ok || err != nil {
		return ok, err
	}
	shown, ok := kp.Extensions.Find(extensionProof)
	if !ok {
		return false, nil
	}
	open, err := d.offers(u)
	if err != nil {
		return false, err
	}
	for at, r := range open {
		if hmac.Equal(proofOf(r.Secret, a.Device, key), shown) {
			u.delete([]byte(at))
			u.then(func() { d.emit(Event{Type: EventDevices, Device: a.Device}) })
			return true, d.addKnownKey(u, a.Device, key)
		}
	}
	return false, nil
}

// waiting returns the user's devices, from the node's list, whose keys this device does not know.
func (d *Device) waiting(u *unit, devices []wire.DeviceInfo) (list []wire.DeviceInfo, err error) {
	for _, v := range devices {
		known, err := d.isKnownKey(u, v.Key)
		if err != nil {
			return nil, err
		}
		if !known && v.ID.User() == d.self.Device.User() {
			list = append(list, v)
		}
	}
	return list, nil
}

// ask emits an event once in this process: a device waits for a confirmation.
func (d *Device) ask(u *unit, device DeviceID, key []byte, in ConversationID, by DeviceID) {
	at := string(siblingKey(key)) + string(in)
	if d.asked[at] {
		return
	}
	n := numberOf(devicePrint(d.self.Device, d.self.Public), devicePrint(device, key))
	u.then(func() { // not if the turn fails
		if d.asked[at] {
			return
		}
		d.remember(at)
		d.emit(Event{Type: EventDeviceWaiting, Device: device, Number: n, Conversation: in, By: by})
	})
}

// remember records an event or action that happens once in a process. The caller has the turn.
func (d *Device) remember(what string) {
	if len(d.asked) >= maxAsked {
		clear(d.asked)
	}
	d.asked[what] = true
}

// maxAsked bounds the remembered actions. A node that lists ever new devices makes the device ask again.
const maxAsked = 1024

// askAbout emits an event about a member that is a device of this user and that this device does not know: the
// organization has given the device's KeyPackage to somebody who added the user.
func (t *conversation) askAbout(m mlscore.Member, by DeviceID) error {
	device, err := deviceOf(m.Credential)
	if err != nil || device.User() != t.d.self.Device.User() {
		return nil
	}
	known, err := t.d.isKnownKey(t.u, m.SignatureKey)
	if err == nil && !known {
		t.d.ask(t.u, device, m.SignatureKey, t.id, by)
	}
	return err
}

// OtherDevice is another device of the same user.
type OtherDevice struct {
	Device   DeviceID
	Enrolled time.Time
	// Number is equal on both devices exactly if each sees the key that the other has.
	Number string
	// Waits is set while this device does not add the other one to conversations: see ConfirmDevice.
	Waits bool
}

// OtherDevices lists the other devices of this device's user that the organization names. Devices that enrolled with
// a code of the operator, or of another device of the user, wait until they are confirmed here.
func (d *Device) OtherDevices(ctx context.Context) ([]OtherDevice, error) {
	devices, err := d.Devices(ctx)
	if err != nil {
		return nil, err
	}
	var list []OtherDevice
	err = d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		if err != nil {
			return err
		}
		if err := d.beginSiblings(u); err != nil {
			return err
		}
		own := devicePrint(self.Device, self.Public)
		for _, v := range devices {
			if v.ID == self.Device || v.ID.User() != self.Device.User() {
				continue
			}
			known, err := d.isKnownKey(u, v.Key)
			if err != nil {
				return err
			}
			list = append(list, OtherDevice{Device: v.ID, Enrolled: v.Enrolled.Std(), Number: numberOf(own, devicePrint(v.ID, v.Key)), Waits: !known})
		}
		return nil
	})
	return list, err
}

// ConfirmDevice makes a device of the same user known, so that this device adds it to conversations. number is the
// number that the other device shows for this one (OtherDevice.Number), as the user has read it there; spaces do not
// count. ConfirmDevice returns [Invalid] if the numbers differ: then somebody else holds the key that the
// organization names, and the device should be revoked. It returns [NotFound] if there is no such device.
// Confirming a known device does no harm.
func (d *Device) ConfirmDevice(ctx context.Context, device DeviceID, number string) error {
	devices, err := d.Devices(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(devices, func(v wire.DeviceInfo) bool { return v.ID == device })
	err = d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		if err != nil {
			return err
		}
		if i < 0 || device.User() != self.Device.User() || device == self.Device {
			return wire.Errorf(wire.NotFound, "confirm", "%s has no other device %s", self.Device.User(), device)
		}
		plain := func(s string) string { return strings.Join(strings.Fields(s), "") }
		want := numberOf(devicePrint(self.Device, self.Public), devicePrint(device, devices[i].Key))
		if plain(number) != plain(want) {
			return wire.Errorf(wire.Invalid, "confirm", "the number of %s is another one here: if it was read correctly, revoke that device", device)
		}
		if err := d.beginSiblings(u); err != nil {
			return err
		}
		return d.addKnownKey(u, device, devices[i].Key)
	})
	if err == nil {
		d.queues.kick(queueUpkeep)
	}
	return err
}
