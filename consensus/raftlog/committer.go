package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"time"
)

type opKind uint8

const (
	opStore opKind = iota
	opDelete
	opSet
	opDrop
	opMeta
	opCopy
)

// request is one caller's write. The committer answers on done exactly once.
type request struct {
	op      opKind
	g       *GroupLog // nil for opMeta
	pairs   []pair    // opStore
	runs    runSet    // opStore: the pairs' indexes; opDelete: the range
	bytes   int
	sets    []stablePair // opSet
	changes []MetaChange // opMeta
	dir     string       // opCopy
	done    chan error
}

// maxBatchBytes ends a batch, so that large entries do not pile up in memory.
const maxBatchBytes = 16 << 20

// maxSweeps is the number of groups that may wait for a sweep under load.
const maxSweeps = 64

// do passes a write to the committer and waits for its end.
func (l *Log) do(req *request) error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	req.done = make(chan error, 1)
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	l.queue = append(l.queue, req)
	l.mu.Unlock()
	l.signal()
	return <-req.done
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// sweepLater queues a group with deleted entries to remove.
func (l *Log) sweepLater(g *GroupLog) {
	l.mu.Lock()
	if !g.queued {
		g.queued = true
		l.sweeps = append(l.sweeps, g)
	}
	l.mu.Unlock()
	l.signal()
}

// commitLoop is the committer: it alone writes to the backend and replaces
// states. It ends when the log is closing and all requests are answered.
func (l *Log) commitLoop() {
	defer close(l.done)
	var queue []*request
	for {
		fresh, waiting, closing := l.take()
		queue = append(queue, fresh...)
		switch {
		case len(queue) > 0:
			queue = l.commit(queue)
			if waiting > maxSweeps {
				l.sweepNext()
			}
			// Callers that were just answered get a chance to write again, so that the next transaction carries all
			// of their writes. This matters with few processors.
			runtime.Gosched()
		case waiting > 0:
			l.sweepNext()
		case closing:
			return
		default:
			<-l.wake
		}
	}
}

func (l *Log) take() (queue []*request, sweeps int, closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue, l.queue = l.queue, nil
	return queue, len(l.sweeps), l.closing
}

// batch is the content of one transaction.
type batch struct {
	reqs    []*request
	pairs   []pair
	entries int
	bytes   int
	states  map[*GroupLog]*groupState // next states
	order   []*GroupLog
	meta    *metaDelta // change of the node's area, nil if none
}

// commit writes one transaction from the head of the queue and returns the rest.
func (l *Log) commit(queue []*request) []*request {
	if queue[0].op == opDrop {
		queue[0].done <- l.drop(queue[0].g)
		return queue[1:]
	}
	if queue[0].op == opCopy {
		queue[0].done <- l.back.copyTo(queue[0].dir)
		return queue[1:]
	}
	b := &batch{states: make(map[*GroupLog]*groupState)}
	n := 0
	for n < len(queue) && l.admit(b, queue[n]) {
		n++
	}
	err := l.writeBatch(b)
	for _, req := range b.reqs {
		req.done <- err
	}
	return queue[n:]
}

// admit adds a request to the batch, or answers it. It returns false if the
// request has to wait for the next batch.
func (l *Log) admit(b *batch, req *request) bool {
	full := b.entries+len(req.pairs) > l.cfg.MaxBatch || b.bytes+req.bytes > maxBatchBytes
	if req.op == opDrop || req.op == opCopy || full && len(b.reqs) > 0 {
		return false
	}
	if req.op == opMeta {
		return l.admitMeta(b, req)
	}
	st, known := b.states[req.g]
	if !known {
		st = req.g.state.Load()
	}
	if req.op == opStore && overlaps(st.garbage, req.runs) {
		// A later sweep would remove the new entries too.
		if known {
			return false
		}
		if err := l.sweep(req.g); err != nil {
			req.done <- err
			return true
		}
		st = req.g.state.Load()
	}
	next, err := req.apply(st)
	if err != nil || next == st && !known { // refused, or already in that state and durable
		req.done <- err
		return true
	}
	if !known {
		b.order = append(b.order, req.g)
	}
	b.states[req.g] = next
	b.pairs = append(b.pairs, req.pairs...)
	b.entries += len(req.pairs)
	b.bytes += req.bytes
	b.reqs = append(b.reqs, req)
	return true
}

