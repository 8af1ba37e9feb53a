package config

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWhatCannotWorkIsRefused checks each bound on either side.
func TestWhatCannotWorkIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string // "" for none
	}{
		{"as it is", func(*Config) {}, ""},
		{"a port over the last", func(c *Config) { c.Gateway.Listen = "127.0.0.1:65536" }, "gateway.listen"},
		{"the last port", func(c *Config) { c.Gateway.Listen = "127.0.0.1:65535" }, ""},
		{"a port that is a word", func(c *Config) { c.Federation.Listen = "127.0.0.1:https" }, "federation.listen"},
		{"one address twice", func(c *Config) { c.Gateway.Listen, c.Federation.Listen = "127.0.0.1:9000", "127.0.0.1:9000" }, "federation.listen"},
		{"one port on all addresses", func(c *Config) { c.Gateway.Listen, c.Federation.Listen = ":9000", "127.0.0.1:9000" }, "federation.listen"},
		{"one port on two addresses", func(c *Config) { c.Gateway.Listen, c.Federation.Listen = "127.0.0.2:9000", "127.0.0.1:9000" }, ""},
		{"free ports", func(c *Config) { c.Gateway.Listen, c.Federation.Listen = "127.0.0.1:0", "127.0.0.1:0" }, ""},
		{"a public address without a host", func(c *Config) { c.Gateway.Public = ":8443" }, "gateway.public"},
		{"all addresses as a public one", func(c *Config) { c.Gateway.Public = "0.0.0.0:8443" }, "gateway.public"},
		{"all addresses as an advertised one", func(c *Config) { c.Federation.Advertise = "[::]:7443" }, "federation.advertise"},
		{"all addresses to listen on", func(c *Config) { c.Gateway.Listen, c.Gateway.Public = "0.0.0.0:8443", "n1.a.example:8443" }, ""},
		{"a host with a blank", func(c *Config) { c.Gateway.Listen = " 127.0.0.1:8443" }, "gateway.listen"},
		{"a host of other letters", func(c *Config) { c.Gateway.Public = "bücher.example:8443" }, "gateway.public"},
		{"numbers that are no address", func(c *Config) { c.Gateway.Listen = "256.1.1.1:8443" }, "gateway.listen"},
		{"a host with a zone", func(c *Config) { c.Gateway.Listen = "[fe80::1%eth0]:8443" }, ""},
		{"the name of a service", func(c *Config) { c.Gateway.Public = "node_a:8443" }, ""},
		{"a name with its root", func(c *Config) { c.Gateway.Public = "n1.A.example.:8443" }, ""},
		{"a URL", func(c *Config) { c.Gateway.Public = "https://n1.a.example:8443" }, "is a URL"},
		{"a socket's path", func(c *Config) { c.Admin.Socket = strings.Repeat("s", maxSocket) }, ""},
		{"a socket's path over it", func(c *Config) { c.Admin.Socket = strings.Repeat("s", maxSocket+1) }, "admin.socket"},
		{"a heartbeat", func(c *Config) { c.Consensus.Heartbeat = Duration(10 * time.Millisecond) }, ""},
		{"a heartbeat below it", func(c *Config) { c.Consensus.Heartbeat = Duration(time.Millisecond) }, "consensus.heartbeat"},
		{"an election before a heartbeat", func(c *Config) { c.Consensus.Election = Duration(time.Second) }, "consensus.election"},
		{"memory for two", func(c *Config) { c.Quota.Memory = 2 * c.Consensus.RecentBytes }, ""},
		{"memory for less", func(c *Config) { c.Quota.Memory = 2*c.Consensus.RecentBytes - 1 }, "quota.memory"},
		{"memory without a limit", func(c *Config) { c.Quota.Memory = 0 }, ""},
		{"renewal after the end", func(c *Config) { c.Directory.RenewBefore = c.Directory.CertificateLife }, "directory.renew_before"},
		{"a certificate for an address", func(c *Config) { c.Gateway.TLS.ACME = []string{"chat.a.example:443"} }, "gateway.tls.acme_domains"},
		{"a name for a certificate", func(c *Config) { c.Gateway.TLS.ACME = []string{"chat.a.example"} }, ""},
		{"an address for no certificate", func(c *Config) { c.Gateway.TLS.Email = "ops@a.example" }, "gateway.tls.acme_email"},
		{"origins", func(c *Config) { c.Gateway.Origins = []string{"https://chat.a.example", "http://localhost:3000", "*"} }, ""},
		{"an origin with a path", func(c *Config) { c.Gateway.Origins = []string{"https://chat.a.example/"} }, "gateway.origins"},
		{"an origin without a scheme", func(c *Config) { c.Gateway.Origins = []string{"chat.a.example"} }, "gateway.origins"},
		{"an issuer", func(c *Config) { c.OIDC.URL, c.OIDC.Audience = "https://login.a.example/realms/a", "mlsfed" }, ""},
		{"an issuer on this machine", func(c *Config) { c.OIDC.URL, c.OIDC.Audience = "http://127.0.0.1:9998", "mlsfed" }, ""},
		{"an issuer in the open", func(c *Config) { c.OIDC.URL, c.OIDC.Audience = "http://login.a.example", "mlsfed" }, "is not https"},
		{"an issuer that is no URL", func(c *Config) { c.OIDC.URL, c.OIDC.Audience = "login.a.example", "mlsfed" }, "oidc.url"},
		{"an issuer without a name", func(c *Config) {
			c.OIDC.URL, c.OIDC.Audience, c.OIDC.Claim = "https://login.a.example", "mlsfed", ""
		}, "oidc.claim"},
	} {
		cfg, err := Load(write(t, string(Example)), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.change(cfg)
		err = cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, wanted %q", c.name, err, c.want)
		}
	}
}

