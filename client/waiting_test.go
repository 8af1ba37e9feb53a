package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// refuse makes the world refuse a method, until it is called again with no code.
func (w *world) refuse(method wire.Method, code wire.Code) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults.deny = nil
	if code != "" {
		w.faults.deny = func(m wire.Method) *wire.Error {
			if m == method {
				return wire.Errorf(code, string(m), "as the test wanted")
			}
			return nil
		}
	}
}

func TestCatchUp(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	b.stop()
	var want []string
	for i := range 100 {
		_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
		check(t, err)
		want = append(want, fmt.Sprint("alice: ", i))
		if i%40 == 0 {
			check(t, c.UpdateKeys(t.Context(), id))
		}
	}
	second, err := a.Create(t.Context(), CreateOptions{Name: "Second"})
	check(t, err)
	check(t, a.Add(t.Context(), second, bob))
	_, err = a.SendText(t.Context(), second, "Here too")
	check(t, err)
	hasTexts(t, c, id, want...)
	eventually(t, func() error {
		v, err := a.Conversation(t.Context(), second)
		if err == nil && v.Outgoing > 0 {
			err = errors.New("not sent")
		}
		return err
	})
	before, err := c.Conversation(t.Context(), id)
	check(t, err)
	b.restart()
	check(t, b.CatchUp(t.Context()))
	if got := b.texts(id); !slices.Equal(got, want) {
		t.Errorf("bob has caught up, and has %d of %d messages", len(got), len(want))
	}
	if got := b.texts(second); !slices.Equal(got, []string{"alice: Here too"}) {
		t.Errorf("bob has caught up, and has %q in a conversation to which he was added", got)
	}
	if v, err := b.Conversation(t.Context(), id); err != nil || v.Sequence < before.Sequence || v.Epoch != before.Epoch {
		t.Errorf("bob has caught up, and is at entry %d of epoch %d (%v)", v.Sequence, v.Epoch, err)
	}
	check(t, b.CatchUp(t.Context())) // nothing to wait for
	b.stop()
	w.timing = func(q *Timing) { q.Call = 10 * time.Millisecond }
	b.open()
	if err := b.CatchUp(t.Context()); !errors.Is(err, ErrOffline) {
		t.Errorf("without a connection: %v", err)
	}
	b.run()
}

// TestCatchUpWaitsForWhatIsMissing checks that CatchUp waits for entries that are missing between those that came.
func TestCatchUpWaitsForWhatIsMissing(t *testing.T) {
	w, id, a, b, _ := trio(t, CreateOptions{})
	w.refuse(wire.MethodEntries, wire.Unavailable)
	check(t, misses(b, id))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.CatchUp(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with an entry missing: %v", err)
	}
	w.refuse(wire.MethodEntries, "")
	check(t, a.UpdateKeys(t.Context(), id))
	check(t, b.CatchUp(t.Context()))
}

// TestRefusedForNowIsReported checks that work that is refused for now is reported with the reason, and continues when
// it can.
func TestRefusedForNowIsReported(t *testing.T) {
	for _, code := range []wire.Code{wire.NoQuorum, wire.Unavailable} {
		t.Run(string(code), func(t *testing.T) {
			w, id, a, b, _ := trio(t, CreateOptions{})
			w.refuse(wire.MethodUpdate, code)
			done := make(chan error, 1)
			go func() { done <- a.Rename(context.Background(), id, "Later") }()
			reported := func(p *peer) {
				t.Helper()
				eventually(t, func() error {
					list := p.events(EventDelayed)
					if len(list) == 0 {
						return errors.New("no event")
					}
					if e := list[0]; e.Conversation != id || wire.CodeOf(e.Err) != code || e.Retry <= 0 {
						t.Fatalf("the event has %v in %v, again after %v", e.Err, e.Conversation, e.Retry)
					}
					return nil
				})
			}
			reported(a)
			w.refuse(wire.MethodUpdate, "")
			check(t, <-done)
			w.refuse(wire.MethodSubmit, code)
			_, err := b.SendText(t.Context(), id, "x")
			check(t, err)
			reported(b)
			w.refuse(wire.MethodSubmit, "")
			hasTexts(t, a, id, "bob: x")
		})
	}
}

