package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// This file adds and removes this node's replica: invitations, dismissals, and the checks before this node believes
// either.

// invitation asks a node to hold a replica.
type invitation struct {
	Generation uint64        `cbor:"1,keyasint"`
	Members    []wire.NodeID `cbor:"2,keyasint"` // nodes that may speak for the conversation
}

func (i *invitation) Check() error {
	if len(i.Members) == 0 || len(i.Members) > wire.MaxReplicas {
		return wire.Errorf(wire.Malformed, "invite", "%d members", len(i.Members))
	}
	for at, n := range i.Members {
		if err := n.Check(); err != nil {
			return wire.Errorf(wire.Malformed, "invite", "%v", err)
		}
		if contains(i.Members[:at], n) {
			return wire.Errorf(wire.Malformed, "invite", "%s is named twice", n)
		}
	}
	return nil
}

func (l *live) invite(ctx context.Context, n wire.NodeID, have []wire.NodeID) error {
	payload, err := wire.Encode(&invitation{Generation: l.c.generation(), Members: have})
	if err != nil {
		return err
	}
	_, err = l.m.mesh.ask(ctx, n, l.trans.frame(kindInvite, payload))
	return err
}

// receiveInvite accepts a replica of a conversation, within the quota of the inviting organization. If this node
// holds a replica of an earlier generation, or lost its own, it begins again if mayFollow allows it.
func (m *Manager) receiveInvite(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var in invitation
	if err := wire.Decode(f.payload, 64<<10, &in); err != nil {
		return nil, err
	}
	if err := f.conversation.Check(); err != nil || !contains(in.Members, from) {
		return nil, wire.Errorf(wire.Malformed, "invite", "to %v by %s, who is not among its members", f.conversation, from)
	}
	if c, err := m.held(f.conversation); err == nil {
		if done, err := m.invitedAgain(ctx, c, from, &in); done || err != nil {
			return nil, err
		}
	} else if err := m.mayInvite(from, f.conversation); err != nil {
		return nil, err
	}
	c, err := m.reserveReplica(f.conversation, &record{Generation: in.Generation, Voters: in.Members, Learners: []wire.NodeID{m.cfg.Node},
		Leader: from, Inviter: from.Organization()})
	if err != nil {
		return nil, err
	}
	_, _, err = m.wake(ctx, c)
	return nil, err
}

// invitedAgain decides about an invitation to a conversation of which a replica is here. It returns true if that
// replica stays.
func (m *Manager) invitedAgain(ctx context.Context, c *conversation, from wire.NodeID, in *invitation) (stays bool, err error) {
	rec, err := m.readRecord(c.id)
	if err != nil {
		return false, err
	}
	got, err := m.roleOf(from, c)
	if err != nil {
		return false, err
	}
	if got == roleNone || m.mayBeOtherConversation(ctx, c, from) {
		if gone, err := m.resolveClaim(ctx, c, rec, from, in); gone || err != nil {
			return false, err
		}
	}
	if err := c.refused("invite"); err != nil {
		return false, err
	}
	if err := m.checkRole(from, c, roleLearner); err != nil {
		return false, err
	}
	switch {
	case in.Generation < rec.Generation:
		return false, wire.Errorf(codeSuperseded, "invite", "generation %d was replaced by %d", in.Generation, rec.Generation)
	case in.Generation == rec.Generation && !rec.Rejoin:
		if err := m.mayWake(from, c); err != nil {
			return false, err
		}
		_, _, err := m.wake(ctx, c)
		return true, err
	case in.Generation == rec.Generation: // the local replica is gone already
		if err := m.checkRole(from, c, roleVoter); err != nil {
			return false, err
		}
		return false, m.beginAgain(c)
	}
	if err := m.mayFollow(ctx, c, from, in.Generation); err != nil {
		return false, err
	}
	if rec.Rejoin || !m.holds(ruleAside) {
		return false, m.beginAgain(c)
	}
	return false, m.moveAside(c, fmt.Sprintf("generation %d began", in.Generation), true, false)
}

// beginAgain removes a replica that another one replaces. If the conversation was given back, beginAgain removes the
// replica and returns the refusal of the invitation.
func (m *Manager) beginAgain(c *conversation) error {
	if err := m.declined.refuses(c.id, c.book.payer, m.cfg.Now()); err != nil {
		return errors.Join(err, m.remove(c, "none of its addresses is a device's here"))
	}
	return m.remove(c, "invited again")
}

