package machine

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// walk drives a machine through everything that Apply accepts: commits, contests, proposals, closes, replicas,
// recoveries, a higher level, times that jump, and heads that expire.
type walk struct {
	b      *bench
	places []author.Place
	sent   []*wire.Envelope
}

func newWalk(t testing.TB, policy wire.Policy) *walk {
	b, p := newBench(t, policy, "a.example", "b.example")
	return &walk{b: b, places: []author.Place{p}}
}

// step applies one entry of kind n; how chooses its place and its content.
func (w *walk) step(n, how int) {
	b, m := w.b, w.b.m
	p := w.places[len(w.places)-1-how%min(len(w.places), 4)]
	var e *wire.Envelope
	switch n % 16 {
	case 0:
		e = p.Propose(b.id(), 8)
	case 1, 2:
		e = p.Contest(b.id(), wire.DeliveryChange{})
	case 3:
		e = p.Commit(b.id(), 8, wire.DeliveryChange{Add: author.Addresses(uint64(2+how%3), "c.example", "d.example")})
	case 4:
		e = p.Commit(b.id(), 8, wire.DeliveryChange{Remove: author.Addresses(1, "b.example")})
	case 5:
		e = p.Contest(b.id(), wire.DeliveryChange{Add: author.Addresses(uint64(9+how), "e.example")})
	case 6:
		if how%7 == 0 {
			e = p.Close(b.id())
		}
	case 7:
		b.time += MaxStep * wire.Time(1+how%9)
	case 8:
		b.time -= 5000
	case 9:
		w.replicas(&wire.Replicas{Generation: m.Generation(), Voters: []wire.NodeID{"n1.a.example"}, Learners: []wire.NodeID{"n1.b.example"}})
	case 10:
		w.replicas(&wire.Replicas{Generation: m.Generation() + 1, Voters: []wire.NodeID{"n1.b.example"}, Recovery: &wire.Recovery{Note: "lost"}})
	case 11:
		if m.replicas != nil {
			w.replicas(wire.RaiseLevel(m.replicas, 2))
		}
	case 12:
		if len(w.sent) > 0 {
			e = w.sent[how%len(w.sent)]
		}
	default:
		e = p.Commit(b.id(), 8, wire.DeliveryChange{})
		e.Commit.Info = &wire.Payload{Inline: []byte("info")}
		e.Commit.Tree = &wire.Payload{Blob: &wire.BlobRef{Hash: wire.Hash{byte(how)}, Size: 9}}
		author.Sign(e, p.Opener)
	}
	if e == nil {
		return
	}
	if out := b.apply(e); out.Committed != nil {
		w.sent = append(w.sent, e)
		if e.Kind == wire.KindCommit {
			w.places = append(w.places, author.After(e, out.Receipt))
		}
	}
}

func (w *walk) replicas(r *wire.Replicas) {
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: w.b.time, Proposer: "n1.b.example", Replicas: r})
	if err != nil {
		w.b.t.Fatal(err)
	}
	w.b.m.Apply(raw)
}

// TestAppliedStateRestores checks that a state which the machine produces can be restored unchanged.
func TestAppliedStateRestores(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := wire.Policy{RecentCount: uint32(rapid.SampledFrom([]int{0, 1, 3, 8}).Draw(t, "keeps")), RecentHours: uint32(rapid.SampledFrom([]int{0, 1, 48}).Draw(t, "hours")), RecentBytes: uint32(rapid.SampledFrom([]int{0, 1500}).Draw(t, "bytes"))}
		w := newWalk(&rapidTB{}, policy)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.step(rapid.IntRange(0, 15).Draw(t, "what"), rapid.IntRange(0, 1000).Draw(t, "how"))
			if !rapid.Bool().Draw(t, "restored") {
				continue
			}
			var out bytes.Buffer
			if _, err := w.b.m.Snapshot().WriteTo(&out); err != nil {
				t.Fatal(err)
			}
			back, err := Restore(testID, nil, bytes.NewReader(out.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if again := imageBytes(&rapidTB{}, back); !bytes.Equal(again, out.Bytes()) {
				t.Fatal("restored to another state")
			}
		}
	})
}

// rapidTB is a testing.TB for helpers within rapid: a failure in them is a panic.
type rapidTB struct{ testing.TB }

func (*rapidTB) Helper()                      {}
func (*rapidTB) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (*rapidTB) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// TestManySubmissionsRestore checks that a state which has dropped submissions can be restored too.
func TestManySubmissionsRestore(t *testing.T) {
	b, p := newBench(t, wire.Policy{RecentCount: 2000})
	for range MaxSubmissions + 50 {
		p = b.commit(p)
	}
	if _, err := Restore(testID, nil, bytes.NewReader(imageBytes(t, b.m))); err != nil {
		t.Fatal(err)
	}
}

