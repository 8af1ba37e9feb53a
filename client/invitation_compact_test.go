package client

import (
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

func TestCompactInvitation(t *testing.T) {
	code := "FSGG-IDOT-SE3S-OQVL-GIS4-IUIR-VI"
	carried := strings.Repeat("A", 64)
	for _, i := range []Invitation{
		{Host: "n1.a.example:8443", Code: code, Domain: "a.example", User: "alice", Root: wire.Hash{1, 2}},
		{Host: "127.0.0.1:40995", Code: code + "~" + carried, Domain: "a.example", User: "alice.b~c_d-e", Root: wire.Hash{3}},
		{Host: "[::1]:8443", Code: code + "~" + carried, Domain: wire.Domain(strings.Repeat("a.", 100) + "example"), User: "alice", Root: wire.Hash{3}},
	} {
		s, ok := i.Compact()
		if !ok {
			t.Fatalf("%s has no compact form", i)
		}
		for _, written := range []string{s, strings.ToLower(s), " " + s + "\n"} {
			if got, err := ParseInvitation(written); err != nil || got != i {
				t.Errorf("%s: %+v, %v", written, got, err)
			}
		}
		for n := range s {
			if got, err := ParseInvitation(s[:n]); err == nil {
				t.Fatalf("%d of %d characters are %+v", n, len(s), got)
			}
		}
	}
	for name, i := range map[string]Invitation{
		"no root":        {Host: "h:1", Code: code, Domain: "a.example", User: "alice"},
		"no code":        {Host: "h:1", Domain: "a.example", User: "alice", Root: wire.Hash{1}},
		"another code":   {Host: "h:1", Code: "ABCD-1234", Domain: "a.example", User: "alice", Root: wire.Hash{1}},
		"without dashes": {Host: "h:1", Code: strings.ReplaceAll(code, "-", ""), Domain: "a.example", User: "alice", Root: wire.Hash{1}},
		"carries less":   {Host: "h:1", Code: code + "~AAAA", Domain: "a.example", User: "alice", Root: wire.Hash{1}},
	} {
		if s, ok := i.Compact(); ok {
			t.Errorf("%s: %s", name, s)
		}
	}
	for _, s := range []string{"MLSFED:", "MLSFED:AE", "MLSFED:1", "MLSFED:" + compactEncoding.EncodeToString([]byte{3, 0, 0, 0}), "MLSFED:" + compactEncoding.EncodeToString(append([]byte{1, 1, 'h', 1, 'A', 1, 'u'}, make([]byte, 48)...)),
		"MLSFED:" + compactEncoding.EncodeToString(append([]byte{1, 255}, make([]byte, 400)...))} { // the longest length
		if i, err := ParseInvitation(s); wire.CodeOf(err) != wire.Malformed {
			t.Errorf("%s: %+v, %v", s, i, err)
		}
	}
}
