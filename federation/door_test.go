package federation

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/door"
)

// few lets two connections of an address fail, and then shuts it out for the length of a test.
func few(c *Config) {
	c.Limits.Door = door.Limits{Failures: door.Rate{Burst: 2, Every: time.Hour}, ShutFirst: time.Hour, ShutLast: time.Hour}
}

func (n *node) refusals(t testing.TB, reason string) float64 {
	return n.metric(t, "mlsfed_federation_refused_total", "reason", reason)
}

// TestStrangersAreShutOut: who fails again and again is not even shaken hands with, until the list of
// who is welcome changes; with one line in the log.
func TestStrangersAreShutOut(t *testing.T) {
	a, b := start(t, organization(t, "a.example"), few), start(t, organization(t, "b.example"))
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	for i := range 3 {
		if _, err := knock(t, a, c, nil); err == nil {
			t.Fatal("a stranger was let in")
		}
		eventually(t, "the refusal is counted", func() bool { return a.refusals(t, notAdmitted) == float64(i+1) })
	}
	for range 5 {
		if _, err := knock(t, a, c, nil); err == nil {
			t.Fatal("a stranger was let in")
		}
	}
	if n := a.refusals(t, notAdmitted); n != 3 {
		t.Errorf("%v handshakes, wanted 3", n)
	}
	eventually(t, "those at the door are counted", func() bool { return a.refusals(t, string(door.Shut)) == 5 })
	if !a.log.has("fail again and again", "127.0.0.1", "shut out") {
		t.Error("no line says so")
	}
	a.admit(t, b)
	eventually(t, "it is let in, now that it is admitted", func() bool {
		_, err := knock(t, a, c, nil)
		return err == nil
	})
}

// TestNeighboursOfStrangers: an address that an admitted node has come from is slowed, and not shut out.
func TestNeighboursOfStrangers(t *testing.T) {
	a, b := start(t, organization(t, "a.example"), few, func(c *Config) {
		c.Limits.Door.Slowed = door.Rate{Burst: 2, Every: time.Hour}
	}), start(t, organization(t, "b.example"))
	x := start(t, organization(t, "x.example"))
	a.admit(t, b)
	eventually(t, "the change is seen, which forgives all", func() bool { return a.log.has("allow-list changed") })
	good := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	bad := credential(t, x.id.Authority, "n9.x.example", time.Now(), nil)
	if _, err := knock(t, a, good, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := knock(t, a, bad, nil); err == nil {
			t.Fatal("a stranger was let in")
		}
		eventually(t, "the refusal is counted", func() bool { return a.refusals(t, notAdmitted) == float64(i+1) })
	}
	for i := range 2 {
		if _, err := knock(t, a, good, nil); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := knock(t, a, good, nil); err == nil {
		t.Fatal("it is not slowed")
	}
}

// TestRefusedBeforeAnythingIsComputed: who asks for no protocol of ours hears so before the node shows its
// certificate, and so before it signs.
func TestRefusedBeforeAnythingIsComputed(t *testing.T) {
	a := start(t, organization(t, "a.example"))
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
	eventually(t, "both are counted", func() bool { return a.refusals(t, noProtocol) == 2 })
}