// TestStateOfTheFirstRelease checks that a snapshot of the build of 25 November can be restored.
func TestStateOfTheFirstRelease(t *testing.T) {
	f, err := os.Open("testdata/state-1.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := Restore(testID, nil, f)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Heads()) < 2 || m.Sequence() < 30 || m.Level() != wire.FirstLevel {
		t.Fatalf("%d heads, %d entries, level %d", len(m.Heads()), m.Sequence(), m.Level())
	}
}

// richState has two heads of one parent, organizations that joined and left, replicas, proposals and answers.
func richState(t testing.TB) *Machine {
	b, p := newBench(t, wire.Policy{RecentCount: 8, RecentHours: 100}, "a.example", "b.example")
	for range 6 {
		p = b.commit(p)
	}
	replicas := &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}, Learners: []wire.NodeID{"n1.b.example"}}
	accept := func(r *wire.Replicas) {
		b.t.Helper()
		if out := b.m.Apply(b.raw(nil, r)); out.Err != nil {
			b.t.Fatal(out.Err)
		}
	}
	e := p.Commit(b.id(), 8, wire.DeliveryChange{Add: author.Addresses(1, "c.example"), Remove: author.Addresses(1, "b.example")})
	p = author.After(e, b.accept(e))
	accept(replicas)
	b.time += 1000
	b.accept(p.Propose(b.id(), 8))
	one := p.Commit(b.id(), 8, wire.DeliveryChange{Add: author.Addresses(1, "d.example")})
	b.accept(one)
	two := p.Contest(b.id(), wire.DeliveryChange{})
	q := author.After(two, b.accept(two))
	b.time += 1000
	b.accept(q.Propose(b.id(), 8))
	return b.m
}

