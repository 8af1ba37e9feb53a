package machine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// soul is a model of a client in a conversation with a hostile member. It follows the rule that its next epoch is the
// first child of its epoch, in the order of the log, that it can process.
type soul struct {
	name   string
	org    wire.Domain
	at     wire.SequenceNumber // the entry that opened its epoch
	read   int                 // number of entries read
	failed bool                // it could not process a child of its epoch
	vouch  bool                // its epoch was contested, or came from a contest: the member shows that it is in that epoch
	away   bool
}

// stage is an epoch of a conversation with a hostile member.
type stage struct {
	author.Place
	parent wire.SequenceNumber
	poison bool          // honest members cannot process the commit
	inside bool          // the hostile member has the key
	fresh  []wire.Domain // organizations of the devices that the hostile member has added, which follow it here
}

// arena is one seed: replicas, honest members, and a hostile member that knows the state of the servers.
type arena struct {
	t       testing.TB
	seed    uint64
	dice    *rand.Rand
	a, b    *Machine
	off     rules
	now     wire.Time
	next    uint64
	log     []wire.Committed
	epochs  map[wire.SequenceNumber]*stage
	order   []wire.SequenceNumber // the epochs in order
	honest  []*soul
	evil    soul
	out     wire.SequenceNumber // the entry that removed the hostile member, 0 for none
	users   map[wire.SequenceNumber]string
	token   uint64
	trouble string
}

// crews are the organizations that take part. The last one is hostile.
var crews = [][]soul{
	{{name: "alice", org: "a.example"}, {name: "anna", org: "a.example"}, {name: "bob", org: "b.example"}, {name: "mallory", org: "m.example"}},
	{{name: "alice", org: "a.example"}, {name: "bob", org: "b.example"}, {name: "mallory", org: "a.example"}},
	{{name: "alice", org: "a.example"}, {name: "anna", org: "a.example"}, {name: "mallory", org: "a.example"}},
	{{name: "alice", org: "a.example"}, {name: "mallory", org: "m.example"}},
	{{name: "alice", org: "a.example"}, {name: "bob", org: "b.example", away: true}, {name: "carol", org: "c.example"}, {name: "mallory", org: "b.example"}},
}

func newArena(t testing.TB, seed uint64, off rules) *arena {
	r := &arena{t: t, seed: seed, dice: rand.New(rand.NewPCG(seed, 3)), a: New(testID, nil), b: New(testID, nil), off: off, now: 1_000_000,
		epochs: make(map[wire.SequenceNumber]*stage), users: make(map[wire.SequenceNumber]string), token: 100}
	r.a.off, r.b.off = off, off
	crew := crews[r.dice.IntN(len(crews))]
	var list []wire.Address
	for i := range crew {
		list = append(list, author.Address(crew[i].org, uint64(i+1)))
		if m := crew[i]; i < len(crew)-1 {
			r.honest = append(r.honest, &m)
		} else {
			r.evil = m
		}
	}
	slices.SortFunc(list, wire.Address.Compare)
	e := author.Create(testID, r.id(), wire.Policy{RecentCount: 4096}, list)
	receipt, err := r.apply(e, nil, crew[0].org)
	if err != nil {
		t.Fatal(err)
	}
	r.open(&stage{Place: author.After(e, receipt), inside: true})
	for _, m := range r.honest {
		m.at, m.read = 1, 1
	}
	replicas := &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}}
	for _, change := range []*wire.Replicas{replicas, wire.RaiseLevel(replicas, 2)} {
		if _, err := r.apply(nil, change, "a.example"); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *arena) id() wire.SubmissionID { r.next++; return author.Submission(r.seed<<24 | r.next) }

func (r *arena) open(o *stage) {
	r.epochs[o.Parent] = o
	r.order = append(r.order, o.Parent)
}