// TestEveryNumberHasBounds checks each number, duration and size on either side of both of its bounds.
func TestEveryNumberHasBounds(t *testing.T) {
	by := make(map[string]bound)
	for _, b := range bounds {
		if _, twice := by[b.key]; twice {
			t.Errorf("%s has two rows", b.key)
		}
		by[b.key] = b
	}
	leaves(Default(), func(key string, v reflect.Value) {
		b, ok := by[key]
		delete(by, key)
		if numeric := v.CanInt() || v.CanUint() || v.CanFloat(); numeric != ok {
			t.Errorf("%s: has bounds %v, is a number %v", key, ok, numeric)
			return
		} else if !ok {
			return
		}
		least, most := b.parse(v.Type(), b.least), b.parse(v.Type(), b.most)
		step := 1.0
		if v.CanFloat() {
			step = least / 2
			if least == 0 {
				step = 1
			}
		}
		for value, good := range map[float64]bool{least: true, most: true, least - step: least-step == 0 && b.zero != "", most + max(step, 1, most/1e9): false, 0: b.zero != "" || least == 0} {
			if value < 0 && v.CanUint() {
				continue
			}
			c := Default()
			c.Domain, c.Node = "a.example", "n1.a.example"
			setNumber(t, c, key, value)
			err := c.Validate()
			refused := err != nil && strings.Contains(err.Error(), key+": ") && strings.Contains(err.Error(), "wanted "+b.least+" to "+b.most)
			if refused == good {
				t.Errorf("%s of %v: %v, wanted it accepted: %v", key, value, err, good)
			}
		}
	})
	for key := range by {
		t.Errorf("%s has bounds, and is no number of the configuration", key)
	}
}

func setNumber(t *testing.T, c *Config, key string, value float64) {
	t.Helper()
	leaves(c, func(k string, v reflect.Value) {
		switch {
		case k != key:
		case v.CanInt():
			v.SetInt(int64(value))
		case v.CanUint():
			v.SetUint(uint64(value))
		default:
			v.SetFloat(value)
		}
	})
}

// TestNotANumberIsRefused checks that NaN is refused, although every comparison with it is false.
func TestNotANumberIsRefused(t *testing.T) {
	for _, key := range []string{"gateway.frames_per_second", "quota.reserve_percent"} {
		c := Default()
		c.Domain, c.Node = "a.example", "n1.a.example"
		setNumber(t, c, key, math.NaN())
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestPairs checks each pair in the wrong order and, if that is allowed, with equal values.
func TestPairs(t *testing.T) {
	for i, p := range slices.Concat(pairs, doubtful) {
		c := Default()
		c.Domain, c.Node = "a.example", "n1.a.example"
		var other float64
		leaves(c, func(k string, v reflect.Value) {
			if k == p.other {
				other = number(v)
			}
		})
		for value, good := range map[float64]bool{other: !p.above, other - 1: false, other + 1: true} {
			setNumber(t, c, p.key, value)
			text := strings.Join(c.Warnings(), "; ")
			if err := c.Validate(); i < len(pairs) && err != nil {
				text = err.Error()
			}
			if said := strings.Contains(text, p.key+": ") && strings.Contains(text, p.other+", "); said == good {
				t.Errorf("%s of %v with %s of %v: %q", p.key, value, p.other, other, text)
			}
		}
	}
}

// TestZeroIsTheDefault checks that a part of a node does not get the 0, since its own default may differ.
func TestZeroIsTheDefault(t *testing.T) {
	c, err := Parse("x", []byte("domain: a.example\nnode: n1.a.example\ngateway: {frames_per_second: 0, window: 0}\nclock: {confirm: 0s}\nquota: {user: 0}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := Default()
	if c.Gateway.FramesPerSecond != d.Gateway.FramesPerSecond || c.Gateway.Window != d.Gateway.Window || c.Clock.Confirm != d.Clock.Confirm {
		t.Errorf("%v frames, window %d, confirm %v", c.Gateway.FramesPerSecond, c.Gateway.Window, c.Clock.Confirm)
	}
	if c.Quota.User != 0 {
		t.Errorf("0 is no limit for a user's quota, and became %v", c.Quota.User)
	}
}
