package consensus

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
)

// openGuard returns the guard of a running replica over a simulated disk.
func openGuard(t *testing.T, disk *raftlog.Disk, failed *error) (*guard, *raftlog.Log) {
	t.Helper()
	log, err := raftlog.Open(raftlog.Config{Disk: disk})
	if err != nil {
		t.Fatal(err)
	}
	g := &guard{GroupLog: log.Group(1), fail: func(err error) { *failed = err }, leads: func() bool { return false }, stalled: func() bool { return false }, writing: make(chan struct{}, 1)}
	g.running.Store(true)
	return g, log
}

// vote performs the writes of Raft for a vote.
func vote(t *testing.T, g *guard, term uint64, candidate string) {
	t.Helper()
	if err := errors.Join(g.SetUint64([]byte(currentTerm), term), g.SetUint64([]byte(voteTerm), term), g.Set([]byte(voteCandidate), []byte(candidate))); err != nil {
		t.Fatal(err)
	}
}

// onDisk returns the data that a replica would find after a crash at this point.
func onDisk(t *testing.T, disk *raftlog.Disk) (term, votedIn uint64, candidate string) {
	t.Helper()
	disk.Crash(false)
	var failed error
	g, log := openGuard(t, disk, &failed)
	defer log.Close()
	term, err := g.GetUint64([]byte(currentTerm))
	votedIn, err2 := g.GetUint64([]byte(voteTerm))
	name, err3 := g.Get([]byte(voteCandidate))
	for _, e := range []error{err, err2, err3, failed} {
		if e != nil && !errors.Is(e, raftlog.ErrNotFound) {
			t.Fatal(e)
		}
	}
	return term, votedIn, string(name)
}

func TestVoteAndTermAreOneWrite(t *testing.T) {
	disk := raftlog.NewDisk()
	var failed error
	g, log := openGuard(t, disk, &failed)
	defer log.Close()
	before := log.Stats().Transactions
	vote(t, g, 5, "n1.b.example")
	if n := log.Stats().Transactions - before; n != 1 {
		t.Fatalf("%d writes for a vote", n)
	}
	if term, in, targets := onDisk(t, disk); term != 5 || in != 5 || targets != "n1.b.example" {
		t.Fatalf("term %d, vote in %d for %q", term, in, targets)
	}
}

// TestTermIsSettledBeforeWhatFollows checks that a term waits for its vote, and is on disk before anything else.
func TestTermIsSettledBeforeWhatFollows(t *testing.T) {
	steps := map[string]func(*guard) error{
		"nothing": nil,
		"a frame": (*guard).settle,
		"entries": func(g *guard) error { return g.StoreLogs([]*raft.Log{{Index: 2, Term: 6}}) },
		"a cut":   func(g *guard) error { return g.DeleteRange(1, 1) },
		"a value": func(g *guard) error { return g.Set([]byte("other"), []byte{1}) },
		"a later term": func(g *guard) error {
			return errors.Join(g.SetUint64([]byte(currentTerm), 7), g.settle())
		},
	}
	wants := map[string]uint64{"nothing": 5, "a later term": 7}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			disk := raftlog.NewDisk()
			var failed error
			g, log := openGuard(t, disk, &failed)
			defer log.Close()
			vote(t, g, 5, "n1.b.example")
			if err := errors.Join(g.StoreLog(&raft.Log{Index: 1, Term: 5}), g.SetUint64([]byte(currentTerm), 6)); err != nil {
				t.Fatal(err)
			}
			if term, err := g.GetUint64([]byte(currentTerm)); term != 6 || err != nil {
				t.Fatalf("term %d, %v", term, err)
			}
			if step != nil {
				if err := step(g); err != nil {
					t.Fatal(err)
				}
			}
			want, ok := wants[name]
			if !ok {
				want = 6
			}
			if term, in, targets := onDisk(t, disk); term != want || in != 5 || targets != "n1.b.example" {
				t.Fatalf("term %d, vote in %d for %q; wanted term %d and the old vote", term, in, targets, want)
			}
		})
	}
}

// TestTermThatCannotBeWrittenLetsNothingOut checks that the replica is reported as failed, and that the term still
// waits.
func TestTermThatCannotBeWrittenLetsNothingOut(t *testing.T) {
	disk := raftlog.NewDisk()
	full := true
	disk.Sync = func(int) error {
		if full {
			return raftlog.ErrNoSpace
		}
		return nil
	}
	var failed error
	g, log := openGuard(t, disk, &failed)
	defer log.Close()
	if err := g.SetUint64([]byte(currentTerm), 6); err != nil {
		t.Fatal(err)
	}
	if err := g.settle(); !errors.Is(err, raftlog.ErrNoSpace) || failed == nil {
		t.Fatalf("settled: %v, reported: %v", err, failed)
	}
	full = false
	if err := g.settle(); err != nil {
		t.Fatal(err)
	}
	if term, _, _ := onDisk(t, disk); term != 6 {
		t.Fatalf("term %d", term)
	}
}
