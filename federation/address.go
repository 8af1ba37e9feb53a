package federation

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/mlsfed/mlsfed/federation/internal/netkind"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// A node record is signed by an admitted organization, and can still name any address: a database on this machine, the
// metadata service of a cloud, a printer in the office. The functions below decide to which addresses this node
// connects. They check the address right before the connection is made, after names have been resolved, so that a
// changed answer of the DNS makes no difference.

// refusedPort is the reason, next to the kinds of addresses, for an address with a port below 1024 that is not 443
// and is in no seed.
const refusedPort = "port"

// literal returns the IP address in a "host:port", and false if the host is a name.
func literal(address string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(address)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err == nil
}

// place is a possible address of a node.
type place struct {
	address string // "host:port"
	seed    bool   // a bundle names it: this node's operator has admitted it
}

// permits are the addresses that an organization's nodes may be at.
type permits struct {
	networks []netip.Prefix        // that the configuration allows
	kinds    map[netkind.Kind]bool // besides public addresses
	ports    map[uint16]bool       // of its seeds
	machine  func(netip.Addr) bool
}

// permitsOf returns the addresses that this node's operator has permitted for an organization. A seed with a loopback
// or private IP address permits its kind to the organization's records: the operator has admitted the organization as
// one of the same network. The address that this node itself advertises permits its kind to all organizations, because
// a node on a private network has its peers there. Addresses of other kinds are never permitted in this way. Host names
// permit nothing, because this operator does not control their addresses.
func (f *Federation) permitsOf(d wire.Domain) *permits {
	p := &permits{networks: f.cfg.AllowNetworks, kinds: make(map[netkind.Kind]bool), ports: make(map[uint16]bool), machine: netkind.OfMachine}
	permit := func(address string) {
		if a, ok := literal(address); ok {
			switch k := netkind.Of(a.Addr()); k {
			case netkind.Loopback, netkind.Private, netkind.Shared:
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

// refuses is why an address is not connected to: a kind, refusedPort, or "" if it is.
func (p *permits) refuses(at netip.AddrPort) string {
	a := at.Addr().Unmap().WithZone("")
	for _, n := range p.networks {
		if n.Contains(a) {
			return ""
		}
	}
	k := netkind.Of(a)
	switch {
	case k != netkind.Public && !p.kinds[k]:
		return string(k)
	case p.ports[at.Port()]:
		return ""
	case k == netkind.Public && p.machine(a):
		return string(netkind.Machine)
	case at.Port() < 1024 && at.Port() != 443:
		return refusedPort
	}
	return ""
}

// dialControl returns the Control of a dialer that connects to a node at a place. It is nil for nodes of the own
// organization, and for an IP address that a seed names.
func (f *Federation) dialControl(to wire.NodeID, at place) func(network, address string, _ syscall.RawConn) error {
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
		f.metrics.addresses.WithLabelValues(reason).Inc()
		return refusePlace(reason, at, ip)
	}
}

// refusePlace returns the error for a refused address, with the remedy for an operator.
func refusePlace(reason string, at place, ip netip.AddrPort) *organization.Refusal {
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
	return refuse(reason, "its %s names %s, %s, and neither an address in its bundle nor federation.allow_networks permits that: if its operator confirms the address, take up a bundle that has it as a seed, or add its network to federation.allow_networks", by, where, netkind.Kind(reason))
}

// ofPlace reports whether the refusal is one of refusePlace.
func ofPlace(r *organization.Refusal) bool {
	return r.Reason == refusedPort || netkind.Kind(r.Reason).Valid()
}

// checkNetworks refuses prefixes that are not valid networks.
func checkNetworks(list []netip.Prefix) error {
	for _, p := range list {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return wire.Errorf(wire.Invalid, "federation", "allowed network %s: wanted one as 10.0.0.0/8, with no bits after its length", p)
		}
	}
	return nil
}
