package blob

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/internal/platform/disktest"
)

// The test binary runs itself as a child, so that a real process can be killed.
const (
	childEnv = "BLOB_CHILD" // the folder
	roundEnv = "BLOB_ROUND"
)

// runChild stores and pins until it is killed, and prints the acknowledged operations: 'B seed size' and 'P seed
// size'. From time to time it deletes blobs of previous rounds; it prints 'd' before and 'D' after a deletion.
func runChild() int {
	var round uint64
	fmt.Sscan(os.Getenv(roundEnv), &round)
	s, err := Open(os.Getenv(childEnv), Limits{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	say := func(what string, seed uint64, size int) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %d %d\n", what, seed, size)
	}
	failed := make(chan error)
	for w := range uint64(3) {
		go func() {
			for i := uint64(1); ; i++ {
				seed := round<<32 | w<<16 | i
				size := int(100 + seed*7919%400_000)
				b := content(seed, size)
				say("p", seed, size)
				if err := s.Pin("c", refOf(b)); err != nil {
					failed <- err
				}
				say("P", seed, size)
				if _, err := s.Put(context.Background(), bytes.NewReader(b)); err != nil {
					failed <- err
				}
				say("B", seed, size)
				if i%5 == 0 {
					say("d", seed, size)
					if err := errors.Join(s.Unpin("c", refOf(b)), s.Delete(refOf(b))); err != nil {
						failed <- err
					}
					say("D", seed, size)
				}
			}
		}()
	}
	fmt.Fprintln(os.Stderr, <-failed)
	return 1
}

func TestKilledInMidWrite(t *testing.T) { killRepeatedly(t, 8) }

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

// killRepeatedly kills a storing process, and checks that everything it acknowledged is there and that no blob is
// partly there.
func killRepeatedly(t *testing.T, rounds int) {
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	acked, leftovers := 0, 0
	for round := 1; round <= rounds; round++ {
		said := killOnce(t, dir, round, rnd.IntN(120))
		left, err := os.ReadDir(dir + "/" + tmpFolder)
		if err == nil {
			leftovers += len(left)
		}
		s := open(t, dir, Limits{})
		wantClean(t, s)
		if n := s.Stats().Damaged; n != 0 {
			t.Fatalf("%d blobs are there by half", n)
		}
		pinned := map[Ref]bool{}
		for _, ref := range s.Pins("c") {
			pinned[ref] = true
		}
		for ref, what := range said {
			has := s.Has(ref)
			switch {
			case strings.Contains(what, "D"):
				if has || pinned[ref] {
					t.Fatalf("%v was deleted and is there", ref)
				}
			case strings.Contains(what, "d"):
			case strings.Contains(what, "B"):
				if !has || !pinned[ref] {
					t.Fatalf("%v was stored and pinned; stored %v, pinned %v", ref, has, pinned[ref])
				}
				acked++
			case strings.Contains(what, "P"):
				if !pinned[ref] {
					t.Fatalf("the pin of %v is lost", ref)
				}
			}
		}
		for _, ref := range s.List() {
			if said[ref] == "" {
				t.Fatalf("%v was never asked for", ref)
			}
			must(t, s.Verify(ref))
		}
		// Blobs without a pin are removed, so that the next round begins empty.
		must(t, s.UnpinAll("c"))
		_, _, err = s.Sweep(func(Ref) bool { return false }, 0)
		must(t, err)
		if st := s.Stats(); st.Blobs != 0 || st.Bytes != 0 || st.Pinned != 0 {
			t.Fatalf("after the sweep: %+v", st)
		}
		must(t, s.Close())
	}
	t.Logf("%d kills, %d blobs acknowledged, %d temporary files left and removed", rounds, acked, leftovers)
	if acked == 0 {
		t.Error("no child stored anything before it was killed")
	}
}

func killOnce(t *testing.T, dir string, round, quota int) map[Ref]string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, roundEnv+"="+fmt.Sprint(round))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	said := map[Ref]string{}
	in := bufio.NewReader(out)
	killed := false
	for lines := 0; ; lines++ {
		if lines >= quota && !killed {
			must(t, cmd.Process.Kill())
			killed = true
		}
		line, err := in.ReadString('\n')
		if err != nil {
			break
		}
		var what string
		var seed uint64
		var size int
		if _, err := fmt.Sscan(line, &what, &seed, &size); err != nil {
			t.Fatalf("child said %q", line)
		}
		said[refOf(content(seed, size))] += what
	}
	cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("child: %s", &stderr)
	}
	return said
}

// TestFullDisk fills a small file system and checks that Put fails and leaves nothing, and that it works again when
// there is space.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	disktest.Mount(t, dir, 8<<20)
	s := open(t, dir, Limits{})
	defer s.Close()
	var stored []uint64
	for seed := uint64(1); ; seed++ {
		_, err := s.Put(context.Background(), bytes.NewReader(content(seed, 600_000)))
		if errors.Is(err, ErrNoSpace) {
			break
		}
		must(t, err)
		stored = append(stored, seed)
	}
	wantClean(t, s)
	for _, seed := range stored {
		wantBlob(t, s, content(seed, 600_000))
	}
	must(t, s.Delete(refOf(content(stored[0], 600_000))))
	put(t, s, content(1000, 600_000))
	must(t, s.Close())
	s = open(t, dir, Limits{})
	if st := s.Stats(); st.Blobs != len(stored) || st.Damaged != 0 {
		t.Fatalf("%+v, %d were stored", st, len(stored))
	}
	must(t, s.Close())
}
