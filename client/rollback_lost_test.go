package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// withoutAcknowledgements runs what a device does in a process that ends before it has acknowledged anything of it.
func (p *peer) withoutAcknowledgements(do func()) {
	p.t.Helper()
	eventually(p.t, func() error { // a late receipt that was unread at the start still has to come before anything is sent
		return p.turn(p.t.Context(), func(*unit) error {
			if !p.compared.Load() || len(p.unread) > 0 {
				return fmt.Errorf("%s has %d streams with unread items", p.id, len(p.unread))
			}
			return nil
		})
	})
	p.w.mu.Lock()
	p.w.faults.mute[p.id] = true
	p.w.mu.Unlock()
	do()
	p.stop()
	p.w.mu.Lock()
	delete(p.w.faults.mute, p.id)
	p.w.mu.Unlock()
}

// TestOlderCopyWithoutAcknowledgements checks an older copy of which the node knows nothing, because the device ended
// before it acknowledged its own messages: they come back, the copy takes them in, and no key is used twice.
func TestOlderCopyWithoutAcknowledgements(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	want := []string{}
	for round := range 3 {
		acknowledged(a, id)
		a.stop()
		old := a.disk.copyOf(t)
		a.start()
		a.withoutAcknowledgements(func() {
			for n := range 2 {
				text := fmt.Sprint("used ", round, n)
				_, err := a.SendText(ctx, id, text)
				check(t, err)
				want = append(want, "alice: "+text)
				hasTexts(t, b, id, want...)
			}
		})
		a.disk.MemoryStore = old
		a.start()
		text := fmt.Sprint("after ", round)
		_, err := a.SendText(ctx, id, text)
		check(t, err)
		want = append(want, "alice: "+text)
		hasTexts(t, b, id, want...)
		hasTexts(t, c, id, want...)
		agree(t, id, a, b, c)
		got := a.texts(id)
		slices.Sort(got)
		if all := slices.Sorted(slices.Values(want)); !slices.Equal(got, all) {
			t.Errorf("alice has %q, want %q", got, all)
		}
		if n := len(a.events(EventRolledBack)); n != round+1 {
			t.Errorf("an older copy is reported %d times", n)
		}
	}
	for _, p := range []*peer{b, c} {
		if list := p.events(EventUnreadable); len(list) > 0 {
			t.Errorf("%s gets %v", p.id, list[0].Err)
		}
	}
}

// TestOlderCopyMeetsItsOwnCommit checks an older copy of a device that has made a commit since. The copy cannot follow
// that commit. It must not contest it: the members of the commit stay, and another member adds the device again.
func TestOlderCopyMeetsItsOwnCommit(t *testing.T) {
	for _, public := range []bool{false, true} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("public %v, acknowledged %v", public, known), func(t *testing.T) {
				w := newWorld(t, "a.example", "b.example", "c.example")
				a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
				ctx := t.Context()
				id, err := a.Create(ctx, CreateOptions{MembersRemove: true, PublicHandshakes: public})
				check(t, err)
				check(t, a.Add(ctx, id, bob))
				agree(t, id, a, b)
				acknowledged(a, id)
				a.stop()
				old := a.disk.copyOf(t)
				a.start()
				add := func() {
					check(t, a.Add(ctx, id, carol))
					agree(t, id, b, c)
				}
				if known {
					add()
					acknowledged(a, id)
					a.stop()
				} else {
					a.withoutAcknowledgements(add)
				}
				a.disk.MemoryStore = old
				a.start()
				_, err = a.SendText(ctx, id, "lost for now")
				if code := wire.CodeOf(err); err != nil && code != wire.Closed {
					t.Fatal(err)
				}
				inState(t, a, id, StateBroken)
				if n := len(a.events(EventPoison)); n > 0 {
					t.Errorf("the device calls its own commit bad: %v", a.events(EventPoison)[0].Err)
				}
				eventually(t, func() error {
					if len(a.events(EventRolledBack)) != 1 {
						return errors.New("the older copy is not reported")
					}
					return nil
				})
				a.restart() // a new process does not report it again
				check(t, b.Restore(ctx, id, a.id))
				agree(t, id, a, b, c)
				if older, gaps := len(a.events(EventRolledBack)), len(a.events(EventGap)); older != 1 || gaps > 1 {
					t.Errorf("after another start: %d older copies and %d gaps reported", older, gaps)
				}
				_, err = a.SendText(ctx, id, "on we go")
				check(t, err)
				hasTexts(t, c, id, "alice: on we go")
				agree(t, id, a, b, c)
			})
		}
	}
}