// receiveFarewell handles a message that this node is no longer in the configuration. The word of one node is not
// enough to end the replica: the log must say so, or a majority of the former voters.
func (m *Manager) receiveFarewell(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	c, err := m.find(f.conversation)
	if err != nil {
		return nil, err
	}
	byLog, err := m.dismissedByLog(c)
	switch {
	case err != nil:
		return nil, err
	case byLog:
		return nil, m.leave(ctx, c, dismissal{byLog: true})
	case !m.meter.take(meterKey{from, "", meterAsk}, askBurst, askRefill):
		return nil, m.refuse(from, c.id, RefusedRate, wire.Errorf(wire.Busy, "farewell", "too many dismissals by %s", from))
	}
	d := m.dismissedByMajority(ctx, c)
	if !d.agreed {
		return nil, m.refuse(from, c.id, RefusedFarewell, wire.Errorf(wire.Invalid, "farewell", "no majority of the voters of %v confirms that this node is dismissed", c.id))
	}
	return nil, m.leave(ctx, c, d)
}

// dismissedByLog reports whether the last change of replicas that was applied here does not name this node.
func (m *Manager) dismissedByLog(c *conversation) (byLog bool, err error) {
	err = m.view(c, func(s *machine.Machine) {
		r, _ := s.Replicas()
		byLog = r != nil && !contains(r.Voters, m.cfg.Node) && !contains(r.Learners, m.cfg.Node)
	})
	return byLog, err
}

// dismissal is the reason why this node believes that it has no part any more.
type dismissal struct {
	byLog   bool // its own log says so: the data is deleted
	agreed  bool // a majority of the known voters says so: the data is kept
	several bool // voters of at least two other organizations say so: the data is kept for a limited time
}

// leave delivers the remaining entries to the consumer and ends the replica.
func (m *Manager) leave(ctx context.Context, c *conversation, d dismissal) error {
	if m.cfg.Consumer != nil {
		for m.pump.serve(ctx, c.id) != nil {
			if !pause(ctx, time.Second) {
				return ctx.Err()
			}
		}
	}
	if d.byLog || !m.holds(ruleAside) {
		return m.remove(c, "no longer among the replicas")
	}
	return m.moveAside(c, "a majority of the voters says that this node has no part any more", false, d.several)
}

// dismissedByMajority asks the voters that this node knows whether it is still in the configuration.
func (m *Manager) dismissedByMajority(ctx context.Context, c *conversation) (d dismissal) {
	known, err := m.committed(c)
	if err != nil {
		return d
	}
	out, by := 0, make(map[wire.Domain]bool)
	for _, n := range known.voters {
		if n == m.cfg.Node {
			continue
		}
		b, err := m.mesh.ask(ctx, n, &frame{kind: kindGone, generation: c.generation(), conversation: c.id})
		if err == nil && len(b) == 1 && b[0] == 0 {
			out++
			by[n.Organization()] = true
		}
	}
	delete(by, m.cfg.Node.Organization())
	d.agreed, d.several = out > len(known.voters)/2, len(by) > 1
	return d
}

// askWhetherGone is for a replica that has not heard from a leader for long.
func (l *live) askWhetherGone() bool {
	d := l.m.dismissedByMajority(l.ctx, l.c)
	if !d.agreed {
		return false
	}
	if byLog, err := l.m.dismissedByLog(l.c); err == nil {
		d.byLog = byLog
	}
	return l.m.serve(l.c, "leave", func(ctx context.Context) {
		if err := l.m.leave(ctx, l.c, d); err != nil && ctx.Err() == nil {
			l.m.log.Warn("replica not removed", "conversation", l.c.id, "error", err)
		}
	})
}

// receiveGone answers with 1 or 0 whether a node is in the configuration: the asking node, or the node that it names.
func (m *Manager) receiveGone(_ context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	c, err := m.find(f.conversation)
	if err != nil {
		return nil, err
	}
	err = m.checkConfigured(from, c)
	if about := wire.NodeID(f.payload); about != "" {
		if err := about.Check(); err != nil {
			return nil, wire.Errorf(wire.Malformed, "member", "%v", err)
		}
		if err := m.checkRole(from, c, roleOfQuestion); err != nil {
			return nil, err
		}
		err = m.checkConfigured(about, c)
	}
	if wire.CodeOf(err) == wire.NotReplica {
		return []byte{0}, nil
	}
	return []byte{1}, err
}

// checkConfigured checks another node's part by the configuration alone.
func (m *Manager) checkConfigured(n wire.NodeID, c *conversation) error {
	if l := c.awake(); l != nil {
		if !l.configured(n) {
			return notReplica(n, c.id)
		}
		return nil
	}
	rec, err := m.readRecord(c.id)
	if err == nil && !rec.has(n) {
		return notReplica(n, c.id)
	}
	return err
}
