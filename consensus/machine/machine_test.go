package machine

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/internal/fault"
	"github.com/mlsfed/mlsfed/wire"
)

const testID wire.ConversationID = "conversation-one"

// bench drives one machine with entries whose time it chooses.
type bench struct {
	t    testing.TB
	m    *Machine
	time wire.Time
	next uint64
}

func newBench(t testing.TB, policy wire.Policy, orgs ...wire.Domain) (*bench, author.Place) {
	b := &bench{t: t, m: New(testID, nil), time: 1_000_000, next: 1}
	if len(orgs) == 0 {
		orgs = []wire.Domain{"a.example"}
	}
	e := author.Create(testID, b.id(), policy, author.Addresses(1, orgs...))
	return b, author.After(e, b.accept(e))
}

func (b *bench) id() wire.SubmissionID { b.next++; return author.Submission(b.next) }

func (b *bench) raw(e *wire.Envelope, r *wire.Replicas) []byte {
	b.t.Helper()
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: b.time, Proposer: "n1.a.example", Envelope: e, Replicas: r})
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

func (b *bench) apply(e *wire.Envelope) Outcome { b.t.Helper(); return b.m.Apply(b.raw(e, nil)) }

func (b *bench) accept(e *wire.Envelope) wire.Receipt {
	b.t.Helper()
	out := b.apply(e)
	if out.Err != nil {
		b.t.Fatalf("%v of epoch %d: %v", e.Kind, e.Epoch, out.Err)
	}
	return out.Receipt
}

func (b *bench) refuse(e *wire.Envelope, want wire.Code) *wire.Error {
	b.t.Helper()
	before := b.digest()
	out := b.apply(e)
	if out.Err == nil || out.Err.Code != want {
		b.t.Fatalf("%v: %+v, wanted %v", e.Kind, out, want)
	}
	if b.digest() != before {
		b.t.Fatalf("a refused %v changed the state", e.Kind)
	}
	return out.Err
}

