package client

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// copyOf returns a copy of the present contents of a disk.
func (d *disk) copyOf(t testing.TB) *mlscore.MemoryStore {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	to := mlscore.NewMemoryStore()
	var b mlscore.Batch
	check(t, d.Scan(nil, func(key, value []byte) error {
		b.Writes = append(b.Writes, mlscore.Write{Key: append([]byte{}, key...), Value: append([]byte{}, value...)})
		return nil
	}))
	check(t, to.Apply(b))
	return to
}

// acknowledged waits until the node knows that a device has all of a conversation's stream.
func acknowledged(p *peer, id wire.ConversationID) {
	p.t.Helper()
	eventually(p.t, func() error {
		var token wire.Token
		err := p.turn(p.t.Context(), func(u *unit) error {
			t, err := p.findConversation(u, id)
			if err == nil {
				token = t.rec.Token
			}
			return err
		})
		if err != nil {
			return err
		}
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		st := p.w.convs[id].streams[p.id.Organization()]
		if r := st.readers[token]; r.acked < uint64(len(st.items)) {
			return fmt.Errorf("%s has acknowledged %d of %d items", p.id, r.acked, len(st.items))
		}
		return nil
	})
}

// TestOlderCopyMakesNewKeys checks that messages sent after an older copy of the store was restored arrive
// everywhere, and that the user gets an event.
func TestOlderCopyMakesNewKeys(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	_, err := a.SendText(ctx, id, "before")
	check(t, err)
	hasTexts(t, b, id, "alice: before")
	a.stop()
	old := a.disk.copyOf(t)
	a.start()
	for n := range 3 {
		_, err := a.SendText(ctx, id, fmt.Sprint("used ", n))
		check(t, err)
	}
	hasTexts(t, b, id, "alice: before", "alice: used 0", "alice: used 1", "alice: used 2")
	hasTexts(t, c, id, "alice: before", "alice: used 0", "alice: used 1", "alice: used 2")
	acknowledged(a, id)
	a.stop()
	a.disk.MemoryStore = old
	a.start()
	_, err = a.SendText(ctx, id, "after")
	check(t, err)
	for _, p := range []*peer{b, c} {
		hasTexts(t, p, id, "alice: before", "alice: used 0", "alice: used 1", "alice: used 2", "alice: after")
	}
	agree(t, id, a, b, c)
	for what, n := range map[EventType]int{EventRolledBack: 1, EventGap: 1} {
		if got := len(a.events(what)); got != n {
			t.Errorf("%v: %d times", what, got)
		}
	}
	// The device continues as before, also after another start.
	a.restart()
	_, err = a.SendText(ctx, id, "later")
	check(t, err)
	hasTexts(t, b, id, "alice: before", "alice: used 0", "alice: used 1", "alice: used 2", "alice: after", "alice: later")
	if got := len(a.events(EventRolledBack)); got != 1 {
		t.Errorf("%d events", got)
	}
	_ = w
}

