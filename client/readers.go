package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A device compares each commit's change of the delivery list with its change of the group. That does not cover the
// initial list: a founder can put an address into the create that no member has, and a member that joins later never
// sees it. So each member compares the whole list with the members' addresses, once for each conversation and run,
// and when it has joined. It reports its node's answer to the other members: see readers_report.go.

// checkedReaders holds the conversations whose lists have been compared in this run.
type checkedReaders struct {
	mu   sync.Mutex // guards done
	done map[ConversationID]bool
}

// readers is the delivery list that a conversation must have.
type readers struct {
	id   ConversationID
	want wire.DeliveryHead
}

// lookAtReaders schedules a comparison of a conversation's delivery list, if the node supports it.
func (d *Device) lookAtReaders(id ConversationID) {
	d.readers.forget(id)
	if s, _ := d.link.get(); s != nil && s.has(wire.FeatureDelivery) {
		d.queues.kick(upkeepOf(id))
	}
}

// maxReaders is the number of conversations that one round of upkeep compares: each opens a group and costs a
// request.
const maxReaders = 16

// tendReaders compares the delivery lists of conversations that this run has not compared, in the order of their last
// comparison. If only is set, it compares that conversation alone.
func (d *Device) tendReaders(ctx context.Context, only ConversationID) error {
	if s, _ := d.link.get(); s == nil || !s.has(wire.FeatureDelivery) {
		return nil
	}
	var list []readers
	err := d.turn(ctx, func(u *unit) error {
		due, err := d.dueReaders(u, only)
		for _, c := range due {
			if err != nil {
				return err
			}
			var t *conversation
			if t, err = d.peekConversation(u, c.id, c.rec); err != nil {
				return err
			}
			var head wire.DeliveryHead
			head, err = t.readers()
			list = append(list, readers{c.id, head})
		}
		return err
	})
	for _, r := range list {
		if err != nil {
			return err
		}
		err = d.compareReaders(ctx, &r)
	}
	return err
}

// dueReaders returns the conversations to be compared next.
func (d *Device) dueReaders(u *unit, only ConversationID) ([]tended, error) {
	var due []tended
	err := someRecords(u, only, func(id ConversationID, rec *conversationRecord) error {
		if rec.State == StateActive && !d.readers.has(id) {
			due = append(due, tended{id: id, rec: rec})
		}
		return nil
	})
	if err != nil || len(due) <= maxReaders {
		return due, err
	}
	for i := range due {
		if _, err := u.getRecord(tendedKey(due[i].id), &due[i].know); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(due, func(a, b tended) int { return cmp.Compare(a.know.Compared, b.know.Compared) })
	return due[:maxReaders], nil
}

// comparedReaders records that a conversation's delivery list was compared, and the result.
func (d *Device) comparedReaders(ctx context.Context, id ConversationID, r *readersReport) error {
	d.readers.add(id)
	return d.turn(ctx, func(u *unit) error {
		know := tendedRecord{Version: recordVersion}
		if _, err := u.getRecord(tendedKey(id), &know); err != nil {
			return err
		}
		know.Compared, know.Readers = d.now(), r
		return u.putRecord(tendedKey(id), &know)
	})
}

// compareReaders requests one list. A list of another epoch is compared in the next round.
func (d *Device) compareReaders(ctx context.Context, r *readers) error {
	var a wire.DeliveryAnswer
	if err := d.call(ctx, wire.MethodDelivery, &wire.DeliveryRequest{Conversation: r.id}, &a); err != nil {
		return err
	}
	for _, h := range a.Heads {
		if h.Parent != r.want.Parent {
			continue
		}
		report := &readersReport{List: h, Members: r.want}
		if err := d.comparedReaders(ctx, r.id, report); err != nil {
			return err
		}
		if report.contradicts() {
			err := fmt.Errorf("the conversation is delivered to %d addresses, and its members have %d: its founder or a server added a reader and did not say so, or left a member out", h.Addresses, r.want.Addresses)
			d.log.Error("divergence", "conversation", r.id, "error", err)
			d.emit(Event{Type: EventDivergence, Conversation: r.id, Err: err})
		}
	}
	return nil
}

// readers returns the delivery list that follows from the members.
func (t *conversation) readers() (wire.DeliveryHead, error) {
	var members []mlscore.Member
	t.group.Public().Members(func(m mlscore.Member) bool { members = append(members, m); return true })
	list, err := addresses(members)
	if err != nil {
		return wire.DeliveryHead{}, err
	}
	return wire.DeliveryHeadOf(t.rec.Position.Parent, list)
}

func (c *checkedReaders) has(id ConversationID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done[id]
}

func (c *checkedReaders) add(id ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(map[ConversationID]bool)
	}
	c.done[id] = true
}

// forget schedules another comparison of a conversation.
func (c *checkedReaders) forget(id ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.done, id)
}
