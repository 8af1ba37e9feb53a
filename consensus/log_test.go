package consensus

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// collected holds the log messages of several nodes, one JSON object per line.
type collected struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *collected) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

// TestRaftSpeaksAtDebug checks that all messages of Raft are DEBUG and name the conversation: Raft repeats itself
// while voters are away.
func TestRaftSpeaksAtDebug(t *testing.T) {
	lines := new(collected)
	logged := func(c *Config) {
		c.Logger = slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	simulate(t, logged, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.stop(c.nodes[nodeB])
		c.stop(c.nodes[nodeC])
		_, err := c.nodes[nodeA].m.Order(c.context(8*time.Second), p.Commit(c.id(), 16, wire.DeliveryChange{}))
		if wire.CodeOf(err) != wire.NoQuorum {
			t.Fatalf("got %v", err)
		}
	})
	raft := 0
	for _, line := range strings.Split(strings.TrimSpace(lines.text.String()), "\n") {
		var l struct {
			Level        string `json:"level"`
			Msg          string `json:"msg"`
			Conversation string `json:"conversation"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !strings.HasPrefix(l.Msg, "raft: ") {
			continue
		}
		raft++
		if l.Level != "DEBUG" || l.Conversation == "" {
			t.Errorf("level %s, conversation %q: %s", l.Level, l.Conversation, line)
		}
	}
	if raft == 0 {
		t.Error("Raft has said nothing")
	}
}
