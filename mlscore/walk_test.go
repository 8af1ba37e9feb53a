package mlscore

import (
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// walkConfig is the configuration of a random walk.
type walkConfig struct {
	suite  CipherSuite
	frames string // handshakes: "public", "private", or "mixed", where each member chooses
	size   int    // largest size of the group
	steps  int
	seed   uint64
}

// walk is a random life of a group in which all members are real: each message of a member is processed by the
// others, and after every commit all members are compared. All choices and all keys are derived from the seed, so
// that a failed walk can be repeated.
type walk struct {
	t *testing.T
	walkConfig
	rng     *mathrand.Rand
	keys    io.Reader
	members []*walker // in arbitrary order
	outside []*walker
	names   int
	letters []*letter

	sender   Secret // signature key of an external sender
	follower *PublicState

	// Of the present epoch:
	withheld map[*walker][][]byte // proposals that arrive late at a member
	adds     bool                 // a walker is about to be added
	resumes  bool                 // a resumption PSK is about to be injected, which newcomers lack

	commits  int
	most     int               // largest number of members
	verified map[string]string // public keys of tree nodes → the private keys that were checked against them
	counts   map[string]int
	trace    []string
}

// walker is a present, former or future member of the group.
type walker struct {
	*person
	name    string
	rich    bool   // supports extensions and proposals that some others do not
	past    int    // Limits.PastEpochs of this walker
	since   uint64 // the epoch in which it joined
	invited bool   // was invited in this epoch
}

// letter is an application message in transit.
type letter struct {
	msg   []byte
	epoch uint64
	from  *walker
	data  string
	to    []*walker // walkers who have not received it
	had   []*walker // walkers who have received it
}

// All walkers support the first type of each kind, and rich walkers also the second.
const (
	walkExtension     ExtensionType = 0xff01
	walkRichExtension ExtensionType = 0xff02
	walkProposal      ProposalType  = 0xff11
	walkRichProposal  ProposalType  = 0xff12
)

const walkPSKs = 3

// seedOf returns the seed of a test, which MLSFED_SEED can replace.
func seedOf(t *testing.T, standard uint64) uint64 {
	t.Helper()
	s := os.Getenv("MLSFED_SEED")
	if s == "" {
		return standard
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("MLSFED_SEED: %v", err)
	}
	return seed
}

// longRun returns MLSFED_LONG, which enables tests that take more than seconds: "short" or "full".
func longRun(t testing.TB) string {
	t.Helper()
	switch v := os.Getenv("MLSFED_LONG"); v {
	case "", "short", "full":
		return v
	default:
		t.Fatalf("MLSFED_LONG is %q: it can be short or full", v)
		return ""
	}
}

// walkSizes are the sizes of walks, depending on the cost of a suite's operations.
var walkSizes = []struct {
	suite                   CipherSuite
	quick, short, full      int // members
	quickN, shortN, fullN   int // steps
	quickFrames, longFrames []string
}{
	{MLS128X25519AES128Ed25519, 20, 120, 300, 120, 400, 700, []string{"public", "private", "mixed"}, []string{"public", "mixed"}},
	{MLS128P256AES128P256, 10, 60, 150, 40, 200, 400, []string{"mixed"}, []string{"public", "private"}},
	{MLS128X25519ChaCha20Ed25519, 10, 60, 150, 40, 250, 500, []string{"public"}, []string{"mixed"}},
	{MLS256X448AES256Ed448, 8, 30, 60, 35, 120, 300, []string{"private"}, []string{"public"}},
	{MLS256P521AES256P521, 5, 12, 24, 22, 80, 250, []string{"mixed"}, []string{"mixed"}},
	{MLS256X448ChaCha20Ed448, 8, 30, 60, 35, 120, 300, []string{"mixed"}, []string{"private"}},
	{MLS256P384AES256P384, 6, 24, 50, 25, 120, 300, []string{"public"}, []string{"mixed"}},
	{MLS128MLKEM768X25519AES128Ed25519, 10, 60, 150, 40, 200, 400, []string{"mixed"}, []string{"public", "mixed"}},
	{MLS192MLKEM768AES256MLDSA65, 5, 24, 50, 20, 120, 300, []string{"public"}, []string{"mixed"}},
}

// TestWalk makes a short walk with every suite of RFC 9420 and with two of the post-quantum suites.
func TestWalk(t *testing.T) {
	counts := map[string]int{}
	for _, size := range walkSizes {
		for _, frames := range size.quickFrames {
			runWalk(t, walkConfig{size.suite, frames, size.quick, size.quickN, seedOf(t, 1)}, counts)
		}
	}
	everyOperation(t, counts)
}

// everyOperation checks that the walks of a test have made every operation, if all walks ran.
func everyOperation(t *testing.T, counts map[string]int) {
	t.Helper()
	total := 0
	for _, n := range counts {
		total += n
	}
	t.Logf("%d operations: %v", total, histogram(counts))
	if total < 300 { // some walks were left out
		return
	}
	for _, op := range (&walk{}).operations() {
		if counts[op.name] == 0 {
			t.Errorf("no walk has had the operation %q", op.name)
		}
	}
}

// TestLongWalk makes long walks, if MLSFED_LONG is set.
func TestLongWalk(t *testing.T) {
	long := longRun(t)
	if long == "" {
		t.Skip("takes minutes: set MLSFED_LONG to short or full")
	}
	counts := map[string]int{}
	for _, size := range walkSizes {
		for _, frames := range size.longFrames {
			c := walkConfig{size.suite, frames, size.short, size.shortN, seedOf(t, 2)}
			if long == "full" {
				c.size, c.steps = size.full, size.fullN
			}
			runWalk(t, c, counts)
		}
	}
	everyOperation(t, counts)
}

// runWalk makes a walk in a subtest and counts its operations.
func runWalk(t *testing.T, c walkConfig, counts map[string]int) {
	t.Helper()
	t.Run(fmt.Sprintf("suite=%d,%s", c.suite, c.frames), func(t *testing.T) {
		w := newWalk(t, c)
		t.Cleanup(func() {
			if t.Failed() {
				for _, line := range w.trace {
					t.Log(line)
				}
				t.Logf("once more: MLSFED_LONG=%s MLSFED_SEED=%d go test -run '^%s$' ./mlscore", os.Getenv("MLSFED_LONG"), c.seed, t.Name())
			}
		})
		w.begin()
		w.run()
		for name, n := range w.counts {
			counts[name] += n
		}
		t.Logf("seed %d: %d epochs, at most %d members; %v", c.seed, w.epoch(), w.most, histogram(w.counts))
	})
}

func histogram(counts map[string]int) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return list
}

