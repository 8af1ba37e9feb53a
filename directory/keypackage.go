package directory

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Upload is a KeyPackage that a device hands in.
type Upload struct {
	Message []byte // an MLSMessage with a KeyPackage
	// Address is where the device receives what concerns the group that it is added to with this KeyPackage.
	Address wire.Token
}

// checked is an Upload that was verified.
type checked struct {
	record     recordstore.KeyPackage
	lastResort bool
}

// UploadKeyPackages verifies KeyPackages and keeps them, all or none. One that is there already, or was
// claimed, is passed over, so that a repetition does no harm. A last-resort KeyPackage replaces the one
// before. The error is wire.TooLarge or Quota for what is over a limit, Malformed, Forged, Invalid or
// Denied for a KeyPackage that others would have to refuse.
func (d *Directory) UploadKeyPackages(ctx context.Context, v wire.DeviceID, uploads ...Upload) error {
	device, err := d.device(ctx, d.store, "upload", v)
	if err != nil {
		return err
	}
	if len(uploads) > 2*d.cfg.MaxKeyPackages {
		return wire.Errorf(wire.Quota, "upload", "%d KeyPackages at once, at most %d", len(uploads), 2*d.cfg.MaxKeyPackages)
	}
	list := make([]checked, len(uploads))
	for i, u := range uploads {
		if list[i], err = d.check(ctx, v, device, u); err != nil {
			return err
		}
	}
	return d.store.Update(ctx, v.User(), func(tx recordstore.Tx) error {
		now, err := d.device(ctx, tx, "upload", v)
		if err != nil {
			return err
		}
		if !bytes.Equal(now.Key, device.Key) {
			return wire.Errorf(wire.NotFound, "upload", "%s was enrolled again meanwhile", v)
		}
		return d.keep(ctx, tx, v, now.Enrolled, list)
	})
}

// check verifies one KeyPackage (RFC 9420 §10.1), and that it is this device's.
func (d *Directory) check(ctx context.Context, v wire.DeviceID, device *recordstore.Device, u Upload) (checked, error) {
	refuse := func(code wire.Code, format string, args ...any) (checked, error) {
		return checked{}, wire.Errorf(code, "upload", "KeyPackage of %s: "+format, append([]any{v}, args...)...)
	}
	if len(u.Message) > d.cfg.MaxKeyPackage {
		return refuse(wire.TooLarge, "%d bytes, at most %d", len(u.Message), d.cfg.MaxKeyPackage)
	}
	k, err := mlscore.ParseKeyPackage(u.Message)
	if err != nil {
		return refuse(wire.Malformed, "%v", err)
	}
	auth := &ownLeaf{ctx: ctx, directory: d, device: v, key: device.Key}
	err = k.Verify(mlscore.KeyPackageRules{Auth: auth, Now: d.cfg.Clock.Now(), MaxLifetime: d.cfg.MaxLifetime, Intake: mlscore.Intake{Strict: true}})
	if err != nil {
		return refuse(codeOf(err), "%v", err)
	}
	ends := k.LeafNode.Lifetime.NotAfter
	if ends > uint64(auth.certificate.NotAfter.Unix()) {
		return refuse(wire.Invalid, "it would outlive its certificate, which ends on %s: renew that first, or make its lifetime shorter",
			auth.certificate.NotAfter.Format(time.RFC3339))
	}
	ref, err := k.Ref()
	if err != nil {
		return refuse(wire.Invalid, "%v", err)
	}
	return checked{lastResort: k.LastResort(), record: recordstore.KeyPackage{
		Device: v, Suite: uint16(k.CipherSuite), Ref: ref, Message: u.Message, Address: u.Address, Expires: wire.Time(ends) * 1000,
	}}, nil
}

// codeOf is what a failed verification means to who uploaded.
func codeOf(err error) wire.Code {
	var refused *wire.Error
	switch {
	case errors.As(err, &refused):
		return refused.Code
	case errors.Is(err, mlscore.ErrForged):
		return wire.Forged
	case errors.Is(err, mlscore.ErrMalformed):
		return wire.Malformed
	}
	return wire.Invalid
}

// ownLeaf is the mlscore.Authenticator of an upload: it accepts the leaf of one device.
type ownLeaf struct {
	ctx         context.Context // of the upload: the methods of mlscore.Authenticator have no parameter for one
	directory   *Directory
	device      wire.DeviceID
	key         []byte
	certificate *x509.Certificate // set by ValidateCredential
}

