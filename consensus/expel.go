package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A leader takes a node out that the log names where that node has lost its replica. Followers do not believe
// the leader: they ask the node, or, of what lies in the past, other organizations.

// judgeRemoved asks about the node. It must not be called under the state's lock.
func (l *live) judgeRemoved(n wire.NodeID, x expulsion) error {
	if x.fresh {
		return l.judgeExpulsion(n)
	}
	return l.judgePast(n, x)
}

// judgeExpulsion is for a node that the log names and a leader takes out: it must have lost its replica. It is
// asked, and the leader sends the change again meanwhile.
func (l *live) judgeExpulsion(n wire.NodeID) error {
	healthy := fmt.Errorf("takes %s out, which the log names and which holds its replica", n)
	if n == l.m.cfg.Node {
		return healthy
	}
	switch v, known := l.c.healthOf(n); {
	case known && v:
		return healthy
	case known:
		return nil
	}
	l.m.serve(l.c, "ask for a replica", func(ctx context.Context) { l.c.noteHealth(n, l.m.holdsReplica(ctx, l.c, n)) })
	return &wire.Error{Code: wire.Busy, Op: "raft", Text: fmt.Sprintf("node %s is asked whether it lost its replica: send the change again", n)}
}

// judgePast is for a node that the log names and that, as the leader says, was taken out in the past: a replica
// that catches up meets such entries, and cannot judge them by how the node is today. So other organizations
// are asked whether their logs have the entry. Where there are none, the node itself is asked, as for a fresh
// entry. Replicas of the first release cannot be asked; where nobody else can, the leader is believed.
func (l *live) judgePast(n wire.NodeID, x expulsion) error {
	m, c := l.m, l.c
	var asked []wire.NodeID
	others := false
	for _, w := range m.othersToAsk(c, x.from) {
		if w != n && w.Organization() != x.from.Organization() {
			others = true
			if m.announced(w) {
				asked = append(asked, w)
			}
		}
	}
	switch {
	case len(asked) == 0 && others:
		return nil
	case len(asked) == 0 && n == m.cfg.Node && l.rec.Load().fresh():
		return nil // it began again after that, with the word of its inviter alone
	case len(asked) == 0:
		return l.judgeExpulsion(n)
	}
	digest := entryDigest(x.entry)
	if genuine, known := c.pastOf(digest); known && genuine {
		return nil
	} else if known {
		return fmt.Errorf("takes %s out, which the log names, by an entry that no other organization has", n)
	}
	m.serve(c, "ask for an entry", func(ctx context.Context) {
		answered, genuine := false, false
		for _, a := range m.askAll(asked, func(w wire.NodeID) witness {
			t, err := m.askTestimony(ctx, w, c, question{Index: x.entry.Index})
			return witness{testimony: t, err: err}
		}) {
			if a.err == nil && !a.Out && (a.Covered || a.Content != (wire.Hash{})) { // else it has not come so far
				answered = true
				genuine = genuine || a.Covered || a.Content == digest
			}
		}
		if answered {
			c.notePast(digest, genuine)
		}
	})
	return &wire.Error{Code: wire.Busy, Op: "raft", Text: fmt.Sprintf("other organizations are asked whether %s was taken out: send the change again", n)}
}

// pastOf is what others have said of an entry, by its digest.
func (c *conversation) pastOf(digest wire.Hash) (genuine, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, there := c.past[digest]
	return h.ok, there && time.Since(h.at) < healthLife
}

func (c *conversation) notePast(digest wire.Hash, genuine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past == nil || len(c.past) >= maxVouched {
		c.past = make(map[wire.Hash]health)
	}
	c.past[digest] = health{time.Now(), genuine}
}

// holdsReplica asks a node whether its replica is in service. One that does not answer is not.
func (m *Manager) holdsReplica(ctx context.Context, c *conversation, n wire.NodeID) bool {
	if m.announced(n) {
		t, err := m.askTestimony(ctx, n, c, question{})
		return err == nil && !t.Out && t.Generation == c.generation()
	}
	s, err := m.askStanding(ctx, n, c)
	return err == nil && s.Committed > 0
}

// health is what a node said of its own replica.
type health struct {
	at time.Time
	ok bool
}

// healthLife is how long it holds.
const healthLife = 10 * time.Second

func (c *conversation) healthOf(n wire.NodeID) (ok, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, there := c.health[n]
	return h.ok, there && time.Since(h.at) < healthLife
}

func (c *conversation) noteHealth(n wire.NodeID, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.health == nil || len(c.health) >= maxVouched {
		c.health = make(map[wire.NodeID]health)
	}
	c.health[n] = health{time.Now(), ok}
}
