package consensus

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A replica that slept through a change of the configuration may be addressed by a leader whose vote it
// does not know of. It does not take that node's word, nor a single other one's: a majority of the voters
// that it knows has to say that the node has a vote. The node itself and the one that is asked about are
// not counted.
//
// Where all known voters belong to one other organization, that organization can give its vote to another
// node of its own while this replica is away, and nobody else can be asked. A node of that organization is
// believed then, if the voter that was known does not answer, or says so.

// vouchLife is how long a voucher holds; the configuration itself arrives meanwhile.
const vouchLife = 10 * time.Minute

// askPause is how long a node that nobody vouched for is not asked about again.
const askPause = time.Second

// maxVouched bounds what is remembered of one conversation.
const maxVouched = 64

// Questions to others that one peer may cause: so many at once, and one more each askRefill.
const (
	askBurst  = 256
	askRefill = time.Second
)

// voucher is what others said of a node.
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

// note remembers a voucher; false where one is remembered already, or there is no room.
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

// askAbout asks the known voters about a node whose role is too low for what it sent, not too often.
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

// vouch is the role of a node by a majority of the known voters.
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
	votes, parts, silent := 0, 0, 0
	for _, a := range answers {
		switch {
		case a.err != nil:
			silent++
		case a.Role == roleVoter:
			votes++
			parts++
		case a.Role == roleLearner:
			parts++
		}
	}
	switch {
	case votes >= need || votes+silent == len(asked) && m.onlyOrganization(asked) == stranger.Organization():
		return roleVoter
	case parts >= need:
		return roleLearner
	}
	return roleNone
}

// othersToAsk are the known voters without this node and the one in question.
func (m *Manager) othersToAsk(c *conversation, about wire.NodeID) []wire.NodeID {
	known, err := m.committed(c)
	if err != nil {
		return nil
	}
	voters := known.voters
	if rec, err := m.readRecord(c.id); err == nil && rec.fresh() {
		voters = rec.Voters // the inviter's word is all there is: all members that it named are asked
	}
	if r := c.raft(); r != nil { // those of the latest configuration may have come into force meanwhile
		latest, _ := splitServers(r.GetConfiguration().Configuration().Servers)
		for _, n := range latest {
			if !contains(voters, n) {
				voters = append(slices.Clone(voters), n)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(voters), func(n wire.NodeID) bool { return n == m.cfg.Node || n == about })
}

// onlyOrganization is the one that all nodes belong to, "" where there are several, or this node's own.
func (m *Manager) onlyOrganization(nodes []wire.NodeID) wire.Domain {
	org := nodes[0].Organization()
	for _, n := range nodes {
		if n.Organization() != org || org == m.cfg.Node.Organization() {
			return ""
		}
	}
	return org
}

// askRole asks one node for another's role. A node of the build before can only say whether the other one has a
// part. Where that much is known already, its answer proves nothing.
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
