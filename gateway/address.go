package gateway

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/internal/admission"
)

// parseAddress reads "address:port".
func parseAddress(s string) netip.Addr {
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

func trusted(proxies []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// clientOf is the address of who sent a request. Proxies append to X-Forwarded-For the address from which
// they were called, so that it is read from its end, as long as a trusted proxy wrote it.
func clientOf(r *http.Request, proxies []netip.Prefix) netip.Addr {
	a := parseAddress(r.RemoteAddr)
	if !trusted(proxies, a) {
		return admission.Network(a)
	}
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, s := range slices.Backward(list) {
		next, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			break
		}
		if a = next; !trusted(proxies, a) {
			break
		}
	}
	return admission.Network(a)
}
