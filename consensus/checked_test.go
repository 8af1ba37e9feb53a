package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// TestCheckedRange checks that exactly the entries are spared whose signatures this process has verified, since the
// last one that it refused as forged.
func TestCheckedRange(t *testing.T) {
	var r checkedRange
	fine, forged := machine.Outcome{}, machine.Outcome{Err: wire.Errorf(wire.Forged, "submit", "no")}
	check := func(generation uint64, from, to uint64) {
		t.Helper()
		for i := range uint64(40) {
			if got := r.has(generation, i); got != (from < i && i <= to) {
				t.Fatalf("entry %d: %v, wanted those after %d, up to %d", i, got, from, to)
			}
		}
	}
	check(0, 0, 0)
	r.begin(0, 0)
	for i := uint64(1); i <= 9; i++ {
		r.note(0, i, fine)
	}
	check(0, 0, 9)
	check(1, 0, 0)
	r.begin(0, 4) // a replay from an older snapshot
	r.note(0, 5, fine)
	check(0, 0, 9)
	r.note(0, 7, forged) // an entry that is refused in the middle
	check(0, 7, 9)
	r.note(0, 10, machine.Outcome{Err: wire.Errorf(wire.StaleEpoch, "submit", "late")})
	check(0, 7, 10)
	r.begin(0, 20) // a snapshot of another node: entries before it were not applied here
	check(0, 0, 0)
	r.note(0, 23, fine)
	check(0, 20, 23)
	r.begin(1, 5) // another generation
	r.note(0, 24, fine)
	check(0, 0, 0)
	r.note(1, 8, fine)
	check(1, 5, 8)
	r.reset()
	check(1, 0, 0)
}

// TestKnownFacts checks that a follower knows the decoded form of the leader's entries, and the signatures of the
// submissions that it has forwarded, and nothing of other bytes.
func TestKnownFacts(t *testing.T) {
	place := author.Place{Conversation: "c", Epoch: 1, Parent: 2, Opener: author.Submission(1)}
	e := place.Commit(author.Submission(2), 100, wire.DeliveryChange{})
	encode := func(e *wire.Envelope) *raft.Log {
		raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: 1, Proposer: "n1.a.example", Envelope: e})
		if err != nil {
			t.Fatal(err)
		}
		return &raft.Log{Index: 5, Data: raw}
	}
	l := &live{c: &conversation{}}
	log, decoded := encode(e), &wire.Entry{Envelope: e}
	if k := l.known(log); k != (machine.Known{}) {
		t.Fatalf("known: %+v", k)
	}
	l.proven.add(e, author.Public(place.Opener))
	l.decoded.put(log, decoded)
	if k := l.known(encode(e)); k.Entry != nil {
		t.Fatal("other bytes have the decoded form")
	}
	if k := l.known(log); k.Entry != decoded || k.Key != author.Public(place.Opener) {
		t.Fatalf("known: %+v", k)
	}
	if k := l.known(log); k.Entry != nil {
		t.Fatal("an entry is taken twice")
	}
	other := *e
	other.Signature = append([]byte{1}, e.Signature[1:]...)
	l.decoded.put(log, &wire.Entry{Envelope: &other})
	if k := l.known(log); !k.Key.IsZero() {
		t.Fatal("another signature of the same submission counts as verified")
	}
	large := &raft.Log{Index: 6, Data: make([]byte, maxDecoded+1)}
	l.decoded.put(large, decoded)
	if l.decoded.take(large) != nil {
		t.Fatal("a large entry is kept")
	}
	for n := range uint64(len(l.proven.list)) {
		l.proven.add(place.Commit(author.Submission(100+n), 1, wire.DeliveryChange{}), author.Public(place.Opener))
	}
	if key := l.proven.key(e); !key.IsZero() {
		t.Fatal("the oldest submission is kept")
	}
}

// TestWakeVerifiesNothingAgain checks that a conversation which slept knows the signatures of its whole log as
// verified, on each node, and that a restart of a node ends that knowledge.
func TestWakeVerifiesNothingAgain(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		unverified := func(n wire.NodeID) (entries int) {
			t.Helper()
			cv, err := c.nodes[n].m.find(conv)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := c.nodes[n].m.readRecord(conv)
			if err != nil {
				t.Fatal(err)
			}
			log := c.nodes[n].m.cfg.Log.Group(cv.group)
			for i := uint64(1); i <= rec.Applied; i++ {
				var e raft.Log
				if err := log.GetLog(i, &e); err == nil && e.Type == raft.LogCommand && !cv.checked.has(cv.generation(), i) {
					entries++
				}
			}
			return entries
		}
		for range 3 {
			for range 4 {
				p = c.commit(nodeB, p, wire.DeliveryChange{})
			}
			c.level(conv, three...)
			c.asleep(conv, three...)
			for _, n := range three {
				if left := unverified(n); left > 0 {
					t.Errorf("%s would verify %d entries again", n, left)
				}
			}
		}
		c.stop(c.nodes[nodeC])
		c.start(c.nodes[nodeC])
		if unverified(nodeC) == 0 {
			t.Error("a new process takes the signatures in its log as verified")
		}
	})
}

// TestUncommittedEntriesAreVerifiedAgain checks that a replay past the committed entries spares none of the rest: a
// leader may put an entry with a false signature in the place of an entry that is not committed. Such a replay happens
// when the consumer has stored more than the log holds, as after an earlier replica of this node was lost.
func TestUncommittedEntriesAreVerifiedAgain(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		c.level(conv, three...)
		c.asleep(conv, three...)
		n := c.nodes[nodeC]
		cv, err := n.m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := n.m.readRecord(conv)
		if err != nil {
			t.Fatal(err)
		}
		before := *rec
		raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: 1, Proposer: nodeB, Envelope: p.Commit(c.id(), 100, wire.DeliveryChange{})})
		if err != nil {
			t.Fatal(err)
		}
		log := n.m.cfg.Log.Group(cv.group)
		last, err := log.LastIndex()
		if err == nil {
			err = log.StoreLogs([]*raft.Log{{Index: last + 1, Term: rec.LastTerm, Type: raft.LogCommand, Data: raw}})
		}
		if err != nil {
			t.Fatal(err)
		}
		ahead := Delivery{Conversation: conv}
		ahead.Committed.Sequence = rec.Sequence + 9
		if err := n.consumer.Consume(t.Context(), ahead); err != nil {
			t.Fatal(err)
		}
		if err := n.m.advanceToConsumer(cv, rec); err != nil || rec.Applied != before.Applied {
			t.Fatalf("committed up to %d, it was %d: %v", rec.Applied, before.Applied, err)
		}
		if cv.checked.has(cv.generation(), last+1) {
			t.Error("an entry that another leader may replace counts as verified")
		}
		if !cv.checked.has(cv.generation(), last) {
			t.Error("a committed entry would be verified again")
		}
		c.stop(n)
	})
}
