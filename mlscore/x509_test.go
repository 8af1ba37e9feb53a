package mlscore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

// testCA is a certificate authority for tests.
type testCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// day returns the time n days after testTime.
func day(n int) time.Time { return testTime.AddDate(0, 0, n) }

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             day(-100),
		NotAfter:              day(1000),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            -1,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

// newCA makes an authority, signed by parent or self-signed.
func newCA(t testing.TB, name string, parent *testCA, change ...func(*x509.Certificate)) *testCA {
	t.Helper()
	tmpl := caTemplate(name)
	for _, c := range change {
		c(tmpl)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{tmpl, key}
	if parent == nil {
		parent = ca
	}
	return &testCA{parseCert(t, parent.sign(t, tmpl, key.Public())), key}
}

// newEd25519CA makes an authority with an Ed25519 key.
func newEd25519CA(t testing.TB, name string) *testCA {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{caTemplate(name), key}
	return &testCA{parseCert(t, ca.sign(t, ca.cert, pub)), key}
}

func parseCert(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (ca *testCA) sign(t testing.TB, tmpl *x509.Certificate, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// leafTemplate returns the template of a device's certificate.
func leafTemplate(uri string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(2),
		NotBefore:    day(-1),
		NotAfter:     day(30),
		URIs:         []*url.URL{mustURL(uri)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

const aliceURI = "mimi://a.example/d/alice/phone"

// certify makes a certificate for a signature key of a suite, as MLS encodes it.
func (ca *testCA) certify(t testing.TB, cs CipherSuite, pub []byte, tmpl *x509.Certificate) []byte {
	t.Helper()
	s, err := suiteOf(cs)
	if err != nil {
		t.Fatal(err)
	}
	switch scheme := s.signature.(type) {
	case ed25519Scheme:
		return ca.sign(t, tmpl, ed25519.PublicKey(pub))
	case *ecdsaScheme:
		key, err := ecdsa.ParseUncompressedPublicKey(scheme.curve, pub)
		if err != nil {
			t.Fatal(err)
		}
		return ca.sign(t, tmpl, key)
	}
	algorithm := oidEd448
	for _, k := range rawKeys {
		if k.size == len(pub) {
			algorithm = k.algorithm
		}
	}
	return ca.withSPKI(t, tmpl, spkiOf(t, pkix.AlgorithmIdentifier{Algorithm: algorithm}, wholeBytes(pub)))
}

// spkiOf encodes a key of an algorithm that crypto/x509 cannot encode.
func spkiOf(t testing.TB, algorithm pkix.AlgorithmIdentifier, key asn1.BitString) []byte {
	t.Helper()
	return must[[]byte](t)(asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{algorithm, key}))
}

func wholeBytes(b []byte) asn1.BitString { return asn1.BitString{Bytes: b, BitLength: 8 * len(b)} }

// withSPKI signs a certificate for a key that crypto/x509 cannot encode: it makes a certificate for another key,
// exchanges the key and signs again.
func (ca *testCA) withSPKI(t testing.TB, tmpl *x509.Certificate, spki []byte) []byte {
	t.Helper()
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := ca.sign(t, tmpl, other)
	var cert struct {
		TBS struct {
			Version    int `asn1:"optional,explicit,default:0,tag:0"`
			Serial     *big.Int
			Algorithm  asn1.RawValue
			Issuer     asn1.RawValue
			Validity   asn1.RawValue
			Subject    asn1.RawValue
			SPKI       asn1.RawValue
			Extensions asn1.RawValue `asn1:"optional,tag:3"`
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		t.Fatal(err)
	}
	cert.TBS.SPKI = asn1.RawValue{FullBytes: spki}
	tbs, err := asn1.Marshal(cert.TBS)
	if err != nil {
		t.Fatal(err)
	}
	digest, hash := tbs, crypto.Hash(0)
	if _, ok := ca.key.(*ecdsa.PrivateKey); ok {
		hash = crypto.SHA256
		h := hash.New()
		h.Write(tbs)
		digest = h.Sum(nil)
	}
	signature, err := ca.key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	cert.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	out, err := asn1.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// trusting returns an Authenticator with one root for a.example.
func trusting(ca *testCA) *X509Authenticator {
	return &X509Authenticator{Roots: func(domain string) *x509.CertPool {
		if domain != "a.example" {
			return nil
		}
		return ca.pool()
	}}
}

func signatureKeyOf(t testing.TB, cs CipherSuite) (Secret, []byte) {
	t.Helper()
	priv, pub, err := GenerateSignatureKey(nil, cs)
	if err != nil {
		t.Fatal(err)
	}
	return priv, pub
}

// x509Case is a credential and the expected result of an Authenticator.
type x509Case struct {
	name  string
	chain [][]byte
	auth  *X509Authenticator
	want  string // text in the error; empty if the credential is valid
}

// TestSection5_3_X509 checks which chains are accepted.
func TestSection5_3_X509(t *testing.T) {
	const cs = MLS128X25519AES128Ed25519
	_, pub := signatureKeyOf(t, cs)
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root)
	short := newCA(t, "short", root, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	belowShort := newCA(t, "below", short)
	bound := newCA(t, "bound", root, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"b.example"} })
	mayNot := newCA(t, "may not", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	other := newCA(t, "root", nil)
	leaf := func(ca *testCA, change ...func(*x509.Certificate)) []byte {
		tmpl := leafTemplate(aliceURI)
		for _, c := range change {
			c(tmpl)
		}
		return ca.certify(t, cs, pub, tmpl)
	}
	plain := trusting(root)
	knowing := trusting(root)
	knowing.Intermediates = func(string) *x509.CertPool { return middle.pool() }
	forTime := trusting(root)
	forTime.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}
	good := leaf(root)
	_, otherPub := signatureKeyOf(t, cs)
	otherKey := root.certify(t, cs, otherPub, leafTemplate(aliceURI))
	many := [][]byte{good}
	for len(many) <= MaxCertificates {
		many = append(many, middle.cert.Raw)
	}
	huge := leaf(root, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, MaxCertificateBytes)}}
	})
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	signer := newEd25519CA(t, "root") // its signatures all have the same length
	sized := func(size int) []byte {
		padded := func(n int) []byte {
			return leaf(signer, func(c *x509.Certificate) {
				c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, n)}}
			})
		}
		const some = 60_000
		der := padded(some + size - len(padded(some)))
		if len(der) != size {
			t.Fatalf("a certificate of %d bytes, want %d", len(der), size)
		}
		return der
	}
	unknown := spkiOf(t, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 3}}, wholeBytes(pub))
	cases := []x509Case{
		{"a root's", [][]byte{good}, plain, ""},
		{"with its root", [][]byte{good, root.cert.Raw}, plain, ""},
		{"with an intermediate", [][]byte{leaf(middle), middle.cert.Raw}, plain, ""},
		{"with all", [][]byte{leaf(middle), middle.cert.Raw, root.cert.Raw}, plain, ""},
		{"§5.3 omitted intermediate, known", [][]byte{leaf(middle)}, knowing, ""},
		{"omitted intermediate, not known", [][]byte{leaf(middle)}, plain, "unknown authority"},
		{"another root of the same name", [][]byte{leaf(other)}, plain, "unknown authority"},
		{"another root, which it brings along", [][]byte{leaf(other), other.cert.Raw}, plain, "unknown authority"},
		{"§5.3 another key", [][]byte{otherKey}, plain, "another key"},
		{"a signature that is none", [][]byte{bad}, plain, "does not verify"},
		{"no certificate", nil, plain, "no certificate"},
		{"an empty certificate", [][]byte{{}}, plain, "does not decode"},
		{"DER cut short", [][]byte{good[:len(good)-1]}, plain, "does not decode"},
		{"bytes after DER", [][]byte{append(bytes.Clone(good), 0)}, plain, "does not decode"},
		{"an intermediate cut short", [][]byte{leaf(middle), middle.cert.Raw[:100]}, plain, "certificate 1"},
		{"too many certificates", many, plain, "at most"},
		{"as many certificates as there may be", many[:MaxCertificates], plain, ""},
		{"too large a certificate", [][]byte{huge}, plain, "at most"},
		{"a certificate as large as it may be", [][]byte{sized(MaxCertificateBytes)}, trusting(signer), ""},
		{"a byte more", [][]byte{sized(MaxCertificateBytes + 1)}, trusting(signer), "at most"},
		{"a key of an algorithm that is not known", [][]byte{root.withSPKI(t, leafTemplate(aliceURI), unknown)}, plain, "key algorithm"},
		{"no URI", [][]byte{leaf(root, func(c *x509.Certificate) { c.URIs = nil })}, plain, "0 URIs"},
		{"two URIs", [][]byte{leaf(root, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })}, plain, "2 URIs"},
		{"of another domain", [][]byte{leaf(root, func(c *x509.Certificate) {
			c.URIs = []*url.URL{mustURL("mimi://b.example/d/alice/phone")}
		})}, plain, "no roots are known"},
		{"an authority's own", [][]byte{leaf(root, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })}, plain, "authority's"},
		{"a key for other things", [][]byte{leaf(root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })}, plain, "not for signatures"},
		{"no key usage", [][]byte{leaf(root, func(c *x509.Certificate) { c.KeyUsage = 0 })}, plain, ""},
		{"path too long", [][]byte{leaf(belowShort), belowShort.cert.Raw, short.cert.Raw}, plain, "too many intermediates"},
		{"path not too long", [][]byte{leaf(short), short.cert.Raw}, plain, ""},
		{"against a name constraint", [][]byte{leaf(bound), bound.cert.Raw}, plain, "not permitted"},
		{"an issuer that may not", [][]byte{leaf(mayNot), mayNot.cert.Raw}, plain, "does not verify"},
		{"an unknown critical extension", [][]byte{leaf(root, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})}, plain, "critical extension"},
		{"extended key usage", [][]byte{leaf(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping} })}, forTime, ""},
		{"another extended key usage", [][]byte{leaf(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, forTime, "key usage"},
		{"no roots at all", [][]byte{good}, &X509Authenticator{}, "no roots"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.check(t, pub) })
	}
	basic, garbage := BasicCredential([]byte(aliceURI)), X509Credential([]byte("garbage"))
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a basic credential":                {plain.ValidateCredential(basic, pub, UseMember), "only x509"},
		"a successor of a basic one":        {plain.ValidSuccessor(basic, X509Credential(good)), "only x509"},
		"a basic successor":                 {plain.ValidSuccessor(X509Credential(good), basic), "only x509"},
		"a successor of what is none":       {plain.ValidSuccessor(garbage, X509Credential(good)), "does not decode"},
		"what is none as a successor":       {plain.ValidSuccessor(X509Credential(good), garbage), "does not decode"},
		"what is none, asked whether ended": {plain.Expired(garbage, testTime), "does not decode"},
	} {
		if !errors.Is(c.err, ErrPolicy) || !strings.Contains(c.err.Error(), c.want) || strings.Contains(c.err.Error(), "refused") {
			t.Errorf("%s: %v, want a refusal with %q", name, c.err, c.want)
		}
	}
}

