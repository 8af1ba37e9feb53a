package test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// judge waits until all conversations are as they should be, and checks what all devices have. It lets hours pass, in
// which users do what their devices ask for.
func (w *months) judge() {
	for n, m := range w.rooms {
		why := ""
		for range 48 {
			w.settle()
			if why = w.unsettled(m); why == "" {
				break
			}
			w.help(m)
			w.cal.pass(time.Hour)
			w.tend()
		}
		if why != "" {
			w.t.Errorf("room %d: after two days: %s", n, why)
			for _, k := range w.travelers {
				w.t.Logf("%s: %s", k.id(), w.states(k))
			}
			w.log(m)
			continue
		}
		w.missing(n, m)
	}
}

// help does what users do whose devices report that they cannot follow.
func (w *months) help(m *monthsRoom) {
	ctx, cancel := w.context()
	defer cancel()
	for _, k := range w.travelers {
		v, err := k.device.Conversation(ctx, m.id)
		switch {
		case err != nil:
		case v.State == client.StateBroken && m.public:
			w.tried("entered again", k.device.Rejoin(ctx, m.id))
		case v.State == client.StateBroken && v.Asked == "":
			_, err := k.device.AskToBeAddedAgain(ctx, m.id)
			w.tried("asked", err)
		case v.State == client.StateActive:
			for _, other := range v.Again {
				w.tried("restored", k.device.Restore(ctx, m.id, other))
			}
		}
	}
}

// unsettled describes what is not yet right with a conversation; "" for nothing.
func (w *months) unsettled(m *monthsRoom) string {
	var first *client.Conversation
	var names []wire.DeviceID
	for _, k := range w.travelers {
		v, err := k.device.Conversation(w.t.Context(), m.id)
		if err != nil || v.State != client.StateActive || first != nil && v.Epoch <= first.Epoch {
			continue
		}
		list, err := k.device.Members(w.t.Context(), m.id)
		if err != nil {
			return err.Error()
		}
		first, names = v, nil
		for _, one := range list {
			names = append(names, one.Device)
		}
	}
	for _, k := range w.travelers {
		v, err := k.device.Conversation(w.t.Context(), m.id)
		member := slices.Contains(names, k.id())
		switch {
		case err != nil && wire.CodeOf(err) != wire.UnknownConversation:
			return fmt.Sprintf("%s: %v", k.id(), err)
		case err != nil && member:
			return fmt.Sprintf("%s is a member, and knows no such conversation", k.id())
		case err != nil:
		case (v.State == client.StateBroken || v.State == client.StateJoining || v.State == client.StateLeft) && v.Why == "":
			return fmt.Sprintf("%s is %v, and reports no reason", k.id(), v.State)
		case first == nil:
			if v.State != client.StateBroken && v.State != client.StateLeft {
				return fmt.Sprintf("no member follows, and %s is %v", k.id(), v.State)
			}
		case member && (v.State != client.StateActive || v.Epoch != first.Epoch || string(v.Authenticator) != string(first.Authenticator)):
			return fmt.Sprintf("%s is a member and %v in epoch %d, another member in epoch %d: %q", k.id(), v.State, v.Epoch, first.Epoch, v.Why)
		case !member && v.State != client.StateLeft && v.State != client.StateBroken:
			return fmt.Sprintf("%s is no member, and %v in epoch %d", k.id(), v.State, v.Epoch)
		}
	}
	return ""
}

// missing checks that each device has, once and in order, each accepted message of the epochs in which it was a
// member. A message may be missing if the device has reported later that something is missing, or if the sender has
// a notice.
func (w *months) missing(n int, m *monthsRoom) {
	histories := make(map[wire.DeviceID][]client.Message)
	for _, k := range w.travelers {
		list, err := wholeHistory(w.t.Context(), k.device, m.id)
		if err != nil && wire.CodeOf(err) != wire.UnknownConversation {
			w.t.Errorf("room %d: history of %s: %v", n, k.id(), err)
		}
		histories[k.id()] = list
	}
	in := w.memberships(m)
	defer func() {
		if w.t.Failed() {
			w.log(m)
		}
	}()
	for from, sent := range histories {
		for to, got := range histories {
			if from != to {
				w.compare(n, m, in, from, to, sent, got)
			}
		}
	}
}

