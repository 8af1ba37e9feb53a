package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// rootSet holds the trusted roots of each organization. It is replaced, never changed: mlscore uses it from several
// goroutines.
type rootSet struct {
	pools map[string]*x509.CertPool
	certs map[Domain][]*x509.Certificate

	mu       sync.Mutex
	verified map[[sha256.Size]byte]bool // credentials, with their keys, that verified under these roots
}

// maxLifetime is the longest lifetime of a KeyPackage that a device makes or adds, or that a member may
// have committed (RFC 9420 §7.2). All devices of the network have the same value.
const maxLifetime = 100 * 24 * time.Hour

// maxVerified bounds the credentials in the cache of verified ones. A full cache drops an arbitrary entry.
const maxVerified = 4096

// authenticator verifies the chains of devices up to the pinned roots. The result depends on nothing else, so it is
// cached until the roots change: a device that is added to a hundred conversations is verified once.
type authenticator struct {
	mlscore.X509Authenticator
	set *atomic.Pointer[rootSet]
}

func (d *Device) authenticator() *authenticator {
	roots := func(domain string) *x509.CertPool { return d.roots.Load().pools[domain] }
	return &authenticator{mlscore.X509Authenticator{Roots: roots}, &d.roots}
}

// ValidateCredential implements mlscore.Authenticator.
func (a *authenticator) ValidateCredential(c mlscore.Credential, signatureKey []byte, use mlscore.CredentialUse) error {
	set := a.set.Load()
	if set == nil || c.Type != mlscore.CredentialX509 {
		return a.X509Authenticator.ValidateCredential(c, signatureKey, use)
	}
	sum := sumOf(c, signatureKey)
	if set.has(sum) {
		return nil
	}
	under := mlscore.X509Authenticator{Roots: func(domain string) *x509.CertPool { return set.pools[domain] }}
	err := under.ValidateCredential(c, signatureKey, use)
	if err == nil {
		set.add(sum)
	}
	return err
}

// sumOf returns a hash of a chain of certificates and the key that it has to certify.
func sumOf(c mlscore.Credential, signatureKey []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	var size [8]byte
	for _, part := range append([][]byte{signatureKey}, c.Certificates...) {
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

func (s *rootSet) has(sum [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verified[sum]
}

func (s *rootSet) add(sum [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verified == nil {
		s.verified = make(map[[sha256.Size]byte]bool)
	}
	if len(s.verified) >= maxVerified {
		for old := range s.verified {
			delete(s.verified, old)
			break
		}
	}
	s.verified[sum] = true
}

func rootsKey(domain Domain) []byte {
	h := sha256.Sum256([]byte(domain))
	return recordKey(recordRoots, h[:])
}

// loadRoots reads the pinned roots.
func (d *Device) loadRoots(u *unit) error {
	set := &rootSet{pools: make(map[string]*x509.CertPool), certs: make(map[Domain][]*x509.Certificate)}
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

// pin takes in the node's data about an organization. The first root of an organization is trusted from then on; a
// later different root raises an alarm and is not trusted.
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
		return nil // reported before
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

// refreshRoots asks the node for the list of organizations.
func (d *Device) refreshRoots(ctx context.Context) error {
	var known wire.Hash
	if p := d.pinned.Load(); p != nil {
		known = *p
	}
	all, err := d.eachOrganization(ctx, known, func(list []wire.Organization) (bool, error) {
		return true, d.turn(ctx, func(u *unit) error {
			for _, o := range list {
				if err := o.Domain.Check(); err != nil {
					return wire.Errorf(wire.Malformed, "organizations", "%v", err)
				}
				if err := d.pin(u, o); err != nil {
					d.log.Warn("organization passed over", "organization", o.Domain, "error", err)
				}
			}
			return nil
		})
	})
	if err == nil {
		d.pinned.Store(&all)
	}
	return err
}

// OrganizationTrust describes the roots that a device trusts for an organization.
type OrganizationTrust struct {
	Domain  Domain
	Roots   []wire.Hash // SHA-256 of the trusted roots, the first one that the device saw before the others
	Offered wire.Hash   // SHA-256 of a root that the node names and the user has not accepted; zero for none
}

// Organizations lists the organizations that this device has met.
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

// AcceptRoot makes the device trust another root of an organization too, after people have compared its SHA-256. The
// root must be the one that the node offers: otherwise AcceptRoot returns [NotFound]. The change takes effect at
// once.
func (d *Device) AcceptRoot(ctx context.Context, domain Domain, root wire.Hash) error {
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
		u.then(func() { // waiting work is tried at once
			d.queues.kick(queueUpkeep)
			d.queues.wakeAll()
		})
		return d.eachActive(u, (*conversation).processAgain)
	})
}

// processAgain returns to the position before a commit that could not be processed, since a commit from an organization
// whose root was not trusted may be valid now. The entries from there on are fetched again.
func (t *conversation) processAgain() error {
	if t.rec.Failed.At == 0 {
		return nil
	}
	at := &t.rec.Position
	order, ok, err := t.u.Get(t.orderKey(t.rec.Failed.At - 1))
	if err != nil || !ok {
		return err // the order hash is too old and no longer kept
	}
	until := at.Last
	at.Last, at.Order = t.rec.Failed.At-1, wire.Hash(order)
	t.rec.Failed = failed{}
	t.setBehind(until, true)
	return t.save()
}

// isRevoked reports whether the commit's evidence proves that a credential was revoked.
func (j *rulesPolicy) isRevoked(c mlscore.Credential) bool {
	cert, err := certificateOf(c)
	if err != nil {
		return false
	}
	device, err := deviceOf(c)
	return err == nil && j.revoked[serialKey(device.Organization(), cert)]
}

func serialKey(domain Domain, cert *x509.Certificate) string {
	return string(domain) + " " + cert.SerialNumber.String()
}

// MaxEvidence bounds the revocation lists that one commit carries, in bytes.
const MaxEvidence = 64 << 10

// evidence reads revocation lists, each of which must be signed by a root that this device trusts, and returns the
// revoked serial numbers. The date of a list does not matter: a revocation is permanent.
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

func (d *Device) signerOf(list *x509.RevocationList) (Domain, bool) {
	for domain, certs := range d.roots.Load().certs {
		for _, c := range certs {
			if bytes.Equal(c.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(c) == nil {
				return domain, true
			}
		}
	}
	return "", false
}

// digits formats a hash as groups of five decimal digits, for people who read it to each other.
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

// pairNumber returns the safety number of two devices: it is equal on both exactly if each sees the other's key.
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

// numberOf returns the safety number of two prints, in either order.
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

// devicePrint returns a hash of a device's name and its signature key.
func devicePrint(device DeviceID, key []byte) []byte {
	sum := sha256.Sum256(append(append([]byte(device), 0), key...))
	return sum[:]
}
