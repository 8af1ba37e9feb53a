package consensus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A party that knows a conversation's id can invite a node to another conversation under that id, before the intended
// conversation arrives. Servers cannot distinguish the two by content: a member can copy the create, and sign what
// follows with the epoch's key. Servers can decide by the devices that read the conversation. So a replica owns its
// id if a device here reads it. A replica that no device here reads holds the id for Timers.Claim only. After that it
// gives way to the organizations that have claimed the id, in turn. The first of them with a device's address in its
// log keeps the id.
//
// An organization that knows an address of a device here, and adds that address to a conversation under the id of
// another conversation, keeps the id for as long as the device stays there. Two other organizations together take the
// id, as long as nothing was delivered here.

// maxClaimants limits how many organizations wait for one id; maxClaimed limits the ids with waiting organizations.
const (
	maxClaimants = 16
	maxClaimed   = 4096
)

// claims holds the organizations that wait for an id which a replica of another conversation occupies here.
type claims struct {
	turn    sync.Mutex // held while a replica gives way
	mu      sync.Mutex // guards waiting
	waiting map[wire.ConversationID][]claimant
}

type claimant struct {
	org   wire.Domain
	heard time.Time // time of the last claim: an organization that does not repeat its claim stops waiting
}

// next records a claim and reports whether it is the first of the claims that were repeated after since.
func (q *claims) next(id wire.ConversationID, org wire.Domain, now, since time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	stale := func(list []claimant) []claimant {
		return slices.DeleteFunc(list, func(c claimant) bool { return c.heard.Before(since) })
	}
	list := stale(q.waiting[id])
	at := slices.IndexFunc(list, func(c claimant) bool { return c.org == org })
	switch {
	case at >= 0:
		list[at].heard = now
	case len(list) >= maxClaimants:
		q.waiting[id] = list
		return false
	default:
		list = append(list, claimant{org, now})
	}
	if q.waiting == nil {
		q.waiting = make(map[wire.ConversationID][]claimant)
	}
	if _, ok := q.waiting[id]; !ok && len(q.waiting) >= maxClaimed {
		for other := range q.waiting {
			if q.waiting[other] = stale(q.waiting[other]); len(q.waiting[other]) == 0 {
				delete(q.waiting, other)
			}
		}
		if len(q.waiting) >= maxClaimed {
			return list[0].org == org // a claim that is first is not recorded for longer than the request
		}
	}
	q.waiting[id] = list
	return list[0].org == org
}

// served ends an organization's turn: the organization goes to the end of the list if it claims the id again.
func (q *claims) served(id wire.ConversationID, org wire.Domain) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := slices.DeleteFunc(q.waiting[id], func(c claimant) bool { return c.org == org })
	if len(list) == 0 {
		delete(q.waiting, id)
		return
	}
	q.waiting[id] = list
}

// unread reports whether another organization brought the replica and, as far as this node knows, no device here
// reads it.
func (m *Manager) unread(c *conversation) bool {
	if c.book.payer == "" || c.probation.Load() != nil {
		return false
	}
	if owned, _, err := m.ownership(c); err != nil || owned {
		return false
	}
	if f, ok := m.cfg.Consumer.(Forgetter); ok {
		reads, err := f.Reads(m.context(), c.id)
		return err == nil && !reads
	}
	return true
}

// mayBeOtherConversation reports whether an invitation by a node that has a part in the replica here may be to another
// conversation: no device here reads the replica, and the inviting node contradicts it.
func (m *Manager) mayBeOtherConversation(ctx context.Context, c *conversation, from wire.NodeID) bool {
	return m.unread(c) && (c.shut.Load() != nil || m.meter.take(meterKey{from, "", meterAsk}, askBurst, askRefill) && m.contradictedBy(ctx, c, from))
}

