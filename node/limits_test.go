package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/wire"
)

// handClock is a clock that a test moves.
type handClock struct{ at time.Time }

func (c *handClock) now() time.Time { return c.at }

// TestRates checks each limit at its edge: the burst is accepted, one more is refused and counted, another key is not
// affected, and the rate recovers with time.
func TestRates(t *testing.T) {
	c := &handClock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	two := config.Rate{Burst: 2, PerMinute: 60}
	many := config.Rate{Burst: 1000, PerMinute: 60}
	create := func(d wire.DeviceID) func(*limits) error {
		return func(l *limits) error { return l.update(d, &wire.Envelope{Kind: wire.KindCreate}) }
	}
	commit := func(d wire.DeviceID, id wire.ConversationID) func(*limits) error {
		return func(l *limits) error {
			e := &wire.Envelope{Kind: wire.KindCommit, Conversation: id}
			if err := l.update(d, e); err != nil {
				return err
			}
			l.ordered(e)
			return nil
		}
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
		"calls": {config.Rates{Calls: two}, func(l *limits) error { return l.call("download", mallory.User()) },
			func(l *limits) error { return l.call("revocations", malloryTablet.User()) },
			func(l *limits) error { return l.call("download", bystander.User()) }},
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

// TestFoundedConversations checks that a user's conversations count while the node holds them, and for at least a
// day. The counts survive a restart, and a retry counts once.
func TestFoundedConversations(t *testing.T) {
	c := &handClock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	kept, held := memoryStore(t).Founders(), map[wire.ConversationID]bool{}
	open := func() *founded {
		f, err := openFounded(t.Context(), kept, 3, c.now, func() []wire.ConversationID { return slices.Collect(maps.Keys(held)) })
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open()
	alice, bob := bystander.User(), mallory.User()
	claim := func(u wire.UserID, n int) error {
		return f.claim(t.Context(), u, wire.ConversationID(fmt.Sprintf("conversation-%d", n)))
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
	if err := f.release(t.Context(), "conversation-2"); err != nil {
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
