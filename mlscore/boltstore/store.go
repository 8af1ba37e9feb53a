package boltstore

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/mlsfed/mlsfed/mlscore"
)

// Options are a caller's choices. The zero value is a good one.
type Options struct {
	// Wait is how long Open waits for another process to close the file; zero: not at all.
	Wait time.Duration
	// KeepFreed leaves pages that a batch has freed as they are, instead of overwriting them: cheaper,
	// but the file then holds consumed secrets, encrypted, until their pages happen to be used again.
	KeepFreed bool
	// Salvage opens a file although records are missing from it, were added, or were put back to an
	// earlier version, or although its last transaction is lost: to get out of it what is left. A group
	// that was put back must not be written to again, since its keys would be used twice. Records that
	// do not decrypt still give an error. It implies KeepFreed: what is lost may stand in freed pages.
	Salvage bool
	// VerifyLater lets Open return before the file is verified, which takes time in proportion to it. Meanwhile records
	// can be read: each authenticates itself, but an older version of one, or that there is none, is not noticed yet.
	// Apply waits for the end, so that nothing is ever written that was computed from a file that is damaged or was
	// tampered with: it returns the error that Open would have. Close does not wait. With Salvage it does nothing.
	VerifyLater bool
	// Cost is that of a passphrase, for a new file or a new passphrase; zero means DefaultCost.
	Cost Cost
	// Rand is the source of nonces and salts; nil means crypto/rand.
	Rand io.Reader
}

var _ mlscore.Store = (*Store)(nil)

// Store is an mlscore.Store in a file. It is safe for concurrent use.
type Store struct {
	path string
	opts Options
	db   *bbolt.DB
	file *os.File // of db

	// Held shared by all that read or write, and alone by what changes the keys, overwrites free
	// pages, or closes the file. It is held across I/O, since that is what it orders.
	mu     sync.RWMutex
	keys   *keys
	closed bool

	// writer guards what a batch changes: one batch at a time, as bbolt has it. Whoever holds mu alone
	// need not hold it.
	writer  sync.Mutex
	sum     setSum
	wiped   wiped
	failed  error // why nothing more is written
	crashed bool  // bbolt panicked while it held its locks
	later   verification
}

// The buckets of the file, and the records of the one that describes it.
var (
	bucketRecords = []byte("records")
	bucketFile    = []byte("file")
	recordHeader  = []byte("header")
	recordDigest  = []byte("digest")
)

// Open opens the store at path, or creates it, readable by its owner only, on a file system with hard
// links. The key has 32 bytes, which must be random: see OpenWithPassphrase for those that a person
// remembers. The caller may erase it afterwards.
//
// The errors to expect are ErrWrongKey, ErrInUse, ErrDamaged and ErrVersion.
func Open(path string, key mlscore.Secret, opts Options) (*Store, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("open store %s: key of %d bytes, a store's key has %d", path, key.Len(), KeySize)
	}
	return open(path, credential{key: key}, opts)
}

// OpenWithPassphrase is Open with a key that is derived from a passphrase by Argon2id; the file states
// the salt and the cost.
func OpenWithPassphrase(path string, passphrase mlscore.Secret, opts Options) (*Store, error) {
	if passphrase.Len() == 0 {
		return nil, fmt.Errorf("open store %s: the passphrase is empty", path)
	}
	return open(path, credential{passphrase: passphrase, cost: opts.cost()}, opts)
}

func (o Options) cost() Cost {
	if o.Cost == (Cost{}) {
		return DefaultCost()
	}
	return o.Cost
}

func open(path string, c credential, opts Options) (*Store, error) {
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	opts.KeepFreed = opts.KeepFreed || opts.Salvage
	s := &Store{path: path, opts: opts}
	if opts.VerifyLater && !opts.Salvage && !missing(path) {
		if err := s.openLater(c); err != nil {
			_ = s.Close() // the first error is the one to report
			return nil, s.told("open", err)
		}
		go s.verify()
		return s, nil
	}
	err := s.openFile(c)
	if err == nil {
		err = s.guard(func() error { return s.load(c) })
	}
	if err == nil && !opts.KeepFreed {
		err = s.wipe()
	}
	if err != nil {
		_ = s.Close() // the first error is the one to tell
		return nil, s.told("open", err)
	}
	return s, nil
}

// told says what failed, and in which file, unless the error says that already.
func (s *Store) told(operation string, err error) error {
	if err == nil || errors.Is(err, ErrDamaged) || errors.Is(err, ErrClosed) || errors.Is(err, ErrFailed) {
		return err
	}
	return fmt.Errorf("%s store %s: %w", operation, s.path, err)
}

func (s *Store) errClosed() error { return fmt.Errorf("store %s: %w", s.path, ErrClosed) }