func (c x509Case) check(t *testing.T, pub []byte) {
	err := c.auth.ValidateCredential(X509Credential(c.chain...), pub, UseMember)
	switch {
	case c.want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case c.want != "" && (!errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), c.want)):
		t.Errorf("%v, want a refusal with %q", err, c.want)
	}
}

// TestSection5_3_2_Expiry checks that a credential that was valid when it was made stays valid, and that Expired
// reports its expiry.
func TestSection5_3_2_Expiry(t *testing.T) {
	const cs = MLS128X25519AES128Ed25519
	_, pub := signatureKeyOf(t, cs)
	root := newCA(t, "root", nil)
	auth := trusting(root)
	span := func(from, to int) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = day(from), day(to) }
	}
	chainOf := func(ca *testCA, change ...func(*x509.Certificate)) Credential {
		tmpl := leafTemplate(aliceURI)
		for _, c := range change {
			c(tmpl)
		}
		chain := [][]byte{ca.certify(t, cs, pub, tmpl)}
		if ca != root {
			chain = append(chain, ca.cert.Raw)
		}
		return X509Credential(chain...)
	}
	renewed := &testCA{cert: parseCert(t, root.sign(t, func() *x509.Certificate {
		c := caTemplate("root")
		span(10, 2000)(c)
		return c
	}(), root.key.Public())), key: root.key}
	early := newCA(t, "early", root, span(-90, -50))
	late := newCA(t, "late", root, span(5, 100))
	cases := []struct {
		name    string
		auth    *X509Authenticator
		c       Credential
		valid   bool
		expired map[int]bool // by day
		why     string       // text in the error
	}{
		{"expired long ago", auth, chainOf(root, span(-90, -50)), true, map[int]bool{-91: true, -90: false, -60: false, -49: true, 0: true}, ""},
		{"not yet valid", auth, chainOf(root, span(50, 60)), true, map[int]bool{0: true, 55: false, 61: true}, ""},
		{"before its root", auth, chainOf(root, span(-300, -200)), false, map[int]bool{-250: true}, ""},
		{"a root that was renewed since", trusting(renewed), chainOf(root, span(-1, 30)), true, map[int]bool{0: true, 15: false}, ""},
		{"a root that ended earlier", trusting(root), chainOf(root, span(900, 1500)), true, map[int]bool{950: false, 1200: true}, ""},
		{"an intermediate that begins later", auth, chainOf(late), true, map[int]bool{0: true, 10: false, 40: true}, ""},
		{"an intermediate that ended before", auth, chainOf(early), false, map[int]bool{-60: true, 0: true}, "at no time valid together"},
		{"from the year 1 on", auth, chainOf(root, func(c *x509.Certificate) { c.NotBefore = time.Time{} }), true, map[int]bool{0: false, 31: true}, ""},
		{"all of the year 1", auth, chainOf(root, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Time{}, time.Time{}.AddDate(0, 1, 0)
		}), false, map[int]bool{0: true}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.auth.ValidateCredential(c.c, pub, UseMember)
			if (err == nil) != c.valid {
				t.Errorf("valid: %v, want %v", err, c.valid)
			}
			if err != nil && !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, want %q", err, c.why)
			}
			for n, want := range c.expired {
				if err := c.auth.Expired(c.c, day(n)); (err != nil) != want || err != nil && !errors.Is(err, ErrPolicy) {
					t.Errorf("day %d: expired: %v, want %v", n, err, want)
				}
			}
		})
	}
	if err := auth.Expired(X509Credential(), testTime); !errors.Is(err, ErrPolicy) {
		t.Errorf("an empty chain: %v", err)
	}
}

