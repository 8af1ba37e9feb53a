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

// TestCrashAtEveryWrite lets the process of the one who does everything die at its n-th write, before or
// after the write was made, for each n. What it had taken is done after a restart, once.
func TestCrashAtEveryWrite(t *testing.T) {
	step := 4
	if os.Getenv("MLSFED_LONG") != "" {
		step = 1
	}
	t.Logf("every %d. write; MLSFED_LONG=short tries each", step)
	for _, after := range []bool{false, true} {
		for n := 0; ; n += step {
			crashed := false
			t.Run(fmt.Sprintf("write %d, made %v", n, after), func(t *testing.T) { crashed = crashAt(t, n, after) })
			if !crashed || t.Failed() {
				break
			}
		}
	}
}

func crashAt(t *testing.T, n int, after bool) (crashed bool) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	brief := func() context.Context {
		c, cancel := context.WithTimeout(ctx, 150*time.Millisecond)
		t.Cleanup(cancel)
		return c
	}
	a.disk.mu.Lock()
	a.disk.left, a.disk.after = n, after
	a.disk.mu.Unlock()

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
	a.disk.mu.Lock()
	crashed = a.disk.dead
	a.disk.mu.Unlock()
	a.restart()
	if id == "" { // it was never stored, or nobody knows its id: whatever there is can be used
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
