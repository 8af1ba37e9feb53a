package wire

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
)

func TestAccountOf(t *testing.T) {
	id := AccountID{1, 0xab}
	for serial, want := range map[string]AccountID{
		id.String():                  id,
		"":                           {},
		"4711":                       {}, // a number that an authority chose itself
		strings.ToUpper(id.String()): {}, strings.Repeat("0", 32): {}, strings.Repeat("x", 32): {}, id.String() + "00": {},
	} {
		if got := AccountOf(&x509.Certificate{Subject: pkix.Name{SerialNumber: serial}}); got != want {
			t.Errorf("serialNumber %q is account %q, wanted %q", serial, got, want)
		}
	}
	other := AccountID{2}
	if !id.Same(id) || id.Same(other) || !id.Same(AccountID{}) || !(AccountID{}).Same(id) {
		t.Error("accounts are compared otherwise than documented")
	}
}

func FuzzAccountID(f *testing.F) {
	f.Add(AccountID{1}.String())
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAccountID(s)
		if err != nil {
			return
		}
		if a.String() != s {
			t.Fatalf("%q became %q", s, a.String())
		}
		for n := range s {
			if _, err := ParseAccountID(s[:n]); err == nil {
				t.Fatalf("a prefix of %d characters of %q was accepted", n, s)
			}
		}
	})
}