// TestConversationThatTheNodeDoesNotKnow checks that a device waits for a node that may come to know a conversation
// again, but not without end: then the user gets an event.
func TestConversationThatTheNodeDoesNotKnow(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Unknown = 300 * time.Millisecond }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	hide := func() {
		w.refuse(wire.MethodEntries, wire.UnknownConversation)
		check(t, misses(b, id))
	}
	hide()
	eventually(t, func() error {
		if len(b.events(EventDelayed)) == 0 {
			return errors.New("no event")
		}
		return nil
	})
	w.refuse(wire.MethodEntries, "")
	check(t, a.UpdateKeys(t.Context(), id))
	agree(t, id, a, b)
	check(t, b.turn(t.Context(), func(u *unit) error {
		th, err := b.knownConversation(u, id)
		if err == nil && th.rec.Line.Unknown != 0 {
			t.Error("the conversation is still counted as unknown")
		}
		return err
	}))
	hide()
	inState(t, b, id, StateBroken)
	if list := b.events(EventBroken); len(list) != 1 || wire.CodeOf(list[0].Err) != wire.UnknownConversation {
		t.Errorf("events %v", list)
	}
	w.refuse(wire.MethodEntries, "")
	check(t, a.Restore(t.Context(), id, b.id))
	agree(t, id, a, b)
}

