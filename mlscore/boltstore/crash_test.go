package boltstore

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
)

// crashBatch returns the n-th batch of the crash test: writes of all kinds, some of them large, all of which depend
// only on n.
func crashBatch(n int) mlscore.Batch {
	random := rand.New(rand.NewPCG(uint64(n), 9))
	stamp := strconv.Itoa(n)
	b := mlscore.Batch{Writes: []mlscore.Write{put("last", stamp)}, Relaxed: random.IntN(3) == 0}
	for range 1 + random.IntN(6) {
		group := fmt.Sprintf("g%d", random.IntN(5))
		switch random.IntN(12) {
		case 0:
			b.Writes = append(b.Writes, delAll(group))
		case 1:
			b.Writes = append(b.Writes, put(group+"large", stamp+strings.Repeat("x", random.IntN(200_000))))
		default:
			key := fmt.Sprintf("%sk%d", group, random.IntN(40))
			b.Writes = append(b.Writes, put(key, stamp), put(key+"pair", stamp))
		}
	}
	return b
}

// crashChild applies batches until the process is killed, and reports each batch that was applied.
func crashChild(t *testing.T, path string, next int) {
	s, err := Open(path, testKey(1), Options{journal: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for n := next; ; n++ {
		if err := s.Apply(crashBatch(n)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stdout.WriteString(strconv.Itoa(n) + "\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLongKill kills a process repeatedly while it writes. It checks that every acknowledged batch is there, and that
// the interrupted batch is there as a whole or not at all.
func TestLongKill(t *testing.T) {
	if path := os.Getenv("BOLTSTORE_TEST_CRASH"); path != "" {
		next, err := strconv.Atoi(os.Getenv("BOLTSTORE_TEST_NEXT"))
		if err != nil {
			t.Fatal(err)
		}
		crashChild(t, path, next)
		return
	}
	rounds := long(5, 60, 500)
	random := rand.New(rand.NewPCG(5, 6))
	path := newPath(t)
	model := map[string]string{}
	done := 0 // batches in the model
	unacknowledged := 0
	for round := range rounds {
		acknowledged := killAfter(t, path, done+1, random.IntN(30), random.IntN(1<<21))
		s := openTest(t, path, Options{})
		last := 0
		if v, ok, err := s.Get([]byte("last")); err != nil {
			t.Fatal(err)
		} else if ok {
			if last, err = strconv.Atoi(string(v)); err != nil {
				t.Fatal(err)
			}
		}
		if last < acknowledged || last < done || last > max(acknowledged, done)+1 {
			t.Fatalf("round %d: batch %d is the last in the store, %d was acknowledged", round, last, acknowledged)
		}
		if last > acknowledged {
			unacknowledged++
		}
		for ; done < last; done++ {
			follow(model, crashBatch(done+1).Writes)
		}
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			want = append(want, k+"="+model[k])
		}
		if got := content(t, s, ""); !slices.Equal(got, want) {
			t.Fatalf("round %d: after batch %d the store is not what the batches make it: %d records, want %d", round, last, len(got), len(want))
		}
		mustClose(t, s)
	}
	t.Logf("%d kills, %d batches, %d written and not acknowledged", rounds, done, unacknowledged)
}

// killAfter runs a child from batch next on, kills it when it has acknowledged more than some batches, and returns
// the last batch that it acknowledged.
func killAfter(t *testing.T, path string, next, some, work int) (acknowledged int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestLongKill$")
	child.Env = append(os.Environ(), "BOLTSTORE_TEST_CRASH="+path, "BOLTSTORE_TEST_NEXT="+strconv.Itoa(next))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Errorf("the child says %q", lines.Text())
			break
		}
		acknowledged = n
		if n == next+some {
			sha256.Sum256(make([]byte, work)) // so that the kill can hit every part of a batch
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = child.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the child was to be killed: %v", err)
	}
	return acknowledged
}

// TestLeftover checks that the remains of a process that died while it created the file do no harm.
func TestLeftover(t *testing.T) {
	path := newPath(t)
	if err := os.WriteFile(path+".new-123", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openTest(t, path, Options{})
	apply(t, s, put("k", "v"))
	expect(t, s, "", "k=v")
}

// TestDiskFails checks that nothing more is written once it is not known whether a batch is on the disk.
func TestDiskFails(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{KeepFreed: true})
	apply(t, s, put("k", "v"))
	if err := s.file.Close(); err != nil { // from here on every write and every read of the file fails
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("k", "w")}}); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want ErrFailed", err)
		}
	}
	expect(t, s, "", "k=v") // the mapping still serves reads
	if err := s.Close(); err == nil {
		t.Error("closed a file that was closed")
	}
	// Closing the file released its lock.
	s2, err := Open(path, testKey(1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s2, "", "k=v")
	mustClose(t, s2)
}
