package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// forge makes a member submit a commit for the present epoch that the test has tampered with.
func (p *peer) forge(id wire.ConversationID, tamper func(*wire.Envelope)) *wire.Receipt {
	p.t.Helper()
	var env *wire.Envelope
	err := p.turn(context.Background(), func(u *unit) error {
		t, err := p.usableConversation(u, id)
		if err != nil {
			return err
		}
		made, delivery, err := t.commit(&change{})
		if err != nil {
			return err
		}
		key, err := submissionKey(made.Staged)
		if err != nil {
			return err
		}
		env = t.envelope(wire.KindCommit)
		env.Commit = &wire.CommitBundle{Commit: made.Message, Key: publicKey(key), Delivery: delivery}
		tamper(env)
		sign, err := submissionKey(t.group)
		if err != nil {
			return err
		}
		if env.Submission, err = p.newSubmission(); err != nil {
			return err
		}
		if err := env.Sign(sign); err != nil {
			return err
		}
		return t.group.Abandon()
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	r, err := p.w.submit(env)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// TestPoisonCommitBricksNothing checks a member that wins an epoch with a commit that nobody can process: the others
// continue, and so do their pending changes.
func TestPoisonCommitBricksNothing(t *testing.T) {
	for name, tamper := range map[string]func(*wire.Envelope){
		"broken ciphertext": func(e *wire.Envelope) { e.Commit.Commit[len(e.Commit.Commit)-1]++ },
		"another key":       func(e *wire.Envelope) { e.Commit.Key[0]++ },
		"another delivery": func(e *wire.Envelope) {
			e.Commit.Delivery.Add = []wire.Address{{Organization: "b.example", Token: wire.Token{1}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, id, a, b, c := trio(t, CreateOptions{})
			_, err := a.SendText(t.Context(), id, "before")
			check(t, err)
			hasTexts(t, b, id, "alice: before")
			c.forge(id, tamper)
			check(t, a.Rename(t.Context(), id, "after"))
			agree(t, id, a, b, c) // carol's device is honest again
			_, err = b.SendText(t.Context(), id, "on we go")
			check(t, err)
			hasTexts(t, a, id, "alice: before", "bob: on we go")
			hasTexts(t, c, id, "alice: before", "bob: on we go")
			for _, p := range []*peer{a, b, c} {
				eventually(t, func() error {
					if len(p.events(EventPoison)) == 0 {
						return fmt.Errorf("%s got no event", p.id)
					}
					return nil
				})
			}
		})
	}
}

// TestChainOfPoisonBricksNothing checks chains of several lengths of commits that nobody else can process: members
// contest the first commit automatically, also after they were away, and continue in one epoch.
func TestChainOfPoisonBricksNothing(t *testing.T) {
	for name, v := range map[string]struct {
		length  int
		removes bool // the first commit removes all others from the delivery list
	}{"two": {length: 2}, "three": {length: 3}, "forty": {length: 40}, "two, the others removed": {length: 2, removes: true}} {
		t.Run(name, func(t *testing.T) {
			length := v.length
			w, id, a, b, c := trio(t, CreateOptions{})
			_, err := a.SendText(t.Context(), id, "before")
			check(t, err)
			hasTexts(t, b, id, "alice: before")
			b.stop() // away
			seed := make([]byte, ed25519.SeedSize)
			seed[0] = 7
			key := ed25519.NewKeyFromSeed(seed)
			message := c.emptyCommit(id)
			w.mu.Lock()
			w.strict = true
			others := slices.DeleteFunc(w.convs[id].delivery(), func(at wire.Address) bool { return at.Organization == c.id.Organization() })
			w.mu.Unlock()
			r := c.forge(id, func(e *wire.Envelope) {
				if e.Commit.Key = publicKey(key); v.removes {
					e.Commit.Delivery.Remove = others
				}
			})
			for n := range length - 1 {
				e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: id, Submission: wire.SubmissionID{9, byte(n)}, Kind: wire.KindCommit, Epoch: r.Epoch, Parent: r.Sequence,
					Commit: &wire.CommitBundle{Commit: atEpoch(t, message, r.Epoch), Key: publicKey(key)}}
				check(t, e.Sign(key))
				w.mu.Lock()
				r, err = w.submit(e)
				w.mu.Unlock()
				check(t, err)
			}
			check(t, a.Rename(t.Context(), id, "after"))
			agree(t, id, a, c) // carol's device is honest again
			_, err = a.SendText(t.Context(), id, "on we go")
			check(t, err)
			b.start()
			agree(t, id, a, b, c)
			check(t, b.UpdateKeys(t.Context(), id))
			agree(t, id, a, b, c)
			hasTexts(t, b, id, "alice: before", "alice: on we go")
			for _, p := range []*peer{a, b, c} {
				if len(p.events(EventBroken)) > 0 {
					t.Errorf("%s: %v", p.id, p.events(EventBroken)[0].Err)
				}
			}
		})
	}
}

// TestFetchAfterAFetch checks that the answer to a request does not end the search for an entry that was asked for since:
// here with fresh roots, because the entry cannot be processed.
func TestFetchAfterAFetch(t *testing.T) {
	w, id, a, _, c := trio(t, CreateOptions{})
	w.mute(a.id, true)
	r := c.forge(id, func(e *wire.Envelope) { e.Commit.Key[0]++ })
	w.mu.Lock()
	entry := w.convs[id].log[r.Sequence-1]
	w.mu.Unlock()
	for name, entries := range map[string][]wire.Committed{"entry in the answer": {entry}, "entry after the answer": nil} {
		check(t, a.turn(t.Context(), func(u *unit) error {
			v, err := a.findConversation(u, id)
			if err != nil {
				return err
			}
			v.rec.Behind = behind{Until: r.Sequence, Since: a.now()}
			s := &step{since: v.rec.Position.Last, behind: v.rec.Behind}
			if err := v.takeEntry(&entry, false); err != nil {
				return err
			}
			if err := v.takeFetched(&wire.EntriesAnswer{Entries: entries}, s); err != nil {
				return err
			}
			if b := v.rec.Behind; b.Until != r.Sequence || !b.Fresh {
				t.Errorf("%s: the device looks for no entry any more: %+v", name, b)
			}
			return nil
		}))
	}
	agree(t, id, a, c)
}

// TestPoisonThatRemovesAReader checks that a device contests a commit that it cannot process and that removes it from
// the delivery list, although the node gives it no entry any more: neither that commit again, nor those after it.
func TestPoisonThatRemovesAReader(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.refuse(wire.MethodEntries, wire.UnknownConversation)
	w.mu.Lock()
	others := slices.DeleteFunc(w.convs[id].delivery(), func(at wire.Address) bool { return at.Organization == c.id.Organization() })
	w.mu.Unlock()
	r := c.forge(id, func(e *wire.Envelope) { e.Commit.Delivery.Remove = others })
	eventually(t, func() error {
		for _, p := range []*peer{a, b} {
			if v, err := p.Conversation(t.Context(), id); err != nil || v.State != StateActive || v.Sequence <= r.Sequence {
				return fmt.Errorf("%s: %+v (%w)", p.id, v, err)
			}
		}
		return nil
	})
	agree(t, id, a, b)
	s := &step{}
	check(t, b.turn(t.Context(), func(u *unit) error {
		v, err := b.findConversation(u, id)
		if err != nil {
			return err
		}
		v.rec.Failed = failed{At: v.rec.Position.Last, Contest: b.now() + wire.Time(time.Hour.Milliseconds())}
		v.rec.Behind = behind{Until: v.rec.Position.Last + 1, Since: b.now()}
		s.since, s.behind = v.rec.Position.Last, v.rec.Behind
		return v.save()
	}))
	check(t, b.fetch(t.Context(), id, s))
	check(t, b.turn(t.Context(), func(u *unit) error {
		v, err := b.findConversation(u, id)
		if err == nil && v.rec.Behind.Until > 0 {
			err = fmt.Errorf("bob's device does not contest before it has entry %d", v.rec.Behind.Until)
		}
		return err
	}))
}

// emptyCommit makes a commit for the present epoch, and forgets it.
func (p *peer) emptyCommit(id wire.ConversationID) (message []byte) {
	p.t.Helper()
	err := p.turn(context.Background(), func(u *unit) error {
		t, err := p.usableConversation(u, id)
		if err != nil {
			return err
		}
		made, _, err := t.commit(&change{})
		if err != nil {
			return err
		}
		message = made.Message
		return t.group.Abandon()
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return message
}

// atEpoch writes another epoch into the visible header of a PrivateMessage (RFC 9420 §6.3).
func atEpoch(t *testing.T, message []byte, epoch wire.Epoch) []byte {
	t.Helper()
	h, err := mlscore.Peek(message)
	check(t, err)
	message = bytes.Clone(message)
	at := bytes.Index(message, h.GroupID) + len(h.GroupID)
	binary.BigEndian.PutUint64(message[at:], uint64(epoch))
	return message
}

// TestRefusedContestIsSaid checks that a device that cannot process a confirmed commit reports that, and stops
// requesting entries.
func TestRefusedContestIsSaid(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.mu.Lock()
	w.convs[id].confirmed = true
	w.mu.Unlock()
	c.forge(id, func(e *wire.Envelope) { e.Commit.Key[3]++ })
	for _, p := range []*peer{a, b} {
		inState(t, p, id, StateBroken)
		d, err := p.Conversation(t.Context(), id)
		check(t, err)
		if !strings.Contains(d.Why, "ask a member to restore this device") {
			t.Errorf("%s: %s", p.id, d.Why)
		}
	}
}

// TestContestIsConfirmed checks that after a contest a member of another organization shows that it follows.
func TestContestIsConfirmed(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	c.forge(id, func(e *wire.Envelope) { e.Commit.Key[3]++ })
	var contest wire.SequenceNumber
	eventually(t, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, entry := range w.convs[id].log {
			e, err := entry.Open()
			check(t, err)
			switch {
			case e.Envelope.Kind != wire.KindCommit:
			case e.Envelope.Commit.Contest && contest == 0:
				contest = entry.Sequence
			case e.Envelope.Parent == contest && contest > 0:
				return nil
			}
		}
		return fmt.Errorf("nobody has committed after the contest, entry %d", contest)
	})
	agree(t, id, a, b, c)
}

// TestPoisonedEpochIsContestedByItself checks that members contest a poisoned epoch automatically, without any other
// change.
func TestPoisonedEpochIsContestedByItself(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	r := c.forge(id, func(e *wire.Envelope) { e.Commit.Key[3]++ })
	eventually(t, func() error {
		d, err := b.Conversation(t.Context(), id)
		if err == nil && (d.Epoch < r.Epoch || d.Sequence <= r.Sequence) {
			err = fmt.Errorf("epoch %d after entry %d", d.Epoch, d.Sequence)
		}
		return err
	})
	agree(t, id, a, b, c)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.convs[id].heads); n < 2 {
		t.Errorf("%d heads", n)
	}
}

// TestRemovedMemberGainsNothingByContesting checks a removed member that contests its removal: it does not disturb
// the others, and reads none of their messages.
func TestRemovedMemberGainsNothingByContesting(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	old := c.disk.Clone()
	c.stop()
	check(t, a.Remove(t.Context(), id, carol))
	agree(t, id, a, b)
	// A modified client with carol's old state.
	c.disk = &disk{MemoryStore: old, left: -1}
	c.open()
	ctx := t.Context()
	var env *wire.Envelope
	check(t, c.turn(ctx, func(u *unit) error {
		th, err := c.usableConversation(u, id)
		if err != nil {
			return err
		}
		th.rec.Failed.At = th.rec.Position.Last + 1
		if err := th.orderEnvelope(&change{}, ^uint64(0)); err != nil {
			return err
		}
		_, env, err = th.pending()
		return err
	}))
	w.mu.Lock()
	_, err := w.submit(env)
	w.mu.Unlock()
	check(t, err)
	_, err = a.SendText(ctx, id, "without carol")
	check(t, err)
	hasTexts(t, b, id, "alice: without carol")
	agree(t, id, a, b)
	var m *wire.Message
	c.compared.Store(true) // a stopped device encrypts nothing before it has compared its streams
	check(t, c.turn(ctx, func(u *unit) error {
		th, err := c.usableConversation(u, id)
		if err != nil {
			return err
		}
		if _, err := th.group.Process(mustMessage(t, w, id)); err == nil {
			t.Error("carol reads what was sent after her removal")
		}
		if err := th.queue([]byte("x"), 0); err != nil {
			return err
		}
		o, err := th.firstOutgoing()
		if err == nil {
			m = o.wire
		}
		return err
	}))
	m.Epoch += 2
	w.mu.Lock()
	err = w.message(m)
	w.mu.Unlock()
	if wire.CodeOf(err) != wire.Forged {
		t.Errorf("carol sends after her removal: %v", err)
	}
	c.run()
	inState(t, c, id, StateLeft)
}

// mustMessage returns the newest message of a conversation.
func mustMessage(t *testing.T, w *world, id wire.ConversationID) []byte {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	items := w.convs[id].streams["b.example"].items
	for i := len(items) - 1; i >= 0; i-- {
		if items[i].kind == wire.ItemMessage {
			m := new(wire.Message)
			check(t, wire.Decode(items[i].payload, wire.MaxFrame, m))
			return m.Content
		}
	}
	t.Fatal("no message")
	return nil
}

func TestAnotherRootIsAnAlarmAndNotBelieved(t *testing.T) {
	w, id, a, b, _ := trio(t, CreateOptions{})
	w.mu.Lock()
	delete(w.orgs, "d.example")
	fresh := w.addOrg("d.example")
	w.mu.Unlock()
	dave := w.peer("mimi://d.example/d/dave/phone").ready()
	a.queues.kick(queueUpkeep)
	eventually(t, func() error {
		if n := len(a.events(EventPinned)); n < 3 { // its own organization at the enrolment
			return fmt.Errorf("%d pinned", n)
		}
		return nil
	})
	check(t, a.Add(t.Context(), id, dave.id.User())) // bob first sees the organization with the commit
	agree(t, id, a, b, dave)
	w.mu.Lock()
	old := w.orgs["d.example"]
	changed := w.addOrg("d.example")
	changed.devices, changed.tokens = old.devices, old.tokens
	w.mu.Unlock()
	a.queues.kick(queueUpkeep)
	eventually(t, func() error {
		if len(a.events(EventTrust)) != 1 {
			return fmt.Errorf("%d alarms", len(a.events(EventTrust)))
		}
		return nil
	})
	list, err := a.Organizations(t.Context())
	check(t, err)
	for _, o := range list {
		if o.Domain != "d.example" {
			continue
		}
		if len(o.Roots) != 1 || o.Roots[0] != hashOf(fresh.root.Raw) || o.Offered != hashOf(changed.root.Raw) {
			t.Errorf("trusts %v, offered %v", o.Roots, o.Offered)
		}
	}
	if err := a.AcceptRoot(t.Context(), "d.example", wire.Hash{1}); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("another root than the offered: %v", err)
	}
	check(t, a.AcceptRoot(t.Context(), "d.example", hashOf(changed.root.Raw)))
	agree(t, id, a, b, dave)
}

// TestBrokenDeviceIsRestored checks that a device whose own state is damaged reports that, and follows again when a
// member restores it.
func TestBrokenDeviceIsRestored(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	check(t, b.turn(t.Context(), func(u *unit) error {
		th, err := b.usableConversation(u, id)
		if err != nil {
			return err
		}
		return th.breakOff(wire.Errorf(wire.NotFound, "entries", "no longer kept"))
	}))
	_, err := b.SendText(t.Context(), id, "x")
	if wire.CodeOf(err) != wire.Invalid {
		t.Errorf("sends in a broken conversation: %v", err)
	}
	check(t, a.Restore(t.Context(), id, b.id))
	agree(t, id, a, b, c)
	_, err = a.SendText(t.Context(), id, "Welcome back")
	check(t, err)
	hasTexts(t, b, id, "alice: Welcome back")
	_ = w
}

// TestPolicyRefuses checks individually the rules that the policy adds to those of mlscore.
func TestPolicyRefuses(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	refused := func(by *peer, why string, c *change) {
		t.Helper()
		err := by.turn(t.Context(), func(u *unit) error {
			th, err := by.usableConversation(u, id)
			if err != nil {
				return err
			}
			_, _, err = th.commit(c)
			return cmp.Or(err, errCrash) // keep nothing
		})
		if !strings.Contains(err.Error(), why) {
			t.Errorf("refused for %v, wanted %q", err, why)
		}
	}
	rules := func(admins ...wire.UserID) *change {
		x, err := (&Rules{Version: 1, Name: "mine", Admins: admins}).extension()
		check(t, err)
		var all mlscore.Extensions
		check(t, a.turn(t.Context(), func(u *unit) error {
			th, err := a.usableConversation(u, id)
			if err == nil {
				all = th.group.Public().Context().Extensions.With(x)
			}
			return err
		}))
		return &change{proposals: []mlscore.Proposal{mlscore.ExtensionsProposal(all)}}
	}
	refused(b, "ReInit", &change{proposals: []mlscore.Proposal{mlscore.ReInitProposal(mlscore.ReInit{GroupID: []byte("other"), Version: mlscore.MLS10, CipherSuite: 1})}})
	refused(b, "only admins", rules(bob))
	refused(a, "without an admin", rules())
}
