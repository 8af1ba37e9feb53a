package mlscore

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
)

// oidEd448 is id-Ed448 (RFC 8410), which crypto/x509 does not know.
var oidEd448 = asn1.ObjectIdentifier{1, 3, 101, 113}

// bindCredential checks that an x509 credential's end entity certifies the leaf's own signature key
// (RFC 9420 §5.3). Other types bind through the Authenticator alone.
func (l *LeafNode) bindCredential(s *suite) error {
	if l.Credential.Type != CredentialX509 {
		return nil
	}
	if len(l.Credential.Certificates) == 0 {
		return fail(ErrMalformed, "§5.3", "x509 credential", "has no certificate")
	}
	cert, err := x509.ParseCertificate(l.Credential.Certificates[0])
	if err != nil {
		return malformed("x509 credential", err)
	}
	key, err := certifiedKey(cert)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(key, l.SignatureKey) != 1 {
		return fail(ErrForged, "§5.3", "x509 credential", "certifies another key than the leaf's signature_key")
	}
	return nil
}

// certifiedKey gives a certificate's key as MLS encodes it (§5.1.1).
func certifiedKey(cert *x509.Certificate) ([]byte, error) {
	switch key := cert.PublicKey.(type) {
	case ed25519.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		return key.Bytes()
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	rest, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info)
	if err != nil || len(rest) > 0 || !info.Algorithm.Algorithm.Equal(oidEd448) {
		return nil, fail(ErrUnsupported, "§5.3", "x509 credential", "key algorithm %v", cert.PublicKeyAlgorithm)
	}
	return info.Key.RightAlign(), nil
}