// hostile lists single changes to a state; no machine produces the results.
var hostile = map[string]func(*Image){
	"an end of the number space":            func(i *Image) { i.header.Sequence = math.MaxUint64 },
	"nothing before an entry":               func(i *Image) { i.header.Sequence = wire.SequenceNumber(len(i.recent)) },
	"entries without content":               func(i *Image) { i.recent = nil },
	"created without heads":                 func(i *Image) { i.heads = nil },
	"never created":                         func(i *Image) { i.header.Created = false },
	"closed with two heads":                 func(i *Image) { i.header.Closed = true },
	"closed with nothing that closed":       func(i *Image) { i.header.Closed = true; i.heads = i.heads[:1] },
	"another order hash":                    func(i *Image) { i.header.Order[0] ^= 1 },
	"an order hash between":                 func(i *Image) { i.recent[2].Order[0] ^= 1 },
	"an entry replaced":                     func(i *Image) { i.recent[2].Entry = i.recent[1].Entry },
	"an entry of another conversation":      func(i *Image) { foreignEntry(i) },
	"a policy without handshakes":           func(i *Image) { i.header.Policy.Handshakes = 0 },
	"a policy that keeps less":              func(i *Image) { i.header.Policy.RecentCount = 3 },
	"a policy that keeps fewer bytes":       func(i *Image) { i.header.Policy.RecentBytes = 100 },
	"public handshakes without state":       func(i *Image) { i.header.Policy.Handshakes = wire.HandshakesPublic },
	"a time before 1970":                    func(i *Image) { i.header.Now = -1 },
	"a time beyond the entries":             func(i *Image) { i.header.Now += 1000 },
	"the end of time":                       func(i *Image) { i.header.Now = math.MaxInt64 },
	"an entry's time that runs back":        func(i *Image) { i.recent[len(i.recent)-2].time = 1 },
	"an entry's time that it does not bear": func(i *Image) { i.recent[len(i.recent)-2].time++ },
	"spans out of order":                    func(i *Image) { slices.Reverse(i.header.Spans) },
	"a span twice":                          func(i *Image) { i.header.Spans = append(i.header.Spans, i.header.Spans[len(i.header.Spans)-1]) },
	"a span since 0":                        func(i *Image) { i.header.Spans[0].Since = 0 },
	"a span since later":                    func(i *Image) { i.header.Spans[0].Since = i.header.Sequence + 1 },
	"a span until later":                    func(i *Image) { i.header.Spans[1].Until = i.header.Sequence + 1 },
	"a span that ends before it begins":     func(i *Image) { i.header.Spans[1].Since = i.header.Spans[1].Until },
	"a span of nobody":                      func(i *Image) { i.header.Spans[1].Until = 0 },
	"a member without a span":               func(i *Image) { i.header.Spans = i.header.Spans[1:] },
	"a span of no domain":                   func(i *Image) { i.header.Spans[0].Organization = "" },
	"replicas since never":                  func(i *Image) { i.header.Since = 0 },
	"replicas since the create":             func(i *Image) { i.header.Since = 1 },
	"replicas since later":                  func(i *Image) { i.header.Since = i.header.Sequence + 1 },
	"replicas of another entry":             func(i *Image) { i.header.Since++ },
	"no replicas where an entry set them":   func(i *Image) { i.header.Replicas, i.header.Since = nil, 0 },
	"other replicas":                        func(i *Image) { i.header.Replicas = &wire.Replicas{Voters: []wire.NodeID{"n9.a.example"}} },
	"replicas without a voter":              func(i *Image) { i.header.Replicas = &wire.Replicas{} },
	"a generation of nowhere":               func(i *Image) { r := *i.header.Replicas; r.Generation = 1 << 40; i.header.Replicas = &r },
	"a level that nobody raised":            func(i *Image) { i.header.Level = 2 },
	"clocks in the first level":             func(i *Image) { i.header.Clocks = []Clock{{Time: 1}} },
	"a head of entry 0":                     func(i *Image) { i.heads[0].seq = 0 },
	"a head of the future":                  func(i *Image) { i.heads[0].seq = i.header.Sequence + 1 },
	"a head of the end":                     func(i *Image) { i.heads[0].seq = math.MaxUint64 },
	"a head twice":                          func(i *Image) { i.heads[1] = i.heads[0] },
	"a head of another epoch":               func(i *Image) { i.heads[0].epoch++ },
	"a head of the last epoch":              func(i *Image) { i.heads[0].epoch = math.MaxUint64 },
	"a head without a key":                  func(i *Image) { i.heads[0].key = wire.SubmissionKey{} },
	"a head with another key":               func(i *Image) { i.heads[0].key[0] ^= 1 },
	"a head without a list":                 func(i *Image) { i.heads[0].delivery = nil },
	"a list out of order":                   func(i *Image) { d := slices.Clone(i.heads[0].delivery); slices.Reverse(d); i.heads[0].delivery = d },
	"a list with an address twice": func(i *Image) {
		i.heads[0].delivery = append(slices.Clone(i.heads[0].delivery), i.heads[0].delivery[2])
	},
	"a victim alone":                   func(i *Image) { i.heads[0].delivery = i.heads[0].delivery[:1] },
	"a change that is not in the list": func(i *Image) { i.heads[0].change.Add = author.Addresses(7, "z.example") },
	"another change":                   func(i *Image) { i.heads[0].change = wire.DeliveryChange{} },
	"a removal of who is there":        func(i *Image) { i.heads[1].change.Remove = i.heads[1].delivery[:1] },
	"a tree from nowhere":              func(i *Image) { i.heads[0].tree = &wire.Payload{Inline: []byte{1}} },
	"a payload that is nothing":        func(i *Image) { i.heads[0].info = &wire.Payload{} },
	"a blob of no size":                func(i *Image) { i.heads[0].info = &wire.Payload{Blob: &wire.BlobRef{}} },
	"a head without a parent":          func(i *Image) { i.heads[0].parent = nil },
	"a head used later":                func(i *Image) { i.heads[0].used = i.header.Now + 1 },
	"a head used before its time":      func(i *Image) { i.heads[0].used = 1 },
	"a head used before a proposal":    func(i *Image) { i.heads[1].used -= 500 },
	"proposals that are not there":     func(i *Image) { i.heads[0].proposals++ },
	"proposals over the bound":         func(i *Image) { i.heads[0].proposals = MaxProposals + 1 },
	"a parent of entry 0":              func(i *Image) { i.heads[0].parent.seq = 0 },
	"a parent after its child":         func(i *Image) { i.heads[0].parent.seq = i.heads[0].seq },
	"parents that differ":              func(i *Image) { i.heads[0].parent.winner++ },
	"a parent of another epoch":        func(i *Image) { i.heads[0].parent.epoch-- },
	"a parent with another key":        func(i *Image) { i.heads[0].parent.key[0] ^= 1 },
	"a parent without a key":           func(i *Image) { i.heads[0].parent.key = wire.SubmissionKey{} },
	"a winner before the epoch":        func(i *Image) { i.heads[0].parent.winner = i.heads[0].parent.seq },
	"a winner of the future":           func(i *Image) { i.heads[0].parent.winner = math.MaxUint64 },
	"an answer twice":                  func(i *Image) { i.answers = append(i.answers, i.answers[0]) },
	"answers out of order":             func(i *Image) { slices.Reverse(i.answers) },
	"an answer of the future":          func(i *Image) { i.answers[len(i.answers)-1].Receipt.Sequence = i.header.Sequence + 1 },
	"an answer of entry 0":             func(i *Image) { i.answers[0].Receipt.Sequence = 0 },
	"an answer of another epoch":       func(i *Image) { i.answers[len(i.answers)-1].Receipt.Epoch++ },
	"an answer of an endless epoch":    func(i *Image) { i.answers[1].Receipt.Epoch = math.MaxUint64 },
	"an answer with another order":     func(i *Image) { i.answers[len(i.answers)-1].Receipt.Order[0] ^= 1 },
	"an answer with another digest":    func(i *Image) { i.answers[len(i.answers)-1].Digest[0] ^= 1 },
	"an answer of another time":        func(i *Image) { i.answers[len(i.answers)-1].Receipt.Time-- },
	"an answer of later":               func(i *Image) { i.answers[0].Receipt.Time = i.header.Now + 1 },
	"an answer for another submission": func(i *Image) { i.answers[len(i.answers)-1].ID[0] ^= 1 },
	"a submission without an answer":   func(i *Image) { i.answers = i.answers[:len(i.answers)-1] },
	"submissions forgotten too early":  func(i *Image) { i.answers = i.answers[2:] },
	"no answers":                       func(i *Image) { i.answers = nil },
}