// TestDeviceURI checks that a device's name has only one spelling.
func TestDeviceURI(t *testing.T) {
	for uri, ok := range map[string]bool{
		aliceURI:                                            true,
		"mimi://a/d/a/b":                                    true,
		"mimi://a.example/d/al.i-c_e~/0":                    true,
		"mimi://a.example/u/alice":                          false,
		"mimi://a.example/d/alice":                          false,
		"mimi://a.example/d/alice/phone/":                   false,
		"mimi://a.example/d/alice/phone/x":                  false,
		"mimi://a.example/d//phone":                         false,
		"mimi://a.example//d/alice/phone":                   false,
		"mimi://a.example/d/alice/..":                       false,
		"mimi://a.example/d/Alice/phone":                    false,
		"mimi://A.example/d/alice/phone":                    false,
		"mimi://a..example/d/alice/phone":                   false,
		"mimi://-a.example/d/alice/phone":                   false,
		"mimi://a.example:80/d/alice/phone":                 false,
		"mimi://bob@a.example/d/alice/phone":                false,
		"mimi://a.example/d/al%69ce/phone":                  false,
		"mimi://a.example/d/al%2fice/phone":                 false,
		"mimi://a.example/d/alice/phone?x":                  false,
		"mimi://a.example/d/alice/phone?":                   false,
		"mimi://a.example/d/alice/phone#x":                  false,
		"https://a.example/d/alice/phone":                   false,
		"mimi:/d/alice/phone":                               false,
		"mimi:d":                                            false,
		"mimi:///d/alice/phone":                             false,
		"mimi://a.example/d/alice/" + long("p", 64):         true,
		"mimi://a.example/d/alice/" + long("p", 65):         false,
		"mimi://" + long("a", 63) + "/d/a/b":                true,
		"mimi://" + long("a", 64) + "/d/a/b":                false,
		"mimi://" + long("a.", 127) + "/d/alice/phone":      false,
		"mimi://" + long("a.", 125) + "com/d/alice/phone":   true,
		"mimi://" + long("a.", 125) + "examp/d/alice/phone": false,
	} {
		name, err := DeviceURI(&x509.Certificate{URIs: []*url.URL{mustURL(uri)}, Extensions: []pkix.Extension{sanURI(uri)}})
		if (err == nil) != ok {
			t.Errorf("%q: %v, want %v", uri, err, ok)
		}
		if err == nil && (name.Identity != uri || !strings.HasPrefix(uri, "mimi://"+name.Domain+"/d/")) {
			t.Errorf("%q: identity %q of domain %q", uri, name.Identity, name.Domain)
		}
	}
}

