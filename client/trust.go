package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// rootSet is which roots are believed for which organization. It is replaced, never changed: mlscore
// asks from several goroutines at once.
type rootSet struct {
	pools map[string]*x509.CertPool
	certs map[wire.Domain][]*x509.Certificate
}

// maxLifetime is the longest lifetime of a KeyPackage that a device makes or adds, or that a member may
// have committed (RFC 9420 §7.2). All devices of the network have the same value.
const maxLifetime = 100 * 24 * time.Hour

func (d *Device) authenticator() *mlscore.X509Authenticator {
	return &mlscore.X509Authenticator{Roots: func(domain string) *x509.CertPool { return d.roots.Load().pools[domain] }}
}

func rootsKey(domain wire.Domain) []byte {
	h := sha256.Sum256([]byte(domain))
	return recordKey(recordRoots, h[:])
}

// loadRoots reads the pinned roots.
func (d *Device) loadRoots(u *unit) error {
	set := &rootSet{pools: make(map[string]*x509.CertPool), certs: make(map[wire.Domain][]*x509.Certificate)}
	err := u.Scan(recordKey(recordRoots), func(_, value []byte) error {
		r := new(rootsRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return err
		}
		pool := x509.NewCertPool()
		for _, der := range r.Roots {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return err
			}
			pool.AddCert(cert)
			set.certs[r.Domain] = append(set.certs[r.Domain], cert)
		}
		set.pools[string(r.Domain)] = pool
		return nil
	})
	if err == nil {
		d.roots.Store(set)
	}
	return err
}

// pin takes in what the node says of an organization: a root that is met first is believed from then
// on; another one later is an alarm, and not believed.
func (d *Device) pin(u *unit, o wire.Organization) error {
	cert, err := x509.ParseCertificate(o.Root)
	if err != nil || !cert.IsCA {
		return wire.Errorf(wire.Malformed, "organizations", "root of %s is no certificate of an authority", o.Domain)
	}
	r := new(rootsRecord)
	known, err := u.getRecord(rootsKey(o.Domain), r)
	if err != nil {
		return err
	}
	if !known {
		r = &rootsRecord{Version: recordVersion, Domain: o.Domain, Since: d.now(), Roots: [][]byte{o.Root}}
		u.then(func() { d.emit(Event{Type: EventPinned, Domain: o.Domain}) })
		return d.storeRoots(u, r)
	}
	for _, root := range r.Roots {
		if bytes.Equal(root, o.Root) {
			return nil
		}
	}
	if bytes.Equal(r.Offered, o.Root) {
		return nil // told before
	}
	r.Offered = o.Root
	err = fmt.Errorf("%s has another root certificate, SHA-256 %x, than the one met on %s: ask its people, then accept it or not",
		o.Domain, sha256.Sum256(o.Root), r.Since.Std().Format("2006-01-02"))
	u.then(func() { d.emit(Event{Type: EventTrust, Domain: o.Domain, Err: err}) })
	return u.putRecord(rootsKey(o.Domain), r)
}

func (d *Device) storeRoots(u *unit, r *rootsRecord) error {
	if err := u.putRecord(rootsKey(r.Domain), r); err != nil {
		return err
	}
	return d.loadRoots(u)
}

// refreshRoots asks the node which organizations there are.
func (d *Device) refreshRoots(ctx context.Context) error {
	var a wire.OrganizationsAnswer
	if err := d.call(ctx, wire.MethodOrganizations, nil, &a); err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		for _, o := range a.Organizations {
			if err := o.Domain.Check(); err != nil {
				return wire.Errorf(wire.Malformed, "organizations", "%v", err)
			}
			if err := d.pin(u, o); err != nil {
				d.log.Warn("organization passed over", "organization", o.Domain, "error", err)
			}
		}
		return nil
	})
}

// OrganizationTrust is what a device believes of an organization.
type OrganizationTrust struct {
	Domain  wire.Domain
	Roots   []wire.Hash // SHA-256 of the roots that are believed, the one met first before others
	Offered wire.Hash   // of one that the node names and nobody has accepted; zero for none
}

// Organizations lists whom this device has met.
func (d *Device) Organizations(ctx context.Context) ([]OrganizationTrust, error) {
	var list []OrganizationTrust
	err := d.turn(ctx, func(u *unit) error {
		return u.Scan(recordKey(recordRoots), func(_, value []byte) error {
			r := new(rootsRecord)
			if err := wire.Decode(value, maxRecord, r); err != nil {
				return err
			}
			t := OrganizationTrust{Domain: r.Domain}
			for _, root := range r.Roots {
				t.Roots = append(t.Roots, sha256.Sum256(root))
			}
			if len(r.Offered) > 0 {
				t.Offered = sha256.Sum256(r.Offered)
			}
			list = append(list, t)
			return nil
		})
	})
	return list, err
}

