package consensus

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// poison lists states that contradict themselves, and that stopped or blocked a node of an earlier build.
func poison(t testing.TB, id wire.ConversationID) map[string][]byte {
	list := []wire.Address{author.Address("a.example", 1)}
	private := wire.Policy{Handshakes: wire.HandshakesPrivate}
	head := xHead{Sequence: 1, Key: wire.SubmissionKey{1}, Delivery: list}
	return map[string][]byte{
		"the last number without entries": forgeState(t, xHeader{ID: id, Created: true, Policy: private, Sequence: math.MaxUint64,
			Spans: []machine.Span{{Organization: "a.example", Since: 1}}}, head),
		"a span since 0": forgeState(t, xHeader{ID: id, Created: true, Policy: private, Sequence: 5,
			Spans: []machine.Span{{Organization: "a.example"}}}, head),
		"no spans":      forgeState(t, xHeader{ID: id, Created: true, Policy: private, Sequence: 5}, head),
		"no heads":      forgeState(t, xHeader{ID: id, Created: true, Policy: private, Sequence: 5}),
		"no policy":     forgeState(t, xHeader{ID: id, Created: true, Sequence: 1}, head),
		"never created": forgeState(t, xHeader{ID: id, Sequence: 5}, head),
	}
}

// TestStateThatNoMachineMakesIsNotTaken has an admitted organization invite a node to an invented conversation and
// send it states that contradict themselves. It checks that none is stored, that the node continues to serve, and
// that it starts again.
func TestStateThatNoMachineMakesIsNotTaken(t *testing.T) {
	simulate(t, nil, []wire.NodeID{nodeA, nodeM}, func(c *cluster) {
		own := c.found(nodeA, conv, wire.Policy{}, "a.example")
		const id = wire.ConversationID("made up by mallory")
		if err := inviteAs(c.t, c, nodeM, nodeA, id, 0, nodeM); err != nil {
			c.t.Fatal(err)
		}
		a := c.nodes[nodeA]
		index := uint64(5)
		for name, state := range poison(c.t, id) {
			index++
			before := a.m.Refusals()[RefusedSnapshot]
			if err := plant(c.t, c, nodeM, nodeA, id, 0, 5, index, []wire.NodeID{nodeM}, state); err == nil {
				c.t.Errorf("%s: taken", name)
			}
			if got := a.m.Refusals()[RefusedSnapshot]; got != before+1 {
				c.t.Errorf("%s: %d refusals are counted", name, got-before)
			}
		}
		found, err := a.m.held(id)
		if err != nil {
			c.t.Fatal(err)
		}
		if list, err := a.snaps.store(found.group).List(); err != nil || len(list) != 0 {
			c.t.Errorf("%d snapshots are stored (%v)", len(list), err)
		}
		own = c.commit(nodeA, own, wire.DeliveryChange{})
		c.stop(a)
		c.start(a)
		own = c.commit(nodeA, own, wire.DeliveryChange{})
		c.eventually("the node delivers", func() bool {
			list := a.consumer.sequences(conv)
			return len(list) > 0 && list[len(list)-1] >= own.Parent
		})
	})
}

// TestPoisonedDisk checks that a node whose disk has such a state from an earlier build starts, puts that
// conversation into quarantine and serves the others.
func TestPoisonedDisk(t *testing.T) {
	for name := range poison(t, "made up by mallory") {
		t.Run(name, func(t *testing.T) {
			simulate(t, nil, []wire.NodeID{nodeA, nodeM}, func(c *cluster) {
				own := c.found(nodeA, conv, wire.Policy{}, "a.example")
				const id = wire.ConversationID("made up by mallory")
				if err := inviteAs(c.t, c, nodeM, nodeA, id, 0, nodeM); err != nil {
					c.t.Fatal(err)
				}
				a := c.nodes[nodeA]
				found, err := a.m.held(id)
				if err != nil {
					c.t.Fatal(err)
				}
				group := found.group
				c.stop(a)
				configuration := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(nodeM), Address: raft.ServerAddress(nodeM)}}}
				sink, err := a.snaps.store(group).Create(1, 5, 5, configuration, 5, nil)
				if err != nil {
					c.t.Fatal(err)
				}
				if _, err := sink.Write(poison(c.t, id)[name]); err != nil {
					c.t.Fatal(err)
				}
				if err := sink.Close(); err != nil {
					c.t.Fatal(err)
				}
				for range 2 {
					c.start(a)
					own = c.commit(nodeA, own, wire.DeliveryChange{})
					c.eventually("the node delivers", func() bool {
						list := a.consumer.sequences(conv)
						return len(list) > 0 && list[len(list)-1] >= own.Parent
					})
					_ = a.m.Wake(c.context(time.Second), id) // reading the state reveals the problem
					c.eventually("it is in quarantine", func() bool {
						s, err := a.m.Status(id)
						return err == nil && s.Quarantine != nil && s.Quarantine.Reason == ReasonInvalidState
					})
					if list, err := a.snaps.store(group).List(); err != nil || len(list) != 1 {
						c.t.Fatalf("%d snapshots are left (%v): nothing is deleted", len(list), err)
					}
					c.stop(a)
				}
			})
		})
	}
}

