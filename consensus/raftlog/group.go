package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// GroupLog is the log and the stable store of one group. It implements
// raft.LogStore and raft.StableStore, tolerates gaps, and is safe for
// concurrent use. See the package documentation for how damage is reported.
type GroupLog struct {
	log   *Log
	n     uint32
	once  sync.Once
	state atomic.Pointer[groupState] // durable state; replaced by the committer only

	queued bool // for a sweep; guarded by log.mu
}

// load reads the state record, once.
func (g *GroupLog) load() {
	g.once.Do(func() {
		st, err := g.readState()
		if err != nil {
			st = &groupState{err: err}
		}
		g.state.Store(st)
		if len(st.garbage) > 0 {
			g.log.sweepLater(g)
		}
	})
}

func (g *GroupLog) readState() (*groupState, error) {
	if g.n >= MaxGroups {
		return nil, fmt.Errorf("group %d: %w", g.n, ErrBadGroup)
	}
	key := stateKey(g.n)
	rec, err := g.log.read(key)
	switch {
	case errors.Is(err, errMissing) && !g.log.has(g.n):
		return &groupState{}, nil
	case errors.Is(err, errMissing):
		return nil, g.log.damaged(&CorruptError{g.n, 0, "record is missing"})
	case err != nil:
		return nil, g.failure("load", 0, err)
	}
	st, err := parseState(key, rec)
	if err != nil {
		return nil, g.log.damaged(&CorruptError{g.n, 0, err.Error()})
	}
	return st, nil
}

func parseState(key uint64, rec []byte) (*groupState, error) {
	body, err := openRecord(rec, key, kindState)
	if err != nil {
		return nil, err
	}
	return decodeState(body)
}

