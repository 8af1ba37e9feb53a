package consensus

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A replica that slept through a change of the configuration may receive messages from a leader of whose vote it does
// not know. It trusts neither that node nor any other single node: a majority of the voters that it knows has to
// confirm that the node has a vote. This node and the node in question are not counted.
//
// If all known voters belong to one other organization, that organization can give its vote to another of its nodes
// while this replica is away, and nobody else can be asked. A node of that organization is then trusted if the known
// voter does not answer, or confirms it.

// vouchLife is the time for which a voucher is valid; the configuration itself arrives meanwhile.
const vouchLife = 10 * time.Minute

// askPause is the time for which a node that nobody vouched for is not asked about again.
const askPause = time.Second

// maxVouched limits the number of vouchers for one conversation.
const maxVouched = 64

// Limits of the questions to others that one peer may cause: a burst, and one more each askRefill.
const (
	askBurst  = 256
	askRefill = time.Second
)

// voucher is the statement of other nodes about a node.
type voucher struct {
	until time.Time // not asked again before
	role  role
}

func (c *conversation) vouchedRole(n wire.NodeID) role {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.vouched[n]; ok && time.Now().Before(v.until) {
		return v.role
	}
	return roleNone
}

// noteVoucher stores a voucher. It returns false if a voucher for the node exists already, or if there is no room.
func (c *conversation) noteVoucher(n wire.NodeID, v voucher, again bool) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, asked := c.vouched[n]; asked && now.Before(have.until) && !again {
		return false
	}
	if len(c.vouched) >= maxVouched {
		maps.DeleteFunc(c.vouched, func(_ wire.NodeID, v voucher) bool { return now.After(v.until) })
		if len(c.vouched) >= maxVouched {
			return false
		}
	}
	if c.vouched == nil {
		c.vouched = make(map[wire.NodeID]voucher)
	}
	c.vouched[n] = v
	return true
}

// askAbout asks the known voters, at a limited rate, about a node whose role is too low for its message.
func (m *Manager) askAbout(c *conversation, stranger wire.NodeID, known role) {
	if !c.noteVoucher(stranger, voucher{until: time.Now().Add(askPause)}, false) ||
		!m.meter.take(meterKey{stranger, "", meterAsk}, askBurst, askRefill) {
		return
	}
	m.serve(c, "vouch", func(ctx context.Context) {
		if got := m.vouch(ctx, c, stranger, known); got > known {
			m.log.Info("node is vouched for", "conversation", c.id, "node", stranger, "as", got)
			c.noteVoucher(stranger, voucher{time.Now().Add(vouchLife), got}, true)
		}
	})
}

// vouch returns the role of a node according to a majority of the known voters.
func (m *Manager) vouch(ctx context.Context, c *conversation, stranger wire.NodeID, known role) role {
	asked := m.othersToAsk(c, stranger)
	if len(asked) == 0 {
		return roleNone
	}
	answers := m.askAll(asked, func(n wire.NodeID) witness { return m.askRole(ctx, n, c, stranger, known) })
	need := len(asked)/2 + 1
	if !m.holds(ruleVouching) {
		need = 1
	}
	votes, parts, unanswered := 0, 0, 0
	for _, a := range answers {
		switch {
		case a.err != nil:
			unanswered++
		case a.Role == roleVoter:
			votes++
			parts++
		case a.Role == roleLearner:
			parts++
		}
	}
	switch {
	case votes >= need || votes+unanswered == len(asked) && m.onlyOrganization(asked) == stranger.Organization():
		return roleVoter
	case parts >= need:
		return roleLearner
	}
	return roleNone
}

// othersToAsk returns the known voters except this node and the node in question.
func (m *Manager) othersToAsk(c *conversation, about wire.NodeID) []wire.NodeID {
	known, err := m.committed(c)
	if err != nil {
		return nil
	}
	voters := known.voters
	if rec, err := m.readRecord(c.id); err == nil && rec.fresh() {
		voters = rec.Voters // only the inviter's word is known: all members that it named are asked
	}
	if r := c.raft(); r != nil { // the voters of the latest configuration may have come into force meanwhile
		latest, _ := splitServers(r.GetConfiguration().Configuration().Servers)
		for _, n := range latest {
			if !contains(voters, n) {
				voters = append(slices.Clone(voters), n)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(voters), func(n wire.NodeID) bool { return n == m.cfg.Node || n == about })
}

// onlyOrganization returns the organization of all nodes. It returns "" if there are several, or if it is this node's
// own.
func (m *Manager) onlyOrganization(nodes []wire.NodeID) wire.Domain {
	org := nodes[0].Organization()
	for _, n := range nodes {
		if n.Organization() != org || org == m.cfg.Node.Organization() {
			return ""
		}
	}
	return org
}

// askRole asks one node for the role of another node. A node of the previous build can only answer whether the other
// node has a part. If that much is known already, its answer proves nothing.
func (m *Manager) askRole(ctx context.Context, n wire.NodeID, c *conversation, about wire.NodeID, known role) witness {
	if m.announced(n) {
		t, err := m.askTestimony(ctx, n, c, question{About: about})
		return witness{testimony: t, err: err}
	}
	b, err := m.mesh.ask(ctx, n, &frame{kind: kindGone, generation: c.generation(), conversation: c.id, payload: []byte(about)})
	switch {
	case err != nil:
		return witness{err: err}
	case len(b) == 1 && b[0] == 1 && known == roleNone:
		return witness{testimony: testimony{Role: roleVoter}}
	case len(b) == 1 && b[0] == 1:
		return witness{testimony: testimony{Role: roleLearner}}
	}
	return witness{}
}
