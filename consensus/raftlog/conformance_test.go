package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

func TestEmptyGroup(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		g := p.open(t).Group(5)
		wantBounds(t, g, 0, 0)
		wantNone(t, g, 0, 3)
		if _, err := g.Get([]byte("k")); err != ErrNotFound || err.Error() != "not found" {
			t.Fatalf("missing key: %v", err)
		}
		if _, err := g.GetUint64([]byte("k")); err == nil || err.Error() != "not found" {
			t.Fatalf("missing number: %v", err)
		}
		must(t, g.DeleteRange(1, 100))
		must(t, g.StoreLogs(nil))
		must(t, g.Verify())
	})
}

func TestStoreAndGet(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		g := l.Group(1)
		all := entries(1, 1, 20, 3)
		all[3].Extensions = []byte("extensions")
		all[4] = &raft.Log{Index: 5, Term: 9, Type: raft.LogConfiguration} // no data, no time
		must(t, g.StoreLogs(all[:12]))
		must(t, g.StoreLog(all[12]))
		must(t, g.StoreLogs(all[13:]))
		check := func(g *GroupLog) {
			wantBounds(t, g, 1, 20)
			for _, e := range all {
				wantEntry(t, g, e)
			}
			wantNone(t, g, 21, 22)
			wantBounds(t, l.Group(2), 0, 0)
		}
		check(g)
		must(t, l.Close())
		l = p.open(t)
		check(l.Group(1))
		must(t, l.Group(1).Verify())
	})
}

func TestReplaceEntries(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		g := p.open(t).Group(1)
		must(t, g.StoreLogs(entries(1, 1, 5, 1)))
		must(t, g.StoreLogs(entries(1, 3, 6, 2)))
		wantBounds(t, g, 1, 6)
		wantEntry(t, g, entry(1, 2, 1, 64))
		wantEntry(t, g, entry(1, 3, 2, 64))
		wantEntry(t, g, entry(1, 6, 2, 64))
	})
}

func TestDeleteRange(t *testing.T) {
	cases := []struct {
		name               string
		from, to           uint64
		first, last        uint64 // afterwards
		goneFrom, goneUpTo uint64
	}{
		{"prefix", 1, 4, 5, 10, 1, 4},
		{"prefix from before the log", 0, 4, 5, 10, 1, 4},
		{"suffix", 8, 10, 1, 7, 8, 10},
		{"suffix beyond the end", 8, 1 << 50, 1, 7, 8, 12},
		{"middle", 4, 6, 1, 10, 4, 6},
		{"one", 1, 1, 2, 10, 1, 1},
		{"all", 1, 10, 0, 0, 1, 10},
		{"none, above", 11, 20, 1, 10, 11, 20},
		{"none, reversed", 5, 4, 1, 10, 11, 12},
	}
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		for i, c := range cases {
			n := uint32(i + 1)
			g := l.Group(n)
			must(t, g.StoreLogs(entries(n, 1, 10, 1)))
			must(t, g.DeleteRange(c.from, c.to))
		}
		check := func(l *Log, when string) {
			for i, c := range cases {
				t.Log(when, c.name)
				g := l.Group(uint32(i + 1))
				wantBounds(t, g, c.first, c.last)
				wantNone(t, g, c.goneFrom, c.goneUpTo)
				for j := uint64(1); j <= 10; j++ {
					if j < c.goneFrom || j > c.goneUpTo {
						wantEntry(t, g, entry(uint32(i+1), j, 1, 64))
					}
				}
				must(t, g.Verify())
			}
		}
		check(l, "at once:")
		must(t, l.Close())
		check(p.open(t), "reopened:")
	})
}

// A truncated suffix is written again with other entries, as a follower does.
func TestTruncateAndAppend(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		g := l.Group(1)
		for term := uint64(1); term <= 20; term++ {
			must(t, g.StoreLogs(entries(1, term, term+30, term)))
			must(t, g.DeleteRange(term+1, term+30))
		}
		check := func(g *GroupLog) {
			wantBounds(t, g, 1, 20)
			for i := uint64(1); i <= 20; i++ {
				wantEntry(t, g, entry(1, i, i, 64))
			}
			must(t, g.Verify())
		}
		check(g)
		must(t, l.Close())
		check(p.open(t).Group(1))
	})
}

