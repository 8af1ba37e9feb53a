package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// modelGroup is the expected content of a group.
type modelGroup struct {
	log    map[uint64]*raft.Log
	stable map[string]string
}

// model drives a Log and plain maps side by side.
type model struct {
	place  place
	log    *Log
	groups map[uint32]*modelGroup
	meta   map[string]string
	term   uint64
	// crashed is set when a write ended in the simulated crash, which is only
	// expected where mayCrash is set.
	mayCrash, crashed bool
}

func (m *model) wrote(t *rapid.T, err error) {
	if m.mayCrash && errors.Is(err, ErrCrashed) {
		m.crashed = true
	} else if err != nil {
		t.Fatal(err)
	}
}

func (m *model) clone() *model {
	c := *m
	c.meta = maps.Clone(m.meta)
	c.groups = map[uint32]*modelGroup{}
	for n, g := range m.groups {
		c.groups[n] = &modelGroup{maps.Clone(g.log), maps.Clone(g.stable)}
	}
	return &c
}

func (m *model) group(n uint32) *modelGroup {
	if m.groups[n] == nil {
		m.groups[n] = &modelGroup{map[uint64]*raft.Log{}, map[string]string{}}
	}
	return m.groups[n]
}

func (m *model) open() error {
	cfg := m.place.config()
	cfg.noSync = true
	cfg.MaxBatch = 5
	l, err := Open(cfg)
	m.log = l
	return err
}

var (
	anyGroup = rapid.Uint32Range(0, 3)
	anyIndex = rapid.Uint64Range(1, 24)
	anyKey   = rapid.SampledFrom([]string{"a", "b", "c/1", "c/2"})
	anyValue = rapid.SampledFrom([]string{"", "x", "yy", "zzz"})
)

func (m *model) store(t *rapid.T) {
	n, first := anyGroup.Draw(t, "group"), anyIndex.Draw(t, "first")
	count := rapid.Uint64Range(1, 8).Draw(t, "count")
	m.term++
	logs := entries(n, first, first+count-1, m.term)
	m.wrote(t, m.log.Group(n).StoreLogs(logs))
	for _, e := range logs {
		m.group(n).log[e.Index] = e
	}
}

func (m *model) deleteRange(t *rapid.T) {
	n, a, b := anyGroup.Draw(t, "group"), anyIndex.Draw(t, "from"), anyIndex.Draw(t, "to")
	m.wrote(t, m.log.Group(n).DeleteRange(a, b))
	maps.DeleteFunc(m.group(n).log, func(i uint64, _ *raft.Log) bool { return a <= i && i <= b })
}

func (m *model) set(t *rapid.T) {
	n, k, v := anyGroup.Draw(t, "group"), anyKey.Draw(t, "key"), anyValue.Draw(t, "value")
	m.wrote(t, m.log.Group(n).Set([]byte(k), []byte(v)))
	m.group(n).stable[k] = v
}

func (m *model) drop(t *rapid.T) {
	n := anyGroup.Draw(t, "group")
	m.wrote(t, m.log.Drop(n))
	delete(m.groups, n)
}

func (m *model) changeMeta(t *rapid.T) {
	var changes []MetaChange
	for range rapid.IntRange(1, 4).Draw(t, "changes") {
		c := MetaChange{Key: []byte(anyKey.Draw(t, "key")), Value: []byte(anyValue.Draw(t, "value")), Delete: rapid.Bool().Draw(t, "delete")}
		changes = append(changes, c)
		if c.Delete {
			delete(m.meta, string(c.Key))
		} else {
			m.meta[string(c.Key)] = string(c.Value)
		}
	}
	m.wrote(t, m.log.Meta().Apply(changes...))
}

func (m *model) reopen(t *rapid.T) {
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
}

func (m *model) check(t *rapid.T) {
	if err := m.diff(); err != nil {
		t.Fatal(err)
	}
}

// diff compares everything and reports where log and model differ.
func (m *model) diff() error {
	for n := range uint32(4) {
		if err := m.diffGroup(m.log.Group(n), m.group(n)); err != nil {
			return fmt.Errorf("group %d: %w", n, err)
		}
	}
	for _, prefix := range []string{"", "c/"} {
		var got, want bytes.Buffer
		if err := m.log.Meta().Scan([]byte(prefix), func(k, v []byte) error {
			fmt.Fprintf(&got, "%s=%s,", k, v)
			return nil
		}); err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(m.meta)) {
			if bytes.HasPrefix([]byte(k), []byte(prefix)) {
				fmt.Fprintf(&want, "%s=%s,", k, m.meta[k])
			}
		}
		if got.String() != want.String() {
			return fmt.Errorf("meta is %s, want %s", &got, &want)
		}
	}
	return nil
}

