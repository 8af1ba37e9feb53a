package directory

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	domain = wire.Domain("a.example")
	alice  = wire.UserID("mimi://a.example/u/alice")
	phone  = wire.DeviceID("mimi://a.example/d/alice/phone")
	laptop = wire.DeviceID("mimi://a.example/d/alice/laptop")
)

type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *testClock { return &testClock{now: time.Now().Truncate(time.Second)} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.Now()
	}
	return ch
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type testCA struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func (c *testCA) Certificate() *x509.Certificate { return c.certificate }
func (c *testCA) Signer() crypto.Signer          { return c.key }

func makeCA(key crypto.Signer) (*testCA, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.example"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(3650 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	return &testCA{c, key}, err
}

func newCA(t testing.TB, key crypto.Signer) *testCA {
	t.Helper()
	ca, err := makeCA(key)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func ed25519CA(t testing.TB) *testCA {
	t.Helper()
	return newCA(t, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
}

func open(t testing.TB, cfg Config) *Directory {
	t.Helper()
	s := pebbletest.Memory().Open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return on(t, s.Records(), cfg)
}

func on(t testing.TB, store recordstore.Store, cfg Config) *Directory {
	t.Helper()
	cfg.Domain = domain
	if cfg.CA == nil {
		cfg.CA = ed25519CA(t)
	}
	for _, burst := range []*int{&cfg.ClaimBurst, &cfg.PairBurst, &cfg.UserBurst} {
		if *burst == 0 {
			*burst = 1_000_000
		}
	}
	d, err := New(store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// device is a client with its own key.
type device struct {
	id    wire.DeviceID
	suite mlscore.CipherSuite
	priv  mlscore.Secret
	pub   []byte
	chain [][]byte
}

func newDevice(t testing.TB, v wire.DeviceID, suite mlscore.CipherSuite) *device {
	t.Helper()
	priv, pub, err := mlscore.GenerateSignatureKey(nil, suite)
	if err != nil {
		t.Fatal(err)
	}
	return &device{id: v, suite: suite, priv: priv, pub: pub}
}

func (e *device) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	switch len(e.pub) {
	case ed25519.PublicKeySize:
		return ed25519.Sign(ed25519.NewKeyFromSeed(e.priv.Bytes()), message)
	case 57, 1312, 1952, 2592: // Ed448, ML-DSA
		signature, err := mlscore.Sign(e.suite, e.priv, message)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	c, hash := curve(len(e.pub))
	key, err := ecdsa.ParseRawPrivateKey(c, e.priv.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	h := hash.New()
	h.Write(message)
	signature, err := ecdsa.SignASN1(rand.Reader, key, h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func (e *device) enrolment(t testing.TB) Enrolment {
	return Enrolment{Device: e.id, Key: e.pub, Proof: e.sign(t, wire.EnrolInput(e.id, e.pub))}
}

func invite(t testing.TB, d *Directory, u wire.UserID) string {
	t.Helper()
	code, err := d.Invite(t.Context(), u, day)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func enrol(t testing.TB, d *Directory, v wire.DeviceID, suite mlscore.CipherSuite) *device {
	t.Helper()
	e := newDevice(t, v, suite)
	chain, err := d.Enrol(t.Context(), invite(t, d, v.User()), e.enrolment(t))
	if err != nil {
		t.Fatal(err)
	}
	e.chain = chain
	return e
}

// anyone accepts what it is shown, as the maker of its own KeyPackages.
type anyone struct{}

func (anyone) ValidateCredential(mlscore.Credential, []byte, mlscore.CredentialUse) error { return nil }
func (anyone) Identity(mlscore.Credential, []byte) ([]byte, error)                        { return []byte("x"), nil }
func (anyone) ValidSuccessor(_, _ mlscore.Credential) error                               { return nil }

func (e *device) keyPackage(t testing.TB, d *Directory, opts mlscore.KeyPackageOptions) []byte {
	t.Helper()
	c, err := mlscore.NewClient(mlscore.Config{Auth: anyone{}, Store: mlscore.NewMemoryStore(), Now: d.cfg.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.NewKeyPackage(mlscore.Identity{CipherSuite: e.suite, Credential: mlscore.X509Credential(e.chain...), SignatureKey: e.priv}, opts)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Message()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (e *device) uploads(t testing.TB, d *Directory, n int, opts mlscore.KeyPackageOptions) []Upload {
	t.Helper()
	list := make([]Upload, n)
	for i := range list {
		list[i] = Upload{Message: e.keyPackage(t, d, opts)}
		if _, err := rand.Read(list[i].Address[:]); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func upload(t testing.TB, d *Directory, v wire.DeviceID, list ...Upload) {
	t.Helper()
	if err := d.UploadKeyPackages(t.Context(), v, list...); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code wire.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("error %v, want code %s", err, code)
	}
}

func claimID(n int) wire.SubmissionID { return wire.SubmissionID{byte(n), byte(n >> 8), 1} }

func claimOf(n int, suite mlscore.CipherSuite) Claim {
	return Claim{ID: claimID(n), Claimant: "b.example", User: alice, Suite: suite}
}

// TestEnrolWithEachScheme enrols a device of each signature scheme under authorities of each, and has
// mlscore accept a KeyPackage with the certificate.
func TestEnrolWithEachScheme(t *testing.T) {
	authorities := map[string]*testCA{"Ed25519": ed25519CA(t)}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		authorities[c.Params().Name] = newCA(t, key)
	}
	for name, ca := range authorities {
		for _, suite := range mlscore.SupportedSuites() {
			t.Run(fmt.Sprintf("%s certifies %v", name, suite), func(t *testing.T) {
				d := open(t, Config{CA: ca, Clock: newClock()})
				e := enrol(t, d, phone, suite)
				c, err := x509.ParseCertificate(e.chain[0])
				if err != nil {
					t.Fatal(err)
				}
				if err := c.CheckSignatureFrom(ca.certificate); err != nil {
					t.Fatal(err)
				}
				if len(c.URIs) != 1 || c.URIs[0].String() != string(phone) {
					t.Fatalf("names %v", c.URIs)
				}
				upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
				got, err := d.ClaimKeyPackages(t.Context(), claimOf(1, suite))
				if err != nil || len(got) != 1 || got[0].Device != phone || got[0].LastResort {
					t.Fatalf("%+v, %v", got, err)
				}
			})
		}
	}
}

func TestInvitationCodes(t *testing.T) {
	d := open(t, Config{})
	code := invite(t, d, alice)
	if len(code) != 32 || strings.Count(code, "-") != 6 {
		t.Fatalf("code %q", code)
	}
	want, err := parseCode(code)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{strings.ToLower(code), strings.ReplaceAll(code, "-", ""), strings.ReplaceAll(code, "-", " ")} {
		if got, err := parseCode(s); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %x, %v", s, got, err)
		}
	}
	for n := range code {
		if _, err := parseCode(code[:n]); err == nil {
			t.Errorf("prefix of %d characters was accepted", n)
		}
	}
	for _, s := range []string{code + "A", strings.Repeat("A", 25) + "B", strings.Repeat("1", 26), strings.Repeat("A", 101)} {
		_, err := parseCode(s)
		wantCode(t, err, wire.Malformed)
	}
	// Nothing of the code itself is on disk.
	everyRecord(t, d, func(kind byte, key, value []byte) {
		if bytes.Contains(key, want) || bytes.Contains(value, want) || bytes.Contains(value, []byte(code)) {
			t.Errorf("the code is stored under %c%q", kind, key)
		}
	})
}

func TestInvitationIsUsedOnce(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	code := invite(t, d, alice)
	first, second := newDevice(t, phone, 1), newDevice(t, laptop, 1)
	chain, err := d.Enrol(t.Context(), code, first.enrolment(t))
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Enrol(t.Context(), code, first.enrolment(t)) // the answer was lost
	if err != nil || !bytes.Equal(again[0], chain[0]) {
		t.Fatalf("repeated: %v", err)
	}
	_, err = d.Enrol(t.Context(), code, second.enrolment(t))
	wantCode(t, err, wire.Denied)
	_, err = d.Enrol(t.Context(), code, newDevice(t, phone, 1).enrolment(t)) // same name, another key
	wantCode(t, err, wire.Denied)
	_, err = d.Enrol(t.Context(), invite(t, d, alice), newDevice(t, phone, 1).enrolment(t))
	wantCode(t, err, wire.Exists)
	// Expiry, at its edge.
	code = invite(t, d, alice)
	late := invite(t, d, alice)
	clock.advance(day)
	if _, err := d.Enrol(t.Context(), code, second.enrolment(t)); err != nil {
		t.Fatalf("at its end: %v", err)
	}
	clock.advance(time.Millisecond)
	_, err = d.Enrol(t.Context(), late, newDevice(t, "mimi://a.example/d/alice/third", 1).enrolment(t))
	wantCode(t, err, wire.Denied)
}

// TestInvitationRace: of many who use one code at once, one is enrolled.
func TestInvitationRace(t *testing.T) {
	d := open(t, Config{})
	code := invite(t, d, alice)
	var all sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for n := range 20 {
		e := newDevice(t, wire.DeviceID(fmt.Sprintf("mimi://a.example/d/alice/%d", n)), 1).enrolment(t)
		all.Go(func() {
			_, err := d.Enrol(t.Context(), code, e)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, wire.Denied) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if devices, err := d.Devices(t.Context(), alice); won != 1 || len(devices) != 1 || err != nil {
		t.Fatalf("%d won, devices %v, %v", won, devices, err)
	}
}

func TestEnrolRefusals(t *testing.T) {
	d := open(t, Config{MaxDevices: 1})
	code := invite(t, d, alice)
	good := newDevice(t, phone, 1)
	other := newDevice(t, phone, 1)
	for name, c := range map[string]struct {
		change func(*Enrolment)
		code   wire.Code
	}{
		"proof by another key":     {func(e *Enrolment) { e.Proof = other.sign(t, wire.EnrolInput(phone, good.pub)) }, wire.Denied},
		"proof for another device": {func(e *Enrolment) { e.Proof = good.sign(t, wire.EnrolInput(laptop, good.pub)) }, wire.Denied},
		"no proof":                 {func(e *Enrolment) { e.Proof = nil }, wire.Denied},
		"no key":                   {func(e *Enrolment) { e.Key = nil }, wire.Malformed},
		"no point":                 {func(e *Enrolment) { e.Key = append([]byte{4}, make([]byte, 64)...) }, wire.Malformed},
		"bad name":                 {func(e *Enrolment) { e.Device = "mimi://a.example/d/alice" }, wire.Malformed},
		"other organization":       {func(e *Enrolment) { e.Device = "mimi://b.example/d/alice/phone" }, wire.NotFound},
	} {
		e := good.enrolment(t)
		c.change(&e)
		if _, err := d.Enrol(t.Context(), code, e); !errors.Is(err, c.code) {
			t.Errorf("%s: %v, want code %s", name, err, c.code)
		}
	}
	_, err := d.Enrol(t.Context(), code, newDevice(t, "mimi://a.example/d/bob/phone", 1).enrolment(t))
	wantCode(t, err, wire.Denied)
	unknown := formatCode(make([]byte, codeSize))
	_, err = d.Enrol(t.Context(), unknown, good.enrolment(t))
	wantCode(t, err, wire.Denied)
	if _, err := d.Enrol(t.Context(), code, good.enrolment(t)); err != nil {
		t.Fatalf("none of the refusals may have used the code: %v", err)
	}
	_, err = d.Enrol(t.Context(), invite(t, d, alice), newDevice(t, laptop, 1).enrolment(t))
	wantCode(t, err, wire.Quota)
	for _, life := range []time.Duration{0, -1, 7*day + 1} {
		_, err := d.Invite(t.Context(), alice, life)
		wantCode(t, err, wire.Invalid)
	}
	_, err = d.Invite(t.Context(), "mimi://b.example/u/alice", day)
	wantCode(t, err, wire.NotFound)
	_, err = d.Device(t.Context(), laptop)
	wantCode(t, err, wire.NotFound)
}

func TestRenew(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, CertificateLife: 90 * day, RenewBefore: 30 * day})
	for _, suite := range []mlscore.CipherSuite{1, 4, mlscore.MLS192MLKEM768AES256MLDSA65} {
		v := wire.DeviceID(fmt.Sprintf("mimi://a.example/d/alice/%d", suite))
		e := enrol(t, d, v, suite)
		clock.advance(60 * day) // thirty days are left
		chain, err := d.Renew(t.Context(), v)
		if err != nil || !bytes.Equal(chain[0], e.chain[0]) {
			t.Fatalf("renewed too early, or %v", err)
		}
		clock.advance(time.Second)
		chain, err = d.Renew(t.Context(), v)
		if err != nil || bytes.Equal(chain[0], e.chain[0]) {
			t.Fatalf("not renewed, or %v", err)
		}
		c, err := x509.ParseCertificate(chain[0])
		if err != nil || !c.NotAfter.Equal(clock.Now().Add(90*day).UTC()) {
			t.Fatalf("ends on %v, %v", c.NotAfter, err)
		}
		upload(t, d, v, e.uploads(t, d, 1, mlscore.KeyPackageOptions{Lifetime: 10 * day})...) // the old one is still good
		e.chain = chain
		upload(t, d, v, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
		now, err := d.Chain(t.Context(), v)
		if err != nil || !bytes.Equal(now[0], chain[0]) {
			t.Fatal(err)
		}
	}
	_, err := d.Renew(t.Context(), phone)
	wantCode(t, err, wire.NotFound)
}

func list(t testing.TB, d *Directory) *x509.RevocationList {
	t.Helper()
	der, err := d.RevocationList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckSignatureFrom(d.cfg.CA.Certificate()); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRevoke(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, ListLife: 7 * day, CertificateLife: 90 * day})
	first := list(t, d)
	if len(first.RevokedCertificateEntries) != 0 || !first.NextUpdate.Equal(clock.Now().Add(7*day)) {
		t.Fatalf("empty list %+v", first)
	}
	e := enrol(t, d, phone, 1)
	enrol(t, d, laptop, 1)
	upload(t, d, phone, e.uploads(t, d, 2, mlscore.KeyPackageOptions{})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...)
	clock.advance(61 * day)
	renewed, err := d.Renew(t.Context(), phone)
	if err != nil {
		t.Fatal(err)
	}
	again := e.uploads(t, d, 1, mlscore.KeyPackageOptions{Lifetime: day})
	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	second := list(t, d)
	if second.Number.Cmp(first.Number) <= 0 || len(second.RevokedCertificateEntries) != 2 { // both of its certificates
		t.Fatalf("list %v after %v with %d entries", second.Number, first.Number, len(second.RevokedCertificateEntries))
	}
	wantCode(t, d.Revoke(t.Context(), phone), wire.NotFound)
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, again...), wire.NotFound)
	_, err = d.Renew(t.Context(), phone)
	wantCode(t, err, wire.NotFound)
	_, err = d.ClaimKeyPackages(t.Context(), claimOf(1, 1))
	wantCode(t, err, wire.NoneLeft)
	// The name can be enrolled again; the revoked certificate stays revoked, with the same key even.
	fresh, err := d.Enrol(t.Context(), invite(t, d, alice), e.enrolment(t))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, again...), wire.Denied)
	e.chain = renewed
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...), wire.Denied)
	e.chain = fresh
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	// Entries leave the list when their certificates have ended, and numbers go on.
	clock.advance(40 * day)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := list(t, d)
	if third.Number.Cmp(second.Number) <= 0 || len(third.RevokedCertificateEntries) != 1 {
		t.Fatalf("list %v with %d entries", third.Number, len(third.RevokedCertificateEntries))
	}
	clock.advance(3 * day)
	if same := list(t, d); same.Number.Cmp(third.Number) != 0 {
		t.Fatal("a new list without need")
	}
	clock.advance(day)
	if next := list(t, d); next.Number.Cmp(third.Number) <= 0 {
		t.Fatal("no new list after half of its life")
	}
}

// TestManyRevocationsMakeOneList holds that revocations in a row cost one list, made when it is asked for.
func TestManyRevocationsMakeOneList(t *testing.T) {
	d := open(t, Config{})
	first := list(t, d)
	for _, v := range []wire.DeviceID{phone, laptop} {
		enrol(t, d, v, 1)
		if err := d.Revoke(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	second := list(t, d)
	if n := second.Number.Int64() - first.Number.Int64(); n != 1 || len(second.RevokedCertificateEntries) != 2 {
		t.Fatalf("%d lists with %d entries, wanted one with 2", n, len(second.RevokedCertificateEntries))
	}
	if again := list(t, d); again.Number.Cmp(second.Number) != 0 {
		t.Fatal("another list without a revocation")
	}
}

func TestRemoveUser(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	enrol(t, d, laptop, 2)
	enrol(t, d, "mimi://a.example/d/alicia/phone", 1)
	open := invite(t, d, alice)
	users, err := d.Users(t.Context())
	if err != nil || len(users) != 2 || users[0].ID != alice || len(users[0].Devices) != 2 || len(users[1].Devices) != 1 {
		t.Fatalf("%+v, %v", users, err)
	}
	if err := d.RemoveUser(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.RemoveUser(t.Context(), alice), wire.NotFound)
	_, err = d.Enrol(t.Context(), open, newDevice(t, phone, 1).enrolment(t))
	wantCode(t, err, wire.Denied)
	if n := len(list(t, d).RevokedCertificateEntries); n != 2 {
		t.Fatalf("%d revocations", n)
	}
	if users, err := d.Users(t.Context()); err != nil || len(users) != 1 {
		t.Fatalf("%+v, %v", users, err)
	}
	_, err = d.ClaimKeyPackages(t.Context(), claimOf(1, 1))
	wantCode(t, err, wire.NotFound)
}
