package client

import (
	"context"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// forgery makes a different entry from the newest one: the same content, with another node as proposer.
func (w *world) forgery(t *testing.T, id wire.ConversationID) item {
	t.Helper()
	c := w.convs[id]
	forged := c.log[len(c.log)-1]
	e, err := forged.Open()
	check(t, err)
	e.Proposer = "n2.a.example"
	forged.Entry, err = wire.Encode(e)
	check(t, err)
	forged.Order = wire.NextOrder(c.log[len(c.log)-2].Order, forged.Entry)
	payload, err := wire.Encode(&forged)
	check(t, err)
	return item{kind: wire.ItemEntry, payload: payload}
}

// diverge makes organization b show its devices a different history: the newest entry differs. It returns when bob's
// device has taken in that entry.
func diverge(t *testing.T, w *world, id wire.ConversationID, a, b *peer) {
	t.Helper()
	w.mu.Lock()
	w.faults.lag["b.example"] = true
	w.mu.Unlock()
	b.stop()
	check(t, a.UpdateKeys(t.Context(), id))
	w.mu.Lock()
	forged := w.forgery(t, id)
	last := wire.SequenceNumber(len(w.convs[id].log))
	w.orgs["b.example"].lagging = nil
	delete(w.faults.lag, "b.example")
	w.convs[id].streams["b.example"].append(forged)
	w.mu.Unlock()
	b.restart()
	taken(t, b, id, last)
}

func taken(t *testing.T, p *peer, id wire.ConversationID, last wire.SequenceNumber) {
	t.Helper()
	eventually(t, func() error {
		d, err := p.Conversation(context.Background(), id)
		if err == nil && d.Sequence != last {
			err = fmt.Errorf("after %d", d.Sequence)
		}
		return err
	})
}

func alarmed(t *testing.T, p *peer, by wire.DeviceID) {
	t.Helper()
	eventually(t, func() error {
		for _, e := range p.events(EventDivergence) {
			if e.By == by {
				return nil
			}
		}
		return fmt.Errorf("no alarm among %v", p.events(EventDivergence))
	})
	if p.events(EventPoison) != nil {
		t.Error("divergence is an alarm, and no reason to stop")
	}
}

// TestDivergenceIsAnAlarm checks that members notice servers that show them different orders, with the next commit
// and with the next application message (RFC 9420 §6.3.1, authenticated_data).
func TestDivergenceIsAnAlarm(t *testing.T) {
	t.Run("commit", func(t *testing.T) {
		w, id, a, b, _ := trio(t, CreateOptions{})
		diverge(t, w, id, a, b)
		check(t, a.UpdateKeys(t.Context(), id))
		alarmed(t, b, a.id)
	})
	t.Run("message to the victim", func(t *testing.T) {
		w, id, a, b, _ := trio(t, CreateOptions{})
		diverge(t, w, id, a, b)
		_, err := a.SendText(t.Context(), id, "one message")
		check(t, err)
		alarmed(t, b, a.id)
		hasTexts(t, b, id, "alice: one message")
	})
	t.Run("message of the victim", func(t *testing.T) {
		w, id, a, b, c := trio(t, CreateOptions{})
		diverge(t, w, id, a, b)
		_, err := b.SendText(t.Context(), id, "one message")
		check(t, err)
		alarmed(t, a, b.id)
		alarmed(t, c, b.id)
	})
}

// TestSightingOfAnEntryToCome checks that the sighting in a message from a sender that has seen more of the log is
// compared once the receiver has seen the same entry.
func TestSightingOfAnEntryToCome(t *testing.T) {
	for name, forge := range map[string]bool{"the same entry": false, "another entry": true} {
		t.Run(name, func(t *testing.T) {
			w, id, a, b, _ := trio(t, CreateOptions{})
			w.mu.Lock()
			w.faults.lag["b.example"] = true
			c := w.convs[id]
			// A change of replicas opens no epoch: messages that follow it can be read before it has come.
			raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: 1, Proposer: "n1.a.example",
				Replicas: &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}}})
			check(t, err)
			c.order = wire.NextOrder(c.order, raw)
			last := wire.SequenceNumber(len(c.log) + 1)
			c.log = append(c.log, wire.Committed{Sequence: last, Order: c.order, Entry: raw})
			w.deliver(c, nil, nil)
			w.mu.Unlock()
			taken(t, a, id, last)
			_, err = a.SendText(t.Context(), id, "ahead")
			check(t, err)
			hasTexts(t, b, id, "alice: ahead")
			if n := len(b.events(EventDivergence)); n > 0 {
				t.Fatalf("%d alarms about an entry that has not come", n)
			}
			if forge {
				w.mu.Lock()
				w.orgs["b.example"].lagging = []func(){func() {
					s := w.convs[id].streams["b.example"]
					s.append(w.forgery(t, id))
					w.pumpAll(s, w.orgs["b.example"])
				}}
				w.mu.Unlock()
			}
			w.catchUp("b.example")
			taken(t, b, id, last)
			if forge {
				alarmed(t, b, a.id)
				return
			}
			_, err = a.SendText(t.Context(), id, "after")
			check(t, err)
			hasTexts(t, b, id, "alice: ahead", "alice: after")
			if n := len(b.events(EventDivergence)); n > 0 {
				t.Errorf("%d alarms: %v", n, b.events(EventDivergence))
			}
			check(t, b.turn(context.Background(), func(u *unit) error {
				return u.Scan(recordKey(recordSighting), func(key, _ []byte) error {
					t.Errorf("sighting %x is still kept", key)
					return nil
				})
			}))
		})
	}
}