// When Raft restores a user's snapshot, it leaves a gap on purpose: entries in the gap are not found, and Verify does
// not report them as lost.
func TestGapAfterSnapshotRestore(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		must(t, l.Group(1).StoreLogs(entries(1, 1, 10, 1)))
		must(t, l.Group(1).StoreLogs(entries(1, 1000, 1005, 2)))
		must(t, l.Close())
		l = p.open(t)
		g := l.Group(1)
		wantBounds(t, g, 1, 1005)
		wantNone(t, g, 11, 999)
		wantEntry(t, g, entry(1, 10, 1, 64))
		wantEntry(t, g, entry(1, 1000, 2, 64))
		must(t, g.Verify())
		must(t, g.DeleteRange(1, 1002))
		wantBounds(t, g, 1003, 1005)
	})
}

func TestStableKeys(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		g := l.Group(7)
		must(t, g.SetUint64([]byte("CurrentTerm"), 4))
		must(t, g.Set([]byte("LastVoteCand"), []byte("n1.a.example")))
		must(t, g.Set([]byte("empty"), nil))
		must(t, g.SetUint64([]byte("CurrentTerm"), 5))
		before := l.Stats().Transactions
		must(t, g.SetUint64([]byte("CurrentTerm"), 5))
		must(t, g.Set([]byte("LastVoteCand"), []byte("n1.a.example")))
		must(t, g.Set([]byte("empty"), []byte{}))
		if after := l.Stats().Transactions; after != before {
			t.Fatalf("setting what is set wrote %d transactions", after-before)
		}
		must(t, l.Close())
		l = p.open(t)
		g = l.Group(7)
		if n, err := g.GetUint64([]byte("CurrentTerm")); err != nil || n != 5 {
			t.Fatal(n, err)
		}
		if v, err := g.Get([]byte("LastVoteCand")); err != nil || string(v) != "n1.a.example" {
			t.Fatal(v, err)
		}
		if v, err := g.Get([]byte("empty")); err != nil || len(v) != 0 {
			t.Fatal(v, err)
		}
		if _, err := g.GetUint64([]byte("LastVoteCand")); err == nil {
			t.Fatal("12 bytes were taken for a number")
		}
		if _, err := l.Group(8).Get([]byte("CurrentTerm")); err != ErrNotFound {
			t.Fatal("a key is visible in another group")
		}
		must(t, g.StoreLogs(entries(7, 1, 3, 5)))
		must(t, g.DeleteRange(1, 3))
		if n, err := g.GetUint64([]byte("CurrentTerm")); err != nil || n != 5 {
			t.Fatal("deleting entries touched a stable key:", n, err)
		}
	})
}

func TestLimits(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		g := l.Group(1)
		for _, index := range []uint64{0, maxIndex + 1, 1 << 63} {
			if err := g.StoreLog(entry(1, index, 1, 10)); err == nil {
				t.Errorf("index %d was stored", index)
			}
		}
		must(t, g.StoreLog(entry(1, maxIndex, 1, 10)))
		wantEntry(t, g, entry(1, maxIndex, 1, 10))
		if err := g.StoreLog(&raft.Log{Index: 1, Data: make([]byte, maxRecord)}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("entry of 64 MiB: %v", err)
		}
		must(t, g.StoreLog(entry(1, 1, 1, 1<<20+1<<16)))
		wantEntry(t, g, entry(1, 1, 1, 1<<20+1<<16))
		if err := g.Set(make([]byte, maxStableKey+1), nil); !errors.Is(err, ErrTooLarge) {
			t.Errorf("long key: %v", err)
		}
		if err := g.Set([]byte("k"), make([]byte, maxStableVal+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("long value: %v", err)
		}
		for i := range maxStablePairs {
			must(t, g.Set(fmt.Append(nil, i), nil))
		}
		if err := g.Set([]byte("one more"), nil); !errors.Is(err, ErrTooLarge) {
			t.Errorf("one key too many: %v", err)
		}
		last := l.Group(MaxGroups - 1)
		must(t, last.StoreLog(entry(MaxGroups-1, 1, 1, 10)))
		for _, n := range []uint32{MaxGroups, MaxGroups + 1, 1<<32 - 1} {
			if err := l.Group(n).StoreLog(entry(n, 1, 1, 1)); !errors.Is(err, ErrBadGroup) {
				t.Errorf("group %d: %v", n, err)
			}
			if err := l.Drop(n); !errors.Is(err, ErrBadGroup) {
				t.Errorf("drop group %d: %v", n, err)
			}
		}
	})
}

