package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/quota"
	"github.com/mlsfed/mlsfed/wire"
)

// handClock is a clock that a test moves.
type handClock struct{ at time.Time }

func (c *handClock) now() time.Time { return c.at }

// TestRates holds each limit at its edge: what the burst allows is taken, one more is refused and counted, another
// key is not concerned, and time gives back.
func TestRates(t *testing.T) {
	c := &handClock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	two := config.Rate{Burst: 2, PerMinute: 60}
	many := config.Rate{Burst: 1000, PerMinute: 60}
	create := func(d wire.DeviceID) func(*limits) error {
		return func(l *limits) error { return l.update(d, &wire.Envelope{Kind: wire.KindCreate}) }
	}
	commit := func(d wire.DeviceID, id wire.ConversationID) func(*limits) error {
		return func(l *limits) error { return l.update(d, &wire.Envelope{Kind: wire.KindCommit, Conversation: id}) }
	}
	brings := func(org wire.Domain, id wire.ConversationID) func(*limits) error {
		return func(l *limits) error { return l.Handshake(org, id) }
	}
	for name, test := range map[string]struct {
		rates      config.Rates
		take, also func(*limits) error // also shares take's limit; other does not
		other      func(*limits) error
	}{
		"conversations": {config.Rates{Conversations: two, Handshakes: many}, create(mallory), create(malloryTablet), create(bystander)},
		"device":        {config.Rates{Handshakes: two}, commit(mallory, "one"), commit(mallory, "two"), commit(malloryTablet, "one")},
		"conversation":  {config.Rates{ConversationHandshakes: two}, commit(mallory, "one"), commit(bystander, "one"), commit(mallory, "two")},
		"organization":  {config.Rates{OrganizationHandshakes: two}, brings("b.example", "one"), brings("b.example", "two"), brings("c.example", "one")},
		"organization_in_conversation": {config.Rates{ConversationHandshakes: two}, brings("b.example", "one"), brings("b.example", "one"),
			brings("b.example", "two")},
		"invitations": {config.Rates{Invitations: two}, func(l *limits) error { return l.Replica("b.example") }, func(l *limits) error { return l.Replica("b.example") },
			func(l *limits) error { return l.Replica("c.example") }},
		"codes": {config.Rates{Codes: two}, func(l *limits) error { return l.code(mallory.User()) }, func(l *limits) error { return l.code(malloryTablet.User()) },
			func(l *limits) error { return l.code(bystander.User()) }},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLimits(&test.rates, c.now)
			if err := errors.Join(test.take(l), test.also(l)); err != nil {
				t.Fatal(err)
			}
			wantCode(t, test.take(l), wire.Busy)
			if err := test.other(l); err != nil {
				t.Fatalf("another one's: %v", err)
			}
			c.at = c.at.Add(time.Second)
			if err := test.also(l); err != nil {
				t.Fatalf("a second later: %v", err)
			}
			wantCode(t, test.take(l), wire.Busy)
			if n := l.refusals()[name].Load(); n != 2 {
				t.Fatalf("%d refusals are counted, wanted 2", n)
			}
		})
	}
}

func testDB(t *testing.T) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{newFullDisk(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestFoundedConversations: a user's conversations count while the node holds them, and a day at least; they
// survive a restart, and a retry counts once.
func TestFoundedConversations(t *testing.T) {
	c := &handClock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	db, held := testDB(t), map[wire.ConversationID]bool{}
	open := func() *founded {
		f, err := openFounded(db, []byte("f"), 3, c.now)
		if err != nil {
			t.Fatal(err)
		}
		f.held = func() map[wire.ConversationID]bool { return held }
		return f
	}
	f := open()
	alice, bob := bystander.User(), mallory.User()
	claim := func(u wire.UserID, n int) error {
		return f.claim(u, wire.ConversationID(fmt.Sprintf("conversation-%d", n)))
	}
	for n := range 3 {
		if err := errors.Join(claim(bob, n), claim(bob, n)); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, claim(bob, 3), wire.Quota)
	if err := claim(alice, 4); err != nil {
		t.Fatalf("another user: %v", err)
	}
	if err := f.release("conversation-2"); err != nil {
		t.Fatal(err)
	}
	if err := claim(bob, 5); err != nil {
		t.Fatalf("when a claim was released: %v", err)
	}
	f = open()
	wantCode(t, claim(bob, 6), wire.Quota)
	held["conversation-0"] = true
	c.at = c.at.Add(foundedLife + time.Second)
	for n := 7; n < 9; n++ {
		if err := claim(bob, n); err != nil {
			t.Fatalf("a day later, with one held: %v", err)
		}
	}
	wantCode(t, claim(bob, 10), wire.Quota)
	if n := f.refusals(); n != 2 {
		t.Fatalf("%d refusals are counted, wanted 2", n)
	}
}

// TestDatabaseWaitsForRoom: a write of the database that finds the disk full, to the last byte, waits and is made
// when there is room. Without that, Pebble ends the process.
func TestDatabaseWaitsForRoom(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("NOT RUN: a small disk needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	full := newFullDisk(&quota.Folder{Path: dir, Reserve: 1 << 20})
	notes := make(chan bool, 64)
	full.serve(func(full bool) { notes <- full })
	db, err := pebble.Open(filepath.Join(dir, "db"), &pebble.Options{FS: full.wrap(vfs.Default), Logger: quiet{full}})
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 64<<10)
	for i := range value {
		value[i] = byte(i * i >> 3)
	}
	write := func(n int) error { return db.Set(fmt.Appendf(nil, "key %d", n), value, pebble.Sync) }
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	const writes = 40 // 2.5 MiB: more than what the log has preallocated
	done := make(chan error, 1)
	go func() {
		for n := 1; n <= writes; n++ {
			if err := write(n); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case waits := <-notes:
		if !waits {
			t.Fatal("a write goes on that did not wait")
		}
	case err := <-done:
		t.Fatalf("the writes ended with a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for n := range writes + 1 {
		_, closer, err := db.Get(fmt.Appendf(nil, "key %d", n))
		if err != nil {
			t.Fatalf("key %d: %v", n, err)
		}
		closer.Close()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(full)
}

// fill writes a file until the disk has not a byte left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size := 1 << 20; size >= 1; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				return errors.Join(err, f.Close())
			}
			size /= 16
		}
	}
	return f.Close()
}
