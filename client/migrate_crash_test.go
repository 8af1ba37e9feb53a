package client

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// TestMigrateCrashAtEveryWrite kills the founder, or another member, at its n-th write from the start of a migration
// on, before or after the write was made, and restarts it. It checks that the conversation is never lost and never
// split: all devices end in one epoch of one group, of the old suite or of the new one, with all sent messages.
func TestMigrateCrashAtEveryWrite(t *testing.T) {
	step := 5
	if os.Getenv("MLSFED_LONG") != "" {
		step = 1
	}
	t.Logf("every %d. write; MLSFED_LONG=short tries each", step)
	for who, name := range []string{"founder", "member"} {
		for _, after := range []bool{false, true} {
			for n := 0; n < 400; n += step {
				crashed := false
				t.Run(fmt.Sprintf("%s, write %d, made %v", name, n, after), func(t *testing.T) { crashed = migrateAndCrash(t, who, n, after) })
				if !crashed || t.Failed() {
					break
				}
			}
		}
	}
}

func migrateAndCrash(t *testing.T, who, n int, after bool) (crashed bool) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready().movable(), w.peer(bobPhone).ready().movable()
	ctx := t.Context()
	id, err := a.Create(ctx, CreateOptions{Name: "crash"})
	check(t, err)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, b)
	var sent []string
	send := func(p *peer, text string) {
		if _, err := p.SendText(ctx, id, text); err == nil {
			sent = append(sent, p.id.User().Name()+": "+text)
		}
	}
	victim := []*peer{a, b}[who]
	victim.disk.mu.Lock()
	victim.disk.left, victim.disk.after = n, after
	victim.disk.mu.Unlock()
	brief, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
	defer cancel()
	send(b, "one")
	_, migrated := a.Migrate(brief, id, MigrateOptions{Suite: hybrid})
	send(a, "two")
	send(b, "three")
	victim.disk.mu.Lock()
	crashed = victim.disk.dead
	victim.disk.mu.Unlock()
	victim.restart()
	var suites []string
	eventually(t, func() error {
		suites = nil
		for _, p := range []*peer{a, b} {
			all, err := p.Conversations(ctx)
			if err != nil {
				return err
			}
			if len(all) != 1 || all[0].State != StateActive || all[0].Outgoing > 0 {
				return fmt.Errorf("%s has %+v", p.id, all)
			}
			suites = append(suites, fmt.Sprint(all[0].ID, all[0].Suite, all[0].Epoch, all[0].Authenticator))
		}
		if suites[0] != suites[1] {
			return fmt.Errorf("alice is in %s, bob in %s", suites[0], suites[1])
		}
		return nil
	})
	if migrated == nil {
		inSuite(t, id, hybrid, a, b)
	}
	send(b, "four")
	eventually(t, func() error {
		var all []string
		for _, p := range []*peer{a, b} {
			got := slices.Sorted(slices.Values(p.texts(id)))
			if len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Fatalf("%s has something twice: %q", p.id, got)
			}
			for _, s := range sent {
				if !slices.Contains(got, s) {
					return fmt.Errorf("%s has %q, sent was %q", p.id, got, sent)
				}
			}
			if all == nil {
				all = got
			}
			if !slices.Equal(got, all) { // messages that the write before the crash has saved count as sent
				return fmt.Errorf("alice has %q, bob %q", all, got)
			}
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	open := 0
	for _, c := range w.convs {
		if !c.closed {
			open++
		}
	}
	if open > 2 {
		t.Errorf("%d conversations are open", open)
	}
	return crashed
}