func TestDropAndGroups(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		for n := uint32(0); n < 5; n++ {
			must(t, l.Group(n).StoreLogs(entries(n, 1, 300, 1)))
			must(t, l.Group(n).SetUint64([]byte("term"), 1))
		}
		must(t, l.Meta().Set([]byte("k"), []byte("v")))
		held := l.Group(2)
		must(t, l.Drop(2))
		must(t, l.Drop(4))
		must(t, l.Drop(99))
		wantBounds(t, held, 0, 0)
		must(t, held.StoreLogs(entries(2, 7, 8, 2))) // the group's number is used again
		check := func(l *Log) {
			got, err := l.Groups()
			must(t, err)
			if want := []uint32{0, 1, 2, 3}; !reflect.DeepEqual(got, want) {
				t.Fatalf("groups %v, want %v", got, want)
			}
			wantBounds(t, l.Group(0), 1, 300)
			wantBounds(t, l.Group(2), 7, 8)
			wantNone(t, l.Group(2), 1, 6)
			wantNone(t, l.Group(2), 9, 300)
			if _, err := l.Group(2).Get([]byte("term")); err != ErrNotFound {
				t.Fatal("a stable key outlived Drop:", err)
			}
			wantEntry(t, l.Group(3), entry(3, 300, 1, 64))
			if v, err := l.Meta().Get([]byte("k")); err != nil || string(v) != "v" {
				t.Fatal(v, err)
			}
		}
		check(l)
		must(t, l.Close())
		check(p.open(t))
	})
}

func TestClosed(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		g := l.Group(1)
		must(t, g.StoreLogs(entries(1, 1, 3, 1)))
		must(t, l.Meta().Set([]byte("k"), nil))
		must(t, l.Close())
		must(t, l.Close())
		var e raft.Log
		_, first := g.FirstIndex()
		_, last := g.LastIndex()
		_, key := g.Get([]byte("k"))
		_, meta := l.Meta().Get([]byte("k"))
		_, groups := l.Groups()
		scan := l.Meta().Scan(nil, func(_, _ []byte) error { return nil })
		for i, err := range []error{g.GetLog(1, &e), g.StoreLog(entry(1, 4, 1, 1)), g.DeleteRange(1, 2),
			g.Set([]byte("k"), nil), g.Verify(), l.Drop(1), l.Meta().Set([]byte("k"), []byte("v")), scan,
			first, last, key, meta, groups} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("call %d after Close: %v", i, err)
			}
		}
	})
}

// Close must not return before the pending writes have ended.
func TestCloseWhileWriting(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		var wg sync.WaitGroup
		acked := make([]uint64, 20)
		for n := range acked {
			wg.Go(func() {
				g := l.Group(uint32(n))
				for i := uint64(1); ; i++ {
					err := g.StoreLog(entry(uint32(n), i, 1, 100))
					if errors.Is(err, ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					acked[n] = i
				}
			})
		}
		for l.Stats().Entries < 200 {
		}
		must(t, l.Close())
		wg.Wait()
		l = p.open(t)
		for n := range acked {
			wantBounds(t, l.Group(uint32(n)), min(1, acked[n]), acked[n])
			must(t, l.Group(uint32(n)).Verify())
		}
	})
}

