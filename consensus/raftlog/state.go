package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// run is a closed range of indexes.
type run struct{ first, last uint64 }

// runSet is a set of indexes as ascending runs that neither touch nor overlap.
// A log is one run, or a few after a snapshot was restored over a gap.
type runSet []run

func (s runSet) contains(i uint64) bool {
	for _, r := range s {
		if i <= r.last {
			return i >= r.first
		}
	}
	return false
}

func (s runSet) intersects(a run) bool {
	for _, r := range s {
		if r.first <= a.last && a.first <= r.last {
			return true
		}
	}
	return false
}

// bounds returns the lowest and the highest index, zeros if the set is empty.
func (s runSet) bounds() (first, last uint64) {
	if len(s) == 0 {
		return 0, 0
	}
	return s[0].first, s[len(s)-1].last
}

// with returns the set with a added. It shares no memory with s.
func (s runSet) with(a run) runSet {
	out := make(runSet, 0, len(s)+1)
	i := 0
	for ; i < len(s) && s[i].last+1 < a.first; i++ {
		out = append(out, s[i])
	}
	for ; i < len(s) && s[i].first <= a.last+1; i++ {
		a.first, a.last = min(a.first, s[i].first), max(a.last, s[i].last)
	}
	out = append(out, a)
	return append(out, s[i:]...)
}

// without returns the set without a, and the removed part.
func (s runSet) without(a run) (left, taken runSet) {
	for _, r := range s {
		if r.last < a.first || a.last < r.first {
			left = append(left, r)
			continue
		}
		if r.first < a.first {
			left = append(left, run{r.first, a.first - 1})
		}
		if r.last > a.last {
			left = append(left, run{a.last + 1, r.last})
		}
		taken = append(taken, run{max(r.first, a.first), min(r.last, a.last)})
	}
	return left, taken
}

// groupState is the content of a group's state record. It is immutable: a change creates a new one, which replaces
// the old one when it is durable.
type groupState struct {
	held    runSet // indexes of the entries
	garbage runSet // deleted, not yet swept
	stable  []stablePair
	err     error // the record is damaged; the other fields are empty
}

// stablePair is one stable key. Pairs are sorted by key.
type stablePair struct{ key, val []byte }

// Limits of a state record. Raft itself uses three stable keys of some 20 bytes.
const (
	maxStableKey   = 1 << 10
	maxStableVal   = 1 << 16
	maxStablePairs = 1 << 8
)

func (st *groupState) empty() bool {
	return len(st.held) == 0 && len(st.garbage) == 0 && len(st.stable) == 0
}

func (st *groupState) get(key []byte) ([]byte, bool) {
	i, ok := st.find(key)
	if !ok {
		return nil, false
	}
	return st.stable[i].val, true
}

func (st *groupState) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(st.stable, key, func(p stablePair, k []byte) int { return bytes.Compare(p.key, k) })
}

// set returns the state with a stable key set.
func (st *groupState) set(key, val []byte) *groupState {
	next := *st
	next.stable = slices.Clone(st.stable)
	p := stablePair{bytes.Clone(key), bytes.Clone(val)}
	if i, ok := st.find(key); ok {
		next.stable[i] = p
	} else {
		next.stable = slices.Insert(next.stable, i, p)
	}
	return &next
}

// store returns the state with the entries of r added.
func (st *groupState) store(runs runSet) *groupState {
	next := *st
	for _, r := range runs {
		next.held = next.held.with(r)
	}
	return &next
}

// remove returns the state with the entries of r deleted, and whether any were held.
func (st *groupState) remove(r run) (*groupState, bool) {
	left, taken := st.held.without(r)
	if len(taken) == 0 {
		return st, false
	}
	next := *st
	next.held = left
	for _, t := range taken {
		next.garbage = next.garbage.with(t)
	}
	return &next, true
}

// encode returns the body of a state record: held runs, garbage runs and stable
// pairs, each list after its length in 4 bytes; all numbers big endian.
func (st *groupState) encode() []byte {
	b := appendRuns(nil, st.held)
	b = appendRuns(b, st.garbage)
	b = binary.BigEndian.AppendUint32(b, uint32(len(st.stable)))
	for _, p := range st.stable {
		b = appendBytes(b, p.key)
		b = appendBytes(b, p.val)
	}
	return b
}

func decodeState(b []byte) (*groupState, error) {
	var st groupState
	var err error
	if st.held, b, err = cutRuns(b); err != nil {
		return nil, fmt.Errorf("held ranges: %w", err)
	}
	if st.garbage, b, err = cutRuns(b); err != nil {
		return nil, fmt.Errorf("deleted ranges: %w", err)
	}
	for _, r := range st.held {
		if st.garbage.intersects(r) {
			return nil, errors.New("a range is both held and deleted")
		}
	}
	if st.stable, b, err = cutPairs(b); err != nil {
		return nil, fmt.Errorf("stable keys: %w", err)
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%d bytes after the end", len(b))
	}
	return &st, nil
}

func appendRuns(b []byte, s runSet) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	for _, r := range s {
		b = binary.BigEndian.AppendUint64(b, r.first)
		b = binary.BigEndian.AppendUint64(b, r.last)
	}
	return b
}

func cutRuns(b []byte) (runSet, []byte, error) {
	n, b, err := cutCount(b, 16)
	if err != nil || n == 0 {
		return nil, b, err
	}
	s := make(runSet, 0, n)
	for range n {
		r := run{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
		b = b[16:]
		if r.first == 0 || r.first > r.last || r.last > maxIndex {
			return nil, nil, fmt.Errorf("range %d to %d is none", r.first, r.last)
		}
		if len(s) > 0 && r.first <= s[len(s)-1].last+1 {
			return nil, nil, fmt.Errorf("range %d to %d does not follow %d", r.first, r.last, s[len(s)-1].last)
		}
		s = append(s, r)
	}
	return s, b, nil
}

func cutPairs(b []byte) ([]stablePair, []byte, error) {
	n, b, err := cutCount(b, 8)
	if err != nil || n == 0 {
		return nil, b, err
	}
	if n > maxStablePairs {
		return nil, nil, fmt.Errorf("%d keys exceed %d", n, maxStablePairs)
	}
	pairs := make([]stablePair, 0, n)
	for range n {
		var p stablePair
		if p.key, b, err = cutBytes(b, maxStableKey); err != nil {
			return nil, nil, err
		}
		if p.val, b, err = cutBytes(b, maxStableVal); err != nil {
			return nil, nil, err
		}
		if len(pairs) > 0 && bytes.Compare(pairs[len(pairs)-1].key, p.key) >= 0 {
			return nil, nil, errors.New("keys are not ascending")
		}
		pairs = append(pairs, p)
	}
	return pairs, b, nil
}

// cutCount reads a list's length and checks that so many items of at least size bytes can follow.
func cutCount(b []byte, size int) (int, []byte, error) {
	if len(b) < 4 {
		return 0, nil, errors.New("length is cut short")
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n)*uint64(size) > uint64(len(b)) {
		return 0, nil, fmt.Errorf("%d items do not fit in %d bytes", n, len(b))
	}
	return int(n), b, nil
}

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

func cutBytes(b []byte, limit int) (v, rest []byte, err error) {
	n, b, err := cutCount(b, 1)
	if err != nil {
		return nil, nil, err
	}
	if n > limit {
		return nil, nil, fmt.Errorf("%d bytes exceed %d", n, limit)
	}
	return bytes.Clone(b[:n]), b[n:], nil
}
