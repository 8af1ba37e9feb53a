package raftlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/internal/platform/disktest"
)

// The test binary runs itself as a child, so that a real process can be killed. The environment holds the child's
// task.
const (
	childEnv   = "RAFTLOG_CHILD" // write or limit
	dirEnv     = "RAFTLOG_DIR"
	backendEnv = "RAFTLOG_BACKEND"
	roundEnv   = "RAFTLOG_ROUND"

	crashGroups = 12
	crashSize   = 700 // bytes an entry
)

func runChild() int {
	p := place{backend: os.Getenv(backendEnv), dir: os.Getenv(dirEnv)}
	var round uint64
	fmt.Sscan(os.Getenv(roundEnv), &round)
	var err error
	if os.Getenv(childEnv) == "limit" {
		err = childAtLimit(p)
	} else {
		err = childWrites(p, round)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// childWrites appends to all groups until it is killed, and prints the acknowledged operations: 'T group round', 'S
// group index', 'D group upTo', and 'd group upTo' before it requests a deletion.
func childWrites(p place, round uint64) error {
	l, err := Open(p.config())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, format+"\n", args...)
	}
	failed := make(chan error)
	for n := range uint32(crashGroups) {
		go func() {
			g := l.Group(n)
			if err := g.SetUint64([]byte("round"), round); err != nil {
				failed <- err
				return
			}
			say("T %d %d", n, round)
			next, err := g.LastIndex()
			for err == nil {
				next++
				if err = g.StoreLogs([]*raft.Log{entry(n, next, round, crashSize), entry(n, next+1, round, crashSize)}); err != nil {
					break
				}
				next++
				say("S %d %d", n, next)
				if next%16 == 0 {
					upTo := next - 12
					say("d %d %d", n, upTo)
					if err = g.DeleteRange(1, upTo); err == nil {
						say("D %d %d", n, upTo)
					}
				}
			}
			failed <- err
		}()
	}
	return <-failed
}

// acked holds the acknowledgements that children printed for a group.
type acked struct{ round, stored, deleted, deleting uint64 }

// TestKilledInMidWrite kills a writing process repeatedly, and checks after each kill that everything it acknowledged
// is there.
func TestKilledInMidWrite(t *testing.T) { killRepeatedly(t, 6) }

func TestLongKilledInMidWrite(t *testing.T) {
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		killRepeatedly(t, 60)
	case "full":
		killRepeatedly(t, 600)
	default:
		t.Skip("kills a process 60 or 600 times: set MLSFED_LONG to short or full")
	}
}

func killRepeatedly(t *testing.T, rounds int) {
	for _, b := range []string{BackendBolt, BackendPebble} {
		t.Run(b, func(t *testing.T) {
			p := newPlace(t, b)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed) // the moments of the kills also depend on the machine
			rnd := rand.New(rand.NewPCG(seed, 1))
			said := make([]acked, crashGroups)
			for round := 1; round <= rounds; round++ {
				killOnce(t, p, uint64(round), rnd, said)
				checkAcked(t, p, said)
			}
			var sum uint64
			for _, a := range said {
				sum += a.stored
			}
			t.Logf("%d kills, %d entries acknowledged", rounds, sum)
			if sum == 0 {
				t.Error("no child wrote anything before it was killed")
			}
		})
	}
}

func killOnce(t *testing.T, p place, round uint64, rnd *rand.Rand, said []acked) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=write", dirEnv+"="+p.dir, backendEnv+"="+p.backend, roundEnv+"="+fmt.Sprint(round))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := 0
	quota := rnd.IntN(600)
	in := bufio.NewReader(out)
	for killed := false; ; {
		if lines >= quota && !killed {
			must(t, cmd.Process.Kill())
			killed = true
		}
		line, err := in.ReadString('\n')
		if err != nil { // a line without its end does not count
			break
		}
		lines++
		var what string
		var n int
		var v uint64
		if _, err := fmt.Sscan(line, &what, &n, &v); err != nil {
			t.Fatalf("child said %q", line)
		}
		switch a := &said[n]; what {
		case "T":
			a.round = v
		case "S":
			a.stored = v
		case "d":
			a.deleting = v
		case "D":
			a.deleted = v
		}
	}
	cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("child: %s", &stderr)
	}
}

func checkAcked(t *testing.T, p place, said []acked) {
	t.Helper()
	l := p.open(t)
	defer l.Close()
	for n, a := range said {
		g := l.Group(uint32(n))
		must(t, g.Verify())
		round, err := g.GetUint64([]byte("round"))
		if err != nil && (err != ErrNotFound || a.round != 0) || round < a.round {
			t.Fatalf("group %d: round %d, %v; %d was acknowledged", n, round, err, a.round)
		}
		first, err := g.FirstIndex()
		must(t, err)
		last, err := g.LastIndex()
		must(t, err)
		if last < a.stored {
			t.Fatalf("group %d ends at %d, %d was acknowledged", n, last, a.stored)
		}
		if last > 0 && first != a.deleted+1 && first != a.deleting+1 {
			t.Fatalf("group %d begins at %d; deletion up to %d was acknowledged, up to %d asked for", n, first, a.deleted, a.deleting)
		}
		for i := first; i <= last && i > 0; i++ {
			var e raft.Log
			if err := g.GetLog(i, &e); err != nil {
				t.Fatalf("group %d, %d to %d: entry %d: %v", n, first, last, i, err)
			}
			if !sameEntry(&e, entry(uint32(n), i, e.Term, crashSize)) || e.Term == 0 {
				t.Fatalf("group %d entry %d is not what was stored", n, i)
			}
		}
		wantNone(t, g, 1, min(first, 50)-min(1, first))
		if last > 0 {
			said[n].deleted = first - 1 // from here on that much is certain
		}
	}
}