// Reads that run while the log is closed are answered or refused, and never reported as damage.
func TestCloseWhileReading(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		for range 5 {
			var c corruptions
			l := p.open(t, c.on)
			must(t, l.Group(1).StoreLogs(entries(1, 1, 50, 1)))
			must(t, l.Meta().Set([]byte("k"), []byte("v")))
			var wg sync.WaitGroup
			begun := make(chan struct{}, 8)
			for n := range uint64(8) {
				wg.Go(func() {
					g := l.Group(1)
					for i := n; ; i++ {
						var e raft.Log
						err := g.GetLog(i%50+1, &e)
						if n == 0 && err == nil {
							_, err = l.Meta().Get([]byte("k"))
						}
						if i == n+20 {
							begun <- struct{}{}
						}
						if errors.Is(err, ErrClosed) {
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for range 8 {
				<-begun
			}
			must(t, l.Close())
			wg.Wait()
			if len(c.list) > 0 {
				t.Errorf("reported as damage: %v", c.list)
			}
		}
	})
}

// The walk over a Bolt file finds every stored key, in a tree of several levels.
func TestBoltWalkFindsAll(t *testing.T) {
	p := newPlace(t, BackendBolt)
	l := p.open(t, noSync)
	want := map[uint64]bool{}
	for n := range uint32(400) {
		must(t, l.Group(n).StoreLogs(entries(n, 1, 30, 1)))
		must(t, l.Group(n).DeleteRange(1, 5))
		want[stateKey(n)] = true
		for i := uint64(6); i <= 30; i++ {
			want[entryKey(n, i)] = true
		}
	}
	for len(l.Group(399).state.Load().garbage) > 0 { // the ranges are swept in order
		runtime.Gosched()
	}
	must(t, l.Close())
	torn, err := walkBolt(filepath.Join(p.dir, boltFile), func(key uint64) uint64 {
		if !want[key] {
			t.Errorf("key %x was found twice or never stored", key)
		}
		delete(want, key)
		return key + 1
	})
	if err != nil || torn || len(want) > 0 {
		t.Fatalf("%d keys were not found, torn %v, %v", len(want), torn, err)
	}
}

func TestMeta(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		kv := l.Meta()
		for i := range 50 {
			must(t, kv.Set(fmt.Appendf(nil, "conv/%02d", i), fmt.Appendf(nil, "group %d", i)))
		}
		must(t, kv.Apply(
			MetaChange{Key: []byte("conv/03"), Delete: true},
			MetaChange{Key: []byte("conv/03"), Value: []byte("again")},
			MetaChange{Key: []byte("conv/04"), Delete: true},
			MetaChange{Key: []byte("new"), Value: bytes.Repeat([]byte("x"), MaxMetaValue)},
			MetaChange{Key: []byte("other"), Value: nil},
			MetaChange{Key: []byte("other"), Delete: true},
		))
		must(t, kv.Delete([]byte("conv/05")))
		must(t, kv.Delete([]byte("never set")))
		must(t, kv.Set([]byte("conv/06"), []byte("changed")))
		for range 30 { // slots are used again
			must(t, kv.Set([]byte("flip"), []byte("v")))
			must(t, kv.Delete([]byte("flip")))
		}
		check := func(l *Log) {
			kv := l.Meta()
			n := 0
			must(t, kv.Scan([]byte("conv/"), func(k, v []byte) error {
				for string(k) != fmt.Sprintf("conv/%02d", n) {
					n++
				}
				want := fmt.Sprintf("group %d", n)
				switch n {
				case 3:
					want = "again"
				case 4, 5:
					t.Fatalf("%s was deleted", k)
				case 6:
					want = "changed"
				}
				if string(v) != want {
					t.Fatalf("%s is %q, want %q", k, v, want)
				}
				n++
				return nil
			}))
			if n != 50 {
				t.Fatalf("scan ended at %d", n)
			}
			if v, err := kv.Get([]byte("new")); err != nil || len(v) != MaxMetaValue {
				t.Fatal(len(v), err)
			}
			for _, k := range []string{"other", "conv/05", "flip", "never set"} {
				if _, err := kv.Get([]byte(k)); err != ErrNotFound {
					t.Fatalf("%s: %v", k, err)
				}
			}
			if l.meta.next > 60 {
				t.Fatalf("slots of deleted keys are not used again: %d in use", l.meta.next)
			}
			stop := errors.New("stop")
			if err := kv.Scan(nil, func(_, _ []byte) error { return stop }); err != stop {
				t.Fatalf("scan went on: %v", err)
			}
		}
		check(l)
		for _, err := range []error{kv.Set(nil, nil), kv.Set(make([]byte, MaxMetaKey+1), nil), kv.Set([]byte("k"), make([]byte, MaxMetaValue+1))} {
			if !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
		}
		must(t, l.Close())
		check(p.open(t))
	})
}

// Entries of many groups that are written at the same time share transactions, and no transaction exceeds the limit.
func TestBatching(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		if p.disk != nil {
			// Hold the first transaction until all writers wait.
			var once sync.Once
			p.disk.Sync = func(int) error {
				once.Do(func() {
					for range 1 << 20 {
					}
				})
				return nil
			}
		}
		l := p.open(t, func(c *Config) { c.MaxBatch = 16 })
		const groups, each = 64, 20
		var wg sync.WaitGroup
		for n := range uint32(groups) {
			wg.Go(func() {
				g := l.Group(n)
				for i := uint64(1); i <= each; i++ {
					if err := g.StoreLog(entry(n, i, 1, 4096)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		s := l.Stats()
		t.Logf("%d entries in %d transactions, largest %d, histogram %v", s.Entries, s.Transactions, s.MaxBatch, s.Batches)
		if s.Entries != groups*each {
			t.Errorf("%d entries, want %d", s.Entries, groups*each)
		}
		if s.MaxBatch > 16 {
			t.Errorf("a transaction of %d entries exceeds the cap", s.MaxBatch)
		}
		if p.disk == nil && s.Transactions > s.Entries/2 {
			t.Errorf("%d transactions for %d entries: appends do not share them", s.Transactions, s.Entries)
		}
		var sum uint64
		for _, n := range s.Batches {
			sum += n
		}
		if sum != s.Transactions {
			t.Errorf("histogram counts %d of %d transactions", sum, s.Transactions)
		}
		// One call is never split.
		must(t, l.Group(1).StoreLogs(entries(1, each+1, each+100, 2)))
		if s := l.Stats(); s.MaxBatch != 100 {
			t.Errorf("largest transaction %d, want the call's 100", s.MaxBatch)
		}
	})
}

func TestOtherBackendsFolderIsRefused(t *testing.T) {
	for _, b := range [][2]string{{BackendBolt, BackendPebble}, {BackendPebble, BackendBolt}} {
		p := newPlace(t, b[0])
		l := p.open(t)
		must(t, l.Close())
		p.backend = b[1]
		if _, err := Open(p.config()); err == nil {
			t.Errorf("%s opened a folder of %s", b[1], b[0])
		} else {
			t.Log(err)
		}
	}
}

func TestOpenTwice(t *testing.T) {
	for _, b := range []string{BackendBolt, BackendPebble} {
		p := newPlace(t, b)
		p.open(t)
		if l, err := Open(p.config()); err == nil {
			l.Close()
			t.Errorf("%s: opened twice", b)
		}
	}
}

func TestBadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []Config{{}, {Dir: t.TempDir(), Backend: "leveldb"}, {Dir: filepath.Join(file, "sub")}} {
		if _, err := Open(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestSetAllIsOneWrite(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t, noSync)
		g := l.Group(3)
		both := []StableValue{{[]byte("term"), []byte{7}}, {[]byte("vote"), []byte("n1")}}
		before := l.Stats().Transactions
		must(t, g.SetAll(both...))
		must(t, g.SetAll(both...))
		if n := l.Stats().Transactions - before; n != 1 {
			t.Fatalf("%d transactions, want one", n)
		}
		if err := g.SetAll(StableValue{[]byte("term"), []byte{8}}, StableValue{make([]byte, maxStableKey+1), nil}); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("error %v", err)
		}
		must(t, l.Close())
		g = p.open(t, noSync).Group(3)
		for _, want := range both {
			if got, err := g.Get(want.Key); err != nil || string(got) != string(want.Value) {
				t.Fatalf("%s is %q, %v", want.Key, got, err)
			}
		}
	})
}
