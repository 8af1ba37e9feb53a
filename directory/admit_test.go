package directory

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestAdmitAfterTheEnd: a device that comes back after the end of its certificate gets another one over its key, up to
// RenewAfter; another key does not, nor one that was revoked.
func TestAdmitAfterTheEnd(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, CertificateLife: 90 * day, RenewBefore: 30 * day, RenewAfter: 20 * day})
	e, other := enrol(t, d, phone, 1), enrol(t, d, laptop, 1)
	input := []byte("a login")
	admit := func(by *device) (wire.Time, error) { return d.Admit(t.Context(), phone, input, by.sign(t, input)) }
	first, err := admit(e)
	if err != nil {
		t.Fatal(err)
	}
	clock.advance(80 * day)
	if ends, err := admit(e); err != nil || ends != first {
		t.Errorf("before the end: %v, %v", ends, err)
	}
	clock.advance(30 * day) // twenty days after the end, which is at a whole second
	clock.advance(-time.Second)
	if _, err := admit(other); wire.CodeOf(err) != wire.Denied {
		t.Errorf("another key: %v", err)
	}
	ends, err := admit(e)
	if err != nil || ends.Std().Sub(clock.Now()) < 89*day {
		t.Fatalf("after the end: a certificate until %v, %v", ends.Std(), err)
	}
	chain, err := d.Chain(t.Context(), phone)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(chain[0])
	if err != nil || wire.TimeOf(c.NotAfter) != ends {
		t.Errorf("the certificate ends on %v, %v; said was %v", c.NotAfter, err, ends.Std())
	}
	clock.advance(111 * day)
	if _, err := admit(e); wire.CodeOf(err) != wire.Denied {
		t.Errorf("too late: %v", err)
	}
	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(e); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("revoked: %v", err)
	}
}
