// Package batch writes for the parts that share one Pebble database. Calls that wait at the same moment, of several
// callers and of several parts, go into one batch: they are on disk together or not at all, and cost one fsync.
//
// A [Writer] has two goroutines. One stages and applies batches in turn without waiting for the disk; the
// other waits for the disk, lets the parts show what is safe, and answers. So batches end in the order in
// which they were made.
package batch

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of what is gathered into one batch.
const (
	maxGather      = 256       // calls of Do
	maxGatherBytes = 256 << 10 // after which no further call is taken in: Pebble reuses such a buffer
	maxFlying      = 16        // batches that wait for the disk
	maxWaiting     = 1024      // calls of Do that wait for the writer without blocking
)

// Part is one of those that share the database.
type Part interface {
	// Begin opens the part's share of a batch. The writer calls it, and what is staged into the share, on
	// one goroutine. An error is one of the database, and ends the writer.
	Begin(b *pebble.Batch) (Share, error)
}

// Share is what a part has in one batch.
type Share interface {
	// Seal adds what is known only when the batch is full. An error ends the writer.
	Seal() error
	// Settle comes when the batch is on disk, or applied if nothing in it waits for the disk, before those
	// who asked are answered.
	Settle()
	// Announce comes after they are answered. It starts what follows from the batch, which may take a while.
	Announce()
}

// Change is one part's change.
type Change struct {
	Part Part
	// Stage puts the change into the part's share. A refused change must stage nothing and report the refusal by
	// other means. A returned error is a failure of the database and stops the writer.
	Stage func(Share) error
	Sync  bool   // whether the answer waits for the disk
	End   func() // if not nil: the change is over, or never began; it does not come when the writer ends before
}

// request is a call of Do under way.
type request struct {
	changes []Change
	done    chan struct{}
}

func (r *request) end() {
	for _, c := range r.changes {
		if c.End != nil {
			c.End()
		}
	}
}

// Writer makes the batches of one database. It is safe for concurrent use.
type Writer struct {
	db       *pebble.DB
	requests chan *request
	flying   chan *flight
	stopped  chan struct{} // closed when Run has ended
}

// NewWriter makes a writer for a database that its owner keeps open until Run has returned. It starts
// nothing.
func NewWriter(db *pebble.DB) *Writer {
	return &Writer{
		db: db, requests: make(chan *request, maxWaiting), flying: make(chan *flight, maxFlying), stopped: make(chan struct{}),
	}
}

// Stopped is closed when Run has ended.
func (w *Writer) Stopped() <-chan struct{} { return w.stopped }

// Do makes changes, of one part or several, in one batch, and returns when they are on disk if one of them
// wants that. If ctx ends first, the changes may have been made. Before Run it waits; after it, it is refused
// with wire.Unavailable.
func (w *Writer) Do(ctx context.Context, changes ...Change) error {
	r := &request{changes: changes, done: make(chan struct{})}
	if err := ctx.Err(); err != nil {
		r.end()
		return err
	}
	select {
	case w.requests <- r:
	case <-ctx.Done():
		r.end()
		return ctx.Err()
	case <-w.stopped:
		r.end()
		return ErrStopped()
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w before the answer: the change may have been made, repeat it with the same id", ctx.Err())
	case <-w.stopped:
	}
	select {
	case <-r.done:
		return nil
	default:
		return ErrStopped()
	}
}

// ErrStopped is what a change is refused with after Run.
func ErrStopped() error {
	return wire.Errorf(wire.Unavailable, "write", "the node is stopping: repeat the request with the same id")
}

// Serving waits until a part has loaded what it needs, and refuses when it has stopped.
func Serving(ctx context.Context, loaded, stopped <-chan struct{}) error {
	select {
	case <-stopped:
		return ErrStopped()
	default:
	}
	select {
	case <-loaded:
		return nil
	case <-stopped:
		return ErrStopped()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run writes until ctx ends or the database fails. It is called once. If the disk fails, nothing that is
// under way is answered: nothing in memory can be trusted then.
func (w *Writer) Run(ctx context.Context) error {
	defer close(w.stopped)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	all.Go(func() { stop(w.write(ctx)) })
	all.Go(func() { w.settle(stop) })
	all.Wait()
	return context.Cause(ctx)
}

func (w *Writer) write(ctx context.Context) error {
	defer close(w.flying)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case first := <-w.requests:
			if err := w.round(first); err != nil {
				return err
			}
		}
	}
}

// round takes in what waits, and applies it as one batch.
func (w *Writer) round(first *request) error {
	f := &flight{batch: w.db.NewBatch()}
	for r := first; r != nil; r = w.another(f) {
		if err := f.take(r); err != nil {
			return errors.Join(err, f.batch.Close())
		}
	}
	if err := f.apply(w.db); err != nil {
		return fmt.Errorf("commit of %d changes: %w", len(f.taken), err)
	}
	w.flying <- f
	return nil
}

// another is a call that waits, nil if there is none or the batch is full.
func (w *Writer) another(f *flight) *request {
	if len(f.taken) >= maxGather || f.batch.Len() >= maxGatherBytes {
		return nil
	}
	select {
	case r := <-w.requests:
		return r
	default:
		return nil
	}
}

// settle waits for the disk, batch by batch.
func (w *Writer) settle(stop func(error)) {
	failed := false
	for f := range w.flying { // to the end, so that the other goroutine never hangs on a full channel
		if failed {
			continue
		}
		if err := f.finish(); err != nil {
			stop(fmt.Errorf("sync of %d changes: %w", len(f.taken), err))
			failed = true
		}
	}
}

// flight is one batch.
type flight struct {
	batch  *pebble.Batch
	taken  []*request
	parts  []Part
	shares []Share // one of each part
	sync   bool
	waits  bool // for the disk
}

func (f *flight) take(r *request) error {
	f.taken = append(f.taken, r)
	for _, c := range r.changes {
		s, err := f.share(c.Part)
		if err != nil {
			return err
		}
		if err := c.Stage(s); err != nil {
			return err
		}
		f.sync = f.sync || c.Sync
	}
	return nil
}

func (f *flight) share(p Part) (Share, error) {
	for i, have := range f.parts {
		if have == p {
			return f.shares[i], nil
		}
	}
	s, err := p.Begin(f.batch)
	if err != nil {
		return nil, err
	}
	f.parts, f.shares = append(f.parts, p), append(f.shares, s)
	return s, nil
}

func (f *flight) apply(db *pebble.DB) error {
	for _, s := range f.shares {
		if err := s.Seal(); err != nil {
			return err
		}
	}
	switch {
	case f.batch.Empty():
		return nil
	case f.sync:
		f.waits = true
		return db.ApplyNoSyncWait(f.batch, pebble.Sync)
	}
	return db.Apply(f.batch, pebble.NoSync)
}

func (f *flight) finish() error {
	if f.waits {
		if err := f.batch.SyncWait(); err != nil {
			return err
		}
	}
	for _, s := range f.shares {
		s.Settle()
	}
	for _, r := range f.taken {
		close(r.done)
	}
	for _, s := range f.shares {
		s.Announce()
	}
	for _, r := range f.taken {
		r.end()
	}
	return f.batch.Close()
}
