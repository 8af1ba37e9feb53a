package directory

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// skew is how far before now a certificate begins, since clocks differ.
const skew = time.Hour

// issue makes a certificate over a device's key and notes it in the record. The caller holds the user's lock.
func (d *Directory) issue(ctx context.Context, tx recordstore.Tx, v wire.DeviceID, r *recordstore.Device) error {
	account, err := d.accountID(ctx, tx, v.User())
	if err != nil {
		return err
	}
	pub, err := publicKey(r.Key)
	if err != nil {
		return err
	}
	serial, err := d.random(16)
	if err != nil {
		return err
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always 16 bytes
	uri, err := url.Parse(string(v))
	if err != nil {
		return err
	}
	now, ca := d.cfg.Clock.Now(), d.cfg.CA.Certificate()
	end := now.Add(d.cfg.CertificateLife).Truncate(time.Second)
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	if !end.After(now) {
		return fmt.Errorf("the certificate authority of %s ended on %s: renew it", d.cfg.Domain, ca.NotAfter.Format(time.RFC3339))
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{SerialNumber: account.String()},
		NotBefore:    now.Add(-skew),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		URIs:         []*url.URL{uri},
	}
	der, err := sign(d.cfg.Rand, template, d.cfg.CA, pub)
	if err != nil {
		return fmt.Errorf("certificate for %s: %w", v, err)
	}
	r.Certificate, r.NotAfter = der, wire.TimeOf(end)
	kept := r.Issued[:0]
	for _, i := range r.Issued {
		if i.NotAfter >= d.now() {
			kept = append(kept, i)
		}
	}
	r.Issued = append(kept, recordstore.Issued{Serial: serial, NotAfter: r.NotAfter})
	return nil
}

// sign makes a certificate. For a key that crypto/x509 can neither write nor check as a subject's, it is made
// over a certificate with a zero key first, whose SubjectPublicKeyInfo is then replaced and which is signed again.
func sign(random io.Reader, template *x509.Certificate, ca CA, pub crypto.PublicKey) ([]byte, error) {
	key, raw := pub.(rawKey)
	if !raw {
		return x509.CreateCertificate(random, template, ca.Certificate(), pub, ca.Signer())
	}
	der, err := x509.CreateCertificate(random, template, ca.Certificate(), ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)), ca.Signer())
	if err != nil {
		return nil, err
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	info, err := key.info()
	if err != nil {
		return nil, err
	}
	if bytes.Count(issued.RawTBSCertificate, issued.RawSubjectPublicKeyInfo) != 1 {
		return nil, fmt.Errorf("the zero key is not exactly once in the certificate to be signed again")
	}
	return resign(random, issued, info, ca.Signer())
}

// resign replaces the SubjectPublicKeyInfo of a certificate.
func resign(random io.Reader, c *x509.Certificate, info []byte, signer crypto.Signer) ([]byte, error) {
	before, after, _ := bytes.Cut(c.RawTBSCertificate, c.RawSubjectPublicKeyInfo)
	body := cryptobyte.String(before)
	var header cryptobyte.Builder
	// before begins with the outer SEQUENCE's tag and length, which covers more than before itself.
	body = body[len(c.RawTBSCertificate)-contentLength(c.RawTBSCertificate):]
	header.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(body)
		b.AddBytes(info)
		b.AddBytes(after)
	})
	tbs, err := header.Bytes()
	if err != nil {
		return nil, err
	}
	signature, err := signTBS(random, c.SignatureAlgorithm, signer, tbs)
	if err != nil {
		return nil, err
	}
	return assemble(c, tbs, signature)
}

// contentLength is the length of what an outermost element holds.
func contentLength(der []byte) int {
	s := cryptobyte.String(der)
	var inner cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&inner, &tag) {
		return 0
	}
	return len(inner)
}

func signTBS(random io.Reader, algorithm x509.SignatureAlgorithm, signer crypto.Signer, tbs []byte) ([]byte, error) {
	var hash crypto.Hash
	switch algorithm {
	case x509.PureEd25519:
		return signer.Sign(random, tbs, crypto.Hash(0))
	case x509.ECDSAWithSHA256:
		hash = crypto.SHA256
	case x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return nil, fmt.Errorf("a certificate authority with %v cannot certify Ed448 and ML-DSA keys: use Ed25519 or ECDSA", algorithm)
	}
	h := hash.New()
	h.Write(tbs)
	return signer.Sign(random, h.Sum(nil), hash)
}

