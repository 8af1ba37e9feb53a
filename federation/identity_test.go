package federation

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestInit holds what init writes, with which permissions, and that it overwrites nothing.
func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a.example")
	if err := Init(dir, InitOptions{Domain: "a.example", Address: "10.0.0.1:7000"}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", info.Mode(), err)
	}
	for file, mode := range map[string]os.FileMode{rootKeyFile: 0o600, nodeKeyFile: 0o600, rootCertFile: 0o644, nodeCertFile: 0o644, bundleFile: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if id.Domain != "a.example" || id.Node != "n1.a.example" || id.Authority == nil {
		t.Errorf("identity %s of %s", id.Node, id.Domain)
	}
	root := id.Authority.Certificate()
	if root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || !root.IsCA || root.MaxPathLen != 0 || !root.MaxPathLenZero {
		t.Errorf("root: usage %v, authority %v, path length %d", root.KeyUsage, root.IsCA, root.MaxPathLen)
	}
	if life := root.NotAfter.Sub(root.NotBefore); life != RootLife+skew {
		t.Errorf("the root lives for %v", life)
	}
	leaf := id.Certificate()
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != NodeLife+skew {
		t.Errorf("the node's certificate lives for %v", life)
	}
	if err := verifyNode(leaf, id.Node, root, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Error(err)
	}
	b, err := id.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Seeds) != 1 || b.Seeds[0] != (Seed{"n1.a.example", "10.0.0.1:7000"}) {
		t.Errorf("seeds %v", b.Seeds)
	}
	list, err := x509.CreateRevocationList(nil, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)},
		root, id.Authority.Signer())
	if err != nil {
		t.Fatalf("the root cannot sign a revocation list: %v", err)
	}
	if _, err := x509.ParseRevocationList(list); err != nil {
		t.Error(err)
	}
	if err := Init(dir, InitOptions{Domain: "a.example"}); !errors.Is(err, wire.Exists) {
		t.Errorf("init again: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, nodeCertFile)); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, InitOptions{Domain: "a.example"}); !errors.Is(err, wire.Exists) {
		t.Errorf("init over a part: %v", err)
	}
}

// TestInitRefuses holds what is no organization.
func TestInitRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		o    InitOptions
		want error
	}{
		"no domain":                      {InitOptions{}, wire.Malformed},
		"no DNS name":                    {InitOptions{Domain: "A.example"}, wire.Malformed},
		"node elsewhere":                 {InitOptions{Domain: "a.example", Node: "n1.b.example"}, wire.Invalid},
		"node two labels below":          {InitOptions{Domain: "a.example", Node: "n1.x.a.example"}, wire.Invalid},
		"address without port":           {InitOptions{Domain: "a.example", Address: "10.0.0.1"}, wire.Malformed},
		"address that nobody can reach":  {InitOptions{Domain: "a.example", Address: "0.0.0.0:7000"}, wire.Malformed},
		"seed of another organization":   {InitOptions{Domain: "a.example", Seeds: []Seed{{"n1.b.example", "10.0.0.1:1"}}}, wire.Malformed},
		"a domain with room for no node": {InitOptions{Domain: wire.Domain(strings.Repeat("a.", 126) + "a")}, wire.Malformed},
	} {
		if err := Init(filepath.Join(t.TempDir(), "x"), c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, wanted %v", name, err, c.want)
		}
	}
}

// TestLongDomain holds that a domain of the greatest length can be admitted.
func TestLongDomain(t *testing.T) {
	label := strings.Repeat("a", 62)
	d := wire.Domain(label + "." + label + "." + label + "." + strings.Repeat("b", 61)) // 250, and "n1." fits before it
	dir := filepath.Join(t.TempDir(), "x")
	if err := Init(dir, InitOptions{Domain: d}); err != nil {
		t.Fatal(err)
	}
	b, err := ReadBundle(filepath.Join(dir, bundleFile))
	if err != nil {
		t.Fatal(err)
	}
	p, err := OpenPeers(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Add(b); err != nil {
		t.Fatal(err)
	}
	if list := p.List(); len(list) != 1 || list[0].Domain != d {
		t.Errorf("list %v", list)
	}
	if err := p.Remove(d); err != nil || len(p.List()) != 0 {
		t.Errorf("remove: %v", err)
	}
}

// TestLoadIdentityRefuses holds that files which do not belong together are not taken.
func TestLoadIdentityRefuses(t *testing.T) {
	other := organization(t, "b.example")
	copyFrom := func(file string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(other, file))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, file), b, 0o600)
		}
	}
	for name, spoil := range map[string]func(dir string) error{
		"another root":             copyFrom(rootCertFile),
		"another root key":         copyFrom(rootKeyFile),
		"another node key":         copyFrom(nodeKeyFile),
		"another node certificate": copyFrom(nodeCertFile),
		"a key that others can read": func(dir string) error {
			return os.Chmod(filepath.Join(dir, nodeKeyFile), 0o644)
		},
		"no node key":   func(dir string) error { return os.Remove(filepath.Join(dir, nodeKeyFile)) },
		"an empty file": func(dir string) error { return os.Truncate(filepath.Join(dir, rootCertFile), 0) },
		"a large file":  func(dir string) error { return os.Truncate(filepath.Join(dir, rootCertFile), maxPEM+1) },
	} {
		dir := organization(t, "a.example")
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir); err == nil {
			t.Errorf("%s: it was loaded", name)
		}
	}
	dir := organization(t, "a.example")
	if err := os.Remove(filepath.Join(dir, rootKeyFile)); err != nil {
		t.Fatal(err)
	}
	id, err := LoadIdentity(dir)
	if err != nil || id.Authority != nil {
		t.Errorf("without the root key: %v", err)
	}
	if err := id.Renew(time.Now()); !errors.Is(err, wire.Invalid) {
		t.Errorf("renewal without the root key: %v", err)
	}
}

