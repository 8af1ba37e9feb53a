package machine

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// model holds the facts that the machine must not contradict, in the simplest form: the accepted entries, and for
// each epoch the number of plain commits that ended it.
type model struct {
	places   []author.Place // every epoch that was ever opened
	ended    map[wire.SequenceNumber]int
	receipts map[wire.SubmissionID]wire.Receipt
	sent     []*wire.Envelope
	order    wire.Hash
	count    wire.SequenceNumber
	closed   bool
}

// TestRandomWalk applies random submissions to two machines, one of which is restored from a snapshot at random
// moments, and checks both against the model.
func TestRandomWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := New(testID, nil), New(testID, nil)
		m := &model{ended: map[wire.SequenceNumber]int{}, receipts: map[wire.SubmissionID]wire.Receipt{}}
		now := wire.Time(1000)
		next := uint64(0)
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			next++
			now += wire.Time(rapid.Int64Range(-1000, 3*int64(MaxStep)).Draw(t, "passes"))
			e := m.draw(t, author.Submission(next))
			raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: now, Proposer: "n1.a.example", Envelope: e})
			if err != nil {
				t.Fatal(err)
			}
			out, same := a.Apply(raw), b.Apply(raw)
			if out.Receipt != same.Receipt || (out.Err == nil) != (same.Err == nil) {
				t.Fatalf("replicas disagree: %+v and %+v", out, same)
			}
			m.check(t, a, e, raw, out)
			if rapid.Bool().Draw(t, "restart") {
				b = restart(t, b)
			}
			compare(t, a, b)
		}
	})
}

// draw makes a submission: mostly sensible, sometimes late, forged or repeated.
func (m *model) draw(t *rapid.T, id wire.SubmissionID) *wire.Envelope {
	if len(m.places) == 0 {
		return author.Create(testID, id, wire.Policy{RecentCount: 8}, author.Addresses(1, "a.example", "b.example"))
	}
	back := min(len(m.places)-1, rapid.IntRange(0, 3).Draw(t, "back"))
	p := m.places[len(m.places)-1-back]
	switch rapid.IntRange(0, 11).Draw(t, "what") {
	case 0, 1:
		return p.Propose(id, 8)
	case 2, 3:
		return p.Contest(id, wire.DeliveryChange{})
	case 4:
		return m.sent[rapid.IntRange(0, len(m.sent)-1).Draw(t, "again")]
	case 5:
		forged := p
		forged.Opener = author.Submission(1 << 40)
		return forged.Commit(id, 8, wire.DeliveryChange{})
	case 6:
		org := rapid.SampledFrom([]wire.Domain{"a.example", "c.example", "d.example"}).Draw(t, "org")
		return p.Commit(id, 8, wire.DeliveryChange{Add: author.Addresses(uint64(rapid.IntRange(2, 4).Draw(t, "n")), org)})
	case 7:
		return p.Commit(id, 8, wire.DeliveryChange{Remove: author.Addresses(1, "b.example")})
	case 8:
		if rapid.IntRange(0, 9).Draw(t, "close") == 0 {
			return p.Close(id)
		}
	}
	return p.Commit(id, 8, wire.DeliveryChange{})
}

func (m *model) check(t *rapid.T, a *Machine, e *wire.Envelope, raw []byte, out Outcome) {
	if first, ok := m.receipts[e.Submission]; ok {
		if out.Err != nil || out.Receipt != first || out.Committed != nil {
			t.Fatalf("retry of entry %d: %+v", first.Sequence, out)
		}
		return
	}
	if out.Err != nil {
		if a.Sequence() != m.count || a.Order() != m.order {
			t.Fatalf("a refusal (%v) moved the log", out.Err)
		}
		return
	}
	m.count++
	m.order = wire.NextOrder(m.order, raw)
	if out.Receipt.Sequence != m.count || out.Receipt.Order != m.order || a.Order() != m.order {
		t.Fatalf("entry %d is %+v", m.count, out.Receipt)
	}
	m.receipts[e.Submission], m.sent = out.Receipt, append(m.sent, e)
	if m.closed {
		t.Fatal("an entry was accepted after the end")
	}
	m.closed = a.Closed()
	switch e.Kind {
	case wire.KindCreate:
		m.places = append(m.places, author.After(e, out.Receipt))
	case wire.KindCommit:
		m.places = append(m.places, author.After(e, out.Receipt))
		if !e.Commit.Contest {
			if m.ended[e.Parent]++; m.ended[e.Parent] > 1 {
				t.Fatalf("the epoch that entry %d opened was ended twice", e.Parent)
			}
		} else if m.ended[e.Parent] == 0 {
			t.Fatalf("a contest of an epoch that nobody ended was accepted")
		}
	}
}

func restart(t *rapid.T, m *Machine) *Machine {
	var out bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	back, err := Restore(testID, nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func compare(t *rapid.T, a, b *Machine) {
	one, err := a.Snapshot().Digest()
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Snapshot().Digest()
	if err != nil {
		t.Fatal(err)
	}
	if one != two {
		t.Fatal("two replicas that applied the same entries differ")
	}
	if len(a.Heads()) > MaxHeads {
		t.Fatalf("%d heads", len(a.Heads()))
	}
}
