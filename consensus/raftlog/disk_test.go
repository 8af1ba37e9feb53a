package raftlog

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The simulated disk works in virtual time: callers wait as long as the disk is slow, and callers that arrive
// meanwhile share the next transaction.
func TestSlowDiskInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := NewDisk()
		disk.Sync = func(int) error {
			time.Sleep(20 * time.Millisecond)
			return nil
		}
		l := place{disk: disk}.open(t)
		begun := time.Now()
		var wg sync.WaitGroup
		for n := range uint32(10) {
			wg.Go(func() {
				for i := uint64(1); i <= 5; i++ {
					if err := l.Group(n).StoreLog(entry(n, i, 1, 10)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		// In the worst case, every write has to wait for one other transaction before its own.
		if took := time.Since(begun); took < 5*20*time.Millisecond || took > 10*20*time.Millisecond {
			t.Errorf("five writes took %v of virtual time", took)
		}
		if s := l.Stats(); s.Transactions > 10 || s.Entries != 50 {
			t.Errorf("%d entries in %d transactions", s.Entries, s.Transactions)
		}
		must(t, l.Close())
	})
}

// A crash in the middle of a sync loses the transaction, or keeps it without an answer to the caller; acknowledged
// data stays in both cases.
func TestCrashInMidSync(t *testing.T) {
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			disk := NewDisk()
			l := place{disk: disk}.open(t)
			must(t, l.Group(1).StoreLogs(entries(1, 1, 3, 1)))
			disk.Sync = func(int) error {
				time.Sleep(time.Second)
				return nil
			}
			failed := make(chan error)
			go func() { failed <- l.Group(1).StoreLogs(entries(1, 4, 6, 1)) }()
			synctest.Wait()
			disk.Crash(keep)
			if err := <-failed; !errors.Is(err, ErrCrashed) {
				t.Errorf("the caller heard %v", err)
			}
			if err := l.Group(1).StoreLog(entry(1, 4, 1, 1)); !errors.Is(err, ErrCrashed) || !errors.Is(err, ErrFailed) {
				t.Errorf("after the crash: %v", err)
			}
			must(t, l.Close())
			l = place{disk: disk}.open(t)
			last := map[bool]uint64{false: 3, true: 6}[keep]
			wantBounds(t, l.Group(1), 1, last)
			must(t, l.Group(1).Verify())
			must(t, l.Close())
		})
	}
}

// A write that failed for lack of space can be retried; any other failure is final.
func TestFailingDisk(t *testing.T) {
	disk := NewDisk()
	var mu sync.Mutex
	var cause error
	setCause := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		cause = err
	}
	disk.Sync = func(int) error { // also of sweeps, which run without a request
		mu.Lock()
		defer mu.Unlock()
		return cause
	}
	l := place{disk: disk}.open(t)
	g := l.Group(1)
	must(t, g.StoreLogs(entries(1, 1, 5, 1)))
	must(t, g.DeleteRange(4, 5))
	setCause(fmt.Errorf("simulated: %w", ErrNoSpace))
	for i, err := range []error{g.StoreLog(entry(1, 4, 1, 1)), g.DeleteRange(1, 2), g.Set([]byte("k"), nil), l.Drop(1), l.Meta().Set([]byte("k"), nil)} {
		if !errors.Is(err, ErrNoSpace) {
			t.Errorf("write %d to a full disk: %v", i, err)
		}
	}
	wantBounds(t, g, 1, 3)
	setCause(nil)
	must(t, g.StoreLogs(entries(1, 4, 5, 2)))
	must(t, l.Meta().Set([]byte("k"), []byte("v")))
	setCause(errors.New("input/output error"))
	if err := g.StoreLog(entry(1, 6, 1, 1)); !errors.Is(err, ErrFailed) {
		t.Error(err)
	}
	setCause(nil)
	if err := g.StoreLog(entry(1, 6, 1, 1)); !errors.Is(err, ErrFailed) {
		t.Error("a store whose disk failed was written to:", err)
	}
	wantBounds(t, g, 1, 5)
	wantEntry(t, g, entry(1, 5, 2, 64))
	must(t, l.Close())
	l = place{disk: disk}.open(t)
	wantBounds(t, l.Group(1), 1, 5)
	must(t, l.Group(1).Verify())
}