// contradictedBy reports whether a node answers with an order hash that differs from this replica's. A node that
// cannot be asked, or that runs the first release, contradicts nothing.
func (m *Manager) contradictedBy(ctx context.Context, c *conversation, n wire.NodeID) bool {
	seq, own, err := m.orderOf(c)
	if err != nil || seq == 0 || !m.announced(n) {
		return false
	}
	t, err := m.askTestimony(ctx, n, c, question{Sequence: seq, Order: own})
	return err == nil && !t.Out && t.Sequence > 0 && differ(m.localOrder(c, t.Sequence), t.Order)
}

// resolveClaim decides between the replica that is here and an invitation to another conversation with the same id. It
// returns true if the local replica was removed.
func (m *Manager) resolveClaim(ctx context.Context, c *conversation, rec *record, from wire.NodeID, in *invitation) (gone bool, err error) {
	org := from.Organization()
	if org == rec.Inviter || in.Generation > maxGenerations {
		return false, nil // entitled refuses the invitation
	}
	if !m.meter.take(meterKey{from, "", meterAsk}, askBurst, askRefill) {
		return false, m.refuse(from, c.id, RefusedRate, wire.Errorf(wire.Busy, "invite", "too many claims by %s: try again later", from))
	}
	if m.unread(c) {
		return m.yieldToClaim(ctx, c, from)
	}
	if !m.isUnsupported(c, rec) {
		return false, nil
	}
	behind := make(map[wire.Domain]bool)
	for _, n := range in.Members {
		behind[n.Organization()] = true
	}
	delete(behind, m.cfg.Node.Organization())
	confirmed := make(map[wire.Domain]bool)
	for _, a := range m.askAll(in.Members, func(n wire.NodeID) witness { return m.askHeld(ctx, n, c.id, in.Generation) }) {
		if a.err == nil && a.node.Organization() != m.cfg.Node.Organization() {
			confirmed[a.node.Organization()] = true
		}
	}
	delete(confirmed, rec.Inviter) // the inviter supports the other conversation
	if len(confirmed) < 2 || len(confirmed) <= len(behind)/2 {
		return false, m.refuse(from, c.id, RefusedClaim, wire.Errorf(wire.NotReplica, "invite",
			"node %s holds another conversation %v by invitation of %s, and %d of %d organizations confirm this one", m.cfg.Node, c.id, rec.Inviter, len(confirmed), len(behind)))
	}
	if err := m.mayInvite(from, c.id); err != nil {
		return false, err
	}
	m.log.Warn("replica gives way: only one organization supports it, and several others claim its id", "conversation", c.id, "inviter", rec.Inviter, "by", from)
	return true, m.moveAside(c, "several other organizations claim the id", false, false)
}

// yieldToClaim makes a replica that no device here reads give way to a claim, if the replica's time is over and the
// claim is next.
func (m *Manager) yieldToClaim(ctx context.Context, c *conversation, from wire.NodeID) (gone bool, err error) {
	now := m.cfg.Now()
	c.unowned.CompareAndSwap(0, now.UnixNano())
	over := time.Unix(0, c.unowned.Load()).Add(m.cfg.Timers.Claim)
	next := m.claims.next(c.id, from.Organization(), now, now.Add(-m.cfg.Timers.Exchange-m.cfg.Timers.Claim))
	if !next || now.Before(over) {
		return false, m.refuse(from, c.id, RefusedClaim, wire.Errorf(wire.Busy, "invite",
			"node %s holds another conversation %v by invitation of %s, until %s, or longer if others have claimed the id before: try again", m.cfg.Node, c.id, c.book.payer, over.UTC().Format(time.RFC3339)))
	}
	voters := m.voters(c)
	_, alone, err := m.ownership(c)
	if err != nil {
		return false, err
	}
	quarantined := c.shut.Load() != nil
	lightly := !quarantined && (!contains(voters, m.cfg.Node) || alone && len(voters) == 1) // no other voter depends on this replica
	if !lightly && !quarantined && len(voters) > 2 {                                        // the other voters must keep a quorum
		if err := m.mayInvite(from, c.id); err != nil {
			return false, err
		}
		if err := m.giveBack(ctx, c, alone, now); err != nil { // without the lock: giveBack sends requests to other nodes
			return false, err
		}
		return false, wire.Errorf(wire.Busy, "invite", "node %s gives up its vote in another conversation %v first: try again", m.cfg.Node, c.id)
	}
	m.claims.turn.Lock()
	defer m.claims.turn.Unlock()
	if held, err := m.held(c.id); err != nil || held != c {
		return false, wire.Errorf(wire.Busy, "invite", "another organization has just claimed %v: try again", c.id)
	}
	if err := m.mayInvite(from, c.id); err != nil {
		return false, err
	}
	m.log.Warn("replica gives way: no device here reads it, and another organization claims its id", "conversation", c.id, "inviter", c.book.payer, "by", from)
	const why = "no device here reads it, and another organization claims the id"
	if quarantined {
		if err := m.Release(c.id); err != nil {
			return false, err
		}
	}
	if lightly {
		err = m.removeUnread(c, why)
	} else {
		m.dropOldestAside(c.id)
		c.forgotten.Store(true)
		err = m.moveAside(c, why, false, true)
	}
	if err != nil {
		return false, err
	}
	m.claims.served(c.id, from.Organization())
	return true, nil
}

