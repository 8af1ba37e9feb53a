// Package netkind classifies IP addresses: those of the public internet, and the kinds of those that are not. Package
// federation classifies the addresses that node records name, package discovery those to which names resolve.
package netkind

import (
	"net"
	"net/netip"
)

// Kind is the kind of an address, as a label of metrics. An address of the public internet has the kind Public.
type Kind string

// The kinds.
const (
	Public     Kind = ""
	Loopback   Kind = "loopback"
	Private    Kind = "private"    // RFC 1918, and unique local IPv6 addresses of RFC 4193
	Shared     Kind = "shared"     // of a carrier: RFC 6598
	LinkLocal  Kind = "link_local" // RFC 3927, fe80::/10
	Metadata   Kind = "metadata"   // services of a cloud for its own machines
	Machine    Kind = "machine"    // a public address that this machine has itself; Of never returns this kind
	Multicast  Kind = "multicast"
	Reserved   Kind = "reserved"   // broadcast, unspecified, documentation, tests, and unassigned addresses
	Transition Kind = "transition" // 6to4 and other relays; only OfUnknown returns this kind
)

// String returns the kind as an error has it: "a private address".
func (k Kind) String() string {
	if s := names[k]; s != "" {
		return s
	}
	return "an address of kind " + string(k)
}

var names = map[Kind]string{
	Public: "a public address", Loopback: "a loopback address", Private: "a private address", Shared: "an address inside a carrier's network",
	LinkLocal: "a link-local address", Metadata: "an address of a cloud's own services", Machine: "an address of this machine",
	Multicast: "a multicast address", Reserved: "a reserved address", Transition: "an address of a relay between IPv4 and IPv6",
}

// Valid reports whether k is one of the kinds other than Public.
func (k Kind) Valid() bool { return k != Public && names[k] != "" }

// kinds lists networks by kind; the first network that contains an address decides. IPv6 outside of 2000::/3 that is
// not in this list is Reserved.
var kinds = []struct {
	kind     Kind
	networks []netip.Prefix
}{
	{Metadata, Prefixes("169.254.169.254/32", "169.254.170.2/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32")},
	{Loopback, Prefixes("127.0.0.0/8", "::1/128")},
	{Private, Prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")},
	{Shared, Prefixes("100.64.0.0/10")},
	{LinkLocal, Prefixes("169.254.0.0/16", "fe80::/10")},
	{Multicast, Prefixes("224.0.0.0/4", "ff00::/8")},
	{Reserved, Prefixes("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "3fff::/20")},
}

// transition lists public networks that no organization's server needs: the anycast relays of 6to4 (RFC 7526) and
// AMT (RFC 7450), the sinks of AS112 (RFC 7534, RFC 7535), and 6to4 itself, which embeds an IPv4 address.
var transition = Prefixes("192.88.99.0/24", "192.52.193.0/24", "2001:3::/32", "192.31.196.0/24", "192.175.48.0/24",
	"2001:4:112::/48", "2620:4f:8000::/48", "2002::/16")

var (
	unicast6 = netip.MustParsePrefix("2000::/3")
	// embedding lists networks whose addresses lead to the IPv4 address that they contain from this byte on.
	embedding = []struct {
		network netip.Prefix
		at      int
	}{
		{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64: RFC 6052
		{netip.MustParsePrefix("2002::/16"), 2},     // 6to4: RFC 3056
	}
)

// Prefixes parses networks. It panics if one does not parse: the networks are constants.
func Prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// Of returns the kind of an address. An IPv6 address that embeds an IPv4 address has the kind of the latter.
func Of(a netip.Addr) Kind {
	a = a.Unmap().WithZone("")
	for _, k := range kinds {
		for _, p := range k.networks {
			if p.Contains(a) {
				return k.kind
			}
		}
	}
	if a.Is4() {
		return Public
	}
	if !a.IsValid() {
		return Reserved
	}
	raw := a.As16()
	for _, e := range embedding {
		if e.network.Contains(a) {
			return Of(netip.AddrFrom4([4]byte(raw[e.at:])))
		}
	}
	if !unicast6.Contains(a) {
		return Reserved
	}
	if raw[8]&^2 == 0 && raw[9] == 0 && raw[10] == 0x5e && raw[11] == 0xfe { // ISATAP: RFC 5214
		return Of(netip.AddrFrom4([4]byte(raw[12:])))
	}
	return Public
}

// OfUnknown is Of for an address that an organization names which no operator has admitted. It is stricter: an
// address with a zone is link-local, and an address of a relay is of kind Transition even if it leads to a public
// address.
func OfUnknown(a netip.Addr) Kind {
	k := Of(a)
	switch {
	case k != Public:
		return k
	case a.Zone() != "":
		return LinkLocal
	}
	for _, p := range transition {
		if p.Contains(a.Unmap()) {
			return Transition
		}
	}
	return Public
}

// OfMachine reports whether the machine has the address. It reports true if the machine's addresses are not known.
func OfMachine(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, have := range list {
		if p, err := netip.ParsePrefix(have.String()); err == nil && p.Addr().Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}
