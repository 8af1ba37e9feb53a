package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Anybody can put invented addresses of an organization into a conversation's delivery list, and the organization's
// node is then invited to hold a replica. A conversation that another organization brought, and in which no address
// belongs to a device here, is given back after Timers.Unowned. This node cannot change the log for that purpose,
// since the list belongs to the members. The action depends on the node's part:
//
//   - the only voter, and no other organization takes part: the replica is deleted; nobody reads it;
//   - a learner: the replica is deleted;
//   - one of at least three voters: the replica gives up its vote and asks the others to remove it, as a replica
//     does after the loss of its disk (repair.go), so that the others keep a majority of the remaining voters;
//   - one of two voters: the replica stays, since the other voter could not order anything alone.
//
// For some time afterwards the node declines invitations to the same conversation.

// declines limits the number of conversations that the node remembers as given back.
const declines = 1 << 14

// declined holds the conversations that were given back, and until when the node refuses an invitation to them by the
// organization that had brought them. A conversation that another organization brings under the same id may be
// another one.
type declined struct {
	mu    sync.Mutex // guards until
	until map[invitedBy]time.Time
}

type invitedBy struct {
	id  wire.ConversationID
	org wire.Domain
}

func (d *declined) add(id wire.ConversationID, org wire.Domain, until, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil {
		d.until = make(map[invitedBy]time.Time)
	}
	if len(d.until) >= declines {
		for k, until := range d.until {
			if !until.After(now) {
				delete(d.until, k)
			}
		}
		for k := range d.until {
			if len(d.until) < declines {
				break
			}
			delete(d.until, k) // any of them: the conversation may be given back once more
		}
	}
	d.until[invitedBy{id, org}] = until
}

// refuses returns the refusal of an invitation to a conversation that was given back.
func (d *declined) refuses(id wire.ConversationID, org wire.Domain, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := d.until[invitedBy{id, org}]
	if !ok {
		return nil
	}
	if !until.After(now) {
		delete(d.until, invitedBy{id, org})
		return nil
	}
	return wire.Errorf(wire.NotFound, "invite", "none of the addresses in %v belongs to a device here: add a member of this organization, or invite it again after %s",
		id, until.UTC().Format(time.RFC3339))
}

// mayInvite refuses an invitation to a conversation that is new to this node.
func (m *Manager) mayInvite(from wire.NodeID, id wire.ConversationID) error {
	org := m.payer(from.Organization())
	if err := m.declined.refuses(id, org, m.cfg.Now()); err != nil {
		return err
	}
	if org == "" {
		return nil
	}
	if err := m.cfg.Account.Room(); err != nil {
		return err
	}
	// A conversation that this organization joins and leaves repeatedly must not use up the capacity that its
	// inviter's other conversations need.
	if l, t := &m.cfg.Limits, &m.cfg.Timers; !m.meter.take(meterKey{wire.NodeID(org), id, meterInvite}, l.Invites, t.Invite) {
		return m.refuse(from, id, RefusedRate, wire.Errorf(wire.Busy, "invite", "%s invites this node to %v too often: %d times at once and once each %v are taken", org, id, l.Invites, t.Invite))
	}
	return m.cfg.Admission.Replica(org)
}

// giveBackLoop searches for conversations without a device here.
func (m *Manager) giveBackLoop(ctx context.Context) {
	if m.cfg.Owns == nil {
		return
	}
	for pause(ctx, m.cfg.Timers.Unowned/4) {
		for _, c := range m.list() {
			if ctx.Err() != nil {
				return
			}
			if err := m.returnIfUnowned(ctx, c); err != nil && ctx.Err() == nil {
				m.log.Debug("conversation not given back", "conversation", c.id, "error", err)
			}
		}
	}
}

