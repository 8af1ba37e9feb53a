package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleBackend keeps records in an LSM tree.
type pebbleBackend struct {
	db     *pebble.DB
	sync   *pebble.WriteOptions
	path   string
	lock   *pebble.Lock
	damage bool // found while listing the keys
}

const (
	// pebbleMemTable is the size of a memory table before it is written out; there are at most two. It is also about
	// the size of a write-ahead log.
	pebbleMemTable = 16 << 20
	pebbleCache    = 8 << 20
	// pebblePointDeletes is the longest range that is deleted key by key. Range tombstones are cheap to write and
	// expensive to read past.
	pebblePointDeletes = 256
)

func openPebble(path string, cfg Config, visit visitor) (backend, error) {
	opts := &pebble.Options{
		FS:                          vfs.Default,
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   pebbleCache,
		MemTableSize:                pebbleMemTable,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                256,
		Logger:                      pebbleLog{},
		DisableTableStats:           true,
		// Without this, a damaged block ends the process. The reader gets an error anyway, and a compaction that
		// reads the block does not change its range.
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	}
	if cfg.pebbleFS != nil {
		opts.FS = cfg.pebbleFS
	}
	b := &pebbleBackend{path: path, sync: pebble.Sync}
	if cfg.noSync {
		b.sync = pebble.NoSync
	}
	// The lock comes first: a log that another process writes to looks damaged.
	err := makeFolder(opts.FS, path)
	if err == nil {
		b.lock, err = pebble.LockDirectory(path, opts.FS)
	}
	if err != nil {
		return nil, fmt.Errorf("raftlog: open %s: does another process hold it? %w", path, err)
	}
	opts.Lock = b.lock
	if err = checkWAL(opts.FS, path); err == nil {
		err = guarded(func() (err error) {
			b.db, err = pebble.Open(path, opts)
			return err
		})
	}
	if err != nil {
		err = errors.Join(err, b.lock.Close())
	}
	switch {
	case errors.Is(err, ErrDamagedFile):
		return nil, err
	case pebble.IsCorruptionError(err):
		return nil, fmt.Errorf("%w: open %s: %s: move the folder away and start again, the other replicas have its groups",
			ErrDamagedFile, path, oneLine(err))
	case err != nil:
		return nil, fmt.Errorf("raftlog: open %s: %w", path, err)
	}
	if err := guarded(func() error { return b.visitKeys(visit) }); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: list keys of %s: %s", ErrDamagedFile, path, oneLine(err)), b.close())
	}
	return b, nil
}

// visitKeys lists the store's own records, which name all groups. It continues after a damaged block: damage of the
// groups in the block is found when they are loaded, so that one damaged block does not prevent all others from
// opening.
func (b *pebbleBackend) visitKeys(visit visitor) error {
	const maxDamaged = 64
	at, damaged := uint64(ownRange), 0
	for {
		var err error
		at, err = b.visitFrom(at, visit)
		switch {
		case err == nil:
			return nil
		case !pebble.IsCorruptionError(err) || damaged == maxDamaged:
			return err
		}
		b.damage, damaged = true, damaged+1
		if at, err = b.behindDamage(at); err != nil {
			return err
		}
	}
}

// visitFrom lists the store's own records from key at on, and returns the key at which it stopped.
func (b *pebbleBackend) visitFrom(at uint64, visit visitor) (uint64, error) {
	it, err := b.ownRecords()
	if err != nil {
		return at, err
	}
	for it.SeekGE(pebbleOwnKey(at)) {
		if len(it.Key()) != pebbleKeySize {
			return at, errors.Join(fmt.Errorf("key of %d bytes", len(it.Key())), it.Close())
		}
		at = visit(binary.BigEndian.Uint64(it.Key()[1:]))
	}
	return at, it.Close() // which returns the error that ended the list
}

func (b *pebbleBackend) ownRecords() (*pebble.Iterator, error) {
	return b.db.NewIter(&pebble.IterOptions{LowerBound: []byte{ownPrefix}, UpperBound: []byte{entryPrefix}})
}

// behindDamage returns a key from which a list that failed at bad can continue. No readable record lies between the
// two keys.
func (b *pebbleBackend) behindDamage(bad uint64) (uint64, error) {
	meta := entryKey(metaGroup, 0)
	if bad < meta {
		good, err := b.firstReadable(stateKey(keyGroup(bad)), 1<<groupShift, stateKey(metaGroup))
		if err != nil || good < meta {
			return good, err
		}
		bad = meta
	}
	return b.firstReadable(bad, 1, stateKey(metaGroup))
}

