package client

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// copyOf is what a disk holds now.
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

// TestOlderCopyMakesNewKeys: what is sent after an older copy of the store was put back arrives everywhere, and the user
// is told.
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
	// It goes on as it was before, also after another start.
	a.restart()
	_, err = a.SendText(ctx, id, "later")
	check(t, err)
	hasTexts(t, b, id, "alice: before", "alice: used 0", "alice: used 1", "alice: used 2", "alice: after", "alice: later")
	if got := len(a.events(EventRolledBack)); got != 1 {
		t.Errorf("told %d times", got)
	}
	_ = w
}

// TestCopyFromBeforeAnyConversation: it holds no state of a group, and KeyPackages that were used since. The user is told
// for each conversation, and others can add the device again: the directory gives out none of the KeyPackages that are lost.
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
	for range 8 { // until the directory has none of the KeyPackages that the older copy has
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
	_, err = b.SendText(ctx, added, "unread") // what is not acknowledged shows that something is missing before it
	check(t, err)
	eventually(t, func() error {
		told := make(map[wire.ConversationID]int)
		for _, e := range a.events(EventGap) {
			told[e.Conversation]++
		}
		if told[made] != 1 || told[added] != 1 || len(a.events(EventRolledBack)) != 1 {
			return fmt.Errorf("told of gaps in %v, of an older copy %d times", told, len(a.events(EventRolledBack)))
		}
		return nil
	})
	eventually(t, func() error { // the directory has forgotten the KeyPackages of before
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

// TestKeyUsedTwiceIsSaid: a device of an earlier build sends under used keys. A receiver that drops such a message
// reports it.
func TestKeyUsedTwiceIsSaid(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	ctx := t.Context()
	a.stop()
	old := a.disk.copyOf(t)
	a.start()
	_, err := a.SendText(ctx, id, "used")
	check(t, err)
	hasTexts(t, b, id, "alice: used")
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