func (m *model) diffGroup(g *GroupLog, want *modelGroup) error {
	indexes := slices.Sorted(maps.Keys(want.log))
	var first, last uint64
	if len(indexes) > 0 {
		first, last = indexes[0], indexes[len(indexes)-1]
	}
	gotFirst, err1 := g.FirstIndex()
	gotLast, err2 := g.LastIndex()
	if err := errors.Join(err1, err2, g.Verify()); err != nil || gotFirst != first || gotLast != last {
		return fmt.Errorf("holds %d to %d, want %d to %d: %v", gotFirst, gotLast, first, last, err)
	}
	for i := uint64(0); i < 34; i++ {
		var e raft.Log
		err := g.GetLog(i, &e)
		if w := want.log[i]; w == nil && err != raft.ErrLogNotFound || w != nil && (err != nil || !sameEntry(&e, w)) {
			return fmt.Errorf("entry %d: %+v, %v; want %+v", i, e, err, w)
		}
	}
	for _, k := range []string{"a", "b", "c/1", "c/2"} {
		v, err := g.Get([]byte(k))
		if w, ok := want.stable[k]; ok != (err == nil) || string(v) != w {
			return fmt.Errorf("key %s: %q, %v; want %q, %v", k, v, err, w, ok)
		}
	}
	return nil
}

// TestAgainstModel performs random operations on a log and on maps and compares them.
func TestAgainstModel(t *testing.T) {
	for _, b := range []string{BackendBolt, BackendPebble, "disk"} {
		t.Run(b, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				dir, err := os.MkdirTemp("", "raftlog")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				m := &model{place: place{backend: b, dir: dir}, groups: map[uint32]*modelGroup{}, meta: map[string]string{}}
				if b == "disk" {
					m.place.backend, m.place.disk = "", NewDisk()
				}
				if err := m.open(); err != nil {
					t.Fatal(err)
				}
				defer func() { m.log.Close() }()
				t.Repeat(map[string]func(*rapid.T){
					"store": m.store, "store again": m.store, "delete": m.deleteRange, "set": m.set,
					"drop": m.drop, "meta": m.changeMeta, "reopen": m.reopen, "": m.check,
				})
			})
		})
	}
}

// TestCrashAgainstModel crashes the simulated disk in a random transaction of random writes, including those that
// sweep. It checks that acknowledged writes are there, and that any other write is there completely or not at all.
func TestCrashAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := NewDisk()
		m := &model{place: place{disk: disk}, groups: map[uint32]*modelGroup{}, meta: map[string]string{}, mayCrash: true}
		for range rapid.IntRange(1, 4).Draw(t, "crashes") {
			var left atomic.Int32
			left.Store(rapid.Int32Range(1, 20).Draw(t, "transactions"))
			keep := rapid.Bool().Draw(t, "keep")
			disk.Sync = func(int) error {
				if left.Add(-1) == 0 {
					disk.Crash(keep)
				}
				return nil
			}
			if err := m.open(); err != nil {
				t.Fatal(err)
			}
			before := m.clone()
			m.crashed = false
			ops := []func(*rapid.T){m.store, m.store, m.deleteRange, m.deleteRange, m.set, m.drop, m.changeMeta}
			for range 40 {
				before = m.clone()
				ops[rapid.IntRange(0, len(ops)-1).Draw(t, "op")](t)
				if m.crashed {
					break
				}
			}
			if err := m.log.Close(); err != nil {
				t.Fatal(err)
			}
			disk.Sync = nil
			if err := m.open(); err != nil {
				t.Fatal(err)
			}
			after := m.diff()
			if after != nil && m.crashed {
				before.log = m.log
				if err := before.diff(); err != nil {
					t.Fatalf("neither after the last write (%v) nor before it (%v)", after, err)
				}
				m.groups, m.meta = before.groups, before.meta
			} else if after != nil {
				t.Fatal(after)
			}
			if err := m.log.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRunSetAgainstModel compares the sets of indexes with a map.
func TestRunSetAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s runSet
		want := map[uint64]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			a, b := anyIndex.Draw(t, "a"), anyIndex.Draw(t, "b")
			r := run{min(a, b), max(a, b)}
			before := slices.Clone(s)
			old := s
			add := rapid.Bool().Draw(t, "add")
			if add {
				s = s.with(r)
			} else {
				var taken runSet
				s, taken = s.without(r)
				for i := uint64(0); i < 30; i++ {
					if taken.contains(i) != (want[i] && r.first <= i && i <= r.last) {
						t.Fatalf("taking %v from %v took %v", r, old, taken)
					}
				}
			}
			for i := r.first; i <= r.last; i++ {
				want[i] = add
			}
			if !slices.Equal(old, before) {
				t.Fatalf("a change to %v altered it to %v", before, old)
			}
			if _, rest, err := cutRuns(appendRuns(nil, s)); err != nil || len(rest) != 0 {
				t.Fatalf("%v is not normal: %v", s, err)
			}
			for i := uint64(0); i < 30; i++ {
				if s.contains(i) != want[i] || s.intersects(run{i, i}) != want[i] {
					t.Fatalf("%v: index %d", s, i)
				}
			}
		}
	})
}