// apply makes both replicas apply an entry; one of them is sometimes restored from a snapshot.
func (r *arena) apply(e *wire.Envelope, change *wire.Replicas, by wire.Domain) (wire.Receipt, error) {
	r.now += wire.Time(r.dice.IntN(2000))
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: r.now, Proposer: wire.NodeID("n1." + string(by)), Envelope: e, Replicas: change})
	if err != nil {
		r.t.Fatal(err)
	}
	out, same := r.a.Apply(raw), r.b.Apply(raw)
	if out.Receipt != same.Receipt || out.Moved != same.Moved || (out.Err == nil) != (same.Err == nil) || out.Err != nil && out.Err.Error() != same.Err.Error() {
		r.t.Fatalf("seed %d: replicas disagree: %+v and %+v", r.seed, out, same)
	}
	if r.dice.IntN(40) == 0 {
		var snapshot bytes.Buffer
		if _, err := r.b.Snapshot().WriteTo(&snapshot); err != nil {
			r.t.Fatal(err)
		}
		if r.b, err = Restore(testID, nil, &snapshot); err != nil {
			r.t.Fatalf("seed %d: %v", r.seed, err)
		}
		r.b.off = r.off
		one, _ := r.a.Snapshot().Digest()
		two, _ := r.b.Snapshot().Digest()
		if one != two || r.off == 0 && !slices.Equal(r.a.Holders(), r.b.Holders()) {
			r.t.Fatalf("seed %d: a restored replica differs", r.seed)
		}
	}
	if out.Err != nil {
		return wire.Receipt{}, out.Err
	}
	if out.Committed != nil {
		r.log = append(r.log, *out.Committed)
	}
	return out.Receipt, nil
}

// fail records the first broken promise.
func (r *arena) fail(format string, args ...any) {
	if r.trouble == "" {
		r.trouble = fmt.Sprintf(format, args...)
	}
}

// sync makes an honest member read up to n entries.
func (r *arena) sync(m *soul, n int) {
	for ; n > 0 && m.read < len(r.log); n-- {
		c := &r.log[m.read]
		m.read++
		e, err := c.Open()
		if err != nil {
			r.t.Fatal(err)
		}
		if e.Envelope == nil || e.Envelope.Kind != wire.KindCommit {
			continue
		}
		if o := r.epochs[m.at]; e.Envelope.Parent == o.parent && o.parent > 0 && e.Envelope.Commit.Contest {
			m.vouch = true // another member contests this member's epoch
		}
		if e.Envelope.Parent != m.at {
			continue
		}
		if r.epochs[c.Sequence].poison {
			m.failed = true
			continue
		}
		m.at, m.failed, m.vouch = c.Sequence, false, e.Envelope.Commit.Contest
		if r.out > 0 && c.Sequence > r.out && !r.descends(c.Sequence, r.out) {
			r.fail("%s is led around the removal, into entry %d", m.name, c.Sequence)
		}
	}
}

func (r *arena) descends(seq, from wire.SequenceNumber) bool {
	for seq > from {
		seq = r.epochs[seq].parent
	}
	return seq == from
}

// act makes an honest member read everything and commit.
func (r *arena) act(m *soul, change wire.DeliveryChange) error {
	r.sync(m, len(r.log))
	o := r.epochs[m.at]
	if !r.holds(m.org) {
		r.fail("the nodes of %s, where %s is, have lost their replicas", m.org, m.name)
	}
	e := o.Commit(r.id(), 8, change)
	if m.failed {
		e = o.Contest(e.Submission, change)
		if err := r.mayContest(m.name, m.org); err != nil {
			return err
		}
	}
	receipt, err := r.apply(e, nil, m.org)
	if err != nil {
		return err
	}
	r.users[receipt.Sequence] = m.name
	r.open(&stage{Place: author.After(e, receipt), parent: m.at, inside: r.out == 0 && len(change.Remove) == 0})
	if len(change.Remove) > 0 {
		r.out = receipt.Sequence
	}
	return nil
}

// holds reports whether an organization's nodes hold a replica, and so can bring the submissions of its members.
func (r *arena) holds(org wire.Domain) bool {
	return slices.Contains(r.a.Holders(), org) || slices.ContainsFunc(r.a.Spans(), func(s Span) bool { return s.Organization == org && s.Until == 0 })
}

// mayContest models an honest organization's node: see contests in package node.
func (r *arena) mayContest(user string, org wire.Domain) error {
	if org == "m.example" {
		return nil
	}
	n := 0
	for _, h := range r.a.Heads() {
		if h.Fork > 0 && r.users[h.Fork] == user {
			n++
		}
	}
	if n >= 3 {
		return wire.Errorf(wire.Busy, "update", "%s has opened %d branches", user, n)
	}
	return nil
}

