package lineage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// histories is the number of random histories of TestRandomHistories.
const histories = 2000

// TestRandomHistories lets organizations and thieves publish at random: ordinary links, recoveries, thefts, two
// successors of one link, replays, lost links, other owners of the domain. Three members learn the documents in
// different orders. A member's root changes only to a root that a chain of signatures connects with the pinned link,
// void links are never followed, and members who have learned the same documents keep the same links and decide alike
// about each root.
func TestRandomHistories(t *testing.T) {
	outcomes := make(map[Outcome]int)
	for n := range histories {
		walk(t, rand.New(rand.NewPCG(uint64(n), 24)), outcomes)
		if t.Failed() {
			t.Fatalf("history %d", n)
		}
	}
	t.Log(outcomes)
	for _, o := range []Outcome{Same, Successor, Recovered, Stale, Lost, Voided, Forked, Disputed, Resold} {
		if outcomes[o] < histories/100 {
			t.Errorf("outcome %s occurs %d times in %d histories", o, outcomes[o], histories)
		}
	}
}

// walk makes one history and has three members learn it.
func walk(t *testing.T, r *rand.Rand, outcomes map[Outcome]int) {
	at := start
	authors := []*author{found(t, exampleDomain, "root", "recovery")}
	docs := []*Document{authors[0].document(t, at)}
	for range 3 + r.IntN(5) {
		a := authors[r.IntN(len(authors))]
		at = at.Add(time.Duration(r.IntN(3)) * time.Hour / 2)
		name := fmt.Sprint("key ", r.IntN(6))
		switch k := r.IntN(20); {
		case k < 6 && len(a.chain) < MaxLinks: // an ordinary link: of a thief, or a fork, if another author has made one
			a = a.succeed(t, name)
		case k < 8 && len(a.chain) < MaxLinks:
			a = a.recover(t, name, "recovery of "+name)
		case k < 10 && len(a.chain) > 1 && !isRecovery(a.last()): // lost links
			before := a.links[len(a.links)-2]
			if root := keyOf(t, before); root != "" {
				b := *a
				b.chain, b.links, b.root = a.chain[:len(a.chain)-1], a.links[:len(a.links)-1], newKey(root)
				a = &b
			}
		case k < 11:
			a = found(t, exampleDomain, "root", "recovery of the next owner")
		}
		authors = append(authors, a)
		docs = append(docs, a.document(t, at))
	}
	docs = append(docs, docs[r.IntN(len(docs))]) // a replay
	members := make([]*Pin, 3)
	for i := range members {
		order := slices.Clone(docs)
		if i > 0 {
			r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		// Each member has pinned a document of the first lineage.
		first := slices.IndexFunc(order, func(d *Document) bool { return d.Lineage == docs[0].Lineage })
		p, err := First(order[first], nil, at)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range order {
			p = follow(t, p, d, at, outcomes)
		}
		members[i] = stored(t, p)
	}
	for i, m := range members[1:] {
		if !slices.EqualFunc(m.known.links(), members[0].known.links(), func(a, b *link) bool { return a.hash == b.hash }) {
			t.Errorf("member %d keeps other links than member 0", i+1)
		}
	}
	for _, d := range docs {
		for _, l := range d.chain {
			want := members[0].Verdict(l.Roots[0])
			for i, m := range members[1:] {
				if got := m.Verdict(l.Roots[0]); got != want {
					t.Errorf("member %d decides %s about a root, and member 0 decides %s", i+1, got, want)
				}
			}
		}
	}
}

func isRecovery(l *Link) bool { return len(l.Key) > 0 }

// keyOf returns the name of the key of a link's root.
func keyOf(t *testing.T, l *Link) string {
	for _, name := range []string{"root", "key 0", "key 1", "key 2", "key 3", "key 4", "key 5"} {
		if bytes.Equal(newRoot(t, exampleDomain, newKey(name)), l.Roots[0]) {
			return name
		}
	}
	return ""
}

// follow compares one document and checks the step against the signatures alone.
func follow(t *testing.T, p *Pin, d *Document, at time.Time, outcomes map[Outcome]int) *Pin {
	o, next, err := p.Compare(d, at)
	if err != nil {
		t.Fatal(err)
	}
	outcomes[o]++
	before, after := p.chain[len(p.chain)-1], next.chain[len(next.chain)-1]
	if next.Lineage() != p.Lineage() {
		t.Errorf("outcome %s has changed the lineage", o)
	}
	switch {
	case !o.Followed() || o == Same:
		if before.hash != after.hash {
			t.Errorf("outcome %s has changed the root", o)
		}
	case o == Successor:
		// Each step from the pinned link is an ordinary link that a root of the link before it has signed.
		i := slices.IndexFunc(next.chain, func(l *link) bool { return l.hash == before.hash })
		if i < 0 || i == len(next.chain)-1 {
			t.Fatal("a successor does not follow the pinned link")
		}
		for j := i + 1; j < len(next.chain); j++ {
			if l := next.chain[j]; l.recovery() || *l.Previous != next.chain[j-1].hash || l.signed.signedBy(linkLabel, next.chain[j-1].keys()) != nil {
				t.Error("a successor is not signed by the root before it")
			}
		}
	case o == Recovered:
		// A recovery link, signed by the key whose hash the pinned link has, is in the new chain and not in the old one.
		i := slices.IndexFunc(next.chain, func(l *link) bool {
			return l.recovery() && !slices.ContainsFunc(p.chain, func(old *link) bool { return old.hash == l.hash })
		})
		if i < 1 || next.chain[i].verify(next.chain[i-1]) != nil || next.chain[i-1].Recovery != before.Recovery {
			t.Error("a recovery is not signed by the recovery key of the pinned link")
		}
	}
	return next
}
