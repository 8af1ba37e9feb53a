package directory

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// codeSize is 128 bits.
const codeSize = 16

var codeEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// formatCode writes a code in groups of four that can be read out, "ABCD-EFGH-…".
func formatCode(code []byte) string {
	s := codeEncoding.EncodeToString(code)
	var b strings.Builder
	for i := 0; i < len(s); i += 4 {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(s[i:min(i+4, len(s))])
	}
	return b.String()
}

// parseCode reads what people make of it: in either case, with other separators or none.
func parseCode(s string) ([]byte, error) {
	if len(s) > 100 {
		return nil, wire.Errorf(wire.Malformed, "invitation", "a code of %d characters", len(s))
	}
	s = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(s))
	b, err := codeEncoding.DecodeString(s)
	if err != nil || len(b) != codeSize || codeEncoding.EncodeToString(b) != s {
		return nil, wire.Errorf(wire.Malformed, "invitation", "a code has 26 letters and digits from A to Z and 2 to 7")
	}
	return b, nil
}

func hashCode(code []byte) wire.Hash {
	return sha256.Sum256(append([]byte("mlsfed invitation 1\x00"), code...))
}

// Invite makes a code by which a user can enrol one device, once, within life. Only its hash is kept.
// The user is made if there is none of that name.
func (d *Directory) Invite(u wire.UserID, life time.Duration) (string, error) {
	if err := d.checkUser("invite", u); err != nil {
		return "", err
	}
	if life <= 0 || life > d.cfg.InvitationLife {
		return "", wire.Errorf(wire.Invalid, "invite", "for %v, wanted up to %v", life, d.cfg.InvitationLife)
	}
	code, err := d.random(codeSize)
	if err != nil {
		return "", err
	}
	err = d.update(u, func(b *pebble.Batch) error {
		if err := d.makeUser(b, u); err != nil {
			return err
		}
		hash := hashCode(code)
		return set(b, d.key(kindInvitation, hash[:16]), &invitationRecord{
			Version: recordVersion, Hash: hash, User: u, Expires: after(d.count(), life),
		})
	})
	return formatCode(code), err
}

func (d *Directory) makeUser(b *pebble.Batch, u wire.UserID) error {
	if err := d.admits("user", u); err != nil {
		return err
	}
	ok, err := d.get(d.userKey(u), new(userRecord))
	if err != nil || ok {
		return err
	}
	return set(b, d.userKey(u), &userRecord{Version: recordVersion, Created: d.now()})
}

// invitation finds the record of a code. The look-up is by half of a hash, from which nothing of a code
// can be learnt, and the whole is compared in constant time.
func (d *Directory) invitation(code []byte) (*invitationRecord, []byte, error) {
	hash := hashCode(code)
	key := d.key(kindInvitation, hash[:16])
	r := new(invitationRecord)
	ok, err := d.get(key, r)
	if err != nil {
		return nil, nil, err
	}
	if !ok || subtle.ConstantTimeCompare(hash[:], r.Hash[:]) != 1 || r.Expires < d.count() {
		return nil, nil, wire.Errorf(wire.Denied, "enrol", "the invitation is not known or has expired: ask for a new one")
	}
	return r, key, nil
}

// Enrolment is a device that wants to be enrolled.
type Enrolment struct {
	Device wire.DeviceID
	Key    []byte // its signature key, as MLS encodes it
	Proof  []byte // its signature over wire.EnrolInput(Device, Key)
}

func (d *Directory) checkEnrolment(e *Enrolment) error {
	if err := d.checkDevice("enrol", e.Device); err != nil {
		return err
	}
	return Verify(e.Key, wire.EnrolInput(e.Device, e.Key), e.Proof)
}

// Enrol enrols a device by an invitation and returns its certificate chain. A repetition with the same
// device and key gets the same answer. wire.Denied for a bad code or proof, Exists for a name that is
// taken, Quota for a user with too many devices.
func (d *Directory) Enrol(code string, e Enrolment) (chain [][]byte, err error) {
	secret, err := parseCode(code)
	if err != nil {
		return nil, err
	}
	if err := d.checkEnrolment(&e); err != nil {
		return nil, err
	}
	err = d.update(e.Device.User(), func(b *pebble.Batch) error {
		inv, key, err := d.invitation(secret)
		if err != nil {
			return err
		}
		if inv.User != e.Device.User() {
			return wire.Errorf(wire.Denied, "enrol", "the invitation is for another user than %s", e.Device.User())
		}
		if inv.Used != "" {
			chain, err = d.repeated(inv, &e)
			return err
		}
		inv.Used = e.Device
		if err := set(b, key, inv); err != nil {
			return err
		}
		chain, err = d.enrol(b, &e)
		return err
	})
	return chain, err
}

// repeated answers an enrolment by a used invitation.
func (d *Directory) repeated(inv *invitationRecord, e *Enrolment) ([][]byte, error) {
	r := new(deviceRecord)
	ok, err := d.get(d.deviceKey(e.Device), r)
	if err != nil {
		return nil, err
	}
	if !ok || inv.Used != e.Device || subtle.ConstantTimeCompare(r.Key, e.Key) != 1 {
		return nil, wire.Errorf(wire.Denied, "enrol", "the invitation was used: ask for a new one")
	}
	return [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}, nil
}

// enrol stages a new device.
func (d *Directory) enrol(b *pebble.Batch, e *Enrolment) ([][]byte, error) {
	if err := d.admits("enrol", e.Device.User()); err != nil {
		return nil, err
	}
	devices, err := d.Devices(e.Device.User())
	if err != nil {
		return nil, err
	}
	if len(devices) >= d.cfg.MaxDevices {
		return nil, wire.Errorf(wire.Quota, "enrol", "%s has %d devices: revoke one", e.Device.User(), len(devices))
	}
	ok, err := d.get(d.deviceKey(e.Device), new(deviceRecord))
	if err != nil {
		return nil, err
	}
	if ok {
		return nil, wire.Errorf(wire.Exists, "enrol", "%s is enrolled: choose another name, or revoke it first", e.Device)
	}
	r := &deviceRecord{Version: recordVersion, Enrolled: d.now(), Key: e.Key}
	if err := d.issue(b, e.Device, r); err != nil {
		return nil, err
	}
	return [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}, set(b, d.deviceKey(e.Device), r)
}