// load reads the header and compares the records with the digest.
func (s *Store) load(c credential) error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		file, records := tx.Bucket(bucketFile), tx.Bucket(bucketRecords)
		if file == nil || records == nil {
			return s.damaged(nil, "it is a bbolt file, but not a store of this package")
		}
		h, err := parseHeader(file.Get(recordHeader))
		if errors.Is(err, ErrVersion) {
			return err
		}
		if err != nil {
			return s.damaged(nil, err.Error())
		}
		s.keys, err = c.unlock(h)
		return err
	})
	if err != nil {
		return err
	}
	return s.compareDigest()
}

// compareDigest computes the sum of all records, and compares it with the digest of the file.
func (s *Store) compareDigest() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		file, records := tx.Bucket(bucketFile), tx.Bucket(bucketRecords)
		if file == nil || records == nil {
			return s.damaged(nil, "it is a bbolt file, but not a store of this package")
		}
		t := s.keys.toggler()
		cursor := records.Cursor()
		for key, box := cursor.First(); key != nil; key, box = cursor.Next() {
			if s.later.stop.Load() {
				return errStopped
			}
			t.toggle(&s.sum, key, box)
		}
		if s.opts.Salvage || hmac.Equal(s.keys.digest(&s.sum), file.Get(recordDigest)) {
			return nil
		}
		return s.explain(records)
	})
}

// explain looks for the record that is to blame for a digest that does not match.
func (s *Store) explain(records *bbolt.Bucket) error {
	cursor := records.Cursor()
	for key, box := cursor.First(); key != nil; key, box = cursor.Next() {
		value, err := s.keys.open(key, box)
		if err != nil {
			return s.damaged(key, err.Error())
		}
		clear(value)
	}
	return s.damaged(nil, "every record decrypts, but some are missing, were added, or are of an earlier version")
}

func (s *Store) damaged(key []byte, detail string) error {
	return &DamagedError{Path: s.path, Key: bytes.Clone(key), Detail: detail}
}

// guard runs what calls bbolt, which panics where a page makes no sense, and whose mapped pages fault
// where the disk cannot read them. The file was found whole when it was opened, so this means that it
// changed since, and nothing that bbolt holds in memory can be trusted any more.
func (s *Store) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = s.damaged(nil, fmt.Sprintf("it changed while it was open: %v", p))
		}
	}()
	return f()
}

// Get implements mlscore.Store. The value is the caller's.
func (s *Store) Get(key []byte) ([]byte, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, false, s.errClosed()
	}
	var box []byte
	early, err := s.early(func(r *earlyReader) (err error) {
		box, _, err = r.get(r.records, key)
		return err
	})
	if !early && err == nil {
		err = s.guard(func() error {
			return s.db.View(func(tx *bbolt.Tx) error {
				box = bytes.Clone(tx.Bucket(bucketRecords).Get(key))
				return nil
			})
		})
	}
	if err != nil || box == nil {
		return nil, false, s.told("read", err)
	}
	value, err := s.keys.open(key, box)
	if err != nil {
		return nil, false, s.damaged(key, err.Error())
	}
	return value, true, nil
}

// sealed is a record as it stands in the file.
type sealed struct{ key, box []byte }

// Scan implements mlscore.Store. It visits what stood in the store when it began, whatever visit does to
// the store, and for that copies the encrypted records first: memory for all of them, and for the value
// of one.
func (s *Store) Scan(prefix []byte, visit func(key, value []byte) error) error {
	list, k, err := s.collect(prefix)
	if err != nil {
		return err
	}
	for i := range list {
		value, err := k.open(list[i].key, list[i].box)
		if err != nil {
			return s.damaged(list[i].key, err.Error())
		}
		if err := visit(list[i].key, value); err != nil {
			return err
		}
		list[i] = sealed{}
	}
	return nil
}

func (s *Store) collect(prefix []byte) ([]sealed, *keys, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, nil, s.errClosed()
	}
	var list []sealed
	early, err := s.early(func(r *earlyReader) error {
		return r.visit(r.records, prefix, func(key, value []byte, _ bool) error {
			if !bytes.HasPrefix(key, prefix) {
				return errEnough
			}
			list = append(list, sealed{bytes.Clone(key), bytes.Clone(value)})
			return nil
		})
	})
	if early || err != nil {
		return list, s.keys, s.told("read", err)
	}
	err = s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			cursor := tx.Bucket(bucketRecords).Cursor()
			for key, box := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, box = cursor.Next() {
				list = append(list, sealed{bytes.Clone(key), bytes.Clone(box)})
			}
			return nil
		})
	})
	return list, s.keys, s.told("read", err)
}

// Apply implements mlscore.Store: all writes are on the disk when it returns nil, and none is in the store
// when it returns another error than ErrFailed. A key has 1 to 32,768 bytes, a value at most 2 GiB.
//
// It does not keep Batch.Output. A caller who wants it queued in the same transaction wraps the store, and
// adds a write of its own to the batch.
func (s *Store) Apply(b mlscore.Batch) error {
	if err := s.await(); err != nil {
		return s.notAccepted(err)
	}
	err := s.commit(func(tx *bbolt.Tx, sum *setSum) error { return s.write(tx, b.Writes, sum) })
	if err != nil {
		return s.told("write to", err)
	}
	s.wipeFreed()
	return nil
}