// failure wraps an error of the backend. It reports damage that the backend finds in the same way as damage of a
// record.
func (g *GroupLog) failure(op string, index uint64, err error) error {
	var bad *damagedRead
	if errors.As(err, &bad) {
		return g.log.damaged(&CorruptError{g.n, index, bad.reason})
	}
	if errors.Is(err, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("raftlog: group %d: %s: %w", g.n, op, err)
}

// ready returns the state, or the reason why the group cannot be used.
func (g *GroupLog) ready() (*groupState, error) {
	if g.log.isClosed() {
		return nil, ErrClosed
	}
	st := g.state.Load()
	return st, st.err
}

// FirstIndex returns the lowest index held, 0 if the log is empty.
func (g *GroupLog) FirstIndex() (uint64, error) {
	st, err := g.ready()
	if err != nil {
		return 0, err
	}
	first, _ := st.held.bounds()
	return first, nil
}

// LastIndex returns the highest index held, 0 if the log is empty.
func (g *GroupLog) LastIndex() (uint64, error) {
	st, err := g.ready()
	if err != nil {
		return 0, err
	}
	_, last := st.held.bounds()
	return last, nil
}

// GetLog fills e with the entry of that index. It returns raft.ErrLogNotFound itself for an entry that the log does
// not hold and a *CorruptError for a damaged entry.
func (g *GroupLog) GetLog(index uint64, e *raft.Log) error {
	st, err := g.ready()
	if err != nil {
		return err
	}
	if !st.held.contains(index) {
		return raft.ErrLogNotFound
	}
	key := entryKey(g.n, index)
	rec, err := g.log.read(key)
	switch {
	case errors.Is(err, errMissing):
		// The entry may have been deleted and swept since the state was read.
		if !g.state.Load().held.contains(index) {
			return raft.ErrLogNotFound
		}
		return g.log.damaged(&CorruptError{g.n, index, "record is missing"})
	case err != nil:
		return g.failure("get entry", index, err)
	}
	if err := decodeEntry(key, rec, e); err != nil {
		return g.log.damaged(&CorruptError{g.n, index, err.Error()})
	}
	return nil
}

// StoreLog stores one entry; see StoreLogs.
func (g *GroupLog) StoreLog(e *raft.Log) error { return g.StoreLogs([]*raft.Log{e}) }

// StoreLogs stores the entries, all or none, and returns when they are durable. An entry that the log already holds
// is replaced. Indexes are from 1 to 1<<39 - 1; a gap stays a gap.
func (g *GroupLog) StoreLogs(entries []*raft.Log) error {
	if _, err := g.ready(); err != nil || len(entries) == 0 {
		return err
	}
	req := &request{op: opStore, g: g, pairs: make([]pair, 0, len(entries))}
	for _, e := range entries {
		if e.Index == 0 || e.Index > maxIndex {
			return fmt.Errorf("raftlog: group %d: store entry: index %d is not from 1 to %d", g.n, e.Index, uint64(maxIndex))
		}
		key := entryKey(g.n, e.Index)
		rec, err := encodeEntry(key, e)
		if err != nil {
			return fmt.Errorf("raftlog: group %d: store: %w", g.n, err)
		}
		req.pairs = append(req.pairs, pair{key, rec})
		req.bytes += len(rec)
		req.runs = req.runs.extended(e.Index)
	}
	return g.log.do(req)
}

// extended adds one index; appending at the end is the common case.
func (s runSet) extended(i uint64) runSet {
	if n := len(s); n > 0 && s[n-1].last+1 == i {
		s[n-1].last = i
		return s
	}
	return s.with(run{i, i})
}

// DeleteRange deletes the entries from first to last, both included, and returns when that is durable. Indexes that
// the log does not hold are skipped.
func (g *GroupLog) DeleteRange(first, last uint64) error {
	st, err := g.ready()
	if err != nil {
		return err
	}
	if first > last || !st.held.intersects(run{first, last}) {
		return nil
	}
	return g.log.do(&request{op: opDelete, g: g, runs: runSet{{first, last}}})
}

// Set stores a stable key and returns when it is durable; a Set that changes
// nothing returns at once.
func (g *GroupLog) Set(key, val []byte) error { return g.SetAll(StableValue{key, val}) }

// StableValue is a stable key and its value.
type StableValue struct{ Key, Value []byte }

// SetAll stores several stable keys, all or none, and returns when they are
// durable; like Set, it returns at once if nothing changes.
func (g *GroupLog) SetAll(values ...StableValue) error {
	st, err := g.ready()
	if err != nil {
		return err
	}
	changed := false
	req := &request{op: opSet, g: g}
	for _, v := range values {
		if len(v.Key) > maxStableKey || len(v.Value) > maxStableVal {
			return fmt.Errorf("raftlog: group %d: set stable key of %d with value of %d bytes: %w", g.n, len(v.Key), len(v.Value), ErrTooLarge)
		}
		old, ok := st.get(v.Key)
		changed = changed || !ok || !bytes.Equal(old, v.Value)
		req.sets = append(req.sets, stablePair{v.Key, v.Value})
	}
	if !changed {
		return nil
	}
	return g.log.do(req)
}

// Get returns the value of a stable key, or ErrNotFound.
func (g *GroupLog) Get(key []byte) ([]byte, error) {
	st, err := g.ready()
	if err != nil {
		return nil, err
	}
	val, ok := st.get(key)
	if !ok {
		return nil, ErrNotFound
	}
	return bytes.Clone(val), nil
}

// SetUint64 does the work of Set for a number.
func (g *GroupLog) SetUint64(key []byte, val uint64) error {
	return g.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 does the work of Get for a number.
func (g *GroupLog) GetUint64(key []byte) (uint64, error) {
	val, err := g.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, fmt.Errorf("raftlog: group %d: stable key %q has %d bytes, not a number's 8", g.n, key, len(val))
	}
	return binary.BigEndian.Uint64(val), nil
}

// Verify reads the state record and every entry. It returns nil, a *DamageError with all damaged indexes, or the
// error that prevented reading. Entries that are stored or deleted meanwhile may be left out.
func (g *GroupLog) Verify() error {
	st, err := g.ready()
	if errors.Is(err, ErrCorrupt) {
		return &DamageError{Group: g.n, Indexes: []uint64{0}}
	}
	if err != nil {
		return err
	}
	var bad []uint64
	if !st.empty() {
		if _, err := g.readState(); errors.Is(err, ErrCorrupt) {
			bad = append(bad, 0)
		} else if err != nil {
			return err
		}
	}
	for _, r := range st.held {
		for i := r.first; i <= r.last; i++ {
			var e raft.Log
			switch err := g.GetLog(i, &e); {
			case errors.Is(err, ErrCorrupt):
				bad = append(bad, i)
			case err != nil && !errors.Is(err, raft.ErrLogNotFound):
				return err
			}
		}
	}
	if len(bad) > 0 {
		return &DamageError{Group: g.n, Indexes: bad}
	}
	return nil
}
