package mlscore

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// send makes an application message of each generation in a list, without consuming a key.
func (l *lab) send(by *person, generations ...uint32) map[uint32][]byte {
	l.Helper()
	list := map[uint32][]byte{}
	for _, g := range generations {
		list[g] = (&forgery{by: by, generation: &g}).application(l.TB, fmt.Sprint(g))
	}
	return list
}

// reads checks that p can read the messages of generations.
func (p *person) reads(t testing.TB, messages map[uint32][]byte, generations ...uint32) {
	t.Helper()
	for _, g := range generations {
		got := p.receive(t, messages[g]).Application
		if got == nil || string(got.Data) != fmt.Sprint(g) || got.Generation != g {
			t.Fatalf("generation %d: got %+v", g, got)
		}
	}
}

// TestRulesRatchet checks that message keys are used once, in any order, within limits (§9.1, §9.2, §15.3).
func TestRulesRatchet(t *testing.T) {
	replay := want{kind: ErrReplay, clause: "§9.2", say: "its key was used, or is no longer kept", keyed: true}
	ahead := func(n int) want {
		return want{kind: ErrLimit, clause: "§15.3", say: fmt.Sprintf("%d generations ahead, at most", n), keyed: true}
	}
	// bothStates runs a test with a reader that keeps running and with one that restarts before each message.
	bothStates := func(t *testing.T, name string, o labOptions, run func(t *testing.T, l *lab, bob func() []*person)) {
		t.Run(name, func(t *testing.T) {
			for _, restart := range []bool{false, true} {
				l := newLab(t, false, o)
				run(t, l, func() []*person {
					bob := l.people[1]
					if restart {
						bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
					}
					return []*person{bob}
				})
				l.goesOn()
			}
		})
	}
	bothStates(t, "§9.2 a message that was read before", labOptions{}, func(t *testing.T, l *lab, bob func() []*person) {
		messages := l.send(l.people[0], 0, 1, 2)
		for _, g := range []uint32{1, 0, 2} {
			bob()[0].reads(t, messages, g)
			l.refuseAs(bob(), messages[g], replay)
			l.refuseAs(bob(), messages[1], replay)
		}
		l.people[0].catchUp(t, 3)
	})
	bothStates(t, "§9.2 a ciphertext that fails uses no key up", labOptions{}, func(t *testing.T, l *lab, bob func() []*person) {
		messages := l.send(l.people[0], 0, 1, 2)
		sealed := want{kind: ErrForged, clause: "§6.3.1", say: "does not decrypt", keyed: true}
		for _, g := range []uint32{2, 0, 1} {
			l.refuseAs(bob(), flip(messages[g]), sealed)
			l.refuseAs(bob(), flip(messages[g]), sealed)
			bob()[0].reads(t, messages, g)
		}
		l.people[0].catchUp(t, 3)
	})
	bothStates(t, "§15.3 1,000 generations ahead, and not 1,001", labOptions{}, func(t *testing.T, l *lab, bob func() []*person) {
		messages := l.send(l.people[0], 1000, 1001, 2001, 2002, 2003)
		l.refuseAs(bob(), messages[1001], ahead(1001))
		bob()[0].reads(t, messages, 1000)
		bob()[0].reads(t, messages, 1001) // the next generation
		l.refuseAs(bob(), messages[2003], ahead(1001))
		bob()[0].reads(t, messages, 2002, 2001)
		l.people[0].catchUp(t, 2004)
	})
	bothStates(t, "§15.3 a generation of 2^32-1 costs nothing", labOptions{}, func(t *testing.T, l *lab, bob func() []*person) {
		f := &forgery{by: l.people[0], sender: func(d *senderData) { d.generation = 1<<32 - 1 }}
		l.refuseAs(bob(), f.application(t, "x"), ahead(1<<32-1))
	})
	few := labOptions{config: func(_ string, c *Config) { c.Limits.Ratchet = RatchetLimits{Ahead: 10, Skipped: 4} }}
	bothStates(t, "§15.3 as many skipped keys as are configured, the newest", few, func(t *testing.T, l *lab, bob func() []*person) {
		messages := l.send(l.people[0], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		bob()[0].reads(t, messages, 6)
		for _, g := range []uint32{0, 1} {
			l.refuseAs(bob(), messages[g], replay)
		}
		bob()[0].reads(t, messages, 3)
		// The keys of 2, 4 and 5 are kept. Two more are added, and the oldest are dropped.
		bob()[0].reads(t, messages, 9)
		l.refuseAs(bob(), messages[2], replay)
		bob()[0].reads(t, messages, 7, 4, 8, 5, 10)
		for g := range messages {
			l.refuseAs(bob(), messages[g], replay)
		}
		l.people[0].catchUp(t, 11)
	})
	bothStates(t, "§9.1 handshake and application messages have ratchets of their own", few, func(t *testing.T, l *lab, bob func() []*person) {
		messages := l.send(l.people[0], 0, 4)
		handshake := uint32(0)
		proposal := (&forgery{by: l.people[0], generation: &handshake}).proposal(t, RemoveProposal(2))
		bob()[0].reads(t, messages, 4)
		bob()[0].receive(t, proposal)
		bob()[0].reads(t, messages, 0)
		l.refuseAs(bob(), proposal, replay)
		l.people[1].group.dropProposals()
		l.people[0].catchUp(t, 5)
		step := must[*treeStep](t)(l.people[0].group.state.messages.peek(ratchetName{0, true}, 0, RatchetLimits{}))
		l.people[0].group.state.messages.apply(step)
	})
	t.Run("§9.1 a sender that restarts does not use a key again", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice, bob := l.people[0], l.people[1]
		seen := map[uint32]bool{}
		for range 4 {
			for range 2 {
				msg := must[[]byte](t)(alice.group.Protect(nil, MessageOptions{}))
				g := bob.receive(t, msg).Application.Generation
				if seen[g] {
					t.Fatalf("generation %d was used twice", g)
				}
				seen[g] = true
			}
			alice.group = must[*Group](t)(alice.LoadGroup(alice.group.GroupID()))
		}
		l.goesOn()
	})
	t.Run("§9.1 a message that could not be stored as sent does not leave", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice := l.people[0]
		broken := &brokenStore{Store: alice.store}
		alice.Client.cfg.Store = broken
		before := alice.snapshot(t)
		next := alice.group.state.messages.next(ratchetName{0, false})
		for _, public := range []bool{false, true} {
			alice.group.options.PublicHandshakes = public
			_, err := alice.group.Protect(nil, MessageOptions{})
			requireKind(t, err, ErrStore)
			_, err = alice.group.Propose(RemoveProposal(2), ProposeOptions{})
			requireKind(t, err, ErrStore)
			_, err = alice.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
			requireKind(t, err, ErrStore)
			_, err = alice.group.Commit(CommitOptions{})
			requireKind(t, err, ErrStore)
		}
		alice.group.options.PublicHandshakes = false
		before.requireSame(t, alice)
		if alice.group.state.messages.next(ratchetName{0, false}) != next {
			t.Fatal("a key is gone")
		}
		alice.Client.cfg.Store = alice.store
		l.goesOn()
	})
}

