package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// goOn makes commits, each with a message after it, and returns the texts.
func goOn(t *testing.T, p *peer, id wire.ConversationID, count int) (texts []string) {
	t.Helper()
	for i := range count {
		check(t, p.UpdateKeys(t.Context(), id))
		text := fmt.Sprintf("after commit %d", i+1)
		_, err := p.SendText(t.Context(), id, text)
		check(t, err)
		texts = append(texts, "alice: "+text)
	}
	return texts
}

// whole waits until a device has all texts in their order, and fails if the device reported a gap.
func whole(t *testing.T, p *peer, id wire.ConversationID, texts []string) {
	t.Helper()
	eventually(t, func() error {
		if got := p.texts(id); !slices.Equal(got, texts) {
			c, err := p.Conversation(t.Context(), id)
			if err != nil {
				return err
			}
			return fmt.Errorf("%d of %d texts, %v %s", len(got), len(texts), c.State, c.Why)
		}
		return nil
	})
	for _, kind := range []EventType{EventGap, EventBroken, EventUnreadable} {
		if events := p.events(kind); len(events) > 0 {
			t.Errorf("%v: %v", kind, events[0].Err)
		}
	}
}

// TestAddedWhileAway checks a device that was added by a Welcome in a blob, and comes back when the log has long
// forgotten the entry after it: it follows with the items in its mailbox. While the Welcome cannot be fetched, the
// device reports that.
func TestAddedWhileAway(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Inline, w.limits.Receipts, w.keep = 1000, -1, 4
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	b.stop()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	texts := goOn(t, a, id, 30)
	w.refuse(wire.MethodDownload, wire.Unavailable)
	b.restart()
	eventually(t, func() error {
		c, err := b.Conversation(t.Context(), id)
		if err == nil && (c.State != StateJoining || !strings.Contains(c.Why, "Welcome")) {
			err = fmt.Errorf("%v: %q", c.State, c.Why)
		}
		return err
	})
	texts = append(texts, goOn(t, a, id, 10)...)
	w.refuse(wire.MethodDownload, "")
	whole(t, b, id, texts)
	agree(t, id, a, b)
	if c, err := b.Conversation(t.Context(), id); err != nil || c.Why != "" {
		t.Errorf("%q is left of the time before, %v", c.Why, err)
	}
}

// TestWelcomeThatIsGone checks that a device whose Welcome nobody has any more stops waiting.
func TestWelcomeThatIsGone(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Inline = 1000
	w.timing = func(q *Timing) { q.Unknown = 100 * time.Millisecond }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	b.stop()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	w.mu.Lock()
	clear(w.blobs)
	w.mu.Unlock()
	b.restart()
	inState(t, b, id, StateBroken)
	if c, err := b.Conversation(t.Context(), id); err != nil || !strings.Contains(c.Why, "no longer kept") {
		t.Errorf("%v: %q", err, c.Why)
	}
}

// TestJoinOfAnUnknownConversation checks that a device whose node forgot the conversation during a join stops waiting,
// and does not begin the same join again.
func TestJoinOfAnUnknownConversation(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Inline = 1000
	w.timing = func(q *Timing) { q.Unknown = 100 * time.Millisecond }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	b.stop()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	w.refuse(wire.MethodDownload, wire.UnknownConversation)
	b.start()
	eventually(t, func() error {
		if len(b.events(EventBroken)) == 0 {
			return errors.New("the device still waits")
		}
		return nil
	})
	check(t, b.turn(t.Context(), func(u *unit) error {
		c, err := b.findConversation(u, id)
		if err == nil && c.rec.State != StateBroken {
			t.Errorf("after the event the device is %v", c.rec.State)
		}
		return err
	}))
}

// TestAwayForManyCommits checks a device that was away for more commits than the log keeps: it follows with its
// mailbox, also if it wants to commit at once, and so learns of the newest entry before it has the next one.
func TestAwayForManyCommits(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Receipts, w.keep = -1, 4
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	b.stop()
	texts := goOn(t, a, id, 60)
	w.mu.Lock()
	w.faults.mute = map[wire.DeviceID]bool{b.id: true}
	asked := make(chan struct{}, 64)
	w.faults.before = func(by wire.DeviceID, m wire.Method) {
		if by == b.id && m == wire.MethodEntries {
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}
	w.mu.Unlock()
	b.restart()
	check(t, b.turn(t.Context(), func(u *unit) error { // as an answer would report it, before anything is pushed
		c, err := b.findConversation(u, id)
		if err != nil {
			return err
		}
		c.setBehind(c.rec.Position.Last+30, false)
		return c.save()
	}))
	<-asked
	<-asked // the first request was answered
	w.mu.Lock()
	clear(w.faults.mute)
	w.faults.before = nil
	w.pump(w.orgs["b.example"].devices[b.id])
	w.mu.Unlock()
	whole(t, b, id, texts)
	agree(t, id, a, b)
}
