package boltstore

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
)

// TestDiskFull checks that a batch is refused if the disk is full, and that the store can be used after that.
func TestDiskFull(t *testing.T) {
	if path := os.Getenv("BOLTSTORE_TEST_FULL"); path != "" {
		fullChild(t, path)
		return
	}
	path := newPath(t)
	s := openTest(t, path, Options{})
	apply(t, s, put("k", "v"))
	mustClose(t, s)
	child := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
	child.Env = append(os.Environ(), "BOLTSTORE_TEST_FULL="+path)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "done as it should") {
		t.Fatalf("%v\n%s", err, out)
	}
	expect(t, openTest(t, path, Options{}), "", "k=v", "small=1")
}

func fullChild(t *testing.T, path string) {
	s, err := Open(path, testKey(1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	size := uint64(fileSize(t, path)) + 1<<16
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: size}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("k", "lost"), put("big", strings.Repeat("x", 1<<20))}})
		if err == nil {
			t.Fatal("written over the limit")
		}
		expect(t, s, "", "k=v")
	}
	apply(t, s, put("small", "1"))
	expect(t, s, "", "k=v", "small=1")
	mustClose(t, s)
	fmt.Println("done as it should")
}