// returnIfUnowned gives one conversation back if it has been without a device here for long enough. A conversation with
// a device is checked again after organizations or members have joined or left.
func (m *Manager) returnIfUnowned(ctx context.Context, c *conversation) error {
	if c.book.payer == "" || c.owned.Load() || c.out.Load() || c.shut.Load() != nil || c.probation.Load() != nil {
		return nil
	}
	owned, alone, err := m.ownership(c)
	if err != nil {
		return err
	}
	if owned {
		c.owned.Store(true)
		c.unowned.Store(0)
		return nil
	}
	now := m.cfg.Now()
	if since := c.unowned.Load(); since == 0 {
		c.unowned.Store(now.UnixNano())
		return nil
	} else if now.Sub(time.Unix(0, since)) < m.cfg.Timers.Unowned {
		return nil
	}
	return m.giveBack(ctx, c, alone, now)
}

// ownership reports whether a device here has an address in a conversation, or the node is its witness, and
// whether no other organization takes part. A conversation without entries has no device.
func (m *Manager) ownership(c *conversation) (owned, alone bool, err error) {
	var tokens []wire.Token
	self := m.cfg.Node.Organization()
	alone = true
	err = m.viewAny(c, func(s *machine.Machine) {
		owned = s.Created() && s.Policy().Witness == self
		for _, a := range s.Delivery() {
			if a.Organization == self {
				tokens = append(tokens, a.Token)
			} else {
				alone = false
			}
		}
	})
	if err != nil || owned || m.cfg.Owns == nil {
		return owned || m.cfg.Owns == nil, alone, err
	}
	for _, t := range tokens {
		if owned, err = m.cfg.Owns(c.id, t); err != nil || owned {
			return owned, alone, err
		}
	}
	return false, alone, nil
}

// giveBack ends this node's part in a conversation in the way that depends on that part.
func (m *Manager) giveBack(ctx context.Context, c *conversation, alone bool, now time.Time) error {
	voters := m.voters(c)
	votes := contains(voters, m.cfg.Node)
	switch {
	case votes && len(voters) == 1 && !alone:
		return nil // the leader is on this node and will place other replicas
	case votes && len(voters) == 2:
		return nil
	}
	m.declined.add(c.id, c.book.payer, now.Add(3*m.cfg.Timers.Unowned), now)
	m.stats.givenBack.Add(1)
	if votes && len(voters) > 2 {
		m.log.Info("conversation is given back: none of its addresses is a device's here", "conversation", c.id, "brought_by", c.book.payer)
		if l := c.awake(); l != nil && l.r.Load() != nil {
			l.close(0, nil)
		}
		m.spawn(func(ctx context.Context) {
			err := m.giveUp(ctx, c)
			if err == nil {
				err = m.removeUnread(c, "given back")
			}
			if err != nil && ctx.Err() == nil {
				m.log.Warn("conversation not given back", "conversation", c.id, "error", err)
			}
		})
		return nil
	}
	return m.removeUnread(c, "none of its addresses is a device's here, or its policy keeps too much")
}

// keepsTooMuch refuses a policy that makes this node keep more than its configuration allows.
func (m *Manager) keepsTooMuch(p wire.Policy) error {
	entries, bytes := machine.Keeps(p)
	if l := &m.cfg.Limits; entries <= l.RecentEntries && bytes <= l.RecentBytes {
		return nil
	}
	m.stats.refused.Add(1)
	return wire.Errorf(wire.Quota, "create", "the policy keeps %d entries of %d bytes together, this node at most %d of %d: create the conversation with a smaller one",
		entries, bytes, m.cfg.Limits.RecentEntries, m.cfg.Limits.RecentBytes)
}

// checkPolicy gives a conversation back if another organization brought it and its policy keeps too much.
func (l *live) checkPolicy() {
	if l.c.book.payer == "" {
		return
	}
	var err error
	l.fsm.read(func(s *machine.Machine) {
		if s.Created() {
			err = l.m.keepsTooMuch(s.Policy())
		}
	})
	if err == nil {
		return
	}
	l.m.spawn(func(ctx context.Context) {
		l.m.log.Warn("conversation is given back", "conversation", l.c.id, "brought_by", l.c.book.payer, "error", err)
		_, alone, _ := l.m.ownership(l.c)
		if err := l.m.giveBack(ctx, l.c, alone, l.m.cfg.Now()); err != nil && ctx.Err() == nil {
			l.m.log.Warn("conversation not given back", "conversation", l.c.id, "error", err)
		}
	})
}