func newWalk(t *testing.T, c walkConfig) *walk {
	salt := uint64(c.suite)<<8 | uint64(len(c.frames))
	return &walk{
		t:          t,
		walkConfig: c,
		rng:        mathrand.New(mathrand.NewPCG(c.seed, salt)),
		keys:       seeded(fmt.Sprint("walk ", c.seed, salt)),
		withheld:   map[*walker][][]byte{},
		verified:   map[string]string{},
		counts:     map[string]int{},
	}
}

// begin founds the group.
func (w *walk) begin() {
	var pub []byte
	var err error
	w.sender, pub, err = GenerateSignatureKey(w.keys, w.suite)
	w.must(err)
	senders, err := ExternalSendersExtension([]ExternalSender{{pub, BasicCredential([]byte("a server"))}})
	w.must(err)
	founder := w.newcomer()
	g, err := founder.CreateGroup(founder.id, nil, CreateOptions{GroupOptions: w.options(), Extensions: Extensions{senders}})
	w.must(err)
	founder.group = g
	w.enter(founder)
	if w.frames == "public" {
		w.follower = w.observer()
	}
	w.check()
}

// run draws operations from a deck that contains each operation, so that even a short walk makes all of them.
func (w *walk) run() {
	ops := w.operations()
	var deck []operation
	for done := 0; done < w.steps; {
		if len(deck) == 0 {
			for _, op := range ops {
				for range op.weight {
					deck = append(deck, op)
				}
			}
			w.rng.Shuffle(len(deck), func(a, b int) { deck[a], deck[b] = deck[b], deck[a] })
		}
		op := deck[0]
		deck = deck[1:]
		w.trace = append(w.trace, fmt.Sprintf("epoch %d, %d members: %s", w.epoch(), len(w.members), op.name))
		w.trace = w.trace[max(0, len(w.trace)-60):]
		if op.do() {
			w.counts[op.name]++
			done++
		}
	}
}

// must fails the walk at an error.
func (w *walk) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused fails the walk unless err has one of the given kinds.
func (w *walk) refused(what string, err error, kinds ...error) {
	w.t.Helper()
	if err == nil || len(kinds) > 0 && !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
		w.t.Fatalf("%s: got %v, want %v", what, err, kinds)
	}
}

func (w *walk) note(format string, args ...any) {
	w.trace = append(w.trace, "    "+fmt.Sprintf(format, args...))
}

// chance returns true with a probability of 1/n.
func (w *walk) chance(n int) bool { return w.rng.IntN(n) == 0 }

func (w *walk) pick(list []*walker) *walker { return list[w.rng.IntN(len(list))] }

// some picks up to n walkers of a list, in random order.
func (w *walk) some(list []*walker, n int) []*walker {
	list = slices.Clone(list)
	w.rng.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
	return list[:min(n, len(list))]
}

// others lists all members except some.
func (w *walk) others(but ...*walker) []*walker {
	return slices.DeleteFunc(slices.Clone(w.members), func(m *walker) bool { return slices.Contains(but, m) })
}

func (w *walk) epoch() uint64 { return w.members[0].group.Epoch() }

// options returns random GroupOptions for a member.
func (w *walk) options() GroupOptions {
	public := w.frames == "public" || w.frames == "mixed" && w.chance(2)
	return GroupOptions{PublicHandshakes: public, Padding: []Padding{NoPadding(), Padme(), PadToMultiple(64)}[w.rng.IntN(3)]}
}

// goal returns the intended number of members at this step: it grows, shrinks and grows again.
func (w *walk) goal() int {
	done := 0
	for _, n := range w.counts {
		done += n
	}
	switch at := 100 * done / w.steps; {
	case at < 45:
		return w.size
	case at < 75:
		return max(2, w.size/6)
	}
	return max(2, w.size*2/3)
}
