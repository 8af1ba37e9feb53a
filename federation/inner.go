package federation

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/mlsfed/mlsfed/wire"
)

// A node record is signed by an organization that is admitted, and still names whatever address it likes: a
// database on this machine, the metadata service of a cloud, a printer in the office. What follows decides which
// of them this node connects to. It looks at the address that a connection is about to be made to, after names
// have been resolved, so that an answer of the DNS that changes makes no difference.

// The kinds of addresses that are not the public internet's, as labels of a metric.
const (
	kindLoopback  = "loopback"
	kindPrivate   = "private"    // RFC 1918, and unique local IPv6 addresses of RFC 4193
	kindShared    = "shared"     // of a carrier: RFC 6598
	kindLinkLocal = "link_local" // RFC 3927, fe80::/10
	kindMetadata  = "metadata"   // services of a cloud for its own machines
	kindMachine   = "machine"    // a public address that this machine has itself
	kindMulticast = "multicast"
	kindReserved  = "reserved" // broadcast, unspecified, documentation, tests, and what is not assigned

	refusedPort = "port" // not one of the kinds: below 1024, not 443, and in no seed
)

// kindNames are the kinds as an error has them.
var kindNames = map[string]string{
	kindLoopback: "a loopback address", kindPrivate: "a private address", kindShared: "an address inside a carrier's network",
	kindLinkLocal: "a link-local address", kindMetadata: "an address of a cloud's own services", kindMachine: "an address of this machine",
	kindMulticast: "a multicast address", kindReserved: "a reserved address",
}

