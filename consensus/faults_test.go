package consensus

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNoQuorum checks that the caller gets an error within its deadline, with the names of the missing nodes.
func TestNoQuorum(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.stop(c.nodes[nodeB])
		c.stop(c.nodes[nodeC])
		start := time.Now()
		_, err := c.nodes[nodeA].m.Order(c.context(8*time.Second), p.Commit(c.id(), 16, wire.DeliveryChange{}))
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != wire.NoQuorum || len(e.Nodes) != 2 {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(start); took > 9*time.Second {
			t.Fatalf("answered after %v, the deadline was 8 s", took)
		}
		if !strings.Contains(err.Error(), string(nodeB)) || !strings.Contains(err.Error(), string(nodeC)) {
			t.Fatalf("does not name the missing: %v", err)
		}
	})
}

// TestMinorityNeverPromotesItself checks that one isolated node refuses submissions while the two others continue.
func TestMinorityNeverPromotesItself(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		lone := c.leader(conv).id
		var others []wire.NodeID
		for _, n := range three {
			if n != lone {
				others = append(others, n)
				c.f.setCut(lone, n, true)
			}
		}
		late := p.Commit(c.id(), 16, wire.DeliveryChange{})
		if _, err := c.nodes[lone].m.Order(c.context(8*time.Second), late); wire.CodeOf(err) != wire.NoQuorum {
			t.Fatalf("a minority answered %v", err)
		}
		p = c.commit(others[0], p, wire.DeliveryChange{})
		for _, n := range others {
			c.f.setCut(lone, n, false)
		}
		c.level(conv, three...)
		var e *wire.Error
		_, err := c.nodes[lone].m.Order(c.context(20*time.Second), late)
		if !errors.As(err, &e) || e.Code != wire.StaleEpoch || e.Stale.Winner == nil {
			t.Fatalf("after the heal: %v", err)
		}
		c.commit(lone, p, wire.DeliveryChange{})
	})
}

// TestLeaderLostWhileOrdering checks that a retry gets the first result, and that the entry exists once.
func TestLeaderLostWhileOrdering(t *testing.T) {
	for _, after := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 8 * time.Millisecond, 20 * time.Millisecond} {
		simulate(t, nil, three, func(c *cluster) {
			p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
			c.settled(conv, 3, 0)
			p = c.commit(nodeA, p, wire.DeliveryChange{})
			c.level(conv, three...) // a voter accepts votes only from nodes whose vote it knows to be committed
			c.f.setFaults(8*time.Millisecond, 0, 0)
			lost := c.leader(conv)
			at := nodeB
			if lost.id == nodeB {
				at = nodeC
			}
			e := p.Commit(c.id(), 64, wire.DeliveryChange{})
			done := make(chan error, 1)
			var first wire.Receipt
			go func() {
				var err error
				first, err = c.nodes[at].m.Order(c.context(25*time.Second), e)
				done <- err
			}()
			time.Sleep(after)
			c.crash(lost, false)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			again, err := c.nodes[at].m.Order(c.context(25*time.Second), e)
			if err != nil || again != first {
				t.Fatalf("the retry got %+v (%v), the first %+v", again, err, first)
			}
			c.start(lost)
			c.level(conv, three...)
			count := 0
			entries, _, err := lost.m.Entries(conv, 0, 100, 1<<20)
			for i := range entries {
				if got, err := entries[i].Open(); err == nil && got.Envelope != nil && got.Envelope.Submission == e.Submission {
					count++
				}
			}
			if err != nil || count != 1 {
				t.Fatalf("the entry is there %d times (%v)", count, err)
			}
		})
	}
}