func long(s string, n int) string { return strings.Repeat(s, n) }

// TestSection5_3_Ed448 checks Ed448 keys, which crypto/x509 does not know, under authorities that it knows.
func TestSection5_3_Ed448(t *testing.T) {
	_, pub := signatureKeyOf(t, MLS256X448AES256Ed448)
	for name, ca := range map[string]*testCA{"ECDSA": newCA(t, "root", nil), "Ed25519": newEd25519CA(t, "root")} {
		der := ca.certify(t, MLS256X448AES256Ed448, pub, leafTemplate(aliceURI))
		if err := trusting(ca).ValidateCredential(X509Credential(der), pub, UseMember); err != nil {
			t.Errorf("under %s: %v", name, err)
		}
	}
	ca := newCA(t, "root", nil)
	type spki struct {
		algorithm pkix.AlgorithmIdentifier
		key       asn1.BitString
	}
	null := asn1.RawValue{Tag: asn1.TagNull}
	for name, info := range map[string]spki{
		"parameters":       {pkix.AlgorithmIdentifier{Algorithm: oidEd448, Parameters: null}, wholeBytes(pub)},
		"a bit too few":    {pkix.AlgorithmIdentifier{Algorithm: oidEd448}, asn1.BitString{Bytes: append(bytes.Clone(pub[:56]), 0), BitLength: 8*len(pub) - 1}},
		"X448":             {pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 111}}, wholeBytes(pub)},
		"a byte too short": {pkix.AlgorithmIdentifier{Algorithm: oidEd448}, asn1.BitString{Bytes: pub[1:], BitLength: 8*len(pub) - 8}},
	} {
		der := ca.withSPKI(t, leafTemplate(aliceURI), spkiOf(t, info.algorithm, info.key))
		if err := trusting(ca).ValidateCredential(X509Credential(der), pub, UseMember); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSection5_3_MLDSA checks ML-DSA keys under an authority that crypto/x509 knows. A key must have the algorithm
// that its certificate names.
func TestSection5_3_MLDSA(t *testing.T) {
	ca := newCA(t, "root", nil)
	for _, cs := range []CipherSuite{MLS128MLKEM768X25519ChaCha20MLDSA44, MLS192MLKEM768AES256MLDSA65, MLS256MLKEM1024AES256MLDSA87} {
		_, pub := signatureKeyOf(t, cs)
		_, other := signatureKeyOf(t, cs)
		der := ca.certify(t, cs, pub, leafTemplate(aliceURI))
		if err := trusting(ca).ValidateCredential(X509Credential(der), pub, UseMember); err != nil {
			t.Errorf("%v: %v", cs, err)
		}
		requireKind(t, trusting(ca).ValidateCredential(X509Credential(der), other, UseMember), ErrPolicy)
		for _, k := range rawKeys {
			for _, null := range [][]byte{nil, {5, 0}} {
				algorithm := pkix.AlgorithmIdentifier{Algorithm: k.algorithm, Parameters: asn1.RawValue{FullBytes: null}}
				der := ca.withSPKI(t, leafTemplate(aliceURI), spkiOf(t, algorithm, wholeBytes(pub)))
				err := trusting(ca).ValidateCredential(X509Credential(der), pub, UseMember)
				if good := k.size == len(pub) && null == nil; (err == nil) != good {
					t.Errorf("%v with algorithm %v and parameters %x: %v", cs, k.algorithm, null, err)
				}
			}
		}
	}
}

// x509Person returns a person with a certificate for a device of that user at a.example.
func x509Person(t testing.TB, user string, cs CipherSuite, ca *testCA, change ...func(*Config)) *person {
	t.Helper()
	change = append([]func(*Config){func(c *Config) { c.Auth = trusting(ca) }}, change...)
	p := newPerson(t, user, cs, change...)
	p.id = x509Identity(t, user, cs, ca)
	return p
}

func x509Identity(t testing.TB, user string, cs CipherSuite, ca *testCA) Identity {
	t.Helper()
	priv, pub := signatureKeyOf(t, cs)
	der := ca.certify(t, cs, pub, leafTemplate("mimi://a.example/d/"+user+"/phone"))
	return Identity{cs, X509Credential(der), priv}
}

// TestX509Groups runs a group of three members with certificates: it is founded, sends messages, and rotates
// credentials by commit and by Update. No member can take the identity of another.
func TestX509Groups(t *testing.T) {
	for _, cs := range []CipherSuite{MLS128X25519AES128Ed25519, MLS128P256AES128P256, MLS256X448AES256Ed448, MLS256P521AES256P521, MLS256P384AES256P384, MLS128MLKEM768X25519ChaCha20MLDSA44, MLS192MLKEM768AES256MLDSA65, MLS256MLKEM1024AES256MLDSA87} {
		t.Run(cs.String(), func(t *testing.T) { x509Group(t, cs) })
	}
}

func x509Group(t *testing.T, cs CipherSuite) {
	ca := newCA(t, "root", nil)
	alice, bob, carol := x509Person(t, "alice", cs, ca), x509Person(t, "bob", cs, ca), x509Person(t, "carol", cs, ca)
	all := []*person{alice, bob, carol}
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob, carol)
	agree(t, all...)
	if leaf, ok := alice.group.ByIdentity([]byte("mimi://a.example/d/bob/phone")); !ok || leaf != bob.group.Self() {
		t.Errorf("bob is found at leaf %d, %v", leaf, ok)
	}
	// By a commit.
	next := x509Identity(t, "bob", cs, ca)
	bob.commit(t, CommitOptions{Leaf: LeafUpdate{Identity: &next}}, all)
	agree(t, all...)
	if m, _ := alice.group.Public().Member(bob.group.Self()); !m.Credential.equal(next.Credential) {
		t.Error("bob's new certificate is not in the group")
	}
	// By an Update.
	next = x509Identity(t, "carol", cs, ca)
	update, err := carol.group.ProposeUpdate(LeafUpdate{Identity: &next}, ProposeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	alice.receive(t, update)
	bob.receive(t, update)
	c := alice.commit(t, CommitOptions{}, all)
	if len(c.Staged.Effects().Updated) != 1 {
		t.Fatalf("carol's Update was skipped: %v", c.Skipped)
	}
	agree(t, all...)
	msg, err := carol.group.Protect([]byte("hello"), MessageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := bob.receive(t, msg).Application.Sender.Credential; !got.equal(next.Credential) {
		t.Error("carol speaks with another certificate")
	}
	for _, p := range all {
		if p.group, err = p.LoadGroup(p.group.GroupID()); err != nil {
			t.Fatal(err)
		}
	}
	x509Refusals(t, cs, ca, alice, bob)
	agree(t, all...)
	carol.commit(t, CommitOptions{}, all)
	agree(t, all...)
}

// x509Refusals checks that forbidden credentials are refused.
func x509Refusals(t *testing.T, cs CipherSuite, ca *testCA, alice, bob *person) {
	dave := x509Identity(t, "dave", cs, ca)
	foreign := x509Identity(t, "alice", cs, newCA(t, "root", nil))
	stolen := foreign
	stolen.Credential = alice.id.Credential
	for name, c := range map[string]struct {
		id   Identity
		kind error
	}{
		"another identity":       {dave, ErrPolicy},
		"another root":           {foreign, ErrPolicy},
		"a key not in the chain": {stolen, ErrForged},
		"a type of credential":   {Identity{cs, BasicCredential([]byte("mimi://a.example/d/alice/phone")), foreign.SignatureKey}, ErrPolicy},
	} {
		if _, err := alice.group.Commit(CommitOptions{Leaf: LeafUpdate{Identity: &c.id}}); !errors.Is(err, c.kind) {
			t.Errorf("%s, by a commit: %v", name, err)
		}
		if _, err := alice.group.ProposeUpdate(LeafUpdate{Identity: &c.id}, ProposeOptions{}); !errors.Is(err, c.kind) {
			t.Errorf("%s, by an Update: %v", name, err)
		}
	}
	twin := x509Person(t, "bob", cs, ca)
	if _, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(twin.keyPackage(t))}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a second bob: %v", err)
	}
	// A lax member cannot make the others accept a bad credential.
	lax := func(c *Config) { c.Auth = ByType{CredentialX509: laxAuth{trusting(ca)}} }
	mallory := &person{Client: nil, id: alice.id, store: alice.store.Clone()}
	cfg := alice.cfg
	cfg.Store = mallory.store
	lax(&cfg)
	var err error
	if mallory.Client, err = NewClient(cfg); err != nil {
		t.Fatal(err)
	}
	if mallory.group, err = mallory.LoadGroup(alice.group.GroupID()); err != nil {
		t.Fatal(err)
	}
	forged, err := mallory.group.Commit(CommitOptions{Leaf: LeafUpdate{Identity: &dave}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.group.Process(forged.Message); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), "dave") {
		t.Errorf("a commit that makes alice dave: %v", err)
	}
}