// dropOldestAside drops the oldest replica that is kept for a limited time under an id, if the limit of kept replicas
// is reached.
func (m *Manager) dropOldestAside(id wire.ConversationID) {
	list := m.asidesOf(id)
	if len(list) < maxAsides {
		return
	}
	for _, a := range list {
		if a.Expires {
			if err := m.DropAside(id, a.Group); err != nil {
				m.log.Warn("replica set aside not deleted", "conversation", id, "error", err)
			}
			return
		}
	}
}

// removeUnread removes a replica that no device here reads.
func (m *Manager) removeUnread(c *conversation, why string) error {
	c.forgotten.Store(true)
	return m.remove(c, why)
}

// handleDisowned handles a member's answer that this leader has no part in the member's replica: in the meantime the
// member's replica of this conversation gave way to another organization's claim. The leader invites the member again
// from time to time.
func (l *live) handleDisowned(n wire.NodeID) {
	if !l.leads() || !l.configured(n) || !l.m.meter.take(meterKey{n, l.c.id, meterDisowned}, 1, l.m.cfg.Timers.Repair) {
		return
	}
	l.m.serve(l.c, "invite again", func(ctx context.Context) {
		voters, learners := splitServers(l.r.Load().GetConfiguration().Configuration().Servers)
		if err := l.invite(ctx, n, without(append(voters, learners...), n)); err != nil && ctx.Err() == nil {
			l.m.log.Info("member holds another conversation of this id", "conversation", l.c.id, "node", n, "error", err)
		}
	})
}

// isUnsupported reports whether a replica has no support except from its inviter's organization.
func (m *Manager) isUnsupported(c *conversation, rec *record) bool {
	if rec.Inviter == "" || rec.Inviter == m.cfg.Node.Organization() || c.probation.Load() != nil {
		return false
	}
	if m.cfg.Consumer != nil {
		if at, err := m.cfg.Consumer.Position(c.id); err != nil || at > 0 {
			return false
		}
	}
	known, err := m.committed(c)
	if err != nil {
		return false
	}
	for _, n := range append(append([]wire.NodeID{}, known.voters...), known.learners...) {
		if org := n.Organization(); org != rec.Inviter && org != m.cfg.Node.Organization() {
			return false
		}
	}
	return true
}

// askHeld asks whether a node holds a replica of a conversation; an error means none.
func (m *Manager) askHeld(ctx context.Context, n wire.NodeID, id wire.ConversationID, generation uint64) witness {
	if n == m.cfg.Node {
		return witness{err: errUnreachable}
	}
	_, err := m.mesh.ask(ctx, n, &frame{kind: kindGone, generation: generation, conversation: id})
	return witness{err: err}
}