// kinds are networks by kind; the first that holds an address counts. IPv6 outside of 2000::/3 that is not here is
// reserved.
var kinds = []struct {
	kind     string
	networks []netip.Prefix
}{
	{kindMetadata, prefixes("169.254.169.254/32", "169.254.170.2/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32")},
	{kindLoopback, prefixes("127.0.0.0/8", "::1/128")},
	{kindPrivate, prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")},
	{kindShared, prefixes("100.64.0.0/10")},
	{kindLinkLocal, prefixes("169.254.0.0/16", "fe80::/10")},
	{kindMulticast, prefixes("224.0.0.0/4", "ff00::/8")},
	{kindReserved, prefixes("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "3fff::/20")},
}

var (
	unicast6 = netip.MustParsePrefix("2000::/3")
	// embedding are networks whose addresses lead to the IPv4 address that is in them, from this byte on.
	embedding = []struct {
		network netip.Prefix
		at      int
	}{
		{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64: RFC 6052
		{netip.MustParsePrefix("2002::/16"), 2},     // 6to4: RFC 3056
	}
)

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// kindOf is the kind of an address, "" for one of the public internet.
func kindOf(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	for _, k := range kinds {
		for _, p := range k.networks {
			if p.Contains(a) {
				return k.kind
			}
		}
	}
	if a.Is4() {
		return ""
	}
	raw := a.As16()
	for _, e := range embedding {
		if e.network.Contains(a) {
			return kindOf(netip.AddrFrom4([4]byte(raw[e.at:])))
		}
	}
	if !unicast6.Contains(a) {
		return kindReserved
	}
	if raw[8]&^2 == 0 && raw[9] == 0 && raw[10] == 0x5e && raw[11] == 0xfe { // ISATAP: RFC 5214
		return kindOf(netip.AddrFrom4([4]byte(raw[12:])))
	}
	return ""
}

// literal is the IP address in a "host:port", and false where the host is a name.
func literal(address string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(address)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err == nil
}

// place is where a node may be.
type place struct {
	address string // "host:port"
	seed    bool   // a bundle names it: this node's operator has admitted it
}

// permits are the addresses that an organization's nodes may be at.
type permits struct {
	networks []netip.Prefix  // that the configuration allows
	kinds    map[string]bool // besides public addresses
	ports    map[uint16]bool // of its seeds
	machine  func(netip.Addr) bool
}

// permitsOf are what this node's operator has admitted of an organization. A seed with an IP address permits its
// kind to the organization's records: who admits a loopback or private address means to reach the organization
// inside. The address that this node itself advertises permits its kind to all: a node that is on a private
// network, and says so, has its peers there. The kinds of other addresses are never permitted in this way, and
// names permit nothing: what they lead to is not this operator's to say.
func (f *Federation) permitsOf(d wire.Domain) *permits {
	p := &permits{networks: f.cfg.AllowNetworks, kinds: make(map[string]bool), ports: make(map[uint16]bool), machine: ofMachine}
	permit := func(address string) {
		if a, ok := literal(address); ok {
			switch k := kindOf(a.Addr()); k {
			case kindLoopback, kindPrivate, kindShared:
				p.kinds[k] = true
			}
		}
	}
	permit(f.Address())
	for _, s := range f.seeds(d) {
		permit(s.Address)
		if _, port, err := net.SplitHostPort(s.Address); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				p.ports[uint16(n)] = true
			}
		}
	}
	return p
}

// ofMachine reports whether the machine has the address. One that cannot tell says yes.
func ofMachine(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, have := range list {
		if p, err := netip.ParsePrefix(have.String()); err == nil && p.Addr().Unmap() == a {
			return true
		}
	}
	return false
}

// refuses is why an address is not connected to: a kind, refusedPort, or "" if it is.
func (p *permits) refuses(at netip.AddrPort) string {
	a := at.Addr().Unmap().WithZone("")
	for _, n := range p.networks {
		if n.Contains(a) {
			return ""
		}
	}
	k := kindOf(a)
	switch {
	case k != "" && !p.kinds[k]:
		return k
	case p.ports[at.Port()]:
		return ""
	case k == "" && p.machine(a):
		return kindMachine
	case at.Port() < 1024 && at.Port() != 443:
		return refusedPort
	}
	return ""
}

// guard is the Control of a dialer that connects to a node at a place. It is nil for nodes of the own
// organization, which its own root vouches for, and for an IP address that a seed names.
func (f *Federation) guard(to wire.NodeID, at place) func(network, address string, _ syscall.RawConn) error {
	if to.Organization() == f.cfg.Identity.Domain {
		return nil
	}
	if _, ok := literal(at.address); ok && at.seed {
		return nil
	}
	p := f.permitsOf(to.Organization())
	return func(_, address string, _ syscall.RawConn) error {
		ip, err := netip.ParseAddrPort(address)
		if err != nil {
			return wire.Errorf(wire.Invalid, "dial", "%s: %q is no address", to, address)
		}
		reason := p.refuses(ip)
		if reason == "" {
			return nil
		}
		f.metrics.inner.WithLabelValues(reason).Inc()
		return refusePlace(reason, at, ip)
	}
}

// refusePlace says why a node is not connected to, and what an operator can do about it.
func refusePlace(reason string, at place, ip netip.AddrPort) *refusal {
	by, where := "record", ip.String()
	if at.seed {
		by = "bundle"
	}
	if _, ok := literal(at.address); !ok {
		where = at.address + ", which is " + where
	}
	if reason == refusedPort {
		return refuse(reason, "its %s names %s, and its bundle has no seed with port %d, which is another service's as a rule: take up a bundle that has, or add the address to federation.allow_networks", by, where, ip.Port())
	}
	return refuse(reason, "its %s names %s, %s, and neither an address in its bundle nor federation.allow_networks permits that: if its operator confirms the address, take up a bundle that has it as a seed, or add its network to federation.allow_networks", by, where, kindNames[reason])
}

// ofPlace reports whether an address was not connected to.
func (r *refusal) ofPlace() bool { return r.reason == refusedPort || kindNames[r.reason] != "" }

// checkNetworks refuses what are no networks to allow.
func checkNetworks(list []netip.Prefix) error {
	for _, p := range list {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return wire.Errorf(wire.Invalid, "federation", "allowed network %s: wanted one as 10.0.0.0/8, with no bits after its length", p)
		}
	}
	return nil
}
