package organization

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/federation/internal/atomicfile"
	"github.com/mlsfed/mlsfed/wire"
)

func bundleOf(t testing.TB, d wire.Domain) *Bundle {
	t.Helper()
	b, err := ReadBundle(filepath.Join(newOrganization(t, d, func(o *InitOptions) { o.Address = "127.0.0.1:9" }), bundleFile))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBundleRefuses holds what is no bundle.
func TestBundleRefuses(t *testing.T) {
	good, other := bundleOf(t, "a.example"), bundleOf(t, "b.example")
	encode := func(edit func(*Bundle)) []byte {
		b := *good
		edit(&b)
		out, err := json.Marshal(&b)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	whole := encode(func(*Bundle) {})
	if _, err := parseBundle(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := parseBundle(append(whole, make([]byte, maxBundle-len(whole)+1)...)); !errors.Is(err, wire.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	spaces := append(whole, []byte(strings.Repeat(" ", maxBundle-len(whole)))...)
	if _, err := parseBundle(spaces); err != nil {
		t.Errorf("largest: %v", err)
	}
	many := make([]Seed, maxSeeds)
	for i := range many {
		many[i] = Seed{"n1.a.example", "127.0.0.1:9"}
	}
	if _, err := parseBundle(encode(func(b *Bundle) { b.Seeds = many })); err != nil {
		t.Errorf("most seeds: %v", err)
	}
	leaf := func() string {
		id, err := LoadIdentity(newOrganization(t, "a.example"))
		if err != nil {
			t.Fatal(err)
		}
		return string(encodeCertificate(id.Certificate().Raw))
	}()
	for name, c := range map[string]struct {
		content []byte
		want    error
	}{
		"unknown field":         {[]byte(strings.Replace(string(whole), `"version"`, `"more":1,"version"`, 1)), wire.Malformed},
		"something after":       {append(append([]byte(nil), whole...), '{'), wire.Malformed},
		"cut off":               {whole[:len(whole)-1], wire.Malformed},
		"another version":       {encode(func(b *Bundle) { b.Version = 2 }), wire.Version},
		"no domain":             {encode(func(b *Bundle) { b.Domain = "" }), wire.Malformed},
		"another domain's root": {encode(func(b *Bundle) { b.Root = other.Root }), wire.Invalid},
		"another domain":        {encode(func(b *Bundle) { b.Domain, b.Seeds = "c.example", nil }), wire.Invalid},
		"a node's certificate":  {encode(func(b *Bundle) { b.Root = leaf }), wire.Invalid},
		"two certificates":      {encode(func(b *Bundle) { b.Root += b.Root }), wire.Malformed},
		"no certificate":        {encode(func(b *Bundle) { b.Root = "" }), wire.Malformed},
		"another's seed":        {encode(func(b *Bundle) { b.Seeds = []Seed{{"n1.b.example", "127.0.0.1:9"}} }), wire.Malformed},
		"seed without a port":   {encode(func(b *Bundle) { b.Seeds = []Seed{{"n1.a.example", "127.0.0.1"}} }), wire.Malformed},
		"seed on port 0":        {encode(func(b *Bundle) { b.Seeds = []Seed{{"n1.a.example", "127.0.0.1:0"}} }), wire.Malformed},
		"too many seeds":        {encode(func(b *Bundle) { b.Seeds = append(many, many[0]) }), wire.TooLarge},
	} {
		if _, err := parseBundle(c.content); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, wanted %v", name, err, c.want)
		}
	}
}

// TestPeers holds what the list does, and that a second process sees it.
func TestPeers(t *testing.T) {
	dir := t.TempDir()
	mine, err := OpenPeers(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := OpenPeers(dir)
	if err != nil {
		t.Fatal(err)
	}
	look := func() string {
		t.Helper()
		if _, err := other.Refresh(); err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, p := range other.List() {
			s = append(s, fmt.Sprintf("%s %s %d", p.Domain, p.State, len(p.Seeds)))
		}
		return strings.Join(s, ", ")
	}
	a, b := bundleOf(t, "a.example"), bundleOf(t, "b.example")
	imposter := bundleOf(t, "a.example")
	bare := *a
	bare.Seeds = nil
	for _, step := range []struct {
		what string
		do   func() error
		err  error
		list string
	}{
		{"add b", func() error { return mine.Add(b) }, nil, "b.example admitted 1"},
		{"add a", func() error { return mine.Add(a) }, nil, "a.example admitted 1, b.example admitted 1"},
		{"suspend a", func() error { return mine.Suspend("a.example") }, nil, "a.example suspended 1, b.example admitted 1"},
		{"new seeds", func() error { return mine.Add(&bare) }, nil, "a.example suspended 0, b.example admitted 1"},
		{"another root", func() error { return mine.Add(imposter) }, wire.Exists, "a.example suspended 0, b.example admitted 1"},
		{"resume a", func() error { return mine.Resume("a.example") }, nil, "a.example admitted 0, b.example admitted 1"},
		{"suspend nobody", func() error { return mine.Suspend("c.example") }, wire.NotFound, "a.example admitted 0, b.example admitted 1"},
		{"remove nobody", func() error { return mine.Remove("c.example") }, wire.NotFound, "a.example admitted 0, b.example admitted 1"},
		{"remove a path", func() error { return mine.Remove("../a") }, wire.Malformed, "a.example admitted 0, b.example admitted 1"},
		{"remove a", func() error { return mine.Remove("a.example") }, nil, "b.example admitted 1"},
		{"another root, after the removal", func() error { return mine.Add(imposter) }, nil, "a.example admitted 1, b.example admitted 1"},
	} {
		if err := step.do(); !errors.Is(err, step.err) {
			t.Errorf("%s: %v, wanted %v", step.what, err, step.err)
		}
		if got := look(); got != step.list {
			t.Errorf("%s: the other process sees %s, wanted %s", step.what, got, step.list)
		}
	}
}

// TestPeersDamaged holds that a file which cannot be read takes its organization off the list, whatever
// it said before, and no other.
func TestPeersDamaged(t *testing.T) {
	dir := t.TempDir()
	p, err := OpenPeers(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []wire.Domain{"a.example", "b.example"} {
		if err := p.Add(bundleOf(t, d)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, "a.example.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty":           "",
		"another state":   strings.Replace(string(whole), "admitted", "trusted", 1),
		"another file's":  strings.ReplaceAll(string(whole), "a.example", "b.example"),
		"no bundle":       `{"state":"admitted"}`,
		"too large":       string(whole) + strings.Repeat(" ", maxPeerFile),
		"unknown field":   strings.Replace(string(whole), `"state"`, `"more":1,"state"`, 1),
		"something after": string(whole) + "{}",
	} {
		if err := atomicfile.Write(filepath.Join(dir, "a.example.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := p.Refresh(); err == nil || !changed {
			t.Errorf("%s: changed %v, %v", name, changed, err)
		}
		if changed, err := p.Refresh(); err != nil || changed {
			t.Errorf("%s, looked at again: changed %v, %v", name, changed, err)
		}
		if list := p.List(); len(list) != 1 || list[0].Domain != "b.example" {
			t.Errorf("%s: list %v", name, list)
		}
		if _, err := OpenPeers(dir); err == nil {
			t.Errorf("%s: the list was opened", name)
		}
		if err := atomicfile.Write(filepath.Join(dir, "a.example.json"), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := p.Refresh(); err != nil || !changed || len(p.List()) != 2 {
			t.Errorf("%s, mended: changed %v, %v", name, changed, err)
		}
	}
}

func FuzzBundle(f *testing.F) {
	b, err := bundleOf(f, "a.example").encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"state":"admitted","bundle":` + string(b) + `}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bundle, err := parseBundle(b); err == nil {
			again, err := bundle.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parseBundle(again); err != nil && len(again) <= maxBundle {
				t.Fatalf("what was read is not read again: %v", err)
			}
		}
		if p, err := parsePeer(b); err == nil && p.Bundle.check() != nil {
			t.Fatal("a peer with a bundle that does not hold")
		}
	})
}

// TestPeersInReadsWhatItChanges holds that a change of one entry reads that entry alone, and is as if all had
// been read: a damaged file of another organization stops nobody.
func TestPeersInReadsWhatItChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peers")
	p, err := PeersIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ReadBundle(newOrganization(t, "b.example") + "/bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "damaged.example.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(b); err != nil {
		t.Fatal(err)
	}
	again, err := PeersIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Suspend(b.Domain); err != nil {
		t.Fatal(err)
	}
	if err := again.Add(b); err != nil { // takes up new seeds, and keeps the state
		t.Fatal(err)
	}
	if l := again.List(); len(l) != 1 || l[0].State != Suspended {
		t.Fatalf("the list is %v", l)
	}
	other, err := ReadBundle(newOrganization(t, "b.example") + "/bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	if third, _ := PeersIn(dir); wire.CodeOf(third.Add(other)) != wire.Exists {
		t.Error("another root was taken up")
	}
	if err := again.Remove(b.Domain); err != nil || len(again.List()) != 0 {
		t.Errorf("%v, and the list is %v", err, again.List())
	}
	if err := again.Remove(b.Domain); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

// TestAddAll: of many bundles each is admitted or refused by itself, as if they came one after the other.
func TestAddAll(t *testing.T) {
	p, err := OpenPeers(filepath.Join(t.TempDir(), "peers"))
	if err != nil {
		t.Fatal(err)
	}
	var list []*Bundle
	for i := range addsAtOnce + 3 {
		list = append(list, bundleOf(t, wire.Domain(fmt.Sprintf("o%02d.example", i))))
	}
	other := bundleOf(t, "o05.example") // another root under a name that is taken
	again := *list[7]
	again.Seeds = []Seed{{"n1.o07.example", "127.0.0.1:77"}}
	errs := p.AddAll(append(list, other, &again))
	for i, err := range errs {
		if want := i == len(list); errors.Is(err, wire.Exists) != want || err != nil && !want {
			t.Errorf("bundle %d: %v", i, err)
		}
	}
	if n := len(p.List()); n != len(list) {
		t.Errorf("%d organizations are admitted, wanted %d", n, len(list))
	}
	if got, _ := p.Get("o07.example"); len(got.Seeds) != 1 || got.Seeds[0].Address != "127.0.0.1:77" {
		t.Errorf("of two bundles of one organization the first counts: %+v", got.Seeds)
	}
	first, err := list[5].Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := p.Get("o05.example"); !got.Root.Equal(first) {
		t.Error("the second root of an organization counts")
	}
	reopened, err := OpenPeers(p.dir)
	if err != nil || len(reopened.List()) != len(list) {
		t.Errorf("%d organizations after opening again: %v", len(reopened.List()), err)
	}
}
