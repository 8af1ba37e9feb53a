package boltstore

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
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

// Options are the options of Open. The zero value is a good choice.
type Options struct {
	// Wait is the time that Open waits for another process to close the file; zero means not to wait.
	Wait time.Duration
	// KeepFreed does not overwrite pages that a batch has freed. Batches are then cheaper, but the file holds
	// consumed secrets, encrypted, until their pages are used again.
	KeepFreed bool
	// Salvage opens a damaged file to recover its remaining records: records may be missing, added, or put back to an
	// earlier version, or the last transaction may be lost. Never send to a group that was put back, since its keys
	// would be used twice. Records that do not decrypt still give an error. Salvage implies KeepFreed, because lost
	// records may be in freed pages.
	Salvage bool
	// VerifyLater lets Open return before the file is verified, which takes time in proportion to the file's size.
	// Meanwhile records can be read: each authenticates itself, but an older version of a record, or a missing
	// record, is not detected yet. Apply waits for the end of the verification and returns the error that Open would
	// have returned, so that nothing is written that was computed from a damaged or manipulated file. Close does not
	// wait. With Salvage, VerifyLater has no effect.
	VerifyLater bool
	// Cost is the cost of deriving a key from a passphrase, for a new file or a new passphrase; zero means
	// DefaultCost.
	Cost Cost
	// Rand is the source of nonces and salts; nil means crypto/rand.
	Rand io.Reader

	journal int // size of the journal of a new file, for tests
}

// minJournal is less than the size of any journal.
const minJournal = 2 * markerSize

func (o Options) journalSize() int {
	if o.journal == 0 {
		return journalSize
	}
	return o.journal
}

var _ mlscore.Store = (*Store)(nil)

// Store is an mlscore.Store in a file. It is safe for concurrent use.
type Store struct {
	path string
	opts Options
	db   *bbolt.DB
	file *os.File // of db

	// writer serializes batches. It is locked before mu. writer and mu are held across I/O, since their purpose is to
	// order I/O.
	writer  sync.Mutex
	journal journal
	header  *header

	// Readers hold mu shared. mu is held exclusively to change the records that readers see, to change the keys, to
	// overwrite free pages, and to close the file.
	mu     sync.RWMutex
	keys   *keys
	closed bool

	// The state of transactions. writer guards it.
	sum     setSum
	wiped   wiped
	failed  error // the reason why nothing more is written
	crashed bool  // bbolt panicked while it held its locks
	later   verification
}

// The buckets of the file, and the keys of the records that describe the file.
var (
	bucketRecords = []byte("records")
	bucketFile    = []byte("file")
	bucketJournal = []byte("journal")

	recordHeader     = []byte("header")
	recordDigest     = []byte("digest")
	recordGeneration = []byte("generation")
	recordRegion     = []byte("region")
)

// Open opens the store at path, or creates it, readable only by its owner, on a file system with hard links. The key
// has 32 bytes, which must be random; for a passphrase use OpenWithPassphrase. The caller may erase the key
// afterwards.
//
// Errors: ErrWrongKey, ErrInUse, ErrDamaged and ErrVersion.
func Open(path string, key mlscore.Secret, opts Options) (*Store, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("open store %s: key of %d bytes, a store's key has %d", path, key.Len(), KeySize)
	}
	return open(path, credential{key: key}, opts)
}

// OpenWithPassphrase is Open with a key that Argon2id derives from a passphrase; the file holds the salt and the
// cost.
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
	opts.Rand = cmp.Or(opts.Rand, rand.Reader)
	opts.KeepFreed = opts.KeepFreed || opts.Salvage
	s := &Store{path: path, opts: opts}
	if opts.VerifyLater && !opts.Salvage && !missing(path) {
		if err := s.openLater(c); err != nil {
			_ = s.Close() // the first error is the one to report
			return nil, s.explained("open", err)
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
	if err == nil && !opts.Salvage {
		err = s.clean()
	}
	if err != nil {
		_ = s.Close() // the first error is reported
		return nil, s.explained("open", err)
	}
	return s, nil
}

// explained puts the failed operation and the file in front of the text of err, unless err names them already.
func (s *Store) explained(operation string, err error) error {
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
			return s.damaged(nil, "the file is a bbolt file, but not a store of this package")
		}
		h, err := parseHeader(file.Get(recordHeader))
		if errors.Is(err, ErrVersion) {
			return err
		}
		if err != nil {
			return s.damaged(nil, err.Error())
		}
		s.header = h
		if s.keys, err = c.unlock(h); err != nil {
			return err
		}
		r, err := s.baseReader()
		if err != nil {
			return s.damaged(nil, err.Error())
		}
		return s.readJournal(r, bytes.Clone(file.Get(recordGeneration)))
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
			return s.damaged(nil, "the file is a bbolt file, but not a store of this package")
		}
		t := s.keys.toggler()
		cursor := records.Cursor()
		for key, box := cursor.First(); key != nil; key, box = cursor.Next() {
			if s.later.stop.Load() {
				return errStopped
			}
			t.toggle(&s.sum, key, box)
		}
		if s.opts.Salvage || hmac.Equal(s.keys.digest(&s.sum, s.journal.generation), file.Get(recordDigest)) {
			return nil
		}
		return s.explain(records)
	})
}

