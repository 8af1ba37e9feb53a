package admission

import "net/netip"

// Network is what counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that name a
// network, since one machine has all addresses in it.
func Network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