func (b *bench) digest() wire.Hash {
	b.t.Helper()
	h, err := b.m.Snapshot().Digest()
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

func (b *bench) commit(p author.Place) author.Place {
	b.t.Helper()
	e := p.Commit(b.id(), 16, wire.DeliveryChange{})
	return author.After(e, b.accept(e))
}

func TestOneCommitAnEpoch(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	win, lose := p.Commit(b.id(), 16, wire.DeliveryChange{}), p.Commit(b.id(), 16, wire.DeliveryChange{})
	receipt := b.accept(win)
	if receipt.Epoch != 1 || receipt.Sequence != 2 {
		t.Fatalf("winner's receipt %+v", receipt)
	}
	stale := b.refuse(lose, wire.StaleEpoch).Stale
	if stale == nil || stale.Epoch != 1 || stale.Head != 2 || stale.Winner == nil || stale.OwnPast {
		t.Fatalf("loser got %+v", stale)
	}
	won, err := stale.Winner.Open()
	if err != nil || won.Envelope.Submission != win.Submission || stale.Winner.Order != receipt.Order {
		t.Fatalf("the winner is %+v (%v)", won, err)
	}
	b.refuse(p.Propose(b.id(), 4), wire.StaleEpoch)
	// An epoch further back: no key is kept to check the submission with, so the answer has no bundle.
	b.commit(author.After(win, receipt))
	if old := b.refuse(lose, wire.StaleEpoch).Stale; old.Winner != nil || old.Epoch != 2 {
		t.Fatalf("two epochs late: %+v", old)
	}
}

func TestRetryGetsTheFirstAnswer(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	first := p.Commit(b.id(), 16, wire.DeliveryChange{})
	receipt := b.accept(first)
	b.commit(author.After(first, receipt))
	before := b.digest()
	out := b.apply(first)
	if out.Err != nil || out.Receipt != receipt || out.Committed != nil || b.digest() != before {
		t.Fatalf("retry: %+v, wanted %+v and no change", out, receipt)
	}
	other := p.Commit(first.Submission, 17, wire.DeliveryChange{})
	b.refuse(other, wire.SubmissionReused)
}

func TestForgottenRetryLearnsThatItWon(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	mine := p.Commit(b.id(), 16, wire.DeliveryChange{})
	b.accept(mine)
	b.m.answers, b.m.answered = map[wire.SubmissionID]submitted{}, nil // as after MaxSubmissions other submissions
	if stale := b.refuse(mine, wire.StaleEpoch).Stale; stale.Winner == nil || !stale.OwnPast {
		t.Fatalf("the answer about a forgotten winner is %+v", stale)
	}
}

func TestProposalsOfOneEpochAreBounded(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	mine := p.Commit(b.id(), 16, wire.DeliveryChange{})
	place := author.After(mine, b.accept(mine))
	for range MaxProposals {
		b.accept(place.Propose(b.id(), 1))
	}
	b.refuse(place.Propose(b.id(), 1), wire.Quota)
	if stale := b.refuse(p.Propose(b.id(), 1), wire.StaleEpoch).Stale; stale.Winner != nil || stale.Epoch != 1 {
		t.Fatalf("an entry that is not kept was handed out: %+v", stale)
	}
	b.commit(place)
}

func TestWhoMayOrder(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	outsider := p
	outsider.Opener = author.Submission(999)
	b.refuse(outsider.Commit(b.id(), 16, wire.DeliveryChange{}), wire.Forged)
	b.refuse(outsider.Propose(b.id(), 16), wire.Forged)
	b.refuse(outsider.Close(b.id()), wire.Forged)
	next := b.commit(p)
	// A losing member that cannot sign learns nothing about the winner.
	if err := b.refuse(outsider.Commit(b.id(), 16, wire.DeliveryChange{}), wire.Forged); err.Stale != nil {
		t.Fatalf("an outsider got %+v", err.Stale)
	}
	removed := next
	removed.Opener = p.Opener // holds the key of the previous epoch
	b.refuse(removed.Commit(b.id(), 16, wire.DeliveryChange{}), wire.Forged)
}

func TestHandshakeHead(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	for name, msg := range map[string][]byte{
		"another group":     author.Message(author.FormatPrivate, "conversation-two", 0, author.Committing, nil),
		"another epoch":     author.Message(author.FormatPrivate, testID, 1, author.Committing, nil),
		"a proposal":        author.Message(author.FormatPrivate, testID, 0, author.Proposing, nil),
		"application":       author.Message(author.FormatPrivate, testID, 0, 1, nil),
		"public":            author.Message(author.FormatPublic, testID, 0, author.Committing, nil),
		"a Welcome":         {0, 1, 0, 3, 0},
		"another version":   {0, 2, 0, 2, 0},
		"cut short":         author.Message(author.FormatPrivate, testID, 0, author.Committing, nil)[:12],
		"length past input": {0, 1, 0, 2, 0x9f, 0xff, 0xff, 0xff},
	} {
		e := p.Commit(b.id(), 16, wire.DeliveryChange{})
		e.Commit.Commit = msg
		t.Run(name, func(t *testing.T) { b.refuse(author.Sign(e, p.Opener), wire.Invalid) })
	}
}

func TestSubmissionsThatNameNoPlace(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	future, wrongEpoch, elsewhere := p, p, p
	future.Parent, wrongEpoch.Epoch, elsewhere.Conversation = 7, 5, "conversation-two"
	b.refuse(future.Commit(b.id(), 16, wire.DeliveryChange{}), wire.Invalid)
	b.refuse(wrongEpoch.Commit(b.id(), 16, wire.DeliveryChange{}), wire.Invalid)
	b.refuse(elsewhere.Commit(b.id(), 16, wire.DeliveryChange{}), wire.Invalid)
	b.refuse(p.Contest(b.id(), wire.DeliveryChange{}), wire.Invalid)
	b.refuse(author.Create(testID, b.id(), wire.Policy{}, author.Addresses(1, "a.example")), wire.Exists)
	fresh := &bench{t: t, m: New(testID, nil)}
	fresh.refuse(p.Propose(b.id(), 1), wire.UnknownConversation)
	fresh.refuse(author.Sign(author.Create(testID, b.id(), wire.Policy{}, author.Addresses(1, "a.example")), p.Opener), wire.Forged)
}

func TestDamagedEntryIsRefused(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	raw := b.raw(p.Commit(b.id(), 16, wire.DeliveryChange{}), nil)
	before := b.digest()
	for n := range raw {
		if out := b.m.Apply(raw[:n]); out.Err == nil || b.digest() != before {
			t.Fatalf("prefix of %d bytes: %+v", n, out)
		}
	}
}

func TestDeliveryListAndOrganizations(t *testing.T) {
	b, p := newBench(t, wire.Policy{}, "a.example")
	add := author.Addresses(2, "b.example", "c.example")
	e := p.Commit(b.id(), 16, wire.DeliveryChange{Add: add})
	p = author.After(e, b.accept(e))
	if got := len(b.m.Delivery()); got != 3 {
		t.Fatalf("%d addresses, wanted 3", got)
	}
	b.refuse(p.Commit(b.id(), 16, wire.DeliveryChange{Add: add[:1]}), wire.Invalid)
	b.refuse(p.Commit(b.id(), 16, wire.DeliveryChange{Remove: author.Addresses(9, "a.example")}), wire.Invalid)
	b.refuse(p.Commit(b.id(), 16, wire.DeliveryChange{Remove: b.m.Delivery()}), wire.Invalid)
	b.accept(p.Propose(b.id(), 1))
	e = p.Commit(b.id(), 16, wire.DeliveryChange{Remove: add[:1]})
	p = author.After(e, b.accept(e))
	b.commit(p)
	for _, c := range []struct {
		org   wire.Domain
		since wire.SequenceNumber
		until wire.SequenceNumber
	}{{"a.example", 1, 5}, {"b.example", 2, 4}, {"c.example", 2, 5}} {
		for seq := wire.SequenceNumber(1); seq <= 5; seq++ {
			if got, want := b.m.Delivers(c.org, seq), c.since <= seq && seq <= c.until; got != want {
				t.Errorf("%s receives entry %d: %v, wanted %v", c.org, seq, got, want)
			}
		}
	}
}

func TestContestedEpoch(t *testing.T) {
	b, p := newBench(t, wire.Policy{}, "a.example", "b.example")
	poison := p.Commit(b.id(), 16, wire.DeliveryChange{Remove: author.Addresses(1, "b.example")})
	first := author.After(poison, b.accept(poison))
	contest := p.Contest(b.id(), wire.DeliveryChange{Add: author.Addresses(3, "c.example")})
	second := author.After(contest, b.accept(contest))
	heads := b.m.Heads()
	if len(heads) != 2 || heads[0].Sequence != first.Parent || heads[1].Sequence != second.Parent || heads[0].Epoch != 1 || heads[1].Epoch != 1 {
		t.Fatalf("heads %+v", heads)
	}
	// The second branch begins from the list before the first child.
	if n := len(heads[1].Delivery); n != 3 {
		t.Fatalf("the contesting branch has %d addresses, wanted a, b and c", n)
	}
	// Both branches continue, each with its own key.
	crossed := second
	crossed.Opener = first.Opener
	b.refuse(crossed.Propose(b.id(), 1), wire.Forged)
	b.commit(first)
	second = b.commit(second)
	// The first commit of the epoch no longer has its parent's key: it cannot be contested any more.
	b.refuse(p.Contest(b.id(), wire.DeliveryChange{}), wire.StaleEpoch)
	if got := b.m.Heads(); got[0].Epoch != 2 || got[1].Epoch != 2 {
		t.Fatalf("heads %+v", got)
	}
	// A head can be closed individually; closing the last one ends the conversation.
	b.accept(second.Close(b.id()))
	if b.m.Closed() || len(b.m.Heads()) != 1 || b.m.Delivers("c.example", b.m.Sequence()+1) {
		t.Fatal("closing one head")
	}
}

func TestHeadsAreBounded(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	b.commit(p)
	for range MaxHeads - 1 {
		b.accept(p.Contest(b.id(), wire.DeliveryChange{}))
	}
	b.refuse(p.Contest(b.id(), wire.DeliveryChange{}), wire.TooManyHeads)
}

func TestUnusedHeadExpires(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	first := b.commit(p)
	second := b.commit2(p)
	for range 4 { // each moves the time by two days
		b.time += 2 * MaxStep
		first = b.commit(first)
	}
	if n := len(b.m.Heads()); n != 2 { // MaxStep holds the clock back: four days have passed
		t.Fatalf("%d heads after four days, wanted 2", n)
	}
	for range 4 {
		b.time += 2 * MaxStep
		first = b.commit(first)
	}
	if n := len(b.m.Heads()); n != 1 {
		t.Fatalf("%d heads after eight days, wanted 1", n)
	}
	b.refuse(second.Propose(b.id(), 1), wire.StaleEpoch)
}

func (b *bench) commit2(p author.Place) author.Place {
	b.t.Helper()
	e := p.Contest(b.id(), wire.DeliveryChange{})
	return author.After(e, b.accept(e))
}

func TestClose(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	e := p.Close(b.id())
	receipt := b.accept(e)
	if !b.m.Closed() {
		t.Fatal("still open")
	}
	b.refuse(p.Propose(b.id(), 1), wire.Closed)
	if out := b.apply(e); out.Err != nil || out.Receipt != receipt {
		t.Fatalf("retry of the close: %+v", out)
	}
	if len(b.m.Delivery()) != 1 || !b.m.Delivers("a.example", receipt.Sequence) {
		t.Fatal("the closing entry reaches nobody")
	}
}

func TestReplicas(t *testing.T) {
	b, _ := newBench(t, wire.Policy{})
	nodes := []wire.NodeID{"n1.a.example", "n1.b.example"}
	apply := func(r *wire.Replicas) Outcome { return b.m.Apply(b.raw(nil, r)) }
	if out := apply(&wire.Replicas{Voters: nodes[:1], Learners: nodes[1:]}); out.Err != nil || out.Receipt.Sequence != 2 {
		t.Fatalf("%+v", out)
	}
	if r, since := b.m.Replicas(); since != 2 || r.Voters[0] != nodes[0] {
		t.Fatalf("replicas %+v since %d", r, since)
	}
	for name, r := range map[string]*wire.Replicas{
		"generation ahead":        {Generation: 1, Voters: nodes},
		"recovery, same one":      {Generation: 0, Voters: nodes, Recovery: &wire.Recovery{Note: "x"}},
		"recovery, two at a time": {Generation: 2, Voters: nodes, Recovery: &wire.Recovery{Note: "x"}},
	} {
		if out := apply(r); out.Err == nil || out.Err.Code != wire.Invalid {
			t.Errorf("%s: %+v", name, out)
		}
	}
	if out := apply(&wire.Replicas{Generation: 1, Voters: nodes[1:], Recovery: &wire.Recovery{Lost: nodes[:1], Note: "fire"}}); out.Err != nil || b.m.Generation() != 1 {
		t.Fatalf("%+v in generation %d", out, b.m.Generation())
	}
}

func TestTimeNeitherJumpsNorRunsBack(t *testing.T) {
	b, p := newBench(t, wire.Policy{RecentHours: 48})
	start := b.m.now
	b.time = start + 1000*MaxStep
	p = b.commit(p)
	if b.m.now != start+MaxStep {
		t.Fatalf("one entry moved the time by %d ms", b.m.now-start)
	}
	b.time = -5
	p = b.commit(p)
	if b.m.now != start+MaxStep {
		t.Fatal("the time ran backwards")
	}
	b.time = start + 1000*MaxStep
	for range 3 {
		p = b.commit(p)
	}
	if _, gap := entriesOf(b.m, 0, 100, 1<<20); !gap {
		t.Fatal("entries older than 48 hours are still kept")
	}
}

func TestRecentEntries(t *testing.T) {
	b, p := newBench(t, wire.Policy{RecentCount: 4, RecentBytes: 4000})
	for range 9 {
		p = b.commit(p)
	}
	entries, gap := entriesOf(b.m, 0, 100, 1<<20)
	if !gap || len(entries) != 4 || entries[0].Sequence != 7 || entries[3].Sequence != 10 || entries[3].Order != b.m.Order() {
		t.Fatalf("%d entries from %d, gap %v", len(entries), entries[0].Sequence, gap)
	}
	if entries, gap := entriesOf(b.m, 8, 100, 1<<20); gap || len(entries) != 2 || entries[0].Sequence != 9 {
		t.Fatalf("since 8: %d entries, gap %v", len(entries), gap)
	}
	if entries, _ := entriesOf(b.m, 6, 100, 1); len(entries) != 1 {
		t.Fatalf("%d entries in one byte, wanted the first whatever its size", len(entries))
	}
	if entries, gap := entriesOf(b.m, 10, 100, 100); gap || len(entries) != 0 {
		t.Fatal("nothing is after the last")
	}
	big := p.Commit(b.id(), 5000, wire.DeliveryChange{})
	b.accept(big)
	if entries, _ := entriesOf(b.m, 0, 100, 1<<20); len(entries) != 1 {
		t.Fatalf("%d entries kept in addition to one over the limit", len(entries))
	}
}

func TestEpochCheckSwitch(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	fault.DisableEpochCheck(b.m)
	a, c := p.Commit(b.id(), 16, wire.DeliveryChange{}), p.Commit(b.id(), 16, wire.DeliveryChange{})
	if first, second := b.accept(a), b.accept(c); first.Epoch != 1 || second.Epoch != 2 && second.Epoch != 1 {
		t.Fatalf("receipts %+v and %+v", first, second)
	}
}

func TestJudgeAgreesWithApply(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	e := &wire.Entry{Version: 1, Time: b.time, Proposer: "n1.a.example", Envelope: p.Commit(b.id(), 16, wire.DeliveryChange{})}
	before := b.digest()
	if receipt, err := b.m.Judge(e); err != nil || receipt != nil || b.digest() != before {
		t.Fatalf("judged %v, %v", receipt, err)
	}
	want := b.accept(e.Envelope)
	if receipt, err := b.m.Judge(e); err != nil || *receipt != want {
		t.Fatalf("judged a retry %v, %v", receipt, err)
	}
	if _, err := b.m.Judge(&wire.Entry{Version: 1, Proposer: "n1.a.example", Envelope: p.Close(b.id())}); !errors.Is(err, wire.StaleEpoch) {
		t.Fatalf("judged a late close %v", err)
	}
}

func TestSnapshotOfEveryState(t *testing.T) {
	b, p := newBench(t, wire.Policy{RecentCount: 6}, "a.example", "b.example")
	step := func(name string) {
		t.Helper()
		var out bytes.Buffer
		if _, err := b.m.Snapshot().WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		back, err := Restore(testID, nil, bytes.NewReader(out.Bytes()))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := back.Snapshot().Digest(); err != nil || got != b.digest() {
			t.Fatalf("%s: restored to another state (%v)", name, err)
		}
		b.m = back // continue with the restored machine
	}
	step("created")
	first := b.commit(p)
	second := b.commit2(p)
	step("contested")
	b.accept(second.Propose(b.id(), 3))
	first = b.commit(first)
	if out := b.m.Apply(b.raw(nil, &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}})); out.Err != nil {
		t.Fatal(out.Err)
	}
	step("with replicas")
	b.accept(second.Close(b.id()))
	b.accept(first.Close(b.id()))
	step("closed")
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	b, p := newBench(t, wire.Policy{})
	b.commit(p)
	var out bytes.Buffer
	if _, err := b.m.Snapshot().WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	whole := out.Bytes()
	for n := range whole {
		if _, err := Restore(testID, nil, bytes.NewReader(whole[:n])); err == nil {
			t.Fatalf("a prefix of %d bytes is accepted", n)
		}
		flipped := bytes.Clone(whole)
		flipped[n] ^= 1 << (n % 8)
		if _, err := Restore(testID, nil, bytes.NewReader(flipped)); err == nil {
			t.Fatalf("a flipped bit in byte %d is accepted", n)
		}
	}
	if _, err := Restore(testID, nil, bytes.NewReader(append(whole, 0))); err == nil {
		t.Fatal("a trailing byte is accepted")
	}
	if _, err := Restore("conversation-two", nil, bytes.NewReader(whole)); err == nil {
		t.Fatal("a snapshot of another conversation is accepted")
	}
}