func (w *months) compare(n int, m *monthsRoom, in func(wire.DeviceID, wire.Epoch) bool, from, to wire.DeviceID, sent, got []client.Message) {
	var order []string // the order in which the receiver has the sender's messages
	for i := range got {
		if got[i].Sender == from {
			order = append(order, got[i].Content.Text)
		}
	}
	last := -1
	for i := range sent {
		s := &sent[i]
		if s.Sender != from || s.Status != client.StatusAccepted {
			continue
		}
		at := slices.Index(order, s.Content.Text)
		switch {
		case at >= 0 && at <= last:
			w.t.Errorf("room %d: %s has %q of %s out of order", n, to, s.Content.Text, from)
		case at >= 0 && slices.Contains(order[at+1:], s.Content.Text):
			w.t.Errorf("room %d: %s has %q of %s twice", n, to, s.Content.Text, from)
		case at >= 0:
			w.done["messages read"]++
		case !in(to, s.Epoch) || s.Error != "" || w.removedBefore(m, to, s):
		case w.neverEntered(m, to, s.Epoch):
			w.done["messages of a membership that the device never entered"]++
		case w.reported(m, to, s.Stored):
			w.done["messages reported as missing"]++
		default:
			w.t.Errorf("room %d: %s lacks %q, which %s has sent in epoch %d on %v, and has no gap; %s", n, to, s.Content.Text, from, s.Epoch, s.Stored, w.holders(m, s))
		}
		last = max(last, at)
	}
}

// holders describes which devices have a message.
func (w *months) holders(m *monthsRoom, s *client.Message) (text string) {
	for _, k := range w.travelers {
		list, err := wholeHistory(w.t.Context(), k.device, m.id)
		if err != nil {
			continue
		}
		for i := range list {
			if list[i].ID == s.ID {
				text += fmt.Sprintf("%s has it since %s; ", k.id(), list[i].Stored.Format(time.DateTime))
			}
		}
	}
	return text
}

// removedBefore reports whether a device was removed, with a commit that the sender had not taken in yet, before it
// sent a message.
func (w *months) removedBefore(m *monthsRoom, device wire.DeviceID, s *client.Message) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.emitted, func(e emittedEvent) bool {
		return e.Type == client.EventRemoved && e.Device == device && e.Conversation == m.id && e.Epoch > s.Epoch && e.at.Before(s.Stored)
	})
}

// neverEntered reports whether the membership of a device in an epoch ended before the device had entered it. The node
// forgets such a membership with its last item, so a device that is away for that long learns nothing of it
// (docs/limits.md, Devices that are away).
func (w *months) neverEntered(m *monthsRoom, device wire.DeviceID, epoch wire.Epoch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	begin, end := wire.Epoch(0), wire.Epoch(0)
	for _, e := range w.emitted {
		if e.Conversation != m.id || e.Device != device {
			continue
		}
		switch {
		case e.Type == client.EventAdded && e.Epoch <= epoch:
			begin = max(begin, e.Epoch)
		case e.Type == client.EventRemoved && e.Epoch > epoch && (end == 0 || e.Epoch < end):
			end = e.Epoch
		}
	}
	return end > 0 && !slices.ContainsFunc(w.emitted, func(e emittedEvent) bool {
		return e.Type == client.EventJoined && e.device == device && e.Conversation == m.id && e.Epoch >= begin && e.Epoch < end
	})
}

// reported reports whether a device has reported, at or after a time, that something of a conversation is missing.
func (w *months) reported(m *monthsRoom, device wire.DeviceID, since time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.emitted, func(e emittedEvent) bool {
		return e.device == device && e.Conversation == m.id && !e.at.Before(since) &&
			slices.Contains([]client.EventType{client.EventGap, client.EventBroken, client.EventUnreadable}, e.Type)
	})
}

// memberships returns a function that reports whether a device was a member in an epoch, as the devices have reported
// the changes.
func (w *months) memberships(m *monthsRoom) func(wire.DeviceID, wire.Epoch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	type change struct {
		device wire.DeviceID
		epoch  wire.Epoch
	}
	added, removed := make(map[change]bool), make(map[change]bool)
	for _, e := range w.emitted {
		switch {
		case e.Conversation != m.id:
		case e.Type == client.EventAdded:
			added[change{e.Device, e.Epoch}] = true
		case e.Type == client.EventRemoved:
			removed[change{e.Device, e.Epoch}] = true
		}
	}
	founder := w.travelers[0].id()
	return func(d wire.DeviceID, epoch wire.Epoch) bool {
		is := d == founder
		for e := wire.Epoch(0); e <= epoch; e++ {
			at := change{d, e}
			is = is && !removed[at] || added[at]
		}
		return is
	}
}

// wholeHistory returns all messages of a conversation.
func wholeHistory(ctx context.Context, d *client.Device, id wire.ConversationID) (list []client.Message, err error) {
	for after := uint64(0); ; {
		page, err := d.History(ctx, id, client.Query{After: after, Forward: true, Limit: client.MaxPage})
		if err != nil {
			return nil, err
		}
		if list = append(list, page.Messages...); !page.More {
			return list, nil
		}
		after = page.Next
	}
}

// log writes what the devices have reported of a conversation.
func (w *months) log(m *monthsRoom) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.emitted {
		if e.Conversation == m.id {
			w.t.Logf("%v: %s: %v of %q by %q in epoch %d: %v", e.at.Format(time.DateTime), e.device, e.Type, e.Device, e.By, e.Epoch, e.Err)
		}
	}
}