// AcceptRoot believes another root of an organization too, after people have compared its SHA-256. It
// must be the one that the node offers: wire.NotFound otherwise. It takes effect at once.
func (d *Device) AcceptRoot(ctx context.Context, domain wire.Domain, root wire.Hash) error {
	return d.turn(ctx, func(u *unit) error {
		r := new(rootsRecord)
		known, err := u.getRecord(rootsKey(domain), r)
		if err != nil {
			return err
		}
		if !known || len(r.Offered) == 0 || sha256.Sum256(r.Offered) != root {
			return wire.Errorf(wire.NotFound, "accept root", "%s offers no root with SHA-256 %v", domain, root)
		}
		r.Roots, r.Offered = append(r.Roots, r.Offered), nil
		if err := d.storeRoots(u, r); err != nil {
			return err
		}
		u.then(func() { // what waits for it is tried at once
			d.lanes.kick(laneUpkeep)
			d.lanes.wakeAll()
		})
		return d.eachActive(u, (*thread).judgeAnew)
	})
}

// judgeAnew goes back to before a commit that could not be processed, since one can be that came from an
// organization with a root that was not believed. The entries from there on are fetched again.
func (t *thread) judgeAnew() error {
	if t.rec.Failed.At == 0 {
		return nil
	}
	at := &t.rec.Position
	order, ok, err := t.u.Get(t.orderKey(t.rec.Failed.At - 1))
	if err != nil || !ok {
		return err // its hash is no longer kept: too long ago
	}
	until := at.Last
	at.Last, at.Order = t.rec.Failed.At-1, wire.Hash(order)
	t.rec.Failed = failed{}
	t.setBehind(until, true)
	return t.save()
}

// isRevoked reports whether what came with the commit proves that a credential was revoked.
func (j *judge) isRevoked(c mlscore.Credential) bool {
	cert, err := certificateOf(c)
	if err != nil {
		return false
	}
	device, err := deviceOf(c)
	return err == nil && j.revoked[serialKey(device.Organization(), cert)]
}

func serialKey(domain wire.Domain, cert *x509.Certificate) string {
	return string(domain) + " " + cert.SerialNumber.String()
}

// MaxEvidence bounds the revocation lists that one commit carries, in bytes.
const MaxEvidence = 64 << 10

// evidence reads revocation lists, each of which a root that this device believes must have signed; it
// returns which serial numbers are revoked. When a list was made does not matter: a revocation is for good.
func (d *Device) evidence(lists [][]byte) (map[string]bool, error) {
	revoked := make(map[string]bool)
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, wire.Errorf(wire.Malformed, "evidence", "revocation list: %v", err)
		}
		domain, ok := d.signerOf(list)
		if !ok {
			return nil, wire.Errorf(wire.Forged, "evidence", "a revocation list is not signed by an organization that is known here")
		}
		for _, e := range list.RevokedCertificateEntries {
			revoked[string(domain)+" "+e.SerialNumber.String()] = true
		}
	}
	return revoked, nil
}

func (d *Device) signerOf(list *x509.RevocationList) (wire.Domain, bool) {
	for domain, certs := range d.roots.Load().certs {
		for _, c := range certs {
			if bytes.Equal(c.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(c) == nil {
				return domain, true
			}
		}
	}
	return "", false
}

// digits writes a hash as groups of five decimal digits, as people read them to each other.
func digits(h []byte, groups int) string {
	var b strings.Builder
	for i := range groups {
		n := uint64(0)
		for _, c := range h[i*5 : i*5+5] {
			n = n<<8 | uint64(c)
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%05d", n%100000)
	}
	return b.String()
}

// pairNumber is the safety number of two devices: equal on both exactly if each sees the other's key.
func pairNumber(a, b mlscore.Member) (string, error) {
	one, err := memberPrint(a)
	if err != nil {
		return "", err
	}
	two, err := memberPrint(b)
	if err != nil {
		return "", err
	}
	return numberOf(one, two), nil
}

// numberOf is the safety number of two prints, in either order.
func numberOf(one, two []byte) string {
	if bytes.Compare(one, two) > 0 {
		one, two = two, one
	}
	sum := sha512.Sum512(append(append([]byte("mlsfed safety number 1\x00"), one...), two...))
	return digits(sum[:], 12)
}

func memberPrint(m mlscore.Member) ([]byte, error) {
	device, err := deviceOf(m.Credential)
	if err != nil {
		return nil, err
	}
	return devicePrint(device, m.SignatureKey), nil
}

// devicePrint names a device together with its signature key.
func devicePrint(device wire.DeviceID, key []byte) []byte {
	sum := sha256.Sum256(append(append([]byte(device), 0), key...))
	return sum[:]
}
