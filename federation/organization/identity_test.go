package organization

import (
	"crypto/x509"
	"errors"
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
	if life := root.NotAfter.Sub(root.NotBefore); life != rootLife+skew {
		t.Errorf("the root lives for %v", life)
	}
	leaf := id.Certificate()
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != nodeLife+skew {
		t.Errorf("the node's certificate lives for %v", life)
	}
	if err := verifyNode(leaf, id.Node, root, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Error(err)
	}
	b, err := id.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Seeds) != 1 || b.Seeds[0] != (Seed{Node: "n1.a.example", Address: "10.0.0.1:7000"}) {
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

// TestInitRefuses checks which options make no organization.
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
		"seed of another organization":   {InitOptions{Domain: "a.example", Seeds: []Seed{{Node: "n1.b.example", Address: "10.0.0.1:1"}}}, wire.Malformed},
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
	other := newOrganization(t, "b.example")
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
		dir := newOrganization(t, "a.example")
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir); err == nil {
			t.Errorf("%s: it was loaded", name)
		}
	}
	dir := newOrganization(t, "a.example")
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