// brokenStore refuses all writes.
type brokenStore struct{ Store }

func (brokenStore) Apply(Batch) error { return fmt.Errorf("the disk is full") }

// catchUp advances a sender's own ratchet past messages that were made without it.
func (p *person) catchUp(t testing.TB, next uint32) {
	t.Helper()
	m := p.group.state.messages
	name := ratchetName{p.group.Self(), false}
	step := must[*treeStep](t)(m.peek(name, next-1, RatchetLimits{Ahead: 1 << 30}))
	m.apply(step)
}

// TestRulesPastEpochs checks the rules on late application messages (§15.3).
func TestRulesPastEpochs(t *testing.T) {
	stale := want{kind: ErrStale, clause: "§12.4.2", say: "the group is at", keyed: true}
	for name, restart := range map[string]bool{"running": false, "restarted": true} {
		t.Run("§15.3 messages of as many past epochs as are configured", func(t *testing.T) {
			for _, keep := range []int{1, 3} {
				l := newLab(t, false, labOptions{config: func(_ string, c *Config) { c.Limits.PastEpochs = keep }})
				alice, bob := l.people[0], l.people[1]
				var late [][]byte // one message of each epoch, oldest first
				for range keep + 1 {
					late = append(late, must[[]byte](t)(alice.group.Protect([]byte("late"), MessageOptions{})))
					l.commit(l.people[2], CommitOptions{})
					if restart {
						bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
					}
				}
				l.refuseAs([]*person{bob}, late[0], stale)
				for _, msg := range late[1:] {
					if got := bob.receive(t, msg).Application; string(got.Data) != "late" || got.Epoch >= bob.group.Epoch() {
						t.Fatalf("%s: got %+v", name, got)
					}
					l.refuseAs([]*person{bob}, msg, want{kind: ErrReplay, clause: "§9.2", say: "its key was used", keyed: true})
				}
				l.goesOn()
			}
		})
		t.Run("§15.3 messages of further past epochs for as long as is configured", func(t *testing.T) {
			clock := testTime
			l := newLab(t, false, labOptions{config: func(_ string, c *Config) {
				c.Now = func() time.Time { return clock }
				c.Limits.PastEpochs, c.Limits.PastMost, c.Limits.PastTime = 1, 4, time.Minute
			}})
			alice, bob := l.people[0], l.people[1]
			// ends ends a number of epochs, and checks that messages of the newest epochs can be read.
			ends := func(epochs, readable int) {
				t.Helper()
				var late [][]byte
				for range epochs {
					late = append(late, must[[]byte](t)(alice.group.Protect([]byte("late"), MessageOptions{})))
					l.commit(l.people[2], CommitOptions{})
				}
				if restart {
					bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
				}
				if got := len(bob.group.past); got != readable {
					t.Fatalf("%s: %d past epochs are kept, wanted %d", name, got, readable)
				}
				for i, msg := range late {
					if len(late)-i > readable {
						l.refuseAs([]*person{bob}, msg, stale)
					} else if got := bob.receive(t, msg).Application; string(got.Data) != "late" {
						t.Fatalf("%s: got %+v", name, got)
					}
				}
			}
			clock = clock.Add(time.Hour)
			ends(1, 1)
			ends(2, 3)
			clock = clock.Add(time.Minute - time.Second)
			ends(1, 4)
			clock = clock.Add(time.Second) // the first epochs are over PastTime now
			ends(1, 2)
			ends(6, 4)
			clock = clock.Add(time.Hour)
			ends(1, 1)
			l.goesOn()
		})
		t.Run("§15.3 the sender of a late message is looked up in the tree of its epoch", func(t *testing.T) {
			l := newLab(t, false, labOptions{})
			alice, bob, carol := l.people[0], l.people[1], l.people[2]
			late := must[[]byte](t)(carol.group.Protect([]byte("from carol"), MessageOptions{}))
			nobody := &forgery{by: alice, sender: func(d *senderData) { d.leaf = 3 }}
			fromNobody := nobody.application(t, "from a leaf that was blank")
			l.commit(alice, CommitOptions{Proposals: []Proposal{RemoveProposal(2)}}, l.person("dave"))
			if dave := l.people[3]; dave.group.Self() != 2 {
				t.Fatalf("dave is at %d", dave.group.Self())
			}
			l.commit(bob, CommitOptions{}, l.person("erin"))
			if restart {
				bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
			}
			got := bob.receive(t, late).Application
			if string(got.Sender.Credential.Identity) != "carol" || got.Sender.Leaf != 2 || string(got.Data) != "from carol" {
				t.Fatalf("%s: got %+v", name, got)
			}
			l.refuseAs([]*person{bob}, fromNobody, want{kind: ErrForged, clause: "§6.3.2", say: "sender leaf 3 is not a member", keyed: true})
			// Dave, who joined later, has no keys of that epoch.
			l.refuseAs([]*person{l.people[3]}, late, stale)
			l.goesOn()
		})
	}
	t.Run("§15.3 no past epoch at all", func(t *testing.T) {
		l := newLab(t, false, labOptions{config: func(_ string, c *Config) { c.Limits.PastEpochs = -1 }})
		late := must[[]byte](t)(l.people[0].group.Protect([]byte("late"), MessageOptions{}))
		l.commit(l.people[2], CommitOptions{})
		l.refuse(l.people[0], late, stale)
		l.goesOn()
	})
}

