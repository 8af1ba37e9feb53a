package consensus

import (
	"context"
	"maps"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A replica that slept through a change of the configuration may be addressed by a leader that it does
// not know. It does not take its word, but that of a voter that it does know: who is one could do no
// more by vouching for another than by speaking for itself.

// vouchLife is how long a voter's word holds; the configuration itself arrives meanwhile.
const vouchLife = 10 * time.Minute

// askPause is how long a node that nobody vouched for is not asked about again.
const askPause = time.Second

// maxVouched bounds what is remembered of one conversation.
const maxVouched = 64

func (c *conversation) isVouched(n wire.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.vouched[n]
	return ok && time.Until(until) > askPause
}

// askAbout asks the known voters about a stranger, not too often.
func (m *Manager) askAbout(c *conversation, stranger wire.NodeID) {
	now := time.Now()
	c.mu.Lock()
	if len(c.vouched) >= maxVouched {
		maps.DeleteFunc(c.vouched, func(_ wire.NodeID, until time.Time) bool { return now.After(until) })
	}
	if until, asked := c.vouched[stranger]; asked && now.Before(until) || len(c.vouched) >= maxVouched {
		c.mu.Unlock()
		return
	}
	if c.vouched == nil {
		c.vouched = make(map[wire.NodeID]time.Time)
	}
	c.vouched[stranger] = now.Add(askPause)
	c.mu.Unlock()
	m.serve(c, "vouch", func(ctx context.Context) {
		for _, n := range m.voters(c) {
			if n == m.cfg.Node || n == stranger {
				continue
			}
			b, err := m.mesh.ask(ctx, n, &frame{kind: kindGone, generation: c.generation(), conversation: c.id, payload: []byte(stranger)})
			if err != nil || len(b) != 1 || b[0] != 1 {
				continue
			}
			m.log.Info("stranger is vouched for", "conversation", c.id, "node", stranger, "by", n)
			c.mu.Lock()
			c.vouched[stranger] = now.Add(vouchLife)
			c.mu.Unlock()
			return
		}
	})
}
