package client

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestCrashAtEveryWrite kills the process of the acting device at its n-th write, before or after the write was made,
// for each n. It checks that each call that had been taken in takes effect exactly once after a restart.
func TestCrashAtEveryWrite(t *testing.T) {
	step := 4
	if os.Getenv("MLSFED_LONG") != "" {
		step = 1
	}
	t.Logf("every %d. write; MLSFED_LONG=short tries each", step)
	for _, c := range []crash{{"not made", false, false}, {"made", true, false}, {"made, power cut", true, true}} {
		for n := 0; ; n += step {
			crashed := false
			t.Run(fmt.Sprintf("write %d, %s", n, c.name), func(t *testing.T) { crashed = crashAt(t, n, c) })
			if !crashed || t.Failed() {
				break
			}
		}
	}
}

// crash is the way in which a process dies at a write.
type crash struct {
	name       string
	after, cut bool // as in disk
}

// at sets the write at which a device dies.
func (d *disk) at(n int, c crash) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.after, d.cut = n, c.after, c.cut
}

func (d *disk) crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// TestCrashWhileReceiving kills the process of the receiving device at its n-th write. It checks that each message
// comes once, in its order, to the history and to the application, and that both sides find that the message has
// arrived.
func TestCrashWhileReceiving(t *testing.T) {
	step := 3
	if os.Getenv("MLSFED_LONG") != "" {
		step = 1
	}
	for _, c := range []crash{{"not made", false, false}, {"made", true, false}, {"made, power cut", true, true}} {
		for n := 0; ; n += step {
			crashed := false
			t.Run(fmt.Sprintf("write %d, %s", n, c.name), func(t *testing.T) { crashed = crashReceiving(t, n, c) })
			if !crashed || t.Failed() {
				break
			}
		}
	}
}

func crashReceiving(t *testing.T, n int, c crash) (crashed bool) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	id, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, b)
	b.disk.at(n, c)
	var want []string
	for i := range 12 {
		text := fmt.Sprint("text ", i)
		_, err := a.SendText(ctx, id, text)
		check(t, err)
		want = append(want, "alice: "+text)
		if i%4 == 3 { // so that not all of them come with one write
			eventually(t, func() error {
				if got := b.texts(id); !b.disk.crashed() && len(got) < len(want) {
					return fmt.Errorf("bob has %q", got)
				}
				return nil
			})
		}
	}
	_, _ = b.SendText(ctx, id, "and back")
	crashed = b.disk.crashed()
	b.restart()
	eventually(t, func() error {
		got := slices.DeleteFunc(b.texts(id), func(s string) bool { return s == "bob: and back" })
		if !slices.Equal(got, want) {
			return fmt.Errorf("bob has %q", got)
		}
		c, err := a.Conversation(ctx, id)
		if err == nil && c.Outgoing > 0 {
			err = fmt.Errorf("alice has %d to send", c.Outgoing)
		}
		return err
	})
	seen := make(map[MessageID]bool)
	for _, e := range b.events(EventMessage) {
		if seen[e.Message.ID] {
			t.Errorf("the application is shown %q twice", e.Message.Content.Text)
		}
		seen[e.Message.ID] = true
	}
	for _, p := range []*peer{a, b} {
		if bad := p.events(EventUnreadable); len(bad) > 0 {
			t.Errorf("%s: %v", p.id, bad[0].Err)
		}
	}
	return crashed
}

// TestTransactionsOfMessages counts the batches about messages for which a device waits. It expects one for each sent
// message, and fewer than the number of received messages if several wait.
func TestTransactionsOfMessages(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Upkeep = time.Hour }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	id, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, b)
	const count = 40
	b.stop()
	before, accepted := a.disk.waited.Load(), len(a.events(EventAccepted))
	for i := range count {
		_, err := a.SendText(ctx, id, fmt.Sprint(i))
		check(t, err)
	}
	eventually(t, func() error {
		if n := len(a.events(EventAccepted)) - accepted; n < count {
			return fmt.Errorf("%d accepted", n)
		}
		return nil
	})
	if n := a.disk.waited.Load() - before; n != count {
		t.Errorf("%d transactions for %d messages sent", n, count)
	}
	before = b.disk.waited.Load()
	b.start()
	eventually(t, func() error {
		if n := len(a.events(EventDelivered)); n < count {
			return fmt.Errorf("%d delivered", n)
		}
		return nil
	})
	if n := b.disk.waited.Load() - before; n >= count {
		t.Errorf("%d transactions for %d messages received, with the receipts", n, count)
	}
}

func crashAt(t *testing.T, n int, c crash) (crashed bool) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	brief := func() context.Context {
		c, cancel := context.WithTimeout(ctx, 150*time.Millisecond)
		t.Cleanup(cancel)
		return c
	}
	a.disk.at(n, c)

	id, err := a.Create(brief(), CreateOptions{Name: "crash"})
	var sent []string
	send := func(p *peer, text string) {
		if _, err := p.SendText(ctx, id, text); err == nil {
			sent = append(sent, p.id.User().Name()+": "+text)
		}
	}
	if id != "" {
		send(a, "one")
		_ = a.Add(brief(), id, bob)
		send(a, "two")
		_ = a.UpdateKeys(brief(), id)
		send(a, "three")
	}
	_ = err
	crashed = a.disk.crashed()
	a.restart()
	if id == "" { // it was never stored, or nobody knows its id: any stored conversation is usable
		list, err := a.Conversations(ctx)
		check(t, err)
		if len(list) == 0 {
			return crashed
		}
		id = list[0].ID
	}
	if _, err := a.Conversation(ctx, id); wire.CodeOf(err) == wire.UnknownConversation {
		return crashed
	}
	inState(t, a, id, StateActive)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, b)
	send(a, "four")
	eventually(t, func() error {
		got := a.texts(id)
		for _, s := range sent {
			if !slices.Contains(got, s) {
				return fmt.Errorf("alice has forgotten %q: %q", s, got)
			}
		}
		theirs := b.texts(id)
		tail := got[len(got)-min(len(got), len(theirs)):]
		if len(theirs) == 0 || !slices.Equal(theirs, tail) {
			return fmt.Errorf("bob has %q, alice %q", theirs, got)
		}
		c, err := a.Conversation(ctx, id)
		if err == nil && c.Outgoing > 0 {
			err = fmt.Errorf("%d to send", c.Outgoing)
		}
		return err
	})
	return crashed
}