// foreignEntry replaces the last entry by one of another conversation, with all hashes correct.
func foreignEntry(i *Image) {
	k := &i.recent[len(i.recent)-1]
	e, err := k.Open()
	if err != nil {
		panic(err)
	}
	e.Envelope.Conversation = "conversation-two"
	if k.Entry, err = wire.Encode(e); err != nil {
		panic(err)
	}
	k.Order = wire.NextOrder(i.recent[len(i.recent)-2].Order, k.Entry)
	i.header.Order = k.Order
	i.answers[len(i.answers)-1].Receipt.Order = k.Order
}

// copyImage returns a copy of an image; a change of the copy does not change the original.
func copyImage(m *Machine) *Image {
	img := m.Snapshot()
	for i := range img.heads {
		if p := img.heads[i].parent; p != nil {
			own := *p
			img.heads[i].parent = &own
		}
	}
	return img
}

// seal writes an image with correct counts and checksum.
func seal(t testing.TB, img *Image) []byte {
	t.Helper()
	img.header.Heads, img.header.Recent, img.header.Answers = uint32(len(img.heads)), uint32(len(img.recent)), uint32(len(img.answers))
	var out bytes.Buffer
	if _, err := img.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestHostileStatesAreRefused checks that no single field of a state can be changed.
func TestHostileStatesAreRefused(t *testing.T) {
	m := richState(t)
	if _, err := Restore(testID, nil, bytes.NewReader(seal(t, copyImage(m)))); err != nil {
		t.Fatal(err)
	}
	for name, change := range hostile {
		img := copyImage(m)
		change(img)
		_, err := Restore(testID, nil, bytes.NewReader(seal(t, img)))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// readEverything calls every reader, also at the ends of its arguments, and then applies further entries.
func readEverything(m *Machine) {
	m.Heads()
	m.Delivery()
	m.Spans()
	m.Replicas()
	m.Blobs()
	m.Generation()
	for _, seq := range []wire.SequenceNumber{0, 1, m.Sequence() - 1, m.Sequence(), m.Sequence() + 1, math.MaxUint64 - 1, math.MaxUint64} {
		for _, org := range []wire.Domain{"", "a.example"} {
			m.Delivers(org, seq)
		}
		for _, n := range []int{0, 1, math.MaxInt} {
			for _, size := range []int{0, 1, math.MaxInt} {
				m.Entries(seq, n, size)
			}
		}
	}
	if _, err := m.Snapshot().Digest(); err != nil {
		panic(err)
	}
	for _, h := range m.Heads() {
		p := author.Place{Conversation: m.ID(), Epoch: h.Epoch, Parent: h.Sequence, Opener: author.Submission(1)}
		for _, e := range []*wire.Envelope{p.Commit(author.Submission(1<<50), 8, wire.DeliveryChange{}), p.Contest(author.Submission(1<<51), wire.DeliveryChange{}), p.Propose(author.Submission(1<<52), 8), p.Close(author.Submission(1 << 53))} {
			for _, at := range []wire.Time{math.MinInt64, 0, math.MaxInt64} {
				if raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: at, Proposer: "n1.a.example", Envelope: e}); err == nil {
					m.Apply(raw)
				}
			}
		}
	}
	for _, g := range []uint64{0, m.Generation(), m.Generation() + 1, math.MaxUint64} {
		if raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: m.now, Proposer: "n1.a.example", Replicas: &wire.Replicas{Generation: g, Voters: []wire.NodeID{"n1.a.example"}}}); err == nil {
			m.Apply(raw)
		}
	}
	m.Heads()
	m.Entries(0, math.MaxInt, math.MaxInt)
}