// laxAuth accepts every credential of the right form.
type laxAuth struct{ *X509Authenticator }

func (laxAuth) ValidateCredential(Credential, []byte, CredentialUse) error { return nil }
func (laxAuth) ValidSuccessor(_, _ Credential) error                       { return nil }

// TestByType runs a group of members with and without certificates.
func TestByType(t *testing.T) {
	const cs = MLS128X25519AES128Ed25519
	ca := newCA(t, "root", nil)
	mixed := func(c *Config) {
		c.Auth = ByType{CredentialX509: trusting(ca), CredentialBasic: TrustBasic{}}
		c.Credentials = []CredentialType{CredentialBasic, CredentialX509}
	}
	alice, bob := x509Person(t, "alice", cs, ca, mixed), newPerson(t, "bob", cs, mixed)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	bob.commit(t, CommitOptions{}, []*person{alice})
	agree(t, alice, bob)
	basic := Identity{cs, BasicCredential([]byte("mimi://a.example/d/alice/phone")), bob.id.SignatureKey}
	if _, err := alice.group.Commit(CommitOptions{Leaf: LeafUpdate{Identity: &basic}}); !errors.Is(err, ErrPolicy) {
		t.Errorf("a change of type: %v", err)
	}
	if err := (ByType{CredentialBasic: TrustBasic{}}).ValidSuccessor(alice.id.Credential, basic.Credential); err == nil || !strings.Contains(err.Error(), "took the place of one of type") {
		t.Errorf("a change of type, as the Authenticator sees it: %v", err)
	}
	impostor := newPerson(t, "mimi://a.example/d/alice/phone", cs, mixed)
	if _, err := bob.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(impostor.keyPackage(t))}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("alice a second time, by another type: %v", err)
	}
	only := ByType{CredentialX509: trusting(ca)}
	if _, err := only.Identity(bob.id.Credential, nil); !errors.Is(err, ErrPolicy) {
		t.Errorf("a type that is not accepted: %v", err)
	}
	if err := only.ValidateCredential(bob.id.Credential, nil, UseMember); !errors.Is(err, ErrPolicy) {
		t.Errorf("a type that is not accepted: %v", err)
	}
	if err := only.ValidSuccessor(bob.id.Credential, bob.id.Credential); !errors.Is(err, ErrPolicy) {
		t.Errorf("a successor of a type that is not accepted: %v", err)
	}
	if err := only.ValidateCredential(X509Credential([]byte("no certificate")), nil, UseMember); !errors.Is(err, ErrPolicy) {
		t.Errorf("what the Authenticator of the type refuses: %v", err)
	}
	for _, pair := range [][2]Credential{{alice.id.Credential, X509Credential([]byte("no certificate"))}, {X509Credential([]byte("no certificate")), alice.id.Credential}} {
		if err := only.ValidSuccessor(pair[0], pair[1]); !errors.Is(err, ErrPolicy) {
			t.Errorf("a successor that the Authenticator of the type refuses: %v", err)
		}
	}
}

