package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A leader removes a node that the log names if that node has lost its replica. Followers do not rely on the leader:
// they ask the node or, for a removal in the past, other organizations.

// validateRemoval asks about the node. It must not be called under the state's lock.
func (l *live) validateRemoval(n wire.NodeID, x expulsion) error {
	if x.fresh {
		return l.validateExpulsion(n)
	}
	return l.validatePastRemoval(n, x)
}

// validateExpulsion is for a node that the log names and a leader removes: the node must have lost its replica. The
// node is asked, and the leader sends the change again meanwhile.
func (l *live) validateExpulsion(n wire.NodeID) error {
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

// validatePastRemoval is for a node that the log names and that, according to the leader, was removed in the past. A
// replica that catches up meets such entries, and cannot validate them by the present state of the node. So other
// organizations are asked whether their logs have the entry. If there are none, the node itself is asked, as for a
// fresh entry. Replicas of the first release cannot be asked; if nobody else can, the leader is trusted.
func (l *live) validatePastRemoval(n wire.NodeID, x expulsion) error {
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
		return nil // the node began again after that, with only its inviter's word
	case len(asked) == 0:
		return l.validateExpulsion(n)
	}
	digest := entryDigest(x.entry)
	if genuine, known := c.removalVerdict(digest); known && genuine {
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
			if a.err == nil && !a.Out && (a.Covered || a.Content != (wire.Hash{})) { // otherwise the replica has not reached the entry yet
				answered = true
				genuine = genuine || a.Covered || a.Content == digest
			}
		}
		if answered {
			c.noteRemovalVerdict(digest, genuine)
		}
	})
	return &wire.Error{Code: wire.Busy, Op: "raft", Text: fmt.Sprintf("other organizations are asked whether %s was taken out: send the change again", n)}
}

// hasPast returns the answers of other nodes about an entry, by its digest.
func (c *conversation) removalVerdict(digest wire.Hash) (genuine, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, there := c.past[digest]
	return h.ok, there && time.Since(h.at) < healthLife
}

func (c *conversation) noteRemovalVerdict(digest wire.Hash, genuine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past == nil || len(c.past) >= maxVouched {
		c.past = make(map[wire.Hash]health)
	}
	c.past[digest] = health{time.Now(), genuine}
}

// holdsReplica asks a node whether its replica is in service. No answer means no.
func (m *Manager) holdsReplica(ctx context.Context, c *conversation, n wire.NodeID) bool {
	if m.announced(n) {
		t, err := m.askTestimony(ctx, n, c, question{})
		return err == nil && !t.Out && t.Generation == c.generation()
	}
	s, err := m.askLogStatus(ctx, n, c)
	return err == nil && s.Committed > 0
}

// health is a node's statement about its own replica.
type health struct {
	at time.Time
	ok bool
}

// healthLife is the time for which a health is valid.
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
