package federation

import (
	"crypto/tls"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
)

// TestRenewOnDisk holds that a running node takes up a certificate that another process has renewed, presents it, and
// announces it.
func TestRenewOnDisk(t *testing.T) {
	a, b := federate(t)
	old := a.id.Certificate()
	if err := organization.RenewNode(a.dir, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the certificate is taken up", func() bool { return !a.id.Certificate().Equal(old) })
	federationtest.Eventually(t, "the other node has a record with it", func() bool {
		k := b.records.get(a.id.Node)
		return k != nil && string(k.Certificate) == string(a.id.Certificate().Raw)
	})
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	conn, err := dialAs(t, a, c, func(cfg *tls.Config) {})
	if err != nil {
		t.Fatal(err)
	}
	if !conn.ConnectionState().PeerCertificates[0].Equal(a.id.Certificate()) {
		t.Error("the old certificate is presented")
	}
	if n := a.metric(t, "mlsfed_federation_renewals_total", "result", "renewed"); n != 1 {
		t.Errorf("metric %v", n)
	}
	connected(t, a, b)
}

// TestRenewByItself holds that a node with the root key renews its certificate when a third of its life
// is left, and not before.
func TestRenewByItself(t *testing.T) {
	clock := federationtest.NewClock()
	now := clock.Now()
	a := start(t, newOrganization(t, "a.example", func(o *organization.InitOptions) { o.Now = now }), func(c *Config) { c.Clock = clock })
	first := a.id.Certificate().NotAfter
	third := first.Add(-first.Sub(a.id.Certificate().NotBefore) / 3)
	clock.Advance(third.Sub(now))
	b, err := organization.ReadBundle(filepath.Join(newOrganization(t, "b.example"), "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.peers.Add(b); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "a round of watching begins", func() bool { return a.log.Has("allow-list changed", "admitted=1") })
	if err := a.peers.Suspend("b.example"); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the next one begins", func() bool { return a.log.Has("allow-list changed", "admitted=0") })
	if !a.Status().CertificateEnds.Equal(first) {
		t.Fatal("it was renewed early")
	}
	clock.Advance(time.Second)
	federationtest.Eventually(t, "it is renewed", func() bool { return a.id.Certificate().NotAfter.After(first) })
	federationtest.Eventually(t, "it is logged and counted", func() bool {
		return a.log.Has("certificate was renewed") && a.metric(t, "mlsfed_federation_renewals_total", "result", "renewed") == 1
	})
	if got, want := a.metric(t, "mlsfed_federation_certificate_ends_timestamp_seconds"), float64(a.id.Certificate().NotAfter.Unix()); got != want {
		t.Errorf("metric %v, wanted %v", got, want)
	}
}
