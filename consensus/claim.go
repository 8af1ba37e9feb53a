package consensus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Whoever knows a conversation's id can invite a node to another conversation under it, before the one that is meant
// comes. Servers cannot tell the two apart by what is in them: a member can copy the create, and sign what follows with
// the epoch's key. What they can tell is whom a conversation is for. So a replica belongs to its id where a device here
// reads it. One that no device here reads holds the id for Timers.Claim only, and gives way then: to the organizations
// that have claimed the id, in turn. Whichever of them has a device's address in its log keeps it.
//
// An organization that has an address of a device here, and puts it into a conversation under the id of another one,
// keeps that id for as long as the device stays there. Two other organizations together take it, as long as nothing
// was delivered here.

// maxClaimants bounds how many organizations wait for one id, and maxClaimed for how many ids some do.
const (
	maxClaimants = 16
	maxClaimed   = 4096
)

// claims are the organizations that wait for an id which a replica of another conversation has here.
type claims struct {
	turn    sync.Mutex // held while a replica gives way
	mu      sync.Mutex // guards waiting
	waiting map[wire.ConversationID][]claimant
}

type claimant struct {
	org   wire.Domain
	heard time.Time // last: one that does not repeat its claim waits no longer
}

// next notes a claim and reports whether it is first among those that were repeated since a moment.
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
			return list[0].org == org // it waits no longer than it asks
		}
	}
	q.waiting[id] = list
	return list[0].org == org
}

// served ends an organization's turn: it comes last if it claims the id once more.
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

// unread reports whether no device here reads a replica that another organization brought, as far as can be told.
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

// mayBeOther reports whether an invitation by a node that has a part in the replica here may be to another conversation:
// the replica is one that nobody here reads, and that node contradicts it.
func (m *Manager) mayBeOther(ctx context.Context, c *conversation, from wire.NodeID) bool {
	return m.unread(c) && (c.shut.Load() != nil || m.meter.take(meterKey{from, "", meterAsk}, askBurst, askRefill) && m.contradictedBy(ctx, c, from))
}

// contradictedBy reports whether a node says that its order hash is another one than this replica's. A node that
// cannot be asked, or is of the first release, contradicts nothing.
func (m *Manager) contradictedBy(ctx context.Context, c *conversation, n wire.NodeID) bool {
	seq, own, err := m.orderOf(c)
	if err != nil || seq == 0 || !m.announced(n) {
		return false
	}
	t, err := m.askTestimony(ctx, n, c, question{Sequence: seq, Order: own})
	return err == nil && !t.Out && t.Sequence > 0 && differ(m.orderHere(c, t.Sequence), t.Order)
}

// otherClaim decides between the replica that is here and an invitation to another conversation of the same id. It
// returns true where the one that was here has gone.
func (m *Manager) otherClaim(ctx context.Context, c *conversation, rec *record, from wire.NodeID, in *invitation) (gone bool, err error) {
	org := from.Organization()
	if org == rec.Inviter || in.Generation > maxGenerations {
		return false, nil // entitled refuses it
	}
	if !m.meter.take(meterKey{from, "", meterAsk}, askBurst, askRefill) {
		return false, m.refuse(from, c.id, RefusedRate, wire.Errorf(wire.Busy, "invite", "too many claims by %s: try again later", from))
	}
	if m.unread(c) {
		return m.takeTurn(ctx, c, from)
	}
	if !m.weak(c, rec) {
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
	delete(confirmed, rec.Inviter) // it stands behind the other one
	if len(confirmed) < 2 || len(confirmed) <= len(behind)/2 {
		return false, m.refuse(from, c.id, RefusedClaim, wire.Errorf(wire.NotReplica, "invite",
			"node %s holds another conversation %v by invitation of %s, and %d of %d organizations confirm this one", m.cfg.Node, c.id, rec.Inviter, len(confirmed), len(behind)))
	}
	if err := m.mayInvite(from, c.id); err != nil {
		return false, err
	}
	m.log.Warn("replica gives way: one organization alone stood behind it, several others claim its id", "conversation", c.id, "inviter", rec.Inviter, "by", from)
	return true, m.moveAside(c, "several other organizations claim the id", false, false)
}

// takeTurn has a replica that no device here reads give way to a claim, when its time is over and the claim is next.
func (m *Manager) takeTurn(ctx context.Context, c *conversation, from wire.NodeID) (gone bool, err error) {
	now := m.cfg.Now()
	c.unowned.CompareAndSwap(0, now.UnixNano())
	over := time.Unix(0, c.unowned.Load()).Add(m.cfg.Timers.Claim)
	next := m.claims.next(c.id, from.Organization(), now, now.Add(-m.cfg.Timers.Greet-m.cfg.Timers.Claim))
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
	lightly := !quarantined && (!contains(voters, m.cfg.Node) || alone && len(voters) == 1) // nobody misses it
	if !lightly && !quarantined && len(voters) > 2 {                                        // the others are to keep a majority
		if err := m.mayInvite(from, c.id); err != nil {
			return false, err
		}
		if err := m.giveBack(ctx, c, alone, now); err != nil { // not under the lock: it asks others
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
		m.makeRoomAside(c.id)
		c.forgotten.Store(true)
		err = m.moveAside(c, why, false, true)
	}
	if err != nil {
		return false, err
	}
	m.claims.served(c.id, from.Organization())
	return true, nil
}

// makeRoomAside drops the oldest replica that is kept of an id for a while only, where no more can be kept.
func (m *Manager) makeRoomAside(id wire.ConversationID) {
	list := m.Asides(id)
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

// disowned hears a member say that this leader has no part in what it holds: its replica has given way to another
// organization's claim meanwhile. It is invited again, now and then.
func (l *live) disowned(n wire.NodeID) {
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

// weak reports whether nothing but its inviter's organization stands behind a replica.
func (m *Manager) weak(c *conversation, rec *record) bool {
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

// askHeld asks whether a node holds a replica of a conversation; an error stands for none.
func (m *Manager) askHeld(ctx context.Context, n wire.NodeID, id wire.ConversationID, generation uint64) witness {
	if n == m.cfg.Node {
		return witness{err: errUnreachable}
	}
	_, err := m.mesh.ask(ctx, n, &frame{kind: kindGone, generation: generation, conversation: id})
	return witness{err: err}
}