func TestPublicPolicyNeedsRules(t *testing.T) {
	b := &bench{t: t, m: New(testID, nil), next: 1}
	e := author.Create(testID, b.id(), wire.Policy{Handshakes: wire.HandshakesPublic}, author.Addresses(1, "a.example"))
	e.Create.Info = []byte("info")
	b.refuse(author.Sign(e, e.Submission), wire.Invalid)
}

func FuzzRestore(f *testing.F) {
	b, p := newBench(f, wire.Policy{})
	b.commit(p)
	b.commit2(p)
	var out bytes.Buffer
	if _, err := b.m.Snapshot().WriteTo(&out); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Restore(testID, nil, bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if _, err := m.Snapshot().WriteTo(&again); err != nil || !bytes.Equal(again.Bytes(), data) {
			t.Fatalf("restored from %d bytes, writes %d (%v)", len(data), again.Len(), err)
		}
	})
}

func BenchmarkApplyCommit(b *testing.B) {
	bb, p := newBench(b, wire.Policy{})
	for b.Loop() {
		e := p.Commit(bb.id(), 4096, wire.DeliveryChange{})
		p = author.After(e, bb.accept(e))
	}
}

func BenchmarkCommitWithListOf100000(b *testing.B) {
	bb := &bench{t: b, m: New(testID, nil), next: 1}
	var list []wire.Address
	for i := range uint64(100_000) {
		list = append(list, author.Address(wire.Domain(fmt.Sprintf("o%d.example", i/25_000)), i))
	}
	e := author.Create(testID, bb.id(), wire.Policy{}, list)
	p := &plan{entry: &wire.Entry{Time: 1, Envelope: e}}
	if err := bb.m.judge(p); err != nil {
		b.Fatal(err)
	}
	place := author.After(e, bb.m.enact(p, []byte("too large for one entry: enacted for the benchmark")).Receipt)
	n := uint64(200_000)
	for b.Loop() {
		n++
		e := place.Commit(bb.id(), 64, wire.DeliveryChange{Add: []wire.Address{author.Address("o1.example", n)}})
		place = author.After(e, bb.accept(e))
	}
}

