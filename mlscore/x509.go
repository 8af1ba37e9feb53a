package mlscore

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// Bounds of an x509 credential. No legitimate chain needs more.
const (
	MaxCertificates     = 8       // in one credential
	MaxCertificateBytes = 1 << 16 // of all of them
)

// oidEd448 is id-Ed448 (RFC 8410), which crypto/x509 does not know.
var oidEd448 = asn1.ObjectIdentifier{1, 3, 101, 113}

type rawKey struct {
	algorithm asn1.ObjectIdentifier
	size      int
}

// rawKeys are the algorithms that crypto/x509 does not know, with the lengths of their keys in bytes. The parameters
// of the algorithms must be absent (RFC 8410 §3, RFC 9881 §2).
var rawKeys = []rawKey{
	{oidEd448, ed448.PublicKeySize},
	{oidMLDSA44, mldsa44.PublicKeySize},
	{oidMLDSA65, mldsa65.PublicKeySize},
	{oidMLDSA87, mldsa87.PublicKeySize},
}

// bindCredential checks that an x509 credential's end entity certifies the leaf's own signature key (RFC 9420 §5.3).
// For other types only the Authenticator checks the key.
func (l *LeafNode) bindCredential(s *suite) error {
	if l.Credential.Type != CredentialX509 {
		return nil
	}
	cert, err := l.Credential.endEntity()
	if err != nil {
		return err
	}
	return certifies(cert, s.authKey(l.SignatureKey))
}

// endEntity parses the first certificate of a chain and checks the bounds of the chain.
func (c Credential) endEntity() (*x509.Certificate, error) {
	const object = "x509 credential"
	if len(c.Certificates) == 0 {
		return nil, fail(ErrMalformed, "§5.3", object, "has no certificate")
	}
	size := 0
	for _, der := range c.Certificates {
		size += len(der)
	}
	if len(c.Certificates) > MaxCertificates || size > MaxCertificateBytes {
		return nil, fail(ErrLimit, "§5.3", object, "%d certificates of %d bytes, at most %d of %d",
			len(c.Certificates), size, MaxCertificates, MaxCertificateBytes)
	}
	cert, err := x509.ParseCertificate(c.Certificates[0])
	return cert, malformed(object, err)
}

// certifies checks that a certificate is for a signature key (§5.3).
func certifies(cert *x509.Certificate, signatureKey []byte) error {
	key, err := certifiedKey(cert)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(key, signatureKey) != 1 {
		return fail(ErrForged, "§5.3", "x509 credential", "certifies another key than the leaf's signature_key")
	}
	return nil
}

