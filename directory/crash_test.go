package directory

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// The crash test runs this binary again as a claiming process and kills it with SIGKILL.
const (
	crashDir   = "MLSFED_DIRECTORY_CRASH_DIR"
	crashClaim = 6 // claimants
)

// crashChild claims until nothing is left, beginning each claimant at the number in its arguments, and prints the
// claims.
func crashChild(dir string) error {
	s, err := pebblestore.Open(filepath.Join(dir, "db"), pebblestore.Options{})
	if err != nil {
		return err
	}
	ca, err := makeCA(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		return err
	}
	d, err := New(s.Records(), Config{Domain: domain, CA: ca, PairBurst: 1 << 20, UserBurst: 1 << 20})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	for w := range crashClaim {
		var from int
		fmt.Sscan(os.Getenv(fmt.Sprintf("FROM%d", w)), &from)
		all.Go(func() {
			for n := from; ; n++ {
				got, err := d.ClaimKeyPackages(context.Background(), Claim{ID: claimID(n), Claimant: fmt.Sprint(w), User: alice, Suite: 1})
				mu.Lock()
				if err == nil {
					fmt.Printf("%d %d %x\n", w, n, got[0].Message)
				} else if wire.CodeOf(err) != wire.NoneLeft {
					failed = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return failed
}

// TestKillWhileClaiming kills a claiming process until all is claimed: no KeyPackage is given to two
// claims, a claim whose answer was lost or not gets the same one again, and none is lost.
func TestKillWhileClaiming(t *testing.T) {
	defer goleak.VerifyNone(t)
	const packages = 400
	dir := t.TempDir()
	s := pebbletest.Folder(filepath.Join(dir, "db")).Open(t)
	d := on(t, s.Records(), Config{MaxKeyPackages: packages})
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, packages, mlscore.KeyPackageOptions{})...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	answers := make(map[[2]int]string)
	var next [crashClaim]int
	kills := 0
	for claimOnce(t, dir, answers, &next) {
		kills++
	}
	// Every claimant asks again from the start, of a process that is not killed.
	next = [crashClaim]int{}
	if claimOnce(t, dir, answers, &next) {
		t.Fatal("the last process was killed")
	}
	owner := make(map[string][2]int)
	for who, message := range answers {
		if other, ok := owner[message]; ok {
			t.Fatalf("claims %v and %v were given the same KeyPackage", who, other)
		}
		owner[message] = who
	}
	if len(owner) != packages {
		t.Fatalf("%d of %d KeyPackages were given", len(owner), packages)
	}
	t.Logf("%d kills", kills)
}

// claimOnce reports whether it has killed the process. It does so after a few answers, unless next is zero.
func claimOnce(t *testing.T, dir string, answers map[[2]int]string, next *[crashClaim]int) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	for w, from := range next {
		// One less: the last answer is asked for again, as if it had been lost.
		cmd.Env = append(cmd.Env, fmt.Sprintf("FROM%d=%d", w, max(from-1, 0)))
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	kill := len(answers) < 350
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for left := 5 + rand.IntN(60); lines.Scan(); left-- {
		var w, n int
		var message string
		if c, _ := fmt.Sscan(lines.Text(), &w, &n, &message); c != 3 {
			break
		}
		if _, err := hex.DecodeString(message); err != nil {
			break // cut off
		}
		if before, ok := answers[[2]int{w, n}]; ok && before != message {
			t.Fatalf("claim %d of %d was answered differently", n, w)
		}
		answers[[2]int{w, n}] = message
		next[w] = max(next[w], n+1)
		if kill && left == 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if killed := cmd.ProcessState.ExitCode() == -1; killed {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}