// TestRulesLimits checks that waiting proposals and the content of a message are bounded.
func TestRulesLimits(t *testing.T) {
	bothWays(t, "§12.1 as many proposals wait as are configured", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: func(_ string, c *Config) { c.Limits.Proposals = 3 }})
		bob := l.people[1]
		for range 3 {
			l.proposeUpdate(bob)
		}
		full := want{kind: ErrLimit, say: "3 are waiting for a commit, at most 3"}
		before := bob.snapshot(t)
		_, err := bob.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
		full.match(t, err)
		before.requireSame(t, bob)
		l.refuse(bob, (&forgery{by: bob}).proposal(t, RemoveProposal(2)), full)
		c := l.commit(l.people[0], CommitOptions{})
		if len(c.Staged.Effects().Updated) != 1 || len(c.Skipped) != 2 {
			t.Fatalf("skipped %v", c.Skipped)
		}
		l.proposeUpdate(bob)
		l.goesOn()
	})
	t.Run("§2.1.2 a message over the limits of the decoder", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		msg := must[[]byte](t)(l.people[0].group.Protect(make([]byte, 500), MessageOptions{}))
		for _, n := range []int{len(msg) - 1, len(msg)} {
			_, err := parseMessage(msg, codec.Limits{Bytes: n})
			if n == len(msg) {
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			want{kind: ErrLimit, say: "bytes of input, at most"}.match(t, err)
		}
		many := RequiredCapabilities{Extensions: slices.Repeat(both(testExtension), 100)}.Extension()
		r := codec.NewReader(many.Data, codec.Limits{Count: 99})
		decodeCodes[ExtensionType](r)
		want{kind: ErrLimit, say: "more than 99 elements"}.match(t, malformed("list", r.Err()))
	})
	t.Run("§12.4.3.3 a tree of more nodes than the limit", func(t *testing.T) {
		s := suites[0]
		blanks := func(n int) []byte {
			var w codec.Writer
			w.Bytes(make([]byte, n))
			return w.Buffer()
		}
		_, err := splitTree(blanks(1001), codec.Limits{Count: 1000})
		want{kind: ErrLimit, say: "more than 1000 nodes"}.match(t, err)
		_, err = splitTree(blanks(1000), codec.Limits{Count: 1000})
		want{kind: ErrMalformed, clause: "§12.4.3.3", say: "ends with a blank node"}.match(t, err)
		_, err = parseTree(s, labAuth{}, blanks(codec.DefaultLimits.Count+1), codec.Limits{})
		want{kind: ErrLimit, say: "nodes"}.match(t, err)
	})
	t.Run("§8.5 an exported secret of up to 255 hashes", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		g := l.people[0].group
		for _, n := range []int{0, 1, 255 * 32} {
			if got := must[Secret](t)(g.Export("label", nil, n)); got.Len() != n {
				t.Fatalf("%d bytes, wanted %d", got.Len(), n)
			}
		}
		for _, n := range []int{-1, 255*32 + 1} {
			_, err := g.Export("label", nil, n)
			want{kind: ErrMisuse, clause: "§8.5", say: "at most"}.match(t, err)
		}
		c := must[*Commit](t)(g.Commit(CommitOptions{}))
		next := must[Secret](t)(c.Staged.Export("label", nil, 32))
		l.deliver(l.people[0], c.Message)
		if err := g.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		if !next.Equal(must[Secret](t)(g.Export("label", nil, 32))) {
			t.Fatal("the staged commit exports something else than its epoch")
		}
		l.commit(l.people[1], CommitOptions{})
		_, err := c.Staged.Export("label", nil, 32)
		want{kind: ErrStale, clause: "§8.5", say: "has ended"}.match(t, err)
	})
}