// explain looks for the damaged record after the digest did not match.
func (s *Store) explain(records *bbolt.Bucket) error {
	cursor := records.Cursor()
	for key, box := cursor.First(); key != nil; key, box = cursor.Next() {
		if _, replaced := s.journal.overlay.find(string(key)); replaced {
			continue // the ciphertext may have been erased
		}
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

// guard runs a function that calls bbolt. bbolt panics on an invalid page, and its mapped pages fault if the disk
// cannot read them. The file was valid when it was opened, so a panic means that the file has changed since then, and
// that bbolt's state in memory cannot be trusted any more.
func (s *Store) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = s.damaged(nil, fmt.Sprintf("the file changed while it was open: %v", p))
		}
	}()
	return f()
}

// Get implements mlscore.Store. The caller owns the value.
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
	if i, ok := s.journal.overlay.find(string(key)); ok && err == nil {
		box = s.journal.overlay[i].box
	} else if !early && err == nil {
		err = s.guard(func() error {
			return s.db.View(func(tx *bbolt.Tx) error {
				box = bytes.Clone(tx.Bucket(bucketRecords).Get(key))
				return nil
			})
		})
	}
	if err != nil || box == nil {
		return nil, false, s.explained("read", err)
	}
	value, err := s.keys.open(key, box)
	if err != nil {
		return nil, false, s.damaged(key, err.Error())
	}
	return value, true, nil
}

// sealed is an encrypted record, as in the file.
type sealed struct{ key, box []byte }

// Scan implements mlscore.Store. It visits the records that the store had when the scan began, even if visit changes
// the store. For that it copies the encrypted records first: it needs memory for all of them, and for one decrypted
// value.
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
	newer := s.journal.overlay.under(prefix)
	if early || err != nil {
		return newer.merge(list), s.keys, s.explained("read", err)
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
	return newer.merge(list), s.keys, s.explained("read", err)
}

// update runs a transaction that changes records and updates the digest. The caller holds writer, and mu exclusively.
func (s *Store) update(generation uint64, change func(*bbolt.Tx, *setSum) error) error {
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
			err = s.transact(tx, generation, change, &sum)
		}
		panicked = false
		return err
	})
	if err != nil {
		s.wiped = wiped{} // pages may have been written before the failure
	}
	switch {
	case err == nil:
		s.sum = sum
		s.forgetWritten()
	case panicked:
		s.failed, s.crashed = err, true
	case id != 0 && s.arrived(id):
		err = s.fail(err)
	}
	return err
}

// forgetWritten removes the pages that a batch has written from the set of pages that are known to be zero.
func (s *Store) forgetWritten() {
	if s.opts.KeepFreed {
		return
	}
	meta, free, err := s.freePages()
	if err != nil {
		s.wiped = wiped{} // wipe gets the same error and returns it
		return
	}
	s.wiped.forget(meta.pages, free)
}

// transact makes the changes of a transaction and commits it.
func (s *Store) transact(tx *bbolt.Tx, generation uint64, change func(*bbolt.Tx, *setSum) error, sum *setSum) error {
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := change(tx, sum); err != nil {
		return err
	}
	file := tx.Bucket(bucketFile)
	if err := file.Put(recordGeneration, binary.BigEndian.AppendUint64(nil, generation)); err != nil {
		return err
	}
	if err := file.Put(recordDigest, s.keys.digest(sum, generation)); err != nil {
		return err
	}
	return tx.Commit()
}

// arrived reports whether a transaction is visible although its commit failed: its meta page was written but not
// synced.
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

// deleteAll deletes the records with a prefix. It collects the keys first, because a cursor is not valid after a
// deletion.
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

// Close closes the file and erases the keys. It waits for active operations; later operations fail with ErrClosed.
func (s *Store) Close() error {
	s.later.stop.Store(true)
	_ = s.await() // the result does not matter for a store that is closed
	s.writer.Lock()
	defer s.writer.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.db != nil && !s.crashed {
		err = s.mark()
	}
	if s.db != nil && (!s.opts.KeepFreed || s.journal.appended) {
		err = errors.Join(err, s.file.Sync()) // syncs the overwriting and the mark
	}
	if s.crashed {
		err = errors.Join(err, s.file.Close()) // bbolt would wait for its own locks
	} else if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	if s.keys != nil {
		s.keys.erase()
	}
	return s.explained("close", err)
}