// TestVerifiedKeySparesThatCheckAlone checks that a caller's verification with a key is used for this key and for
// nothing else, and that the resulting state is the same.
func TestVerifiedKeySparesThatCheckAlone(t *testing.T) {
	a, p := newBench(t, wire.Policy{})
	b, _ := newBench(t, wire.Policy{})
	e := p.Commit(a.id(), 16, wire.DeliveryChange{})
	raw := a.raw(e, nil)
	_, key, err := a.m.judgeKey(&wire.Entry{Version: 1, Time: a.time, Proposer: "n1.a.example", Envelope: e})
	if err != nil || key != author.Public(p.Opener) {
		t.Fatalf("verified under %v, %v", key, err)
	}
	if one, two := a.m.Apply(raw), b.m.applyVerified(raw, key); one.Err != nil || one.Receipt != two.Receipt || a.digest() != b.digest() {
		t.Fatalf("outcomes %+v and %+v", one, two)
	}
	next := author.After(e, wire.Receipt{Epoch: 1, Sequence: 2})
	forged := next.Commit(a.id(), 16, wire.DeliveryChange{})
	forged.Signature[7] ^= 1
	for name, wrong := range map[string]wire.SubmissionKey{"none": {}, "the epoch before": key, "the next epoch": forged.Commit.Key} {
		if out := b.m.applyVerified(b.raw(forged, nil), wrong); !errors.Is(out.Err, wire.Forged) {
			t.Errorf("%s: %+v", name, out)
		}
	}
	late := p.Commit(a.id(), 16, wire.DeliveryChange{})
	if out := b.m.applyVerified(b.raw(late, nil), key); !errors.Is(out.Err, wire.StaleEpoch) {
		t.Errorf("a late commit: %+v", out)
	}
}

func TestOutcomeSaysWhoMoved(t *testing.T) {
	b, p := newBench(t, wire.Policy{}, "a.example", "b.example")
	add := wire.DeliveryChange{Add: []wire.Address{author.Address("c.example", 1)}}
	more := wire.DeliveryChange{Add: []wire.Address{author.Address("a.example", 2)}}
	away := wire.DeliveryChange{Remove: []wire.Address{author.Address("b.example", 1)}}
	for i, step := range []struct {
		change wire.DeliveryChange
		moved  bool
	}{{wire.DeliveryChange{}, false}, {add, true}, {more, false}, {away, true}, {wire.DeliveryChange{}, false}} {
		e := p.Commit(b.id(), 16, step.change)
		out := b.apply(e)
		if out.Err != nil || out.Moved != step.moved {
			t.Fatalf("step %d: %+v", i, out)
		}
		p = author.After(e, out.Receipt)
	}
	if out := b.m.Apply(b.raw(nil, &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}})); out.Err != nil || !out.Moved {
		t.Fatalf("%+v", out)
	}
}