// FuzzRestoreHostile restores states of an attacker: walks of a machine with changed fields, and with valid
// checksums. Every state that is restored can be read and can apply further entries.
func FuzzRestoreHostile(f *testing.F) {
	names := make([]string, 0, len(hostile))
	for name := range hostile {
		names = append(names, name)
	}
	slices.Sort(names)
	for i := range names {
		f.Add([]byte{3, 1, 13, 2, 9, 0, 11, 0}, byte(i), uint64(math.MaxUint64), byte(i))
	}
	f.Fuzz(func(t *testing.T, steps []byte, change byte, number uint64, field byte) {
		w := newWalk(t, wire.Policy{RecentCount: 8})
		for i := 0; i+1 < min(len(steps), 80); i += 2 {
			w.step(int(steps[i]), int(steps[i+1]))
		}
		img := copyImage(w.b.m)
		func() {
			defer func() { _ = recover() }() // the change may need more than this state has
			hostile[names[int(change)%len(names)]](img)
		}()
		scramble(img, field, number)
		m, err := Restore(testID, nil, bytes.NewReader(seal(t, img)))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("taken for damaged: %v", err)
			}
			return
		}
		readEverything(m)
	})
}

// scramble sets one number of a state.
func scramble(i *Image, field byte, n uint64) {
	h := &i.header
	head := &i.heads
	switch field % 20 {
	case 0:
		h.Sequence = wire.SequenceNumber(n)
	case 1:
		h.Now = wire.Time(n)
	case 2:
		h.Since = wire.SequenceNumber(n)
	case 3:
		h.Policy.RecentCount = uint32(n)
	case 4:
		h.Level = uint8(n)
	case 5:
		if len(h.Spans) > 0 {
			h.Spans[0].Since = wire.SequenceNumber(n)
		}
	case 6:
		if len(h.Spans) > 0 {
			h.Spans[0].Until = wire.SequenceNumber(n)
		}
	case 7:
		if len(*head) > 0 {
			(*head)[0].seq = wire.SequenceNumber(n)
		}
	case 8:
		if len(*head) > 0 {
			(*head)[0].epoch = wire.Epoch(n)
		}
	case 9:
		if len(*head) > 0 {
			(*head)[0].used = wire.Time(n)
		}
	case 10:
		if len(*head) > 0 {
			(*head)[0].proposals = int(uint32(n))
		}
	case 11:
		if len(*head) > 0 && (*head)[0].parent != nil {
			(*head)[0].parent.winner = wire.SequenceNumber(n)
		}
	case 12:
		if len(*head) > 0 && (*head)[0].parent != nil {
			(*head)[0].parent.seq = wire.SequenceNumber(n)
		}
	case 13:
		if len(i.answers) > 0 {
			i.answers[0].Receipt.Sequence = wire.SequenceNumber(n)
		}
	case 14:
		if len(i.answers) > 0 {
			i.answers[0].Receipt.Epoch = wire.Epoch(n)
		}
	case 15:
		if len(i.recent) > 0 {
			i.recent[0].time = wire.Time(n)
		}
	case 16:
		h.Created, h.Closed = n&1 == 0, n&2 == 0
	case 17:
		if len(h.Clocks) > 0 {
			h.Clocks[0].Time = wire.Time(n)
		}
	case 18:
		h.Policy.RecentHours = uint32(n)
	}
}

// TestVerify checks that unsigned submissions are found if the keys are kept.
func TestVerify(t *testing.T) {
	m := richState(t)
	if err := m.Verify(); err != nil {
		t.Fatal(err)
	}
	last := &m.recent[len(m.recent)-1]
	e, err := last.Open()
	if err != nil {
		t.Fatal(err)
	}
	e.Envelope.Signature[3] ^= 1
	if last.Entry, err = wire.Encode(e); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(); err == nil {
		t.Fatal("a forged submission is found genuine")
	}
}