// TestEntriesThatNoLeaderMakes checks that a follower examines entries before it acknowledges them.
func TestEntriesThatNoLeaderMakes(t *testing.T) {
	simulate(t, nil, []wire.NodeID{nodeA, nodeM}, func(c *cluster) {
		const id = wire.ConversationID("made up by mallory")
		if err := inviteAs(c.t, c, nodeM, nodeA, id, 0, nodeM); err != nil {
			c.t.Fatal(err)
		}
		a := c.nodes[nodeA].m
		entry := func(change func(*wire.Entry)) []byte {
			e := &wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(time.Now()), Proposer: nodeM,
				Envelope: author.Create(id, author.Submission(7), wire.Policy{}, author.Addresses(1, "a.example"))}
			change(e)
			b, err := wire.Encode(e)
			if err != nil {
				c.t.Fatal(err)
			}
			return b
		}
		raw := func(b []byte) []byte {
			return bytes.Replace(b, []byte(nodeM), []byte(strings.Repeat("-", len(nodeM))), 1)
		}
		for name, data := range map[string][]byte{
			"no entry":              []byte("junk"),
			"another conversation":  entry(func(e *wire.Entry) { e.Envelope.Conversation = conv }),
			"a proposer of no name": raw(entry(func(e *wire.Entry) {})),
			"a month ahead":         entry(func(e *wire.Entry) { e.Time += 30 * machine.MaxStep }),
			"the end of time":       entry(func(e *wire.Entry) { e.Time = math.MaxInt64 }),
			"nothing":               {},
		} {
			before := a.Refusals()[RefusedEntry] + a.Refusals()[RefusedTime]
			r, err := appendAs(c.t, c, nodeM, nodeA, id, &raft.AppendEntriesRequest{Term: 2, Entries: []*raft.Log{{Index: 1, Term: 2, Type: raft.LogCommand, Data: data}}})
			if err == nil || r != nil {
				c.t.Errorf("%s: %+v", name, r)
			}
			if got := a.Refusals()[RefusedEntry] + a.Refusals()[RefusedTime]; got != before+1 {
				c.t.Errorf("%s: %d refusals are counted (%v)", name, got-before, err)
			}
		}
	})
}

// TestLeaderWithAFastClock checks that an entry with a time ahead of a majority's clocks is never committed, and that
// the conversation continues under a leader with a correct clock.
func TestLeaderWithAFastClock(t *testing.T) {
	simulate(t, func(cfg *Config) {
		if cfg.Node == nodeA {
			cfg.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		}
	}, three, func(c *cluster) {
		p := c.found(nodeB, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		e := p.Commit(c.id(), 8, wire.DeliveryChange{})
		var receipt wire.Receipt
		c.eventually("it is ordered", func() bool {
			var err error
			receipt, err = c.nodes[nodeC].m.Order(c.context(20*time.Second), e)
			if err != nil && !errors.Is(err, wire.NoQuorum) && !strings.Contains(err.Error(), "deadline") {
				c.t.Fatal(err)
			}
			return err == nil
		})
		if now := wire.TimeOf(time.Now()); receipt.Time > now {
			c.t.Fatalf("the log's clock is %d ms ahead", receipt.Time-now)
		}
	})
}
