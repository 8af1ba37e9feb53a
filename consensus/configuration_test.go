package consensus

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// configurationOf returns a configuration of n nodes with names of the maximum length.
func configurationOf(n int) []byte {
	var c raft.Configuration
	for i := range n {
		name := fmt.Sprintf("n%03d.%s%s", i, strings.Repeat(strings.Repeat("a", 47)+".", 5), "example")
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(name)})
	}
	return raft.EncodeConfiguration(c)
}

// TestConfigurationsAreBounded checks the number of nodes at its edge, and that decoding a configuration allocates
// little more than its bytes, whatever they are.
func TestConfigurationsAreBounded(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, wire.MaxReplicas} {
		if c, err := decodeConfiguration(configurationOf(n)); err != nil || len(c.Servers) != n {
			t.Errorf("%d nodes: %d, %v", n, len(c.Servers), err)
		}
	}
	if _, err := decodeConfiguration(configurationOf(wire.MaxReplicas + 1)); err == nil {
		t.Errorf("%d nodes are taken", wire.MaxReplicas+1)
	}
	head := "\x81\xa7Servers"
	for name, b := range map[string][]byte{
		"a million of nothing":        append([]byte(head+"\xdd\x00\x10\x00\x00"), bytes.Repeat([]byte{0xc0}, 1<<20)...),
		"a million of empty ones":     append([]byte(head+"\xdd\x00\x10\x00\x00"), bytes.Repeat([]byte{0x80}, 1<<20)...),
		"as many as 32 bits can name": []byte(head + "\xdd\xff\xff\xff\xff"),
		"deep inside another key":     append([]byte("\x81\xa1x"), bytes.Repeat([]byte{0x91}, 1<<20)...),
		"two lists":                   append([]byte("\x82\xa7Servers\x90\xa7Servers\xdd\x00\x10\x00\x00"), bytes.Repeat([]byte{0xc0}, 1<<20)...),
		"a list of another form":      []byte(head + "\xde\x00\x01"),
		"nothing":                     nil,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decodeConfiguration(b)
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; err == nil || cost > 64<<10 {
			t.Errorf("%s: %d bytes cost %d (%v)", name, len(b), cost, err)
		}
	}
}
