package streams

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// The crash test runs this binary again as a writer and kills it with SIGKILL.
const (
	crashDir     = "MLSFED_MAILBOX_CRASH_DIR"
	crashWriters = 8
	crashStreams = 3
)

func crashStream(n int) Stream { return Stream(fmt.Sprintf("cconversation-%d", n%crashStreams)) }

func crashID(writer, n int) ID {
	return ID{byte(writer), byte(n), byte(n >> 8), byte(n >> 16), 1}
}

// childOfCrashTest does the writing if this process is the child. It never returns from it.
func childOfCrashTest() bool {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return false
	}
	if err := crashChild(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	return true
}

// crashChild goes on after the last number that each writer finds in its file, and prints each one that
// was accepted.
func crashChild(dir string) error {
	db, err := pebble.Open(filepath.Join(dir, "db"), Tune(&pebble.Options{Logger: quiet{}}))
	if err != nil {
		return err
	}
	m := New(db, []byte("m/"), Config{})
	ended := make(chan error, 1)
	go func() { ended <- m.Run(context.Background()) }()
	for n := range crashStreams {
		if err := m.Change(context.Background(), crashStream(n), []wire.Token{token(1), token(2)}, nil); err != nil {
			return err
		}
	}
	var out sync.Mutex
	failed := make(chan error, crashWriters)
	for w := range crashWriters {
		var from int
		fmt.Sscan(os.Getenv(fmt.Sprintf("FROM%d", w)), &from)
		go func() {
			for n := from; ; n++ {
				p := Put{Stream: crashStream(w), ID: crashID(w, n), Kind: KindMessage, Payload: fmt.Appendf(nil, "%d %d", w, n)}
				r, err := m.Put(context.Background(), p)
				if err == nil {
					err = r[0].Err
				}
				if err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Printf("%d %d %d\n", w, n, r[0].Sequence)
				out.Unlock()
			}
		}()
	}
	select {
	case err = <-failed:
	case err = <-ended:
	}
	return err
}

// TestKill kills a writing process again and again. Each item that was accepted is there once, at the
// place that was answered, and each writer's items are in order.
func TestKill(t *testing.T) {
	kills := 12
	if testing.Short() {
		kills = 3
	}
	if os.Getenv("MLSFED_LONG") == "full" {
		kills = 100
	}
	dir := t.TempDir()
	accepted := make(map[[2]int]uint64) // by writer and number
	var next [crashWriters]int
	for range kills {
		crashOnce(t, dir, accepted, &next)
	}
	verifyCrash(t, dir, accepted)
	t.Logf("%d kills, %d items accepted", kills, len(accepted))
}

func crashOnce(t *testing.T, dir string, accepted map[[2]int]uint64, next *[crashWriters]int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	for w, from := range next {
		cmd.Env = append(cmd.Env, fmt.Sprintf("FROM%d=%d", w, from))
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for left := 50 + rand.IntN(2000); lines.Scan(); left-- {
		var w, n int
		var sequence uint64
		if c, _ := fmt.Sscan(lines.Text(), &w, &n, &sequence); c != 3 {
			break // the last line, cut off
		}
		if old, ok := accepted[[2]int{w, n}]; ok && old != sequence {
			t.Fatalf("item %d of writer %d is at %d, and was at %d", n, w, sequence, old)
		}
		accepted[[2]int{w, n}] = sequence
		next[w] = max(next[w], n+1)
		if left == 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != -1 { // not killed
		t.Fatalf("the writer ended by itself: %v", err)
	}
}

func verifyCrash(t *testing.T, dir string, accepted map[[2]int]uint64) {
	t.Helper()
	db := openDB(t, filepath.Join(dir, "db"), vfs.Default)
	m, stop := start(t, db, Config{})
	defer func() { stop(); db.Close() }()
	seen := make(map[[2]int]bool)
	var last [crashWriters]int
	for w := range last {
		last[w] = -1
	}
	for s := range crashStreams {
		for after := uint64(0); ; {
			p, err := m.Read(t.Context(), crashStream(s), token(2), after, Limit{})
			if err != nil || p.Gap != nil {
				t.Fatalf("gap %v, %v", p.Gap, err)
			}
			for _, it := range p.Items {
				var w, n int
				if c, _ := fmt.Sscan(string(it.Payload), &w, &n); c != 2 || n != last[w]+1 {
					t.Fatalf("stream %d, item %d is %q after number %d of that writer", s, it.Sequence, it.Payload, last[w])
				}
				if want, ok := accepted[[2]int{w, n}]; ok && want != it.Sequence {
					t.Fatalf("item %d of writer %d is at %d, accepted at %d", n, w, it.Sequence, want)
				}
				last[w], seen[[2]int{w, n}], after = n, true, it.Sequence
			}
			if !p.More {
				break
			}
		}
	}
	for k := range accepted {
		if !seen[k] {
			t.Errorf("item %d of writer %d was accepted and is lost", k[1], k[0])
		}
	}
}
