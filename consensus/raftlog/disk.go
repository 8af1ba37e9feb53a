package raftlog

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// ErrCrashed is returned by a Log whose simulated disk crashed under it.
var ErrCrashed = errors.New("raftlog: simulated crash")

// Disk is a simulated disk in memory, for simulations in virtual time: it outlives the Log opened on it, loses
// unsynced data at a crash, can be slow or full, and can be damaged. The code above it is the production code. Only
// one Log may be open on it, unless all previous ones have crashed.
type Disk struct {
	// Sync, if set, runs before each transaction becomes durable, with its number of records: Sync may sleep, or fail
	// the transaction. After an error that wraps ErrNoSpace the write can be retried; any other error is final. Set
	// before Open.
	Sync func(records int) error

	mu       sync.Mutex // guards the fields below
	records  map[uint64][]byte
	inFlight func(*Disk) // applies the transaction that is being synced, or nil
	era      int         // counts crashes
}

// NewDisk returns an empty disk.
func NewDisk() *Disk { return &Disk{records: make(map[uint64][]byte)} }

// Crash ends all Logs that are open on the disk: their calls fail with ErrCrashed. A transaction that is being synced
// is lost or, with keep, has become durable without an answer to its callers. Close the old Logs, then open a new
// one.
func (d *Disk) Crash(keep bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if keep && d.inFlight != nil {
		d.inFlight(d)
	}
	d.inFlight = nil
	d.era++
}

// FlipBit flips a bit in the middle of the stored entry, or of the group's
// state record if index is 0. It reports whether there is one.
func (d *Disk) FlipBit(group uint32, index uint64) bool {
	key := entryKey(group, index)
	if index == 0 {
		key = stateKey(group)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, ok := d.records[key]
	if ok {
		rec = slices.Clone(rec)
		rec[len(rec)/2] ^= 0x10
		d.records[key] = rec
	}
	return ok
}

func (d *Disk) open(visit visitor) (backend, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := uint64(0)
	for _, key := range slices.Sorted(maps.Keys(d.records)) {
		if key >= next {
			next = visit(key)
		}
	}
	return &diskBackend{d, d.era}, nil
}

// diskBackend is a Disk between two crashes.
type diskBackend struct {
	disk *Disk
	era  int
}

func (b *diskBackend) get(key uint64) ([]byte, error) {
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	if b.era != b.disk.era {
		return nil, ErrCrashed
	}
	rec, ok := b.disk.records[key]
	if !ok {
		return nil, errMissing
	}
	return slices.Clone(rec), nil
}

func (b *diskBackend) write(pairs []pair) error {
	return b.sync(len(pairs), func(d *Disk) {
		for _, p := range pairs {
			d.records[p.key] = p.rec
		}
	})
}

func (b *diskBackend) remove(span keySpan) error {
	return b.sync(1, func(d *Disk) {
		if span.last-span.first < uint64(len(d.records)) {
			for key := span.first; key <= span.last; key++ {
				delete(d.records, key)
			}
			return
		}
		maps.DeleteFunc(d.records, func(key uint64, _ []byte) bool { return span.first <= key && key <= span.last })
	})
}

func (b *diskBackend) sync(records int, apply func(*Disk)) error {
	d := b.disk
	d.mu.Lock()
	if b.era != d.era {
		d.mu.Unlock()
		return ErrCrashed
	}
	d.inFlight = apply
	d.mu.Unlock()
	var err error
	if d.Sync != nil {
		err = d.Sync(records)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.era != d.era {
		return ErrCrashed
	}
	d.inFlight = nil
	if err == nil {
		apply(d)
	}
	return err
}

func (b *diskBackend) close() error { return nil }