// attack performs one act of the hostile member.
func (r *arena) attack() {
	known := slices.DeleteFunc(slices.Clone(r.order), func(seq wire.SequenceNumber) bool { return !r.epochs[seq].inside })
	back := r.dice.IntN(4)
	if r.dice.IntN(8) == 0 {
		back = r.dice.IntN(len(known))
	}
	o := r.epochs[known[max(0, len(known)-1-back)]]
	switch n := r.dice.IntN(100); {
	case n < 30:
		r.evilCommit(o, true, false)
	case n < 38:
		r.evilCommit(o, false, false)
	case n < 52:
		r.evilCommit(o, true, true)
	case n < 58:
		r.evilCommit(o, false, true)
	case n < 66:
		for k := 1 + r.dice.IntN(20); k > 0; k-- {
			_, _ = r.apply(o.Propose(r.id(), 4), nil, r.evil.org)
		}
	case n < 72:
		if o.poison || r.mine(o) {
			_, _ = r.apply(o.Close(r.id()), nil, r.evil.org)
		}
	case n < 80: // a chain
		for k := 1 + r.dice.IntN(8); k > 0 && o != nil; k-- {
			o = r.evilCommit(o, true, false)
		}
	case n < 86: // an accomplice from another organization, which the hostile member has added
		for _, seq := range r.order {
			if p := r.epochs[seq]; len(p.fresh) > 0 {
				_, _ = r.apply(p.Propose(r.id(), 4), nil, p.fresh[0])
			}
		}
	case n < 92: // valid, then contested by the hostile member itself again and again
		if v := r.evilCommit(o, false, false); v != nil {
			r.flood(o)
		}
	case n < 96:
		r.flood(o)
	default:
		if o != nil && r.dice.IntN(4) == 0 { // longer than the limit of a trail
			for k := 260 + r.dice.IntN(80); k > 0 && o != nil; k-- {
				o = r.evilCommit(o, true, false)
			}
		}
	}
}

// mine reports whether no honest member can be in an epoch.
func (r *arena) mine(o *stage) bool {
	for o.parent > 0 && !o.poison {
		o = r.epochs[o.parent]
	}
	return o.poison
}

// flood fills the conversation with branches, on top of each other.
func (r *arena) flood(o *stage) {
	for range 12 {
		c := r.evilCommit(o, r.dice.IntN(4) > 0, true)
		if c == nil {
			return
		}
		if r.evilCommit(c, true, false) != nil && r.dice.IntN(2) == 0 {
			o = c
		}
	}
}

// evilCommit orders a commit of the hostile member; it returns nil if the commit is refused.
func (r *arena) evilCommit(o *stage, poison, contest bool) *stage {
	var change wire.DeliveryChange
	var fresh []wire.Domain
	if poison && r.dice.IntN(4) == 0 {
		h := r.a.headAt(o.Parent)
		switch {
		case h != nil && r.dice.IntN(2) == 0 && !contest:
			for _, a := range h.delivery {
				if a.Organization != r.evil.org {
					change.Remove = append(change.Remove, a)
				}
			}
			if len(change.Remove) == len(h.delivery) {
				change.Remove = nil
			}
		default:
			r.token++
			org := []wire.Domain{"a.example", "b.example", "z.example"}[r.dice.IntN(3)]
			change.Add = []wire.Address{author.Address(org, r.token)}
			fresh = []wire.Domain{org}
		}
	}
	e := o.Commit(r.id(), 8, change)
	if contest {
		e = o.Contest(e.Submission, change)
		if r.mayContest(r.evil.name, r.evil.org) != nil {
			return nil
		}
	}
	receipt, err := r.apply(e, nil, r.evil.org)
	if err != nil {
		return nil
	}
	r.users[receipt.Sequence] = r.evil.name
	next := &stage{Place: author.After(e, receipt), parent: o.Parent, poison: poison || r.mine(o), inside: true, fresh: append(slices.Clone(o.fresh), fresh...)}
	r.open(next)
	return next
}

// run plays one seed and returns the broken promise, "" for none.
func (r *arena) run() string {
	for range 10 + r.dice.IntN(60) {
		m := r.honest[r.dice.IntN(len(r.honest))]
		switch n := r.dice.IntN(100); {
		case n < 55:
			r.attack()
		case m.away:
		case n < 70:
			r.sync(m, 1+r.dice.IntN(6))
		case n < 90:
			r.sync(m, len(r.log))
			if m.failed || m.vouch || r.dice.IntN(3) == 0 {
				_ = r.act(m, wire.DeliveryChange{})
			}
		case n < 92 && r.out == 0:
			_ = r.removeEvil(m)
		case n < 93:
			r.now += wire.Time(r.dice.IntN(3*24)) * 3600_000
		}
		r.check()
		if r.trouble != "" {
			return r.trouble
		}
	}
	r.attack()
	r.settle()
	return r.trouble
}

func (r *arena) removeEvil(m *soul) error {
	address := author.Address(r.evil.org, uint64(len(r.honest)+1))
	return r.act(m, wire.DeliveryChange{Remove: []wire.Address{address}})
}