// TestOlderCopyOfAMembershipThatWasRead checks an older copy that holds the KeyPackage of a membership of which the
// device has read everything: no item is left that could show the membership.
func TestOlderCopyOfAMembershipThatWasRead(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	b.stop()
	old := b.disk.copyOf(t)
	b.start()
	id, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, b)
	acknowledged(b, id)
	b.stop()
	b.disk.MemoryStore = old
	b.start()
	eventually(t, func() error {
		if gaps := b.events(EventGap); len(gaps) != 1 || gaps[0].Conversation != id || len(b.events(EventRolledBack)) != 1 {
			return fmt.Errorf("bob gets the gaps %v and %d older copies", gaps, len(b.events(EventRolledBack)))
		}
		return nil
	})
	b.restart()
	check(t, a.Restore(ctx, id, b.id))
	agree(t, id, a, b)
	if n := len(b.events(EventRolledBack)); n != 1 {
		t.Errorf("after another start: %d older copies reported", n)
	}
	_, err = a.SendText(ctx, id, "again")
	check(t, err)
	hasTexts(t, b, id, "alice: again")
}

// TestOwnContentSentAgain checks that another member who encrypts contents of a device again, under keys that the device
// has not used, neither makes the device believe that its store is an older copy nor changes anything. The test encrypts
// with a copy of the device's keys: the result is the same.
func TestOwnContentSentAgain(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	ctx := t.Context()
	_, err := b.SendText(ctx, id, "first")
	check(t, err)
	hasTexts(t, a, id, "bob: first")
	text, err := a.SendText(ctx, id, "mine")
	check(t, err)
	m := b.message(id, text, saying("mine"))
	check(t, errorOf(a.React(ctx, a.message(id, text, nil), "+")))
	b.message(id, text, reactions("alice +"))
	receipt, err := EncodeContent(&Content{Type: ContentReceipt, ID: MessageID{9}, Refs: []MessageID{{8}}})
	check(t, err)
	acknowledged(a, id)
	var bodies [][]byte
	check(t, a.turn(ctx, func(u *unit) error {
		th, err := a.usableConversation(u, id)
		if err != nil {
			return err
		}
		u.put(messageIDKey(id, a.id, MessageID{9}), number(noPlace)) // as receipt does
		rec, _, err := th.messageAt(m.Number)
		bodies = [][]byte{rec.Content, receipt}
		return err
	}))
	client, err := mlscore.NewClient(mlscore.Config{
		Auth: mlscore.TrustBasic{}, Store: a.disk.copyOf(t), Now: a.opts.Clock.Now, Extensions: a.opts.extensions,
		Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
	})
	check(t, err)
	g, err := client.LoadGroup([]byte(id))
	check(t, err)
	for range 20 { // the keys that the device may use meanwhile, for receipts
		_, err := g.Protect([]byte{0}, mlscore.MessageOptions{DespiteProposals: true})
		check(t, err)
	}
	for _, body := range bodies {
		sealed, err := g.Protect(body, mlscore.MessageOptions{DespiteProposals: true})
		check(t, err)
		again := &wire.Message{Version: wire.MessageVersion, Conversation: id, Epoch: wire.Epoch(g.Epoch()), Content: sealed}
		again.ID, err = b.newSubmission()
		check(t, err)
		key, err := submissionKey(g)
		check(t, err)
		check(t, again.Sign(key))
		check(t, b.call(ctx, wire.MethodSubmit, again, nil))
	}
	_, err = b.SendText(ctx, id, "last")
	check(t, err)
	hasTexts(t, a, id, "bob: first", "alice: mine", "bob: last")
	if n := len(a.events(EventRolledBack)); n > 0 {
		t.Error("the store is taken for an older copy")
	}
	eventually(t, func() error {
		if n := len(a.events(EventUnreadable)); n != len(bodies) {
			return fmt.Errorf("%d repeats are reported, wanted %d", n, len(bodies))
		}
		return nil
	})
}

// TestRefusedCommitThatIsOrdered checks a leader that refuses a commit and orders it all the same: the committer loses
// that conversation alone, and does not believe that its store is an older copy.
func TestRefusedCommitThatIsOrdered(t *testing.T) {
	for _, public := range []bool{false, true} {
		t.Run(fmt.Sprintf("public %v", public), func(t *testing.T) {
			w, id, a, b, c := trio(t, CreateOptions{MembersRemove: true, PublicHandshakes: public})
			ctx := t.Context()
			other, err := a.Create(ctx, CreateOptions{Name: "other"})
			check(t, err)
			w.mu.Lock()
			w.faults.lag["a.example"] = true
			w.faults.refuse = func(m wire.Method) *wire.Error {
				if m == wire.MethodUpdate {
					return wire.Errorf(wire.Forged, "update", "a false refusal")
				}
				return nil
			}
			w.mu.Unlock()
			if err := a.UpdateKeys(ctx, id); wire.CodeOf(err) != wire.Forged {
				t.Fatalf("the refusal is %v", err)
			}
			w.mu.Lock()
			w.faults.refuse = nil
			w.mu.Unlock()
			w.catchUp("a.example")
			inState(t, a, id, StateBroken)
			check(t, b.Restore(ctx, id, a.id))
			agree(t, id, a, b, c)
			inState(t, a, other, StateActive)
			if n := len(a.events(EventRolledBack)); n > 0 {
				t.Errorf("an older copy is reported %d times", n)
			}
		})
	}
}
