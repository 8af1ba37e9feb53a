package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

var record = flag.Bool("record", false, "write testdata/level1.golden instead of comparing with it")

const goldenSeeds = 60

// TestFirstLevelNeverChanges checks that a conversation with the first level of the rules behaves as in the first
// release, outcome by outcome and bit by bit. The file holds, for each seed, a hash over all outcomes and states of
// one walk; it was recorded with the first release.
func TestFirstLevelNeverChanges(t *testing.T) {
	var got strings.Builder
	for seed := range uint64(goldenSeeds) {
		fmt.Fprintf(&got, "%d %s\n", seed, goldenWalk(t, seed))
	}
	const file = "testdata/level1.golden"
	if *record {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(got.String())) {
		for i, line := range strings.Split(string(want), "\n") {
			if now := strings.Split(got.String(), "\n"); i >= len(now) || now[i] != line {
				t.Fatalf("seed %d: outcomes or states of level 1 differ from those of the first release", i)
			}
		}
	}
}

// goldenWalk applies one seeded walk and returns a hash over everything visible in it.
func goldenWalk(t *testing.T, seed uint64) string {
	t.Helper()
	dice := rand.New(rand.NewPCG(seed, 1))
	orgs := []wire.Domain{"a.example", "b.example", "c.example", "d.example"}
	m := New(testID, nil)
	sum := sha256.New()
	now, next := wire.Time(1_000_000), uint64(0)
	var places []author.Place
	var sent []*wire.Envelope
	apply := func(e *wire.Envelope, r *wire.Replicas) Outcome {
		now += wire.Time(dice.Int64N(int64(MaxStep)) - 1000)
		if dice.IntN(8) == 0 {
			now += MaxStep
		}
		proposer := wire.NodeID("n1." + string(orgs[dice.IntN(len(orgs))]))
		raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: now, Proposer: proposer, Envelope: e, Replicas: r})
		if err != nil {
			t.Fatal(err)
		}
		out := m.Apply(raw)
		fmt.Fprintf(sum, "%+v %v %v|", out.Receipt, out.Moved, out.Committed != nil)
		if out.Err != nil {
			fmt.Fprintf(sum, "%s|", out.Err.Error())
			if s := out.Err.Stale; s != nil {
				fmt.Fprintf(sum, "%d %d %v|", s.Epoch, s.Head, s.OwnPast)
				if s.Winner != nil {
					fmt.Fprintf(sum, "%v|", s.Winner.Order)
				}
			}
		}
		digest, err := m.Snapshot().Digest()
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(digest[:])
		for _, h := range m.Heads() {
			fmt.Fprintf(sum, "%d %d %v %v %v|", h.Sequence, h.Epoch, h.Previous, h.Removal, h.Delivery)
		}
		fmt.Fprintf(sum, "%v %v|", m.Delivery(), m.Spans())
		return out
	}
	order := func(e *wire.Envelope) {
		if out := apply(e, nil); out.Err == nil && out.Committed != nil {
			sent = append(sent, e)
			if e.Kind == wire.KindCommit || e.Kind == wire.KindCreate {
				places = append(places, author.After(e, out.Receipt))
			}
		}
	}
	id := func() wire.SubmissionID { next++; return author.Submission(seed<<32 | next) }
	order(author.Create(testID, id(), wire.Policy{RecentCount: 16}, author.Addresses(1, orgs[:1+dice.IntN(3)]...)))
	for range 70 {
		p := places[max(0, len(places)-1-dice.IntN(4))]
		change := wire.DeliveryChange{}
		switch dice.IntN(6) {
		case 0:
			change.Add = author.Addresses(uint64(1+dice.IntN(3)), orgs[dice.IntN(len(orgs))])
		case 1:
			change.Remove = author.Addresses(uint64(1+dice.IntN(3)), orgs[dice.IntN(len(orgs))])
		}
		switch n := dice.IntN(100); {
		case n < 45:
			order(p.Commit(id(), 16, change))
		case n < 65:
			order(p.Contest(id(), change))
		case n < 80:
			order(p.Propose(id(), 8))
		case n < 84:
			order(p.Close(id()))
		case n < 88:
			order(sent[dice.IntN(len(sent))])
		case n < 92:
			p.Opener = author.Submission(1 << 50)
			order(p.Commit(id(), 8, change))
		case n < 96:
			apply(nil, &wire.Replicas{Generation: m.Generation(), Voters: []wire.NodeID{"n1.a.example"}})
		default:
			apply(nil, &wire.Replicas{Generation: m.Generation() + 1, Voters: []wire.NodeID{"n1.b.example"}, Recovery: &wire.Recovery{Note: "fire"}})
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}
