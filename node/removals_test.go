package node

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// removalWorld holds the stored removals, and the inboxes for their notices.
type removalWorld struct {
	*removals
	t     *testing.T
	past  *keptKeys
	clock time.Time
	n     byte
}

const removedDevice wire.DeviceID = "mimi://a.example/d/alice/phone"

func newRemovalWorld(t *testing.T) *removalWorld {
	k := newKeptKeys(t, 1024)
	kept := memoryStore(t)
	held := newHeldWorld(t)
	w := &removalWorld{t: t, past: k, clock: time.UnixMilli(1_800_000_000_000)}
	w.removals = &removals{
		kept: kept.Removals(), mailbox: held.mailbox, keys: k.keys, now: func() time.Time { return w.clock },
		owners: func(_ context.Context, list ...wire.Token) (map[wire.Token]wire.DeviceID, error) {
			at := make(map[wire.Token]wire.DeviceID)
			for _, t := range list {
				if t != (wire.Token{9}) { // which is no device's
					at[t] = removedDevice
				}
			}
			return at, nil
		},
	}
	if err := held.mailbox.Change(t.Context(), mailbox.Inbox(removedDevice), []wire.Token{mailbox.Owner()}, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// entry delivers the entry that opens an epoch.
func (w *removalWorld) entry(epoch wire.Epoch, join, leave []wire.Token) {
	w.t.Helper()
	w.past.add(epoch, int(epoch)+1)
	if err := w.note(w.t.Context(), talkOne, w.past.seq, w.past.opened(epoch, int(epoch)+1), join, leave); err != nil {
		w.t.Fatal(err)
	}
}

// comes delivers a new message of an epoch, signed with a key.
func (w *removalWorld) comes(epoch wire.Epoch, key int, item uint64) bool {
	w.t.Helper()
	w.n++
	m := &wire.Message{Version: 1, Conversation: talkOne, ID: wire.SubmissionID{w.n}, Epoch: epoch, Content: []byte("x")}
	if err := m.Sign(submissionKey(byte(key))); err != nil {
		w.t.Fatal(err)
	}
	return w.brings(m, item)
}

func (w *removalWorld) brings(m *wire.Message, item uint64) bool {
	w.t.Helper()
	ok, err := w.missed(context.Background(), "c.example", m, item)
	if err != nil {
		w.t.Fatal(err)
	}
	return ok
}

// This method returns the notices in the device's inbox.
func (w *removalWorld) notices() (list []wire.Missed) {
	w.t.Helper()
	page, err := w.mailbox.Read(w.t.Context(), mailbox.Inbox(removedDevice), mailbox.Owner(), 0, mailbox.Limit{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range page.Items {
		var m wire.Missed
		if err := wire.Decode(i.Payload, wire.MaxSessionFrame, &m); err != nil || i.Kind != mailbox.KindMissed || m.Conversation != talkOne || m.Organization != "c.example" {
			w.t.Fatalf("%+v: %v", m, err)
		}
		list = append(list, m)
	}
	return list
}

// TestMissedIsWhatWasForTheDevice checks that a notice is sent exactly for a message of an epoch in which the device
// was a member, signed by a member, and outside the part of the stream that the device reads.
func TestMissedIsWhatWasForTheDevice(t *testing.T) {
	w := newRemovalWorld(t)
	one, nobodys := wire.Token{1}, wire.Token{9}
	w.entry(0, nil, nil)
	w.entry(1, nil, nil)
	w.entry(2, []wire.Token{one, nobodys}, nil) // the device joins
	w.entry(3, nil, nil)
	if w.comes(2, 3, 0) {
		t.Error("a message for a member was missed")
	}
	w.entry(4, nil, []wire.Token{one, nobodys}) // it is removed
	if err := w.ended(t.Context(), talkOne, w.past.seq, w.past.opened(4, 5), 50); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		epoch wire.Epoch
		key   int
		item  uint64
		want  bool
	}{
		"of before it joined":        {1, 2, 60, false},
		"of its first epoch":         {2, 3, 60, true},
		"of its last epoch":          {3, 4, 60, true},
		"after the removal":          {4, 5, 60, false},
		"in what it reads":           {3, 4, 49, false},
		"in no stream":               {3, 4, 0, true},
		"signed by another key":      {3, 9, 60, false},
		"signed for another epoch":   {3, 3, 60, false},
		"of an epoch that never was": {1 << 40, 4, 60, false},
	} {
		before := len(w.notices())
		if got := w.comes(c.epoch, c.key, c.item); got != c.want || (len(w.notices()) > before) != c.want {
			t.Errorf("%s: %v, wanted %v; %d notices more", name, got, c.want, len(w.notices())-before)
		}
	}
	m := &wire.Message{Version: 1, Conversation: talkOne, ID: wire.SubmissionID{200}, Epoch: 3, Content: []byte("x")}
	if err := m.Sign(submissionKey(4)); err != nil {
		t.Fatal(err)
	}
	before := len(w.notices())
	for range 3 { // the answer did not reach the organization
		if !w.brings(m, 0) {
			t.Error("it is refused when it comes again")
		}
	}
	if n := len(w.notices()) - before; n != 1 {
		t.Errorf("%d notices of one message", n)
	}
}

// TestMissedHasAnEnd checks that a former member who sends without end fills no inbox, and that removals are
// forgotten.
func TestMissedHasAnEnd(t *testing.T) {
	w := newRemovalWorld(t)
	w.entry(0, []wire.Token{{1}}, nil)
	w.entry(1, nil, []wire.Token{{1}})
	for range 3 * maxMissed {
		if !w.comes(0, 1, 0) {
			t.Fatal("a message is not taken")
		}
	}
	list := w.notices()
	if len(list) != maxMissed {
		t.Fatalf("%d notices, wanted %d", len(list), maxMissed)
	}
	for i, m := range list {
		if m.More != (i == maxMissed-1) {
			t.Errorf("notice %d: more %v", i, m.More)
		}
	}
	w.clock = w.clock.Add(removalLife - time.Millisecond)
	for _, want := range []bool{true, false} {
		if err := w.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.comes(0, 1, 0); got != want {
			t.Errorf("after %v: %v", removalLife, got)
		}
		w.clock = w.clock.Add(time.Millisecond)
	}
}

// countedRemovals counts the records that are read.
type countedRemovals struct {
	store.Removals
	read int
}

// Between implements store.Removals.
func (c *countedRemovals) Between(ctx context.Context, id wire.ConversationID, first, last wire.Epoch) ([]store.Removal, error) {
	list, err := c.Removals.Between(ctx, id, first, last)
	c.read += len(list)
	return list, err
}

// TestMessageReadsFewRemovals checks that a message of a past epoch reads the removals that can have its key, and not
// all of a conversation in which a hostile member has removed and added a device again and again.
func TestMessageReadsFewRemovals(t *testing.T) {
	w := newRemovalWorld(t)
	const removals = 100
	w.entry(0, []wire.Token{{1}}, nil)
	for e := wire.Epoch(1); e <= 2*removals; e += 2 {
		w.entry(e, nil, []wire.Token{{1}})
		w.entry(e+1, []wire.Token{{1}}, nil)
	}
	counted := &countedRemovals{Removals: w.kept}
	w.kept = counted
	for _, e := range []wire.Epoch{0, removals, 2 * removals, math.MaxUint64} {
		counted.read = 0
		w.comes(e, 1, 0)
		if counted.read > 2*removalEpochs {
			t.Errorf("a message of epoch %d reads %d of %d removals", e, counted.read, removals)
		}
	}
}
