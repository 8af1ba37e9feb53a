package machine

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// timed applies an entry from a node at a given time.
func (b *bench) timed(at wire.Time, by wire.NodeID, e *wire.Envelope, r *wire.Replicas) wire.Receipt {
	b.t.Helper()
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: at, Proposer: by, Envelope: e, Replicas: r})
	if err != nil {
		b.t.Fatal(err)
	}
	out := b.m.Apply(raw)
	if out.Err != nil {
		b.t.Fatal(out.Err)
	}
	return out.Receipt
}

// TestOneOrganizationDoesNotMoveTheClock checks that from level 2 on, entries of one organization's nodes, of any
// time and number, do not expire entries or heads that others rely on.
func TestOneOrganizationDoesNotMoveTheClock(t *testing.T) {
	const honest, mallory = wire.NodeID("n1.a.example"), wire.NodeID("n1.mallory.example")
	const start = wire.Time(1_700_000_000_000)
	b := &bench{t: t, m: New(testID, nil), time: start, next: 1}
	e := author.Create(testID, b.id(), wire.Policy{RecentHours: 1}, author.Addresses(1, "a.example", "mallory.example"))
	p := author.After(e, b.timed(start, honest, e, nil))
	both := &wire.Replicas{Voters: []wire.NodeID{honest, mallory}}
	b.timed(start, honest, nil, both)
	b.timed(start, honest, nil, wire.RaiseLevel(both, 2))
	last := p
	for range 5 {
		last, p = p, author.After(e, b.timed(start, honest, func() *wire.Envelope { e = p.Commit(b.id(), 10, wire.DeliveryChange{}); return e }(), nil))
	}
	e = last.Contest(b.id(), wire.DeliveryChange{})
	b.timed(start, honest, e, nil)
	for n := range 200 {
		b.timed(start+wire.Time(n+1)*MaxStep, mallory, nil, both)
	}
	if list, gap := entriesOf(b.m, 0, 1000, 1<<30); gap || len(b.m.Heads()) != 2 || b.m.now-start > MaxLead {
		t.Fatalf("200 entries of one organization moved the clock by %d ms: first kept %d, gap %v, %d heads", b.m.now-start, list[0].Sequence, gap, len(b.m.Heads()))
	}
	// With an entry of the other organization, time passes: up to the latest time that both organizations have
	// reached.
	b.timed(start+MaxStep/2, honest, nil, both)
	b.timed(start+300*MaxStep, mallory, nil, both)
	if got := b.m.now - start; got != MaxStep/2+MaxLead {
		t.Fatalf("the clock moved by %d ms", got)
	}
	if _, gap := entriesOf(b.m, 0, 1000, 1<<30); !gap {
		t.Fatal("entries older than an hour are kept")
	}
	compareRestored(t, b.m)
}

// TestOneOrganizationHasItsOwnTime checks that the clock follows an organization's entries if no other organization
// takes part.
func TestOneOrganizationHasItsOwnTime(t *testing.T) {
	b, _ := newBench(t, wire.Policy{RecentHours: 1}, "a.example")
	own := &wire.Replicas{Voters: []wire.NodeID{"n1.a.example", "n2.a.example"}}
	start := b.m.now
	b.timed(start, "n1.a.example", nil, own)
	b.timed(start, "n1.a.example", nil, wire.RaiseLevel(own, 2))
	b.timed(start+MaxStep/2, "n2.a.example", nil, own)
	if got := b.m.now - start; got != MaxStep/2 {
		t.Fatalf("the clock moved by %d ms", got)
	}
	compareRestored(t, b.m)
}

func compareRestored(t *testing.T, m *Machine) {
	t.Helper()
	one := imageBytes(t, m)
	back, err := Restore(testID, nil, bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	if two := imageBytes(t, back); string(one) != string(two) {
		t.Fatal("restored to another state")
	}
}
