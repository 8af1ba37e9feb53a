package config

import (
	"strings"
	"testing"
	"time"
)

// TestWhatCannotWorkIsRefused tries each bound on either side.
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
		{"a URL", func(c *Config) { c.Gateway.Public = "https://n1.a.example:8443" }, "is a URL"},
		{"a socket's path", func(c *Config) { c.Admin.Socket = strings.Repeat("s", maxSocket) }, ""},
		{"a socket's path over it", func(c *Config) { c.Admin.Socket = strings.Repeat("s", maxSocket+1) }, "admin.socket"},
		{"a heartbeat", func(c *Config) { c.Consensus.Heartbeat = Duration(minHeartbeat) }, ""},
		{"a heartbeat below it", func(c *Config) { c.Consensus.Heartbeat = Duration(time.Millisecond) }, "consensus.heartbeat"},
		{"an election before a heartbeat", func(c *Config) { c.Consensus.Election = Duration(time.Second) }, "consensus.election"},
		{"the most terms at once", func(c *Config) { c.Consensus.TermJump = maxTermJump }, ""},
		{"a term more", func(c *Config) { c.Consensus.TermJump = maxTermJump + 1 }, "consensus.term_jump"},
		{"wakes below none", func(c *Config) { c.Consensus.Wakes = -1 }, "consensus.wakes"},
		{"the longest patience", func(c *Config) { c.Consensus.Claim, c.Consensus.Lost = Duration(maxPatience), Duration(maxPatience) }, ""},
		{"a longer claim", func(c *Config) { c.Consensus.Claim = Duration(maxPatience + 1) }, "consensus.claim"},
		{"a longer wake", func(c *Config) { c.Consensus.Wake = Duration(maxPatience + 1) }, "consensus.wake"},
		{"a longer pause between comparisons", func(c *Config) { c.Consensus.Compare = Duration(maxPatience + 1) }, "consensus.compare"},
		{"a longer time until a node contradicts", func(c *Config) { c.Consensus.Lost = Duration(maxPatience + 1) }, "consensus.lost"},
		{"a negative time", func(c *Config) { c.Consensus.Idle = -1 }, "consensus.idle"},
		{"renewal after the end", func(c *Config) { c.Directory.RenewBefore = c.Directory.CertificateLife }, "directory.renew_before"},
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