// TestEnrolBringsKeyPackages checks that a device that has just enrolled can be added: its KeyPackages are uploaded
// when Enrol returns, without Run.
func TestEnrolBringsKeyPackages(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a := w.peer(alicePhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	b := &peer{t: t, w: w, id: bobPhone, disk: &disk{MemoryStore: newMemory(), left: -1}}
	b.open()
	w.mu.Lock()
	w.orgs["b.example"].codes["code"] = bob
	w.mu.Unlock()
	check(t, b.Enrol(t.Context(), Enrolment{Device: b.id, Code: "code"}))
	check(t, a.Add(t.Context(), id, bob))
	b.run()
	t.Cleanup(b.stop)
	agree(t, id, a, b)
}

// TestAddWaitsForKeyPackages checks that Add waits for a user without KeyPackages for a limited time.
func TestAddWaitsForKeyPackages(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	b.stop()
	w.mu.Lock()
	account := w.orgs["b.example"].devices[b.id]
	clear(account.packages)
	clear(account.last)
	w.mu.Unlock()
	if err := a.Add(t.Context(), id, bob); wire.CodeOf(err) != wire.NoneLeft {
		t.Fatalf("nobody brings any: %v", err)
	}
	a.stop()
	w.timing = func(q *Timing) { q.Claim = time.Minute }
	a.open()
	a.run()
	done := make(chan error, 1)
	go func() { done <- a.Add(context.Background(), id, bob) }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	b.restart()
	check(t, <-done)
	agree(t, id, a, b)
}

// TestAcceptedRootTakesEffectAtOnce checks that an accepted root takes effect at once: the device's new certificate
// comes with it.
func TestAcceptedRootTakesEffectAtOnce(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.timing = func(q *Timing) { q.Upkeep = time.Hour }
	w.mu.Lock()
	old := w.orgs["a.example"]
	next := w.addOrg("a.example")
	next.devices, next.tokens, next.serial = old.devices, old.tokens, 100
	account := next.devices[a.id]
	chain, err := next.certify(a.id, account.key)
	account.chain = chain
	w.mu.Unlock()
	check(t, err)
	a.restart()
	eventually(t, func() error {
		if len(a.events(EventTrust)) == 0 {
			return errors.New("no alarm")
		}
		return nil
	})
	holds := func() bool {
		held := false
		check(t, a.turn(t.Context(), func(*unit) error {
			held = slices.Equal(a.self.Chain[0], chain[0])
			return nil
		}))
		return held
	}
	if holds() {
		t.Error("a certificate of a root that nobody has accepted is believed")
	}
	for _, p := range []*peer{b, c} { // the others first: they have to process the commit
		p.queues.kick(queueUpkeep)
		eventually(t, func() error {
			if len(p.events(EventTrust)) == 0 {
				return errors.New("no alarm")
			}
			return nil
		})
		check(t, p.AcceptRoot(t.Context(), "a.example", hashOf(next.root.Raw)))
	}
	check(t, a.AcceptRoot(t.Context(), "a.example", hashOf(next.root.Raw)))
	eventually(t, func() error {
		if !holds() {
			return errors.New("the certificate has not come")
		}
		return nil
	})
	agree(t, id, a, b, c)
}

// TestAcceptedRootHasCommitsProcessedAgain checks that a commit that could not be processed because of an untrusted
// root is processed again once the root is trusted.
func TestAcceptedRootHasCommitsProcessedAgain(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	a.stop()
	w.timing = func(q *Timing) { q.Contest, q.Upkeep = time.Hour, time.Hour }
	a.open()
	a.run()
	fresh := func() *org {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.addOrg("d.example")
	}
	b.stop()
	c.stop()
	fresh()
	a.queues.kick(queueUpkeep) // alice pins the first root, bob and carol the second
	eventually(t, func() error {
		list, err := a.Organizations(t.Context())
		if err == nil && len(list) != 4 {
			err = fmt.Errorf("%d pinned", len(list))
		}
		return err
	})
	second := fresh()
	b.restart()
	c.restart()
	dave := w.peer("mimi://d.example/d/dave/phone").ready()
	check(t, b.Add(t.Context(), id, dave.id.User()))
	agree(t, id, b, c, dave)
	eventually(t, func() error {
		if len(a.events(EventPoison)) == 0 || len(a.events(EventTrust)) == 0 {
			return errors.New("alice can process it")
		}
		return nil
	})
	check(t, c.UpdateKeys(t.Context(), id))
	check(t, a.AcceptRoot(t.Context(), "d.example", hashOf(second.root.Raw)))
	agree(t, id, a, b, c, dave)
}

// TestMessagesOfEpochsThatEndedLongAgo checks a device that comes back and hears of commits before it gets the
// messages of the epochs that they ended. It requests missing entries from the log, while the stream waits for its
// turn. The messages are read, even after many commits.
func TestMessagesOfEpochsThatEndedLongAgo(t *testing.T) {
	for name, test := range map[string]struct {
		kept time.Duration
		most int
		want int // of 20 messages, one in each epoch
	}{
		"kept for a time": {0, 0, 20},
		"no more than so": {0, 8, 8},
		"by their number": {-1, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a.example", "b.example")
			w.limits.PastEpochs, w.limits.PastMost = 2, test.most
			w.timing = func(q *Timing) { q.PastTime = test.kept }
			a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
			id, err := a.Create(t.Context(), CreateOptions{})
			check(t, err)
			check(t, a.Add(t.Context(), id, bob))
			agree(t, id, a, b)
			b.stop()
			var want []string
			for i := range 20 {
				_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
				check(t, err)
				want = append(want, fmt.Sprint("alice: ", i))
				eventually(t, func() error { return nothingOut(a, id) })
				check(t, a.UpdateKeys(t.Context(), id))
			}
			now, err := a.Conversation(t.Context(), id)
			check(t, err)
			w.mute(bobPhone, true)
			b.restart()
			check(t, b.turn(t.Context(), func(u *unit) error { // as an answer would report it: bob requests the entries
				c, err := b.findConversation(u, id)
				if err != nil {
					return err
				}
				c.setBehind(now.Sequence, false)
				return c.save()
			}))
			eventually(t, func() error {
				v, err := b.Conversation(t.Context(), id)
				if err == nil && v.Epoch != now.Epoch {
					err = fmt.Errorf("bob is in epoch %d, alice in %d", v.Epoch, now.Epoch)
				}
				return err
			})
			w.mute(bobPhone, false)
			check(t, b.CatchUp(t.Context()))
			var got []string
			for _, text := range b.texts(id) {
				if strings.HasPrefix(text, "alice: ") {
					got = append(got, text)
				}
			}
			if !slices.Equal(got, want[20-test.want:]) {
				t.Errorf("bob has %q, wanted the last %d of 20", got, test.want)
			}
			eventually(t, func() error { // an event reports each of the other messages
				if lost := len(b.events(EventUnreadable)); lost != 20-test.want {
					return fmt.Errorf("%d messages that cannot be read reported to bob, wanted %d", lost, 20-test.want)
				}
				return nil
			})
		})
	}
}

// nothingOut returns an error unless the node has all messages of a device.
func nothingOut(p *peer, id wire.ConversationID) error {
	v, err := p.Conversation(context.Background(), id)
	if err == nil && v.Outgoing > 0 {
		err = fmt.Errorf("%s has %d messages that are not sent", p.id, v.Outgoing)
	}
	return err
}

// mute stops or resumes the pushes to a device.
func (w *world) mute(id wire.DeviceID, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults.mute[id] = on
	if a := w.orgs[id.Organization()].devices[id]; !on {
		w.pump(a)
	}
}

// misses makes a device know of an entry that it does not have.
func misses(p *peer, id wire.ConversationID) error {
	return p.turn(context.Background(), func(u *unit) error {
		th, err := p.usableConversation(u, id)
		if err != nil {
			return err
		}
		th.setBehind(th.rec.Position.Last+1, false)
		return th.save()
	})
}