// firstReadable returns the first of the keys bad+unit, bad+2*unit and so on that can be sought, or end: by doubling
// steps, then by halving the last one. A failed try is expensive, tens of milliseconds, because Pebble searches for
// the flipped bit.
func (b *pebbleBackend) firstReadable(bad, unit, end uint64) (uint64, error) {
	most := (end - bad) / unit
	low, high := uint64(0), most // in units from bad; low fails
	for step := uint64(1); low+step < most; step *= 2 {
		ok, err := b.readable(bad + (low+step)*unit)
		if err != nil {
			return 0, err
		}
		if ok {
			high = low + step
			break
		}
		low += step
	}
	for high-low > 1 {
		mid := low + (high-low)/2
		ok, err := b.readable(bad + mid*unit)
		if err != nil {
			return 0, err
		}
		if ok {
			high = mid
		} else {
			low = mid
		}
	}
	return min(bad+high*unit, end), nil
}

// readable reports whether a list can begin at key. It uses an iterator of its own, because one that has failed may
// fail again for no reason.
func (b *pebbleBackend) readable(key uint64) (bool, error) {
	it, err := b.ownRecords()
	if err != nil {
		return false, err
	}
	it.SeekGE(pebbleOwnKey(key))
	if err = it.Close(); pebble.IsCorruptionError(err) {
		return false, nil
	}
	return err == nil, err
}

// warning describes damage found at opening.
func (b *pebbleBackend) warning() string {
	if !b.damage {
		return ""
	}
	return "a block with state records is damaged: the list of groups and the node's own area are incomplete"
}

// Keys are a prefix and the key in 8 bytes, big endian. The store's own records
// come first and by themselves, so that listing them does not touch entries.
const (
	ownPrefix     = 0
	entryPrefix   = 1
	pebbleKeySize = 9
)

func pebbleKey(key uint64) []byte {
	if keyIndex(key) >= ownRange || keyGroup(key) == metaGroup {
		return pebbleOwnKey(key)
	}
	return binary.BigEndian.AppendUint64([]byte{entryPrefix}, key)
}

func pebbleOwnKey(key uint64) []byte { return binary.BigEndian.AppendUint64([]byte{ownPrefix}, key) }

func (b *pebbleBackend) get(key uint64) (rec []byte, err error) {
	err = guarded(func() error {
		val, closer, err := b.db.Get(pebbleKey(key))
		switch {
		case errors.Is(err, pebble.ErrNotFound):
			return errMissing
		case errors.Is(err, pebble.ErrClosed):
			return ErrClosed
		case pebble.IsCorruptionError(err):
			return &damagedRead{oneLine(err)}
		case err != nil:
			return err
		}
		rec = append([]byte(nil), val...)
		return closer.Close()
	})
	return rec, err
}

func (b *pebbleBackend) write(pairs []pair) error {
	return b.commit("write", func(batch *pebble.Batch) error {
		for _, p := range pairs {
			if err := batch.Set(pebbleKey(p.key), p.rec, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *pebbleBackend) remove(span keySpan) error {
	return b.commit("remove", func(batch *pebble.Batch) error {
		if span.last-span.first < pebblePointDeletes {
			for key := span.first; key <= span.last; key++ {
				if err := batch.Delete(pebbleKey(key), nil); err != nil {
					return err
				}
			}
			return nil
		}
		entries := keySpan{span.first, span.last}
		if keyIndex(span.last) >= ownRange { // a whole group
			entries.last = entryKey(keyGroup(span.last), maxIndex)
			if err := batch.Delete(pebbleKey(stateKey(keyGroup(span.last))), nil); err != nil {
				return err
			}
		}
		return batch.DeleteRange(pebbleKey(entries.first), append(pebbleKey(entries.last), 0), nil)
	})
}

// oneLine returns the text of a Pebble error without the details below it.
func oneLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// commit fills a batch and commits it. Pebble does not return from a failed
// commit but calls its logger's Fatalf, which panics here, on this goroutine.
func (b *pebbleBackend) commit(op string, fill func(*pebble.Batch) error) error {
	err := guarded(func() error {
		batch := b.db.NewBatch()
		if err := fill(batch); err != nil {
			return err
		}
		if err := batch.Commit(b.sync); err != nil {
			return err
		}
		return batch.Close()
	})
	if err != nil {
		return fmt.Errorf("raftlog: %s in %s: %w", op, b.path, err)
	}
	return nil
}

func (b *pebbleBackend) close() error { return errors.Join(guarded(b.db.Close), b.lock.Close()) }

// pebbleLog drops Pebble's informational messages and turns its fatal errors into panics: in the committer they are
// recovered and end writing; in a goroutine of Pebble's own they end the process, which is what its state then
// requires.
type pebbleLog struct{}

func (pebbleLog) Infof(string, ...any)  {}
func (pebbleLog) Errorf(string, ...any) {}
func (pebbleLog) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}
