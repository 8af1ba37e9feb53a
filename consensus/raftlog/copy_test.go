package raftlog

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// TestCopyWhileWriting checks that a copy opens, and holds everything that was acknowledged before the copy was
// requested.
func TestCopyWhileWriting(t *testing.T) {
	for _, backend := range []string{BackendBolt, BackendPebble} {
		t.Run(backend, func(t *testing.T) {
			dir := t.TempDir()
			l, err := Open(Config{Dir: filepath.Join(dir, "a"), Backend: backend})
			if err != nil {
				t.Fatal(err)
			}
			const before, after = 50, 200
			write := func(i uint64) error {
				return l.Group(3).StoreLog(&raft.Log{Index: i, Term: 1, Data: []byte(fmt.Sprint(i))})
			}
			for i := uint64(1); i <= before; i++ {
				if err := write(i); err != nil {
					t.Fatal(err)
				}
			}
			var writer sync.WaitGroup
			writer.Go(func() {
				for i := uint64(before + 1); i <= after; i++ {
					if err := write(i); err != nil {
						t.Error(err)
					}
				}
			})
			if err := l.Copy(filepath.Join(dir, "b")); err != nil {
				t.Fatal(err)
			}
			writer.Wait()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			c, err := Open(Config{Dir: filepath.Join(dir, "b"), Backend: backend})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			last, err := c.Group(3).LastIndex()
			if err != nil || last < before {
				t.Fatalf("the copy ends with %d (%v), wanted at least %d", last, err, before)
			}
			for i := uint64(1); i <= last; i++ {
				var e raft.Log
				if err := c.Group(3).GetLog(i, &e); err != nil || string(e.Data) != fmt.Sprint(i) {
					t.Fatalf("entry %d: %q, %v", i, e.Data, err)
				}
			}
			if err := c.Group(3).Verify(); err != nil {
				t.Fatal(err)
			}
			if err := c.Copy(filepath.Join(dir, "a")); err == nil {
				t.Fatal("a copy over another log is made")
			}
		})
	}
}