// TestRacingCommits checks that one commit wins, on whichever nodes the commits are submitted, and that the loser
// gets the winner's bundle.
func TestRacingCommits(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		for range 5 {
			one, two := p.Commit(c.id(), 16, wire.DeliveryChange{}), p.Commit(c.id(), 16, wire.DeliveryChange{})
			type result struct {
				e   *wire.Envelope
				r   wire.Receipt
				err error
			}
			results := make(chan result, 2)
			for at, e := range map[wire.NodeID]*wire.Envelope{nodeB: one, nodeC: two} {
				go func() {
					r, err := c.nodes[at].m.Order(c.context(20*time.Second), e)
					results <- result{e, r, err}
				}()
			}
			win, lose := <-results, <-results
			if win.err != nil {
				win, lose = lose, win
			}
			var e *wire.Error
			if win.err != nil || !errors.As(lose.err, &e) || e.Code != wire.StaleEpoch || e.Stale.Winner == nil {
				t.Fatalf("winner %v, loser %v", win.err, lose.err)
			}
			won, err := e.Stale.Winner.Open()
			if err != nil || won.Envelope.Submission != win.e.Submission || e.Stale.Head != win.r.Sequence {
				t.Fatalf("the loser was handed %+v (%v)", won, err)
			}
			p = author.After(win.e, win.r)
		}
	})
}

// TestRefusals checks that an invalid submission is refused with its code, at every replica.
func TestRefusals(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		replayed := p.Propose(c.id(), 8)
		first, err := c.nodes[nodeA].m.Order(c.context(time.Second), replayed)
		if err != nil {
			t.Fatal(err)
		}
		forger := p
		forger.Opener = author.Submission(99999)
		unknown := p
		unknown.Conversation = "conversation-two"
		for name, at := range map[string]wire.NodeID{"a": nodeA, "b": nodeB, "c": nodeC} {
			for _, test := range []struct {
				what string
				e    *wire.Envelope
				want wire.Code
			}{
				{"too large", p.Commit(c.id(), wire.MaxEntry, wire.DeliveryChange{}), wire.TooLarge},
				{"unknown conversation", unknown.Commit(c.id(), 8, wire.DeliveryChange{}), wire.UnknownConversation},
				{"forged", forger.Commit(c.id(), 8, wire.DeliveryChange{}), wire.Forged},
				{"id used for another", p.Propose(replayed.Submission, 9), wire.SubmissionReused},
				{"malformed", &wire.Envelope{Version: 1}, wire.Malformed},
			} {
				start := time.Now()
				if _, err := c.nodes[at].m.Order(c.context(20*time.Second), test.e); wire.CodeOf(err) != test.want {
					t.Errorf("%s on %s: %v, wanted %v", test.what, name, err, test.want)
				}
				if time.Since(start) > 5*time.Second {
					t.Errorf("%s on %s was tried again, though it can never succeed", test.what, name)
				}
			}
			if again, err := c.nodes[at].m.Order(c.context(20*time.Second), replayed); err != nil || again != first {
				t.Errorf("replayed on %s: %+v (%v), wanted the first answer %+v", name, again, err, first)
			}
		}
		almost := p.Commit(c.id(), wire.MaxEntry-2000, wire.DeliveryChange{})
		if _, err := c.nodes[nodeB].m.Order(c.context(20*time.Second), almost); err != nil {
			t.Errorf("the largest entry: %v", err)
		}
		c.level(conv, three...)
	})
}