// TestSightingsAreBounded checks that a member cannot fill a device's store with sightings, and that authenticated
// data is never trusted.
func TestSightingsAreBounded(t *testing.T) {
	_, id, _, b, _ := trio(t, CreateOptions{})
	check(t, b.turn(context.Background(), func(u *unit) error {
		th, err := b.findConversation(u, id)
		if err != nil {
			return err
		}
		for n := range wire.SequenceNumber(10 * maxSightings) {
			raw, err := wire.Encode(&sighting{Last: 1<<63 + n, Order: wire.Hash{1}})
			if err != nil {
				return err
			}
			if err := th.compareSighting(raw, alicePhone); err != nil {
				return err
			}
		}
		for _, junk := range [][]byte{nil, {0xff}, make([]byte, 1<<16), {0xa2, 1, 0, 2, 0x40}} {
			if err := th.compareSighting(junk, alicePhone); err != nil {
				return err
			}
		}
		kept := 0
		err = u.Scan(recordKey(recordSighting), func([]byte, []byte) error { kept++; return nil })
		if kept != maxSightings {
			t.Errorf("%d sightings are kept, wanted %d", kept, maxSightings)
		}
		return err
	}))
}

// TestAlarmOfTheNode checks that a device reports an alarm of its node once.
func TestAlarmOfTheNode(t *testing.T) {
	w, id, a, _, _ := trio(t, CreateOptions{})
	alarm := &wire.Alarm{Conversation: id, Reason: "rewritten", Text: "n1.b.example sent another entry 7", Time: 3}
	announce := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		check(t, writeFrame(w.orgs["a.example"].devices[a.id].session.pipe, wire.FrameAlarm, 0, alarm))
	}
	announce()
	announce()
	alarm.Time++
	announce()
	eventually(t, func() error {
		if n := len(a.events(EventDivergence)); n != 2 {
			return fmt.Errorf("%d alarms", n)
		}
		return nil
	})
	if e := a.events(EventDivergence)[0]; e.Conversation != id || e.Err == nil {
		t.Errorf("%+v", e)
	}
	_, err := a.SendText(t.Context(), id, "goes on")
	check(t, err)
	hasTexts(t, a, id, "alice: goes on")
}