// settle ends the attack: honest members commit within a few tries, all in one epoch.
func (r *arena) settle() {
	var refusals []string
	for try := range 40 {
		m := r.honest[(try+int(r.seed))%len(r.honest)]
		if err := r.act(m, wire.DeliveryChange{}); err != nil {
			refusals = append(refusals, fmt.Sprintf("%s in epoch %d of entry %d, failed %v: %v", m.name, r.epochs[m.at].Epoch, m.at, m.failed, err))
			if try < 20 && r.dice.IntN(2) == 0 {
				r.attack()
			}
			if try == 39 {
				r.fail("nobody can go on: %q", refusals[len(refusals)-min(3, len(refusals)):])
			}
			continue
		}
		r.sync(m, len(r.log))
		if m.failed { // the member's own commit is the next epoch: nothing in it can fail
			r.fail("%s cannot process its own commit", m.name)
		}
		break
	}
	for _, m := range r.honest {
		r.sync(m, len(r.log))
		if m.at != r.honest[0].at {
			r.fail("%s is in the epoch of entry %d, %s in that of %d", m.name, m.at, r.honest[0].name, r.honest[0].at)
		}
	}
	if r.a.headAt(r.honest[0].at) == nil {
		r.fail("the epoch that honest members are in, of entry %d, is no head", r.honest[0].at)
	}
	r.check()
}

// check checks the promises that hold at any time.
func (r *arena) check() {
	heads := r.a.Heads()
	if len(r.a.heads) > MaxBranches {
		r.fail("%d heads", len(heads))
	}
	for _, h := range r.a.heads {
		if len(h.trail) > MaxAncestors {
			r.fail("%d ancestors", len(h.trail))
		}
	}
	// A commit that changes no delivery list does not search spans and holders: they must be up to date.
	spans, holders := slices.Clone(r.a.spans), slices.Clone(r.a.holders)
	if !r.a.someLeft() && (r.a.updateSpans(r.a.seq) || r.a.updateHolders()) {
		r.fail("spans %v and holders %v became %v and %v without an entry", spans, holders, r.a.spans, r.a.holders)
	}
	for _, m := range r.honest {
		if !r.holds(m.org) {
			r.fail("the nodes of %s, where %s is, have lost their replicas", m.org, m.name)
		}
	}
	if r.out == 0 {
		return
	}
	// Keys that the removed member knows open no later epoch of the other members.
	for _, seq := range r.order {
		o := r.epochs[seq]
		if !o.inside || !r.descends(r.out, seq) || seq >= r.out {
			continue
		}
		taken, ended := false, false
		for i := range heads {
			if key, removed, ok := heads[i].Past(o.Epoch); ok && key == author.Public(o.Opener) {
				taken, ended = taken || !removed, ended || removed
			}
			taken = taken || heads[i].Key == author.Public(o.Opener)
		}
		if taken && !ended {
			r.fail("messages are taken under the key of epoch %d, which was known to the member that entry %d removed", o.Epoch, r.out)
		}
	}
}

// TestLongHostileMember plays seeded strategies of a hostile member against honest ones: chains of commits that
// nobody else can process, floods of branches, closes, additions and removals, at any moment. It checks that honest
// members can always continue, all in one epoch, and that removed members stay out.
func TestLongHostileMember(t *testing.T) {
	seeds := 20
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		seeds = 200
	case "full":
		seeds = 1000
	}
	first := 0
	if s := os.Getenv("MLSFED_SEED"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	for seed := first; seed < first+seeds; seed++ {
		if trouble := newArena(t, uint64(seed), 0).run(); trouble != "" {
			t.Errorf("MLSFED_SEED=%d: %s", seed, trouble)
		}
	}
}

// TestEachRuleIsNeeded checks that without any one of the rules the hostile member breaks a promise.
func TestEachRuleIsNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		off  rules
		seed uint64
	}{
		"more ancestors than the parent": {ruleTrail, 0}, "two organizations": {ruleTwo, 0}, "newcomers confirm nothing": {ruleFresh, 28},
		"the first ancestors stay": {ruleFirst, 51}, "a share of the branches": {ruleShare, 4}, "a closed head is contested": {ruleClose, 79},
		"replicas of removed organizations": {ruleHolders, 3}, "no old key is kept alive": {rulePast, 4},
	} {
		if newArena(t, c.seed, c.off).run() == "" {
			t.Errorf("%s: nothing is noticed without the rule", name)
		}
		if trouble := newArena(t, c.seed, 0).run(); trouble != "" {
			t.Errorf("%s: with the rule: %s", name, trouble)
		}
	}
}
