package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Enrolment configures how a device enrols. Exactly one of Code and Token is set.
type Enrolment struct {
	Device DeviceID
	Code   string // the code of an invitation that the operator or another device of the user made
	Token  string // an OpenID Connect ID token with the nonce of TokenNonce or of Key; or the result of Login
	// Key is a key that was made before the user was known; nil: the device makes one.
	Key *DeviceKey
	// Root is the SHA-256 of the root that the organization must have; zero accepts any root that the Transport
	// trusts. See Invitation.
	Root wire.Hash
}

// Enrol enrols the device for a user: it makes a key, which is on disk before it is sent, and gets a certificate over
// it. Repeating Enrol after a lost answer is safe. Enrol returns [Exists] if the device is enrolled already, and
// [Denied] for a bad code or a certificate that differs from the request.
//
// When Enrol returns, others can add the device: it has uploaded its first KeyPackages. If that upload fails, the
// device is enrolled all the same, and Run uploads them.
func (d *Device) Enrol(ctx context.Context, e Enrolment) error {
	code, carried, err := splitCode(e.Code)
	if err != nil {
		return err
	}
	r := &wire.EnrolRequest{Device: e.Device, Code: code, Token: e.Token}
	err = d.turn(ctx, func(u *unit) error {
		self, err := d.newSelf(u, e.Device, e.Key)
		if err != nil {
			return err
		}
		r.Key = self.Public
		r.Proof, err = self.sign(wire.EnrolInput(e.Device, self.Public))
		return err
	})
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return err
	}
	a, err := d.opts.Transport.Enrol(ctx, r)
	if err != nil {
		return err
	}
	err = d.turn(ctx, func(u *unit) error {
		if err := d.take(u, a.Chain, e.Root); err != nil {
			return err
		}
		return errors.Join(d.decideSiblings(u), d.accept(u, carried))
	})
	if err != nil {
		return err
	}
	if err := d.once(ctx, d.topUp); err != nil {
		d.log.Info("first KeyPackages are brought later", "error", err)
	}
	return nil
}

// TokenNonce returns the nonce that an ID token must have to enrol this device: ask the issuer for a token with it.
// The nonce is the SHA-256, in base64url, of the device's public key, which TokenNonce makes and stores if need be.
// So a leaked token enrols no other key. Its errors are those of Enrol.
func (d *Device) TokenNonce(ctx context.Context, id DeviceID) (string, error) {
	var nonce string
	err := d.turn(ctx, func(u *unit) error {
		self, err := d.newSelf(u, id, nil)
		if err == nil {
			h := hashOf(self.Public)
			nonce = base64.RawURLEncoding.EncodeToString(h[:])
		}
		return err
	})
	return nonce, err
}

// newSelf makes the device's key, takes the given one, or finds the key of an earlier attempt.
func (d *Device) newSelf(u *unit, id DeviceID, given *DeviceKey) (*deviceRecord, error) {
	if err := id.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "enrol", "%v", err)
	}
	if d.self != nil && len(d.self.Chain) > 0 {
		return nil, wire.Errorf(wire.Exists, "enrol", "this device is %s already: use another folder", d.self.Device)
	}
	if d.self != nil && d.self.Device == id && (given == nil || bytes.Equal(d.self.Public, given.public)) {
		return d.self, nil
	}
	r := &deviceRecord{Version: recordVersion, Device: id, Suite: uint16(d.opts.Suite)}
	if given != nil {
		r.Suite, r.Key, r.Public = uint16(given.suite), given.key.Bytes(), given.public
	} else {
		key, public, err := mlscore.GenerateSignatureKey(d.opts.Rand, d.opts.Suite)
		if err != nil {
			return nil, err
		}
		r.Key, r.Public = key.Bytes(), public
	}
	if _, err := r.sign(nil); err != nil {
		return nil, err
	}
	return r, d.saveSelf(u, r)
}

// take stores a certificate chain, and pins its root as the root of the own organization.
func (d *Device) take(u *unit, chain [][]byte, want wire.Hash) error {
	next := *d.self
	leaf, root, err := d.checkChain(&next, chain)
	if err != nil {
		return err
	}
	if got := hashOf(root.Raw); want != (wire.Hash{}) && got != want {
		return wire.Errorf(wire.Denied, "enrol", "the certificate is of root %v, the invitation names %v: ask for another invitation", got, want)
	}
	if err := d.pin(u, wire.Organization{Domain: next.Device.Organization(), Root: root.Raw}); err != nil {
		return err
	}
	next.Chain, next.Ends = chain, wire.TimeOf(leaf.NotAfter)
	credential := mlscore.X509Credential(chain...)
	if err := d.authenticator().ValidateCredential(credential, next.Public, mlscore.UseKeyPackage); err != nil {
		return wire.Errorf(wire.Denied, "enrol", "certificate: %v", err)
	}
	return d.saveSelf(u, &next)
}

// checkChain reads a chain. The first certificate must be this device's, and the last one its organization's.
func (d *Device) checkChain(self *deviceRecord, chain [][]byte) (leaf, root *x509.Certificate, err error) {
	if len(chain) < 2 || len(chain) > mlscore.MaxCertificates {
		return nil, nil, wire.Errorf(wire.Denied, "certificate", "chain of %d, wanted the device's and its organization's", len(chain))
	}
	if leaf, err = x509.ParseCertificate(chain[0]); err != nil {
		return nil, nil, wire.Errorf(wire.Malformed, "certificate", "%v", err)
	}
	if root, err = x509.ParseCertificate(chain[len(chain)-1]); err != nil {
		return nil, nil, wire.Errorf(wire.Malformed, "certificate", "root: %v", err)
	}
	name, err := mlscore.DeviceURI(leaf)
	if err != nil || name.Identity != string(self.Device) {
		return nil, nil, wire.Errorf(wire.Denied, "certificate", "it is for %q (%v), this is %s", name.Identity, err, self.Device)
	}
	return leaf, root, nil
}