// TestRenewOnDisk holds that a running node takes up a certificate that another process has renewed,
// presents it, and tells others.
func TestRenewOnDisk(t *testing.T) {
	a, b := federate(t)
	old := a.id.Certificate()
	if err := RenewNode(a.dir, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the certificate is taken up", func() bool { return !a.id.Certificate().Equal(old) })
	eventually(t, "the other node has a record with it", func() bool {
		k := b.records.get(a.id.Node)
		return k != nil && string(k.Certificate) == string(a.id.Certificate().Raw)
	})
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	conn, err := knock(t, a, c, func(cfg *tls.Config) {})
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
	clock := newClock()
	now := clock.Now()
	a := start(t, organization(t, "a.example", func(o *InitOptions) { o.Now = now }), func(c *Config) { c.Clock = clock })
	first := a.id.Certificate().NotAfter
	third := first.Add(-first.Sub(a.id.Certificate().NotBefore) / 3)
	clock.advance(third.Sub(now))
	b := bundleOf(t, "b.example")
	if err := a.peers.Add(b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a round of watching begins", func() bool { return a.log.has("allow-list changed", "admitted=1") })
	if err := a.peers.Suspend("b.example"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next one begins", func() bool { return a.log.has("allow-list changed", "admitted=0") })
	if !a.Status().CertificateEnds.Equal(first) {
		t.Fatal("it was renewed early")
	}
	clock.advance(time.Second)
	eventually(t, "it is renewed", func() bool { return a.id.Certificate().NotAfter.After(first) })
	eventually(t, "it is logged and counted", func() bool {
		return a.log.has("certificate was renewed") && a.metric(t, "mlsfed_federation_renewals_total", "result", "renewed") == 1
	})
	if got, want := a.metric(t, "mlsfed_federation_certificate_ends_timestamp_seconds"), float64(a.id.Certificate().NotAfter.Unix()); got != want {
		t.Errorf("metric %v, wanted %v", got, want)
	}
}

// TestSecondNode holds that an organization can have nodes in several places, of which one has the root
// key, and that they find each other.
func TestSecondNode(t *testing.T) {
	first := start(t, organization(t, "a.example"), echoing)
	dir := filepath.Join(t.TempDir(), "n2")
	if err := InitNode(dir, first.id.Authority, InitOptions{Node: "n2.a.example"}); err != nil {
		t.Fatal(err)
	}
	if err := InitNode(dir, first.id.Authority, InitOptions{Node: "n2.a.example"}); !errors.Is(err, wire.Exists) {
		t.Errorf("again: %v", err)
	}
	second := start(t, dir, echoing, func(c *Config) { c.Seeds = []Seed{{first.id.Node, first.Address()}} })
	if second.id.Authority != nil {
		t.Error("the second node has the root key")
	}
	connected(t, first, second)
	if got := fmt.Sprint(first.Nodes("a.example")); got != "[n1.a.example n2.a.example]" {
		t.Errorf("nodes %s", got)
	}
	if err := ask(t.Context(), first, second.id.Node, "hello"); err != nil {
		t.Error(err)
	}
	s := first.Status()
	if len(s.Peers) != 1 || !s.Peers[0].Own || len(s.Peers[0].Nodes) != 2 || !s.Peers[0].Nodes[1].Connected || !s.Peers[0].Nodes[1].Alive {
		t.Errorf("status %+v", s)
	}
}
