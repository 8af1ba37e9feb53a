package config

import (
	"net"
	"strconv"
	"strings"
	"time"
)

// maxSocket is the longest path of a Unix socket, in bytes: sun_path holds 108 on Linux, with a zero at its end.
const maxSocket = 107

// minHeartbeat is the shortest pulse that leaves time for anything else, and most elections are many times it.
const minHeartbeat = 10 * time.Millisecond

// validateTogether reports keys whose values are well formed and cannot work together.
func (c *Config) validateTogether(fault func(key, format string, args ...any)) {
	if len(c.Admin.Socket) > maxSocket {
		fault("admin.socket", "a path of %d bytes, wanted at most %d: an operating system takes no longer one", len(c.Admin.Socket), maxSocket)
	}
	for key, address := range map[string]string{"gateway.public": c.Gateway.Public, "federation.advertise": c.Federation.Advertise} {
		if host, _, err := net.SplitHostPort(address); err == nil && host == "" {
			fault(key, "%q names no host: others cannot connect to it; wanted one as n1.a.example:8443", address)
		}
		if strings.Contains(address, "://") {
			fault(key, "%q is a URL, wanted an address without https://, as n1.a.example:8443", address)
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
	if h := c.Consensus.Heartbeat.Std(); h != 0 && h < minHeartbeat {
		fault("consensus.heartbeat", "%v, wanted at least %v", h, minHeartbeat)
	}
	if h, e := c.Consensus.Heartbeat.Std(), c.Consensus.Election.Std(); h > 0 && e > 0 && e < h {
		fault("consensus.election", "%v, wanted at least consensus.heartbeat, %v", e, h)
	}
	if life, before := c.Directory.CertificateLife.Std(), c.Directory.RenewBefore.Std(); life > 0 && before >= life {
		fault("directory.renew_before", "%v, wanted less than directory.certificate_life, %v", before, life)
	}
}

// meet reports whether two addresses cannot both be listened on: they have one port, and one host or one that stands
// for all. Port 0 is a free one.
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

// isPort reports whether a port is a number that TCP has.
func isPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}
