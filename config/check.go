package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/wire"
)

// maxSocket is the longest path of a Unix socket, in bytes: sun_path holds 108 on Linux, with a zero at its end.
const maxSocket = 107

// validateTogether reports keys whose values are well formed and cannot work together.
func (c *Config) validateTogether(fault func(key, format string, args ...any)) {
	if len(c.Admin.Socket) > maxSocket {
		fault("admin.socket", "a path of %d bytes, wanted at most %d: an operating system takes no longer one", len(c.Admin.Socket), maxSocket)
	}
	for key, address := range map[string]string{"gateway.public": c.Gateway.Public, "federation.advertise": c.Federation.Advertise} {
		host, _, err := net.SplitHostPort(address)
		if ip, _ := netip.ParseAddr(host); err == nil && (host == "" || ip.IsUnspecified()) {
			fault(key, "%q names no host: others cannot connect to it; wanted one as n1.a.example:8443", address)
		}
	}
	type listener struct{ key, address string }
	list := []listener{{"gateway.listen", c.Gateway.Listen}, {"federation.listen", c.Federation.Listen}, {"admin.listen", c.Admin.Listen}}
	for i, l := range list {
		for _, other := range list[:i] {
			if meet(l.address, other.address) {
				fault(l.key, "%q is the address of %s too: each needs one of its own", l.address, other.key)
			}
		}
	}
	c.validatePairs(fault)
	c.validateNames(fault)
}

// pair is two numbers of which one must not be below the other, or must be above it.
type pair struct {
	key, other string
	above      bool
}

// pairs lists the pairs whose violation keeps a node from working.
var pairs = []pair{
	{"consensus.election", "consensus.heartbeat", false},
	{"directory.certificate_life", "directory.renew_before", true},
	{"directory.key_packages", "directory.low_water", true},
	{"quota.uploads", "files.file", false}, // a file has to fit
	{"quota.user", "quota.device", false},
	{"gateway.held_per_session", "gateway.max_frame", false}, // an answer has to fit
	{"gateway.held_per_user", "gateway.max_frame", false},
}

// doubtful lists the pairs in whose violation one of the two never takes effect.
var doubtful = []pair{
	{"gateway.strangers.shut_last", "gateway.strangers.shut_first", false},
	{"federation.strangers.shut_last", "federation.strangers.shut_first", false},
	{"mailbox.bytes", "gateway.max_frame", false},
	{"federation.outbox_bytes", "gateway.max_frame", false},
	{"files.total", "files.file", false},
	{"quota.device", "files.file", false},
}

// violated reports the pairs that contradict each other, with the expected relation. A 0 is not compared.
func (c *Config) violated(list []pair, say func(key, text string)) {
	values := make(map[string]reflect.Value)
	leaves(c, func(key string, v reflect.Value) { values[key] = v })
	for _, p := range list {
		value, other := values[p.key], values[p.other]
		if value.IsZero() || other.IsZero() || number(value) > number(other) || number(value) == number(other) && !p.above {
			continue
		}
		than := "at least"
		if p.above {
			than = "more than"
		}
		say(p.key, fmt.Sprintf("%s, wanted %s %s, %s", written(value), than, p.other, written(other)))
	}
}

// validatePairs reports numbers that contradict each other.
func (c *Config) validatePairs(fault func(key, format string, args ...any)) {
	c.violated(pairs, func(key, text string) { fault(key, "%s", text) })
	if m, b := c.Quota.Memory, c.Consensus.RecentBytes; m != 0 && m < 2*b {
		fault("quota.memory", "%v, wanted at least %v: two conversations that keep consensus.recent_bytes", m, 2*b)
	}
	for key, r := range map[string]Rate{
		"rates.conversations": c.Rates.Conversations, "rates.codes": c.Rates.Codes, "rates.handshakes": c.Rates.Handshakes,
		"rates.conversation_handshakes": c.Rates.ConversationHandshakes, "rates.organization_handshakes": c.Rates.OrganizationHandshakes,
		"rates.invitations": c.Rates.Invitations, "rates.calls": c.Rates.Calls,
	} {
		if r.Burst > 0 && r.PerMinute == 0 {
			fault(key, "burst %d and none a minute, wanted some a minute where there is a burst", r.Burst)
		}
	}
}

// validateNames reports names, addresses and URLs of the wrong form.
func (c *Config) validateNames(fault func(key, format string, args ...any)) {
	for _, name := range c.Gateway.TLS.ACME {
		if _, err := wire.ParseDomain(name); err != nil {
			fault("gateway.tls.acme_domains", "%q is not a name that a certificate can be for: wanted one as chat.a.example", name)
		}
	}
	if len(c.Gateway.TLS.ACME) == 0 && c.Gateway.TLS.Email != "" {
		fault("gateway.tls.acme_email", "is for acme_domains, which are empty")
	}
	for _, origin := range c.Gateway.Origins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || strings.TrimPrefix(origin, u.Scheme+"://") != u.Host) {
			fault("gateway.origins", "%q is not an origin: wanted one as https://chat.a.example, without a path, or \"*\"", origin)
		}
	}
	c.OIDC.validate(fault)
}

// validate reports an issuer that cannot be asked.
func (o *OIDC) validate(fault func(key, format string, args ...any)) {
	if o.URL == "" {
		return
	}
	if o.Audience == "" {
		fault("oidc.audience", "wanted the client id that tokens are made for")
	}
	if o.Claim == "" {
		fault("oidc.claim", "wanted the claim that holds a user's name, as preferred_username")
	}
	if len(o.Groups) > 0 && o.GroupClaim == "" {
		fault("oidc.group_claim", "wanted the claim that holds a user's groups, as groups")
	}
	for _, s := range o.Groups {
		if s == "" {
			fault("oidc.groups", "an empty group")
		}
	}
	if !slices.Contains(o.Scopes, "openid") || len(o.Scopes) > maxScopes {
		fault("oidc.scopes", "%q, wanted openid among them, and at most %d", o.Scopes, maxScopes)
	}
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		fault("oidc.url", "%q is not the URL of an issuer: wanted one as https://login.a.example", o.URL)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		fault("oidc.url", "%q is not https: an attacker on the network could enrol any device", o.URL)
	}
}

// maxScopes bounds oidc.scopes (wire.Issuer).
const maxScopes = 16

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// meet reports whether a node cannot listen on both of two addresses: they have the same port, and the same host or a
// host that means all. Port 0 is any free port.
func meet(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isAll(hostA) || isAll(hostB)
}

func isAll(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// isPort reports whether a port is a valid TCP port.
func isPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// isHost reports whether a node can listen on, or connect to, a host: an IP address, a name in ASCII, or none.
func isHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return true
	}
	for _, r := range host {
		if r >= utf8.RuneSelf || r != '.' && r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	name := strings.TrimSuffix(host, ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.Trim(last, "0123456789") != "" // 256.1.1.1 is neither an address nor a name
}