// TestX509ExternalSender checks that the certificate of an external sender must be for its key (§12.1.8.1).
func TestX509ExternalSender(t *testing.T) {
	const cs = MLS128X25519AES128Ed25519
	ca := newCA(t, "root", nil)
	alice := x509Person(t, "alice", cs, ca)
	server := x509Identity(t, "server", cs, ca)
	s, err := suiteOf(cs)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := s.signaturePublicKey(server.SignatureKey.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	_, otherPub := signatureKeyOf(t, cs)
	for _, c := range []struct {
		key []byte
		ok  bool
	}{{pub, true}, {otherPub, false}} {
		x, err := ExternalSendersExtension([]ExternalSender{{c.key, server.Credential}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = alice.CreateGroup(alice.id, nil, CreateOptions{Extensions: Extensions{x}})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrPolicy) {
			t.Errorf("key of the certificate: %v; %v", c.ok, err)
		}
	}
}

// FuzzX509Credential checks that no bytes of a certificate make the checks panic, and that an accepted certificate
// has the name and the key that were certified.
func FuzzX509Credential(f *testing.F) {
	const cs = MLS128X25519AES128Ed25519
	_, pub := signatureKeyOf(f, cs)
	_, pub448 := signatureKeyOf(f, MLS256X448AES256Ed448)
	ca := newCA(f, "root", nil)
	middle := newCA(f, "middle", ca)
	good := ca.certify(f, cs, pub, leafTemplate(aliceURI))
	f.Add(good, []byte{})
	f.Add(middle.certify(f, cs, pub, leafTemplate(aliceURI)), middle.cert.Raw)
	f.Add(ca.certify(f, MLS256X448AES256Ed448, pub448, leafTemplate(aliceURI)), ca.cert.Raw)
	f.Add(leafTemplate(aliceURI).Raw, good)
	auth := trusting(ca)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := X509Credential(first)
		if len(second) > 0 {
			c = X509Credential(first, second)
		}
		id, err := auth.Identity(c, pub)
		if err == nil && auth.ValidSuccessor(c, c) != nil {
			t.Error("no successor of itself")
		}
		_ = auth.Expired(c, testTime)
		for _, key := range [][]byte{pub, pub448} {
			leaf := &LeafNode{SignatureKey: key, Credential: c}
			bound := leaf.bindCredential(suites[0])
			if auth.ValidateCredential(c, key, UseMember) == nil && (bound != nil || err != nil || string(id) != aliceURI) {
				t.Errorf("accepted with identity %q, %v; bound: %v", id, err, bound)
			}
		}
	})
}
