package discovery

import (
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/mlsfed/mlsfed/wire"
)

// never lists special-use names (RFC 6761 and others) that no name server answers for.
var never = []string{"localhost", "invalid", "onion", "arpa", "alt"}

// inside lists special-use names that only a name server of the operator can answer for.
var inside = []string{"local", "internal", "test", "example"}

// ParseName reads the domain of an organization as people write it: in capitals, with a final dot. The error is an
// *Error that says what to write.
func ParseName(s string) (wire.Domain, error) {
	text := wire.Line(s)
	refused := func(format string, args ...any) (wire.Domain, error) {
		return "", refuse(ReasonName, "", format, args...)
	}
	switch {
	case text == "":
		return refused("no domain is given: write one as b.example")
	case strings.Contains(text, "://") || strings.ContainsAny(text, "/?#"):
		return refused("%.100s is the address of a web page: write only the domain, as b.example", text)
	case strings.Contains(text, "@"):
		return refused("%.100s is the address of a person: write only the part after the @", text)
	}
	name := strings.TrimSuffix(strings.ToLower(text), ".")
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || digits(name[strings.LastIndexByte(name, '.')+1:]) {
		return refused("%.100s is an IP address: an organization is found by a domain name, as b.example", text)
	}
	if strings.Contains(name, ":") {
		return refused("%.100s has a port: write only the domain, as b.example", text)
	}
	d, err := wire.ParseDomain(name)
	if err != nil {
		return refused("%.100s is no domain name: %v", text, err)
	}
	return d, CheckName(d)
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// CheckName refuses a domain that cannot be an organization's: one label, a public suffix, a name that no name server
// answers for. The error is an *Error.
func CheckName(d wire.Domain) error {
	name := string(d)
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, n := range never {
		if last == n && !strings.HasSuffix(name, ".home.arpa") {
			return refuse(ReasonName, d, "%s cannot be found: names below %s lead to no organization", d, n)
		}
	}
	if !strings.Contains(name, ".") {
		return refuse(ReasonName, d, "%s is one word: an organization has a domain of two or more, as b.example", d)
	}
	if len(name)+len("_mlsfed.") > wire.MaxDomain {
		return refuse(ReasonName, d, "%.40s… is too long: a domain that can be found has at most %d letters", d, wire.MaxDomain-len("_mlsfed."))
	}
	for label := range strings.SplitSeq(name, ".") {
		if !strings.HasPrefix(label, "xn--") {
			continue // other labels with two hyphens are registered names
		}
		if _, err := idna.Lookup.ToUnicode(label); err != nil {
			return refuse(ReasonName, d, "%s is no domain name: the part %s is not valid", d, label)
		}
	}
	if publicSuffix(name) == name {
		return refuse(ReasonName, d, "%s is a public suffix, below which others register their domains: no organization has it", d)
	}
	return nil
}

// special reports whether only the operator's own name server can answer for a domain.
func special(d wire.Domain) bool {
	for _, n := range inside {
		if strings.HasSuffix(string(d), "."+n) {
			return true
		}
	}
	return strings.HasSuffix(string(d), ".home.arpa")
}

// publicSuffix returns the longest public suffix that ICANN delegates, or the last label. Suffixes that companies
// have registered, as github.io, are domains like others: their owners have organizations.
func publicSuffix(name string) string {
	for {
		suffix, icann := publicsuffix.PublicSuffix(name)
		_, below, more := strings.Cut(suffix, ".")
		if icann || !more {
			return suffix
		}
		name = below
	}
}

// Registrable returns the domain that somebody has registered: one label below the public suffix. Newcomers are
// grouped by it, because names below a registered domain cost nothing.
func Registrable(d wire.Domain) wire.Domain {
	suffix := publicSuffix(string(d))
	rest, ok := strings.CutSuffix(string(d), "."+suffix)
	if !ok {
		return d
	}
	return wire.Domain(rest[strings.LastIndexByte(rest, '.')+1:] + "." + suffix)
}