// apply returns the state after the request, or the same state if nothing changes.
func (req *request) apply(st *groupState) (*groupState, error) {
	if st.err != nil {
		return nil, st.err
	}
	switch req.op {
	case opStore:
		return st.store(req.runs), nil
	case opDelete:
		next, _ := st.remove(req.runs[0])
		return next, nil
	default: // opSet
		for _, p := range req.sets {
			old, ok := st.get(p.key)
			if ok && bytes.Equal(old, p.val) {
				continue
			}
			if !ok && len(st.stable) >= maxStablePairs {
				return nil, fmt.Errorf("raftlog: group %d: more than %d stable keys: %w", req.g.n, maxStablePairs, ErrTooLarge)
			}
			st = st.set(p.key, p.val)
		}
		return st, nil
	}
}

func overlaps(a, b runSet) bool {
	for _, r := range b {
		if a.intersects(r) {
			return true
		}
	}
	return false
}

// writeBatch makes the batch durable and then publishes the states.
func (l *Log) writeBatch(b *batch) error {
	if len(b.reqs) == 0 {
		return nil
	}
	for _, g := range b.order {
		key := stateKey(g.n)
		rec := appendRecord(nil, key, kindState, b.states[g].encode())
		b.pairs = append(b.pairs, pair{key, rec})
		b.bytes += len(rec)
	}
	if len(b.pairs) == 0 {
		return nil
	}
	if err := l.attempt(b.entries > 0, func() error { return l.back.write(b.pairs) }); err != nil {
		return err
	}
	l.counters.committed(b.entries, b.bytes)
	l.publish(b)
	return nil
}

func (l *Log) publish(b *batch) {
	l.mu.Lock()
	for _, g := range b.order {
		l.stored[g.n] = struct{}{}
	}
	l.mu.Unlock()
	for _, g := range b.order {
		g.state.Store(b.states[g])
		if len(b.states[g].garbage) > 0 {
			l.sweepLater(g)
		}
	}
	if b.meta != nil {
		l.meta.publish(b.meta)
	}
}

// attempt runs a write of the backend. A failure for lack of space can be retried; any other failure is remembered
// and ends all writing.
func (l *Log) attempt(entries bool, write func() error) error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	err := l.checkRoom(entries)
	if err == nil {
		l.began.Store(time.Now().UnixNano())
		err = write()
		l.began.Store(0)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoSpace):
	case noSpace(err):
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	default:
		err = fmt.Errorf("%w: %w", ErrFailed, err)
		l.failed.Store(&err)
	}
	l.counters.failed.Add(1)
	return err
}

// drop removes all records of a group.
func (l *Log) drop(g *GroupLog) error {
	if err := l.attempt(false, func() error { return l.back.remove(groupKeys(g.n)) }); err != nil {
		return fmt.Errorf("raftlog: drop group %d: %w", g.n, err)
	}
	l.mu.Lock()
	delete(l.stored, g.n)
	l.mu.Unlock()
	g.state.Store(&groupState{})
	return nil
}

// sweepNext sweeps the group that has waited longest. A group that cannot be swept now is skipped: its state still
// names the records to remove, after its next write or when it is loaded again.
func (l *Log) sweepNext() {
	l.mu.Lock()
	g := l.sweeps[0]
	g.queued = false
	l.sweeps = l.sweeps[1:]
	if len(l.sweeps) == 0 {
		l.sweeps = nil
	}
	l.mu.Unlock()
	_ = l.sweep(g)
}

// sweep removes a group's deleted entries. The removal is recorded with the group's next state; until then, loading
// the group sweeps again, without effect.
func (l *Log) sweep(g *GroupLog) error {
	st := g.state.Load()
	for _, r := range st.garbage {
		span := keySpan{entryKey(g.n, r.first), entryKey(g.n, r.last)}
		if err := l.attempt(false, func() error { return l.back.remove(span) }); err != nil {
			return fmt.Errorf("raftlog: group %d: remove deleted entries: %w", g.n, err)
		}
		l.counters.sweeps.Add(1)
	}
	if len(st.garbage) > 0 {
		next := *st
		next.garbage = nil
		g.state.Store(&next)
	}
	return nil
}