// assemble puts a certificate together with the signature algorithm of the one it replaces.
func assemble(c *x509.Certificate, tbs, signature []byte) ([]byte, error) {
	outer := cryptobyte.String(c.Raw)
	var inner, algorithm cryptobyte.String
	if !outer.ReadASN1(&inner, asn1.SEQUENCE) || !inner.SkipASN1(asn1.SEQUENCE) || !inner.ReadASN1Element(&algorithm, asn1.SEQUENCE) {
		return nil, fmt.Errorf("the certificate to be signed again has another form than expected")
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// Chain is a device's certificate and that of the authority, DER, as an MLS credential holds them.
func (d *Directory) Chain(ctx context.Context, v wire.DeviceID) ([][]byte, error) {
	r, err := d.device(ctx, d.store, "chain", v)
	if err != nil {
		return nil, err
	}
	return [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}, nil
}

// Renew replaces a device's certificate if it ends within RenewBefore, and returns the chain that is
// valid now. The caller has made sure that it speaks to that device.
func (d *Directory) Renew(ctx context.Context, v wire.DeviceID) (chain [][]byte, err error) {
	if err := d.checkDevice("renew", v); err != nil {
		return nil, err
	}
	err = d.store.Update(ctx, v.User(), func(tx recordstore.Tx) error {
		r, err := d.device(ctx, tx, "renew", v)
		if err != nil {
			return err
		}
		if r.NotAfter-d.now() < wire.Time(d.cfg.RenewBefore.Milliseconds()) {
			if err := d.issue(ctx, tx, v, r); err != nil {
				return err
			}
			if err := tx.Set(ctx, r); err != nil {
				return err
			}
		}
		chain = [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}
		return nil
	})
	return chain, err
}

// Admit verifies a device's signature over a login's input, and returns when its certificate ends. A device whose
// certificate ended while it was away, at most Config.RenewAfter ago, gets another one over the same key: its record is
// here, so that nobody has revoked it. wire.Denied for a signature of another key, and for one that was away for
// longer.
func (d *Directory) Admit(ctx context.Context, v wire.DeviceID, input, signature []byte) (ends wire.Time, err error) {
	r, err := d.device(ctx, d.store, "login", v)
	if err != nil {
		return 0, err
	}
	if err := Verify(r.Key, input, signature); err != nil {
		return 0, err
	}
	late := d.now() - r.NotAfter
	if late <= 0 {
		return r.NotAfter, nil
	}
	if most := d.cfg.RenewAfter; late > wire.Time(most.Milliseconds()) {
		return 0, wire.Errorf(wire.Denied, "login", "the certificate of %s ended on %s, more than %v ago: enrol it again, with a new invitation", v, r.NotAfter.Std().Format(time.DateOnly), most)
	}
	if _, err := d.Renew(ctx, v); err != nil {
		return 0, err
	}
	if r, err = d.device(ctx, d.store, "login", v); err != nil {
		return 0, err
	}
	return r.NotAfter, nil
}

// certified checks a certificate that a device shows: issued by this authority, for this device, valid
// now, not revoked.
func (d *Directory) certified(ctx context.Context, v wire.DeviceID, der []byte) (*x509.Certificate, error) {
	deny := func(format string, args ...any) error {
		return wire.Errorf(wire.Denied, "certificate", "of %s: "+format, append([]any{v}, args...)...)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, deny("%v", err)
	}
	if err := c.CheckSignatureFrom(d.cfg.CA.Certificate()); err != nil {
		return nil, deny("not issued by %s: %v", d.cfg.Domain, err)
	}
	if len(c.URIs) != 1 || c.URIs[0].String() != string(v) {
		return nil, deny("names %v", c.URIs)
	}
	if now := d.cfg.Clock.Now(); now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return nil, deny("valid from %s to %s: renew it", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	revoked, err := d.store.Revoked(ctx, c.SerialNumber.Bytes())
	if err != nil {
		return nil, err
	}
	if revoked {
		return nil, deny("revoked")
	}
	return c, nil
}
