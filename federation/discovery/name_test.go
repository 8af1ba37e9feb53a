package discovery

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

// TestNames checks what people may write as the domain of an organization, and the sentence for what they may not.
func TestNames(t *testing.T) {
	for s, want := range map[string]string{
		"b.example": "b.example", "B.EXAMPLE.": "b.example", "  b.example ": "b.example", "a.b.c.co.uk": "a.b.c.co.uk",
		"xn--mnchen-3ya.example": "xn--mnchen-3ya.example", "github.io": "github.io", "ab--c.example": "ab--c.example", "r3---sn.example": "r3---sn.example", "x.github.io": "x.github.io",
	} {
		if d, err := ParseName(s); err != nil || string(d) != want {
			t.Errorf("%q: %q, %v, wanted %q", s, d, err, want)
		}
	}
	for s, sentence := range map[string]string{
		"":                                "no domain is given: write one as b.example",
		"localhost":                       "localhost cannot be found: names below localhost lead to no organization",
		"b.localhost":                     "b.localhost cannot be found",
		"b.onion":                         "b.onion cannot be found: names below onion lead to no organization",
		"1.0.0.127.in-addr.arpa":          "cannot be found",
		"example":                         "example is one word: an organization has a domain of two or more",
		"10.0.0.1":                        "10.0.0.1 is an IP address: an organization is found by a domain name",
		"10.0.0.1.":                       "is an IP address",
		"127.1":                           "127.1 is an IP address",
		"[::1]":                           "[::1] is an IP address",
		"2001:db8::1":                     "2001:db8::1 is an IP address",
		"https://b.example/x":             "https://b.example/x is the address of a web page: write only the domain",
		"b.example/x":                     "b.example/x is the address of a web page",
		"bob@b.example":                   "bob@b.example is the address of a person: write only the part after the @",
		"b.example:7443":                  "b.example:7443 has a port: write only the domain",
		"münchen.example":                 "write the name in its ASCII form, which begins with xn--",
		"xn--a.example":                   "xn--a.example is no domain name: the part xn--a is not valid",
		"b..example":                      "b..example is no domain name",
		"b_c.example":                     "b_c.example is no domain name",
		"com":                             "com is one word",
		"co.uk":                           "co.uk is a public suffix, below which others register their domains: no organization has it",
		"foo.ck":                          "foo.ck is a public suffix",
		strings.Repeat("a.", 124) + "com": "is too long: a domain that can be found has at most 245 letters",
	} {
		_, err := ParseName(s)
		checkError(t, err, ReasonName, sentence)
	}
}

// TestRegistrable checks the domains by which newcomers are grouped.
func TestRegistrable(t *testing.T) {
	for d, want := range map[wire.Domain]wire.Domain{
		"b.example": "b.example", "x.y.b.example": "b.example", "a.b.co.uk": "b.co.uk", "b.co.uk": "b.co.uk", "x.github.io": "github.io",
		"a.b.foo.ck": "b.foo.ck", "co.uk": "co.uk", "com": "com",
	} {
		if got := Registrable(d); got != want {
			t.Errorf("%s: %s, wanted %s", d, got, want)
		}
	}
}

// TestSpecialNames checks that names inside a network are looked up only with a name server of the operator, and that
// no name of the operator's table is asked for.
func TestSpecialNames(t *testing.T) {
	f, err := NewFinder(Settings{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []wire.Domain{"b.example", "b.internal", "b.local", "b.test", "b.home.arpa"} {
		_, err := f.Find(t.Context(), d)
		checkError(t, err, ReasonName, string(d)+" cannot be found")
	}
	for _, d := range []wire.Domain{"co.uk", "localhost", "com", "B.example", ""} {
		_, err := f.Find(t.Context(), d)
		checkError(t, err, ReasonName, "")
	}
}

// TestSettings checks settings that an operator got wrong.
func TestSettings(t *testing.T) {
	for want, s := range map[string]Settings{
		"wanted the IP address and port of a name server": {DNS: "ns.example:53"},
		"wanted the IP address and port of a web server":  {Hosts: map[wire.Domain]netip.AddrPort{"b.example": {}}},
		"discovery.hosts: domain":                         {Hosts: map[wire.Domain]netip.AddrPort{"B": netip.MustParseAddrPort("10.0.0.7:443")}},
		"with no bits after its length":                   {Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}},
	} {
		if _, err := NewFinder(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, wanted %q", s, err, want)
		}
	}
}

// FuzzTXT checks that records that are accepted name exactly the lineage that the right record names.
func FuzzTXT(f *testing.F) {
	good := lineage.TXT(wire.Hash{1, 2, 0xab})
	for _, s := range []string{good, good + " ", "v=mlsfed1;id=" + strings.Repeat("0", 64), "V=mlsfed1; id=", "v=spf1", strings.ToUpper(good), good + ";"} {
		f.Add(s, "")
		f.Add(s, good)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		id, err := ParseTXT("b.example", []string{a, b})
		if err != nil {
			if e, ok := err.(*Error); !ok || id != (wire.Hash{}) || e.Text == "" || wire.Line(e.Text) != e.Text {
				t.Fatalf("error %#v, id %s", err, id)
			}
			return
		}
		packed := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		if want := packed(lineage.TXT(id)); packed(a) != want && packed(b) != want {
			t.Fatalf("%q and %q give %s", a, b, id)
		}
	})
}

// TestTXT checks the spellings of a right record.
func TestTXT(t *testing.T) {
	id := wire.Hash{1, 2, 0xab}
	for _, r := range []string{lineage.TXT(id), "v=mlsfed1;id=" + id.String()} {
		if got, err := ParseTXT("b.example", []string{"v=spf1 -all", r}); err != nil || got != id {
			t.Errorf("%q: %s, %v", r, got, err)
		}
	}
	for _, r := range []string{strings.ToUpper(lineage.TXT(id)), lineage.TXT(id) + ";", lineage.TXT(id) + "0", "v=mlsfed1; k=1; id=" + id.String(), "v=mlsfed1"} {
		_, err := ParseTXT("b.example", []string{r})
		checkError(t, err, ReasonTXT, "TXT record _mlsfed.b.example")
	}
}
