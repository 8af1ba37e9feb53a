package directory

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/directory/recordstore"
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
func (d *Directory) Invite(ctx context.Context, u wire.UserID, life time.Duration) (string, error) {
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
	err = d.store.Update(ctx, u, func(tx recordstore.Tx) error {
		if err := d.makeUser(ctx, tx, u); err != nil {
			return err
		}
		return tx.Set(ctx, &recordstore.Invitation{Hash: hashCode(code), User: u, Expires: after(d.count(), life)})
	})
	return formatCode(code), err
}

func (d *Directory) makeUser(ctx context.Context, tx recordstore.Tx, u wire.UserID) error {
	if err := d.admits(ctx, tx, "user", u); err != nil {
		return err
	}
	known, err := tx.User(ctx, u)
	if err != nil || known != nil {
		return err
	}
	return tx.Set(ctx, &recordstore.User{ID: u, Created: d.now()})
}

// invitation finds the record of a code. A store finds it by half of a hash, from which nothing of a code can be
// learnt; the whole is compared in constant time.
func (d *Directory) invitation(ctx context.Context, from recordstore.Reads, code []byte) (*recordstore.Invitation, error) {
	hash := hashCode(code)
	r, err := from.Invitation(ctx, hash)
	if err != nil {
		return nil, err
	}
	if r == nil || subtle.ConstantTimeCompare(hash[:], r.Hash[:]) != 1 || r.Expires < d.count() {
		return nil, wire.Errorf(wire.Denied, "enrol", "the invitation is not known or has expired: ask for a new one")
	}
	return r, nil
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
func (d *Directory) Enrol(ctx context.Context, code string, e Enrolment) (chain [][]byte, err error) {
	secret, err := parseCode(code)
	if err != nil {
		return nil, err
	}
	if err := d.checkEnrolment(&e); err != nil {
		return nil, err
	}
	err = d.store.Update(ctx, e.Device.User(), func(tx recordstore.Tx) error {
		inv, err := d.invitation(ctx, tx, secret)
		if err != nil {
			return err
		}
		if inv.User != e.Device.User() {
			return wire.Errorf(wire.Denied, "enrol", "the invitation is for another user than %s", e.Device.User())
		}
		if inv.Used != "" {
			chain, err = d.repeated(ctx, tx, inv, &e)
			return err
		}
		inv.Used = e.Device
		if err := tx.Set(ctx, inv); err != nil {
			return err
		}
		chain, err = d.enrol(ctx, tx, &e)
		return err
	})
	return chain, err
}

// repeated answers an enrolment by a used invitation.
func (d *Directory) repeated(ctx context.Context, tx recordstore.Tx, inv *recordstore.Invitation, e *Enrolment) ([][]byte, error) {
	r, err := tx.Device(ctx, e.Device)
	if err != nil {
		return nil, err
	}
	if r == nil || inv.Used != e.Device || subtle.ConstantTimeCompare(r.Key, e.Key) != 1 {
		return nil, wire.Errorf(wire.Denied, "enrol", "the invitation was used: ask for a new one")
	}
	return [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}, nil
}

// enrol stages a new device.
func (d *Directory) enrol(ctx context.Context, tx recordstore.Tx, e *Enrolment) ([][]byte, error) {
	if err := d.admits(ctx, tx, "enrol", e.Device.User()); err != nil {
		return nil, err
	}
	devices, err := tx.Devices(ctx, e.Device.User())
	if err != nil {
		return nil, err
	}
	if len(devices) >= d.cfg.MaxDevices {
		return nil, wire.Errorf(wire.Quota, "enrol", "%s has %d devices: revoke one", e.Device.User(), len(devices))
	}
	if slices.Contains(devices, e.Device) {
		return nil, wire.Errorf(wire.Exists, "enrol", "%s is enrolled: choose another name, or revoke it first", e.Device)
	}
	r := &recordstore.Device{ID: e.Device, Enrolled: d.now(), Key: e.Key}
	if err := d.issue(ctx, tx, e.Device, r); err != nil {
		return nil, err
	}
	return [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}, tx.Set(ctx, r)
}