// ValidateCredential accepts a valid certificate of the device, over the key that it enrolled with. That
// the certificate is over the leaf's key was checked before (RFC 9420 §5.3).
func (a *ownLeaf) ValidateCredential(c mlscore.Credential, key []byte, _ mlscore.CredentialUse) error {
	if c.Type != mlscore.CredentialX509 || len(c.Certificates) == 0 {
		return wire.Errorf(wire.Denied, "credential", "wanted the certificate of %s", a.device)
	}
	if subtle.ConstantTimeCompare(key, a.key) != 1 {
		return wire.Errorf(wire.Denied, "credential", "the leaf's key is not the one that %s enrolled with", a.device)
	}
	for _, above := range c.Certificates[1:] {
		if !bytes.Equal(above, a.directory.cfg.CA.Certificate().Raw) {
			return wire.Errorf(wire.Denied, "credential", "the chain holds a certificate that is not %s's", a.directory.cfg.Domain)
		}
	}
	var err error
	a.certificate, err = a.directory.certified(a.ctx, a.device, c.Certificates[0])
	return err
}

// Identity is the device's name.
func (a *ownLeaf) Identity(mlscore.Credential, []byte) ([]byte, error) { return []byte(a.device), nil }

// ValidSuccessor is never asked for a KeyPackage.
func (a *ownLeaf) ValidSuccessor(_, _ mlscore.Credential) error {
	return fmt.Errorf("%w: a KeyPackage succeeds no leaf", mlscore.ErrPolicy)
}

// keep stages verified KeyPackages within the limits.
func (d *Directory) keep(ctx context.Context, tx recordstore.Tx, v wire.DeviceID, enrolled wire.Time, list []checked) error {
	type load struct{ count, size int }
	loads := make(map[uint16]*load)
	staged := make(map[string]bool) // the references of what this change adds
	for i := range list {
		k := &list[i].record
		if err := d.attach(ctx, tx, k.Address, v, enrolled); err != nil {
			return err
		}
		if list[i].lastResort {
			if err := tx.Set(ctx, &recordstore.LastResort{KeyPackage: *k}); err != nil {
				return err
			}
			if err := d.share(ctx, tx, k); err != nil {
				return err
			}
			continue
		}
		known, err := tx.Known(ctx, k)
		if err != nil {
			return err
		}
		if known || staged[string(k.Ref)] {
			continue
		}
		staged[string(k.Ref)] = true
		l := loads[k.Suite]
		if l == nil {
			l = &load{}
			if l.count, l.size, err = tx.Pool(ctx, v, k.Suite, d.now()); err != nil {
				return err
			}
			loads[k.Suite] = l
		}
		l.count++
		l.size += len(k.Message)
		if l.count > d.cfg.MaxKeyPackages || l.size > d.cfg.MaxKeyPackageBytes {
			return wire.Errorf(wire.Quota, "upload", "%s would have %d KeyPackages of %v with %d bytes, at most %d and %d",
				v, l.count, mlscore.CipherSuite(k.Suite), l.size, d.cfg.MaxKeyPackages, d.cfg.MaxKeyPackageBytes)
		}
		if err := tx.Set(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// Count is what a device has of one suite.
type Count struct {
	Suite      mlscore.CipherSuite
	Left       int // that can be claimed once each
	LastResort bool
}

// CountKeyPackages says what a device has left, for each suite of which it has any.
func (d *Directory) CountKeyPackages(ctx context.Context, v wire.DeviceID) ([]Count, error) {
	if _, err := d.device(ctx, d.store, "count", v); err != nil {
		return nil, err
	}
	var counts []Count
	for _, suite := range mlscore.SupportedSuites() {
		left, _, err := d.store.Pool(ctx, v, uint16(suite), d.now())
		if err != nil {
			return nil, err
		}
		r, err := d.lastResort(ctx, d.store, v, suite)
		if err != nil {
			return nil, err
		}
		if left > 0 || r != nil {
			counts = append(counts, Count{suite, left, r != nil})
		}
	}
	return counts, nil
}

// lastResort is nil where there is none, or it has expired.
func (d *Directory) lastResort(ctx context.Context, from recordstore.Reads, v wire.DeviceID, suite mlscore.CipherSuite) (*recordstore.KeyPackage, error) {
	r, err := from.LastResort(ctx, v, uint16(suite))
	if err != nil || r == nil || r.Expires <= d.now() {
		return nil, err
	}
	return &r.KeyPackage, nil
}

// DiscardKeyPackages forgets all KeyPackages of a device, the last resort included: the device has lost their keys. Claims
// that were answered stay. A repetition does no harm.
func (d *Directory) DiscardKeyPackages(ctx context.Context, v wire.DeviceID) error {
	return d.store.Update(ctx, v.User(), func(tx recordstore.Tx) error {
		if _, err := d.device(ctx, tx, "discard", v); err != nil {
			return err
		}
		return tx.RemoveKeyPackages(ctx, v)
	})
}