// certifiedKey returns a certificate's key as MLS encodes it (§5.1.1).
func certifiedKey(cert *x509.Certificate) ([]byte, error) {
	switch key := cert.PublicKey.(type) {
	case ed25519.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		b, err := key.Bytes()
		return b, malformed("x509 credential", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	rest, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info)
	at := slices.IndexFunc(rawKeys, func(k rawKey) bool { return k.algorithm.Equal(info.Algorithm.Algorithm) })
	if err != nil || len(rest) > 0 || at < 0 {
		return nil, fail(ErrUnsupported, "§5.3", "x509 credential", "key algorithm %v", cert.PublicKeyAlgorithm)
	}
	if len(info.Algorithm.Parameters.FullBytes) > 0 || info.Key.BitLength != 8*rawKeys[at].size {
		return nil, fail(ErrMalformed, "§5.3", "x509 credential", "key of algorithm %v with parameters, or of %d bits", info.Algorithm.Algorithm, info.Key.BitLength)
	}
	return info.Key.Bytes, nil
}

// X509Name is the name of a certificate's owner.
type X509Name struct {
	Identity string // the client: the result of Authenticator.Identity
	Domain   string // the domain that vouches for the identity: the argument of X509Authenticator.Roots
}

// X509Authenticator is an Authenticator for x509 credentials: it verifies their chains to the roots that the
// application trusts, with the checks of crypto/x509 (signatures, validity, CA and path length, key usage, name
// constraints, critical extensions). End entities can have keys of any cipher suite, Ed448 and ML-DSA included.
// Authorities must have keys that crypto/x509 can verify, which excludes Ed448 and ML-DSA.
//
// # Time
//
// The result does not depend on the present time. A member who reads the group's messages a month late must accept
// the credentials that the others accepted then, and all must accept an Update from a member whose old certificate
// has expired (RFC 9420 §5.3.2). A chain is therefore verified as of the first moment at which all certificates of
// the credential were valid, when its owner could first have used it. If that fails, it is verified as of the last
// such moment. Both moments depend only on the credential. The second one is needed for roots: RFC 5280 §6.1 ignores
// the dates of a trust anchor, crypto/x509 does not, and a renewed root has a later first day than the certificates
// under it.
//
// Before adding a member, or to decide about removing one, check whether its credential is valid now: see Expired.
//
// # Revocation
//
// To revoke a device, remove it from its groups. Roots should return an organization's roots as long as groups have
// members of that organization, since a member that refuses a credential that others accept can no longer follow the
// group.
type X509Authenticator struct {
	// Roots returns the certificates that vouch for a domain's identities; nil refuses the domain. Separate roots for
	// each domain prevent that one organization vouches for another's members. Roots must be set.
	Roots func(domain string) *x509.CertPool
	// Intermediates returns certificates that members may leave out of their chains (§5.3). Intermediates may be nil.
	Intermediates func(domain string) *x509.CertPool
	// Name reads a certificate's name; nil means DeviceURI. It must be a pure function. The certificate
	// may not have been verified yet.
	Name func(*x509.Certificate) (X509Name, error)
	// KeyUsages are extended key usages of which a chain must allow one; nil means any.
	KeyUsages []x509.ExtKeyUsage
}

// ValidateCredential implements Authenticator.
func (a *X509Authenticator) ValidateCredential(c Credential, signatureKey []byte, _ CredentialUse) error {
	chain, name, err := a.open(c)
	if err == nil {
		err = certifies(chain[0], signatureKey)
	}
	if err != nil {
		return refused(err)
	}
	first, last := moments(chain)
	if first.After(last) {
		return fail(ErrPolicy, "§5.3", "x509 credential", "its certificates were at no time valid together: one begins at %s, another ended at %s",
			first.UTC().Format(time.RFC3339), last.UTC().Format(time.RFC3339))
	}
	if err = a.verify(chain, name, first); err != nil && a.verify(chain, name, last) == nil {
		err = nil
	}
	return err
}

// Identity implements Authenticator. It does not verify the chain.
func (a *X509Authenticator) Identity(c Credential, _ []byte) ([]byte, error) {
	_, name, err := a.endEntity(c)
	if err != nil {
		return nil, refused(err)
	}
	return []byte(name.Identity), nil
}

// ValidSuccessor implements Authenticator: the identity must stay the same.
func (a *X509Authenticator) ValidSuccessor(old, next Credential) error {
	_, was, err := a.endEntity(old)
	if err != nil {
		return refused(err)
	}
	_, is, err := a.endEntity(next)
	if err != nil {
		return refused(err)
	}
	if was != is {
		return fail(ErrPolicy, "§5.3.1", "x509 credential", "identity %q took the place of %q", is.Identity, was.Identity)
	}
	return nil
}

// Expired returns an error if a credential's chain is not valid at a time. Call it with the present time, or with a
// somewhat later time, before a KeyPackage is added, and to find members to remove if they do not replace their
// credentials (§5.3.2). Never call it when a message is processed.
func (a *X509Authenticator) Expired(c Credential, at time.Time) error {
	chain, name, err := a.open(c)
	if err != nil {
		return refused(err)
	}
	return a.verify(chain, name, at)
}

// refused wraps an error as ErrPolicy, the kind of all refusals of an Authenticator.
func refused(err error) error {
	var e *Error
	if errors.As(err, &e) {
		policy := *e
		policy.Kind = ErrPolicy
		return &policy
	}
	return &Error{Kind: ErrPolicy, Clause: "§5.3.1", Object: "credential", Detail: "refused", Err: err}
}

// endEntity parses the end entity and reads its name.
func (a *X509Authenticator) endEntity(c Credential) (*x509.Certificate, X509Name, error) {
	if c.Type != CredentialX509 {
		return nil, X509Name{}, fail(ErrPolicy, "§5.3", "credential", "is of type %#04x, only x509 is accepted", uint16(c.Type))
	}
	cert, err := c.endEntity()
	if err != nil {
		return nil, X509Name{}, err
	}
	read := a.Name
	if read == nil {
		read = DeviceURI
	}
	name, err := read(cert)
	if err != nil {
		return nil, X509Name{}, &Error{Kind: ErrPolicy, Clause: "§5.3", Object: "x509 credential", Detail: "has no name", Err: err}
	}
	return cert, name, nil
}

// open parses the whole chain.
func (a *X509Authenticator) open(c Credential) ([]*x509.Certificate, X509Name, error) {
	cert, name, err := a.endEntity(c)
	if err != nil {
		return nil, name, err
	}
	chain := []*x509.Certificate{cert}
	for at, der := range c.Certificates[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, name, malformed(fmt.Sprintf("x509 credential, certificate %d", at+1), err)
		}
		chain = append(chain, cert)
	}
	return chain, name, nil
}

// moments returns the first and the last moment at which all certificates of a chain were valid; the first is after
// the last if there is no such moment.
func moments(chain []*x509.Certificate) (first, last time.Time) {
	first, last = chain[0].NotBefore, chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotBefore.After(first) {
			first = cert.NotBefore
		}
		if cert.NotAfter.Before(last) {
			last = cert.NotAfter
		}
	}
	return first, last
}