// TestOutsider checks that a node without a part in a conversation gets nothing for it, awake or asleep.
func TestOutsider(t *testing.T) {
	outsider := wire.NodeID("n1.x.example")
	simulate(t, nil, append([]wire.NodeID{outsider}, three...), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		x := c.nodes[outsider].m
		envelope, err := wire.Encode(p.Commit(c.id(), 8, wire.DeliveryChange{}))
		if err != nil {
			t.Fatal(err)
		}
		end, err := wire.Encode(position{Term: 99, Last: 99})
		if err != nil {
			t.Fatal(err)
		}
		attempt := func(state string) {
			for kind, payload := range map[frameKind][]byte{
				kindOrder: envelope, kindWake: end, kindSleep: end, kindRejoin: nil,
				kindVote: {0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 99, 1}, kindTimeoutNow: nil,
				kindAppend: make([]byte, 33),
			} {
				_, err := x.mesh.ask(c.context(10*time.Second), nodeA, &frame{kind: kind, conversation: conv, payload: payload})
				if kind == kindRejoin {
					continue // the node is already out: nothing to do, and nothing done
				}
				if wire.CodeOf(err) != wire.NotReplica {
					t.Errorf("%s, frame of kind %d: %v, wanted %v", state, kind, err, wire.NotReplica)
				}
			}
			if err := x.withBlobStream(c.context(10*time.Second), nodeA, &blobRequest{Op: blobGet, Conversation: conv, Ref: wire.BlobRef{Size: 1}}, nil); wire.CodeOf(err) != wire.NotReplica {
				t.Errorf("%s, blob: %v", state, err)
			}
		}
		attempt("awake")
		c.asleep(conv, three...)
		attempt("asleep")
		if n := c.nodes[nodeA].m.Counts().Awake; n != 0 {
			t.Error("the outsider woke the conversation")
		}
		if _, err := x.Order(c.context(time.Second), p.Commit(c.id(), 8, wire.DeliveryChange{})); wire.CodeOf(err) != wire.UnknownConversation {
			t.Errorf("submitting on a node that holds no replica: %v", err)
		}
		if s, err := c.nodes[nodeA].m.Status(conv); err != nil || len(s.Voters) != 3 {
			t.Errorf("status %+v (%v)", s, err)
		}
	})
}

// TestQuota checks the limit of all conversations, and of the conversations to which one organization invites this
// node.
func TestQuota(t *testing.T) {
	edit := func(cfg *Config) {
		if cfg.Node == nodeA {
			cfg.Limits.Conversations = 2
		} else {
			cfg.Limits.PerOrganization = 1
		}
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		c.found(nodeA, "conversation-1", wire.Policy{}, "a.example", "b.example")
		c.settled("conversation-1", 1, 1)
		c.found(nodeA, "conversation-2", wire.Policy{}, "a.example", "b.example")
		e := author.Create("conversation-3", c.id(), wire.Policy{}, author.Addresses(1, "a.example"))
		if _, err := c.nodes[nodeA].m.Create(c.context(time.Second), e); wire.CodeOf(err) != wire.Quota {
			t.Fatalf("a third conversation: %v", err)
		}
		time.Sleep(5 * time.Second)
		if ids := c.nodes[nodeB].m.Conversations(); len(ids) != 1 {
			t.Fatalf("b holds %d conversations by invitation of a, its quota is 1", len(ids))
		}
		if s, err := c.nodes[nodeA].m.Status("conversation-2"); err != nil || len(s.Voters) != 1 || len(s.Learners) != 0 {
			t.Fatalf("status %+v (%v)", s, err)
		}
	})
}

// TestRefusedCreateLeavesNothing checks that a refused create occupies no place.
func TestRefusedCreateLeavesNothing(t *testing.T) {
	simulate(t, nil, three[:1], func(c *cluster) {
		e := author.Create(conv, c.id(), wire.Policy{}, author.Addresses(1, "a.example"))
		forged := author.Sign(e, author.Submission(12345))
		if _, err := c.nodes[nodeA].m.Create(c.context(time.Second), forged); wire.CodeOf(err) != wire.Forged {
			t.Fatalf("got %v", err)
		}
		if ids := c.nodes[nodeA].m.Conversations(); len(ids) != 0 {
			t.Fatalf("%v remains", ids)
		}
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		other := author.Create(conv, c.id(), wire.Policy{}, author.Addresses(2, "a.example"))
		if _, err := c.nodes[nodeA].m.Create(c.context(time.Second), other); wire.CodeOf(err) != wire.Exists {
			t.Fatalf("the same id again: %v", err)
		}
		c.commit(nodeA, p, wire.DeliveryChange{})
	})
}

// TestStoppedNode checks that a node which does not run says so.
func TestStoppedNode(t *testing.T) {
	simulate(t, nil, three[:1], func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		m := c.nodes[nodeA].m
		c.stop(c.nodes[nodeA])
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := m.Order(ctx, p.Commit(c.id(), 8, wire.DeliveryChange{})); err == nil {
			t.Fatal("a stopped node took a submission")
		}
	})
}