// commit runs a transaction beside readers.
func (s *Store) commit(change func(*bbolt.Tx, *setSum) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.writer.Lock()
	defer s.writer.Unlock()
	return s.update(change)
}

// wipeFreed overwrites what a batch freed. The batch is on the disk by then, so that an error cannot be
// the batch's: it stops the next one.
func (s *Store) wipeFreed() {
	if s.opts.KeepFreed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.wipe(); err != nil && s.failed == nil {
		s.failed = err
	}
}

// update runs a transaction that changes records, and brings the digest along. The caller holds writer,
// or mu alone.
func (s *Store) update(change func(*bbolt.Tx, *setSum) error) error {
	switch {
	case s.closed:
		return s.errClosed()
	case s.failed != nil:
		return s.failed
	}
	sum := s.sum
	var id int
	panicked := true
	err := s.guard(func() error {
		tx, err := s.db.Begin(true)
		if err == nil {
			id = tx.ID()
			err = s.transact(tx, change, &sum)
		}
		panicked = false
		return err
	})
	if err != nil {
		s.wiped = wiped{} // pages may have been written before it failed
	}
	switch {
	case err == nil:
		s.sum = sum
		s.forgetWritten()
	case panicked:
		s.failed, s.crashed = err, true
	case id != 0 && s.arrived(id):
		s.failed = fmt.Errorf("%w: store %s, while a batch was written, which may be on the disk or not: open it again: %w", ErrFailed, s.path, err)
		err = s.failed
	}
	return err
}

// forgetWritten takes the pages that a batch has written out of those that are known to be zero.
func (s *Store) forgetWritten() {
	if s.opts.KeepFreed {
		return
	}
	meta, free, err := s.freePages()
	if err != nil {
		s.wiped = wiped{} // wipe meets the same error and tells it
		return
	}
	s.wiped.forget(meta.pages, free)
}

// transact fills a transaction and commits it.
func (s *Store) transact(tx *bbolt.Tx, change func(*bbolt.Tx, *setSum) error, sum *setSum) error {
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := change(tx, sum); err != nil {
		return err
	}
	if err := tx.Bucket(bucketFile).Put(recordDigest, s.keys.digest(sum)); err != nil {
		return err
	}
	return tx.Commit()
}

// arrived says whether a transaction whose commit failed is visible all the same: its meta page was
// written, and could not be synced.
func (s *Store) arrived(id int) bool {
	newest, _, err := s.metas()
	return err != nil || newest.txid >= uint64(id)
}

// write makes the changes of a batch in their order.
func (s *Store) write(tx *bbolt.Tx, writes []mlscore.Write, sum *setSum) error {
	records := tx.Bucket(bucketRecords)
	for _, w := range writes {
		var err error
		switch {
		case w.Prefix:
			err = s.deleteAll(records, w.Key, sum)
		case w.Value == nil:
			err = s.delete(records, w.Key, sum)
		default:
			err = s.put(records, w.Key, w.Value, sum)
		}
		if err != nil {
			return fmt.Errorf("write record %s: %w", keyName(w.Key), err)
		}
	}
	return nil
}

func (s *Store) put(records *bbolt.Bucket, key, value []byte, sum *setSum) error {
	if old := records.Get(key); old != nil {
		s.keys.toggle(sum, key, old)
	}
	box, err := s.keys.seal(s.opts.Rand, key, value)
	if err != nil {
		return err
	}
	s.keys.toggle(sum, key, box)
	return records.Put(key, box)
}

func (s *Store) delete(records *bbolt.Bucket, key []byte, sum *setSum) error {
	old := records.Get(key)
	if old == nil {
		return nil
	}
	s.keys.toggle(sum, key, old)
	return records.Delete(key)
}

// deleteAll collects the keys before it deletes: a cursor does not survive a deletion.
func (s *Store) deleteAll(records *bbolt.Bucket, prefix []byte, sum *setSum) error {
	var keys [][]byte
	cursor := records.Cursor()
	for key, _ := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(key))
	}
	for _, key := range keys {
		if err := s.delete(records, key, sum); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file and erases the keys. It waits for operations under way; later ones fail with
// ErrClosed.
func (s *Store) Close() error {
	s.later.stop.Store(true)
	_ = s.await() // a store that is closed needs no verdict
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.db != nil && !s.opts.KeepFreed {
		err = s.file.Sync() // of what was wiped
	}
	if s.crashed {
		err = errors.Join(err, s.file.Close()) // bbolt would wait for its own locks
	} else if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	if s.keys != nil {
		s.keys.erase()
	}
	return s.told("close", err)
}
