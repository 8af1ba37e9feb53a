package federation

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
)

// few lets two connections of an address fail, and then shuts it out for the length of a test.
func few(c *Config) {
	c.Limits.Admission = admission.Limits{Failures: tokenbucket.Rate{Burst: 2, Every: time.Hour}, ShutFirst: time.Hour, ShutLast: time.Hour}
}

func (n *node) refusals(t testing.TB, reason string) float64 {
	return n.metric(t, "mlsfed_federation_refused_total", "reason", reason)
}

// TestStrangersAreShutOut: who fails again and again is not even shaken hands with, until the list of
// who is welcome changes; with one line in the log.
func TestStrangersAreShutOut(t *testing.T) {
	a, b := start(t, newOrganization(t, "a.example"), few), start(t, newOrganization(t, "b.example"))
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	for i := range 3 {
		if _, err := dialAs(t, a, c, nil); err == nil {
			t.Fatal("a stranger was let in")
		}
		federationtest.Eventually(t, "the refusal is counted", func() bool { return a.refusals(t, organization.ReasonNotAdmitted) == float64(i+1) })
	}
	for range 5 {
		if _, err := dialAs(t, a, c, nil); err == nil {
			t.Fatal("a stranger was let in")
		}
	}
	if n := a.refusals(t, organization.ReasonNotAdmitted); n != 3 {
		t.Errorf("%v handshakes, wanted 3", n)
	}
	federationtest.Eventually(t, "those at the door are counted", func() bool { return a.refusals(t, string(admission.Shut)) == 5 })
	if !a.log.Has("fail again and again", "127.0.0.1", "shut out") {
		t.Error("no line says so")
	}
	a.admit(t, b)
	federationtest.Eventually(t, "it is let in, now that it is admitted", func() bool {
		_, err := dialAs(t, a, c, nil)
		return err == nil
	})
}

// TestNeighboursOfStrangers: an address that an admitted node has come from is slowed, and not shut out.
func TestNeighboursOfStrangers(t *testing.T) {
	a, b := start(t, newOrganization(t, "a.example"), few, func(c *Config) {
		c.Limits.Admission.Slowed = tokenbucket.Rate{Burst: 2, Every: time.Hour}
	}), start(t, newOrganization(t, "b.example"))
	x := start(t, newOrganization(t, "x.example"))
	a.admit(t, b)
	federationtest.Eventually(t, "the change is seen, which forgives all", func() bool { return a.log.Has("allow-list changed") })
	good := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	bad := credential(t, x.id.Authority, "n9.x.example", time.Now(), nil)
	if _, err := dialAs(t, a, good, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := dialAs(t, a, bad, nil); err == nil {
			t.Fatal("a stranger was let in")
		}
		federationtest.Eventually(t, "the refusal is counted", func() bool { return a.refusals(t, organization.ReasonNotAdmitted) == float64(i+1) })
	}
	for i := range 2 {
		if _, err := dialAs(t, a, good, nil); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := dialAs(t, a, good, nil); err == nil {
		t.Fatal("it is not slowed")
	}
}

// TestRefusedBeforeAnythingIsComputed: who asks for no protocol of ours hears so before the node shows its
// certificate, and so before it signs.
func TestRefusedBeforeAnythingIsComputed(t *testing.T) {
	a := start(t, newOrganization(t, "a.example"))
	for _, protocols := range [][]string{nil, {"http/1.1"}} {
		raw, err := net.Dial("tcp", a.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}
		cfg.VerifyConnection = func(tls.ConnectionState) error {
			t.Errorf("%q: the node has shown its certificate", protocols)
			return nil
		}
		if err := tls.Client(raw, cfg).Handshake(); err == nil {
			t.Errorf("%q: it was let in", protocols)
		}
	}
	federationtest.Eventually(t, "both are counted", func() bool { return a.refusals(t, noProtocol) == 2 })
}