// verify checks a chain as of some time.
func (a *X509Authenticator) verify(chain []*x509.Certificate, name X509Name, at time.Time) error {
	const object = "x509 credential"
	var roots *x509.CertPool
	if a.Roots != nil { // for crypto/x509 nil means the roots of the system
		roots = a.Roots(name.Domain)
	}
	if roots == nil {
		return fail(ErrPolicy, "§5.3.1", object, "of %q: no roots are known for %q", name.Identity, name.Domain)
	}
	if chain[0].IsCA {
		return fail(ErrPolicy, "§5.3.1", object, "of %q: the first certificate is an authority's", name.Identity)
	}
	if use := chain[0].KeyUsage; use != 0 && use&x509.KeyUsageDigitalSignature == 0 {
		return fail(ErrPolicy, "§5.3.1", object, "of %q: its key is not for signatures", name.Identity)
	}
	if at.IsZero() { // for crypto/x509 the zero time means the present
		at = at.Add(time.Nanosecond)
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: a.intermediates(chain, name), CurrentTime: at, KeyUsages: a.KeyUsages}
	if len(opts.KeyUsages) == 0 {
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} // for crypto/x509 an empty list means TLS servers
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return &Error{Kind: ErrPolicy, Clause: "§5.3.1", Object: object,
			Detail: fmt.Sprintf("of %q does not verify as of %s", name.Identity, at.UTC().Format(time.RFC3339)), Err: err}
	}
	return nil
}

// intermediates collects the certificates that may link the end entity to a root.
func (a *X509Authenticator) intermediates(chain []*x509.Certificate, name X509Name) *x509.CertPool {
	pool := x509.NewCertPool()
	if a.Intermediates != nil {
		if known := a.Intermediates(name.Domain); known != nil {
			pool = known.Clone()
		}
	}
	for _, cert := range chain[1:] {
		pool.AddCert(cert)
	}
	return pool
}

// DeviceURI reads the name of a device, mimi://domain/d/user/device, from a certificate's only URI in the subject
// alternative name. It accepts only one spelling of each name: lower case, without escapes.
func DeviceURI(cert *x509.Certificate) (X509Name, error) {
	if len(cert.URIs) != 1 {
		return X509Name{}, fmt.Errorf("%d URIs in the subject alternative name, there must be one", len(cert.URIs))
	}
	u := cert.URIs[0]
	name := "mimi://" + u.Host + u.Path
	// The parser of URIs makes the scheme lower case, so that the name is compared with the certificate's bytes too.
	if spelled := spelledURIs(cert); len(spelled) != 1 || spelled[0] != name {
		return X509Name{}, fmt.Errorf("%.300q is not of the form mimi://domain/d/user/device", spelled)
	}
	parts := strings.Split(u.Path, "/")
	ok := u.Scheme == "mimi" && u.String() == name &&
		len(parts) == 4 && parts[0] == "" && parts[1] == "d" && plainName(parts[2], "-._~") && plainName(parts[3], "-._~")
	for _, label := range strings.Split(u.Host, ".") {
		ok = ok && len(label) < 64 && plainName(label, "-") && strings.Trim(label, "-") == label
	}
	if !ok || len(u.Host) > 253 {
		return X509Name{}, fmt.Errorf("%.300q is not of the form mimi://domain/d/user/device", u.String())
	}
	return X509Name{name, u.Host}, nil
}

// oidSubjectAltName is id-ce-subjectAltName (RFC 5280 §4.2.1.6).
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// spelledURIs returns the URIs in a certificate's subject alternative name, with the bytes in the certificate.
func spelledURIs(cert *x509.Certificate) (uris []string) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var names asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
			return nil
		}
		for rest := names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == 6 { // uniformResourceIdentifier
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris
}

// plainName allows 1 to 64 lower-case letters, digits and some marks, but not only dots.
func plainName(s, marks string) bool {
	if s == "" || len(s) > 64 || strings.Trim(s, ".") == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(marks, c) >= 0) {
			return false
		}
	}
	return true
}

// ByType is an Authenticator for groups with credentials of several types, with an Authenticator for each type. The
// types share one space of identities, so that nobody can be in a group twice with two types. A member cannot change
// its type.
type ByType map[CredentialType]Authenticator

func (b ByType) of(c Credential) (Authenticator, error) {
	if a := b[c.Type]; a != nil {
		return a, nil
	}
	return nil, fail(ErrPolicy, "§5.3", "credential", "of type %#04x is not accepted", uint16(c.Type))
}

// ValidateCredential implements Authenticator.
func (b ByType) ValidateCredential(c Credential, signatureKey []byte, use CredentialUse) error {
	a, err := b.of(c)
	if err != nil {
		return err
	}
	return a.ValidateCredential(c, signatureKey, use)
}

// Identity implements Authenticator.
func (b ByType) Identity(c Credential, signatureKey []byte) ([]byte, error) {
	a, err := b.of(c)
	if err != nil {
		return nil, err
	}
	return a.Identity(c, signatureKey)
}

// ValidSuccessor implements Authenticator.
func (b ByType) ValidSuccessor(old, next Credential) error {
	if old.Type != next.Type {
		return fail(ErrPolicy, "§5.3.1", "credential", "of type %#04x took the place of one of type %#04x", uint16(next.Type), uint16(old.Type))
	}
	a, err := b.of(next)
	if err != nil {
		return err
	}
	return a.ValidSuccessor(old, next)
}