// childAtLimit writes until the file may not grow any more, then raises the limit and continues; if the backend
// cannot continue, it opens the log again.
func childAtLimit(p place) error {
	l, err := Open(p.config())
	if err != nil {
		return err
	}
	restore, err := disktest.LimitFiles(3 << 20)
	if err != nil {
		return err
	}
	next := uint64(1)
	write := func(until uint64) error {
		for ; next <= until; next++ {
			if err := l.Group(1).StoreLog(entry(1, next, 1, 4096)); err != nil {
				return err
			}
			fmt.Println("S", next)
		}
		return nil
	}
	failure := write(5000)
	if failure == nil {
		return errors.New("5000 entries of 4 KiB went into files of 3 MiB")
	}
	fmt.Println("failed", next)
	if err := restore(); err != nil {
		return err
	}
	if errors.Is(failure, ErrFailed) {
		if p.backend == BackendBolt {
			return fmt.Errorf("a full disk is final: %w", failure)
		}
		if err := write(next); !errors.Is(err, ErrFailed) {
			return fmt.Errorf("after a final failure: %v", err)
		}
		l.Close()
		fmt.Println("reopen")
		return nil
	}
	if !errors.Is(failure, ErrNoSpace) {
		return fmt.Errorf("failed otherwise: %w", failure)
	}
	if err := write(next + 300); err != nil {
		return fmt.Errorf("after there was room again: %w", err)
	}
	return l.Close()
}

// TestFileLimit reaches a limit of the file's size in the middle of writing.
func TestFileLimit(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("NOT RUN: Windows has no limit of a file's size")
	}
	for _, b := range []string{BackendBolt, BackendPebble} {
		t.Run(b, func(t *testing.T) {
			p := newPlace(t, b)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"=limit", dirEnv+"="+p.dir, backendEnv+"="+p.backend)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("child: %v: %s", err, &stderr)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			var last uint64
			for _, line := range lines {
				fmt.Sscanf(line, "S %d", &last)
			}
			t.Logf("%d entries acknowledged, child ended with %q", last, lines[len(lines)-1])
			g := p.open(t).Group(1)
			if end, err := g.LastIndex(); err != nil || end < last {
				t.Fatalf("log ends at %d, %v; %d was acknowledged", end, err, last)
			}
			must(t, g.Verify())
			for i := uint64(1); i <= last; i++ {
				wantEntry(t, g, entry(1, i, 1, 4096))
			}
			must(t, g.StoreLog(entry(1, last+1, 1, 4096)))
		})
	}
}

// TestFullDisk fills a small file system.
func TestFullDisk(t *testing.T) {
	for _, b := range []string{BackendBolt, BackendPebble} {
		t.Run(b, func(t *testing.T) {
			p := newPlace(t, b)
			disktest.Mount(t, p.dir, 192<<20) // TestFileLimit covers the cases that do not need a mount
			ballast := p.dir + "/ballast"
			must(t, os.WriteFile(ballast, make([]byte, 24<<20), 0o600))
			l := p.open(t, func(c *Config) {
				if c.Backend == BackendPebble {
					c.MinFree = 40 << 20
				}
			})
			defer l.Close()
			next := uint64(1)
			fill := func() (err error) {
				for ; next < 10_000; next++ {
					if err = l.Group(1).StoreLog(noisy(1, next, 1, 64<<10)); err != nil {
						return err
					}
				}
				return nil
			}
			for range 5 {
				if err := fill(); !errors.Is(err, ErrNoSpace) {
					t.Fatalf("writing to a full disk: %v", err)
				}
			}
			full := next
			wantBounds(t, l.Group(1), 1, full-1)
			if l.Stats().Failed < 5 {
				t.Errorf("%d failures counted", l.Stats().Failed)
			}
			must(t, os.Remove(ballast))
			if err := fill(); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("writing after room returned: %v", err)
			}
			t.Logf("%d entries before the disk was full, %d after room returned", full-1, next-full)
			if next < full+20 {
				t.Error("the store did not go on when room returned")
			}
			check := func(l *Log) {
				g := l.Group(1)
				wantBounds(t, g, 1, next-1)
				must(t, g.Verify())
				for i := uint64(1); i < next; i += 7 {
					wantEntry(t, g, noisy(1, i, 1, 64<<10))
				}
			}
			check(l)
			must(t, l.Close())
			l = p.open(t, func(c *Config) { c.MinFree = -1 })
			check(l)
			must(t, l.Close())
		})
	}
}