// TestCopyFromBeforeAnyConversation checks a copy that holds no state of a group, and KeyPackages that have been used
// since. The user gets an event for each conversation, and others can add the device again: the directory hands out
// none of the lost KeyPackages.
func TestCopyFromBeforeAnyConversation(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.features = wire.NewFeatures(wire.FeatureDiscard)
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	a.stop()
	old := a.disk.copyOf(t)
	a.start()
	made, err := a.Create(ctx, CreateOptions{Name: "Lunch"})
	check(t, err)
	check(t, a.Add(ctx, made, bob))
	agree(t, made, a, b)
	added, err := b.Create(ctx, CreateOptions{Name: "Dinner"})
	check(t, err)
	check(t, b.Add(ctx, added, a.id.User()))
	agree(t, added, a, b)
	for range 8 { // until the directory has none of the KeyPackages of the older copy
		check(t, b.Restore(ctx, added, a.id))
		agree(t, added, a, b)
	}
	a.ready()
	for _, id := range []wire.ConversationID{made, added} {
		_, err = b.SendText(ctx, id, "before")
		check(t, err)
		hasTexts(t, a, id, "bob: before")
	}
	a.stop()
	a.disk.MemoryStore = old
	a.start()
	_, err = b.SendText(ctx, added, "unread") // an unacknowledged item shows that items before it are missing
	check(t, err)
	eventually(t, func() error {
		reported := make(map[wire.ConversationID]int)
		for _, e := range a.events(EventGap) {
			reported[e.Conversation]++
		}
		if reported[made] != 1 || reported[added] != 1 || len(a.events(EventRolledBack)) != 1 {
			return fmt.Errorf("gaps reported in %v, an older copy %d times", reported, len(a.events(EventRolledBack)))
		}
		return nil
	})
	eventually(t, func() error { // the directory has forgotten the earlier KeyPackages
		return a.turn(ctx, func(u *unit) error {
			waits, err := u.getRecord(recordKey(recordStalePackages), new(staleRecord))
			if waits {
				err = errors.New("KeyPackages are not discarded yet")
			}
			return err
		})
	})
	a.ready()
	for n := range 8 {
		check(t, b.Restore(ctx, added, a.id))
		_, err = b.SendText(ctx, added, fmt.Sprint("again ", n))
		check(t, err)
		agree(t, added, a, b)
	}
	eventually(t, func() error {
		if got := a.texts(added); len(got) == 0 || got[len(got)-1] != "bob: again 7" {
			return fmt.Errorf("alice has %q", got)
		}
		return nil
	})
}

// TestKeyUsedTwiceIsSaid checks that a receiver that drops a message under a used key, from a device of an earlier
// build, reports it.
func TestKeyUsedTwiceIsSaid(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	ctx := t.Context()
	a.stop()
	old := a.disk.copyOf(t)
	a.start()
	_, err := a.SendText(ctx, id, "used")
	check(t, err)
	hasTexts(t, b, id, "alice: used")
	acknowledged(a, id) // otherwise the message comes again, and shows that the store is older
	a.stop()
	a.disk.MemoryStore = old
	a.careless = true
	a.start()
	_, err = a.SendText(ctx, id, "dropped")
	check(t, err)
	eventually(t, func() error {
		for _, e := range b.events(EventUnreadable) {
			if errors.Is(e.Err, mlscore.ErrReplay) && e.Conversation == id {
				return nil
			}
		}
		return errors.New("bob says nothing")
	})
}

// TestRepeatedCiphertextIsNoOlderCopy checks that a ciphertext which somebody delivers again, as another message, does
// not accuse the device that made it.
func TestRepeatedCiphertextIsNoOlderCopy(t *testing.T) {
	w, id, a, b, _ := trio(t, CreateOptions{})
	_, err := a.SendText(t.Context(), id, "once")
	check(t, err)
	hasTexts(t, b, id, "alice: once")
	w.mu.Lock()
	s, o := w.stream(w.convs[id], "b.example"), w.orgs["b.example"]
	last := s.items[len(s.items)-1]
	m := new(wire.Message)
	check(t, wire.Decode(last.payload, wire.MaxSessionFrame, m))
	m.ID[0] ^= 1
	payload, err := wire.Encode(m)
	check(t, err)
	s.append(item{kind: wire.ItemMessage, id: m.ID, payload: payload})
	w.pumpAll(s, o)
	w.mu.Unlock()
	_, err = a.SendText(t.Context(), id, "later")
	check(t, err)
	hasTexts(t, b, id, "alice: once", "alice: later")
	if list := b.events(EventUnreadable); len(list) > 0 {
		t.Errorf("bob gets %v", list[0].Err)
	}
}

// TestRepeatsAreBounded checks that the oldest ciphertext is forgotten when one more than maxRepeats is remembered.
func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	for i := range maxRepeats + 1 {
		r.add(fmt.Append(nil, i))
		r.add(fmt.Append(nil, i))
	}
	if r.has([]byte("0")) || !r.has([]byte("1")) || !r.has(fmt.Append(nil, maxRepeats)) || len(r.known) != maxRepeats {
		t.Errorf("%d ciphertexts are remembered, the first of them: %v", len(r.known), r.has([]byte("0")))
	}
}
