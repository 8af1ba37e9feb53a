package discovery

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// txtVersion begins the TXT record.
const txtVersion = "v=mlsfed1"

// ParseTXT returns the lineage in the TXT records of a domain's name _mlsfed. Records for other purposes are ignored.
// The error is an *Error.
func ParseTXT(d wire.Domain, records []string) (id wire.Hash, err error) {
	var ours []string
	for _, r := range records {
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(r)), "v=mlsfed") {
			ours = append(ours, r)
		}
	}
	switch len(ours) {
	case 0:
		return id, refuse(ReasonNoTXT, d, "%s has no mlsfed: there is no TXT record _mlsfed.%s. Is the name right?", d, d)
	case 1:
	default:
		return id, refuse(ReasonTXT, d, "%s has %d TXT records _mlsfed.%s, and one is right: its operator has to remove the others", d, len(ours), d)
	}
	r := ours[0]
	if len(r) > MaxTXT {
		return id, refuse(ReasonTXT, d, "the TXT record _mlsfed.%s has %d bytes, at most %d: its operator has to mend it", d, len(r), MaxTXT)
	}
	version, rest, _ := strings.Cut(r, ";")
	if version != txtVersion {
		return id, refuse(ReasonTXT, d, "the TXT record _mlsfed.%s begins with %.40q, and this node knows %s", d, version, txtVersion)
	}
	text, ok := strings.CutPrefix(strings.TrimLeft(rest, " "), "id=")
	if n, err := hex.Decode(id[:], []byte(text[:min(len(text), 2*len(id))])); !ok || err != nil || n != len(id) || text != id.String() {
		return wire.Hash{}, refuse(ReasonTXT, d, "the TXT record _mlsfed.%s is not as %s; id=<64 hexadecimal digits>: its operator has to mend it", d, txtVersion)
	}
	return id, nil
}

// resolver asks the configured name server, or those of the system, until ctx ends. The resolver of package net leaves
// a goroutine and a socket behind when its context ends before the name server answers; closing the sockets ends them.
func (f *Finder) resolver(ctx context.Context) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(dialing context.Context, network, address string) (net.Conn, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var d net.Dialer
		conn, err := d.DialContext(dialing, network, cmp.Or(f.settings.DNS, address))
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { conn.Close() }) // no wrapper: package net looks at the type of a connection
		return conn, nil
	}}
}

// lookupTXT returns the lineage that the TXT record names.
func (f *Finder) lookupTXT(ctx context.Context, d wire.Domain) (wire.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeouts.DNS)
	defer cancel()
	records, err := f.resolver(ctx).LookupTXT(ctx, "_mlsfed."+string(d)+".")
	if err != nil && !notFound(err) {
		return wire.Hash{}, refuse(ReasonDNS, d, "the name servers of %s do not answer: try again", d).because(err)
	}
	return ParseTXT(d, records)
}

// lookupAddresses returns the addresses of a host, each of which is checked.
func (f *Finder) lookupAddresses(ctx context.Context, d wire.Domain, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeouts.DNS)
	defer cancel()
	list, err := f.resolver(ctx).LookupNetIP(ctx, "ip", host+".")
	switch {
	case notFound(err) || err == nil && len(list) == 0:
		return nil, refuse(ReasonNoAddress, d, "%s has no address, though %s has a TXT record for mlsfed: its operator has to mend that", host, d)
	case err != nil:
		return nil, refuse(ReasonDNS, d, "the name servers of %s do not answer: try again", d).because(err)
	}
	for i, a := range list {
		list[i] = a.Unmap()
	}
	slices.SortFunc(list, netip.Addr.Compare) // IPv4 first, and the same order each time
	list = slices.Compact(list)
	if len(list) > MaxAddresses {
		return nil, refuse(ReasonNoAddress, d, "%s has %d addresses, at most %d: its operator has to mend that", host, len(list), MaxAddresses)
	}
	for _, a := range list {
		if err := f.checkAddress(d, host, a); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}
