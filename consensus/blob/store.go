package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/internal/platform"
)

// DefaultMaxBlob is the size of the largest blob, in bytes, if Limits sets none.
const DefaultMaxBlob = 256 << 20

// Limits are the limits of a store, in bytes.
type Limits struct {
	MaxBlob int64 // of one blob; DefaultMaxBlob if 0
	Quota   int64 // of all blobs together, including those being written; no limit if 0

	// Now returns the time for the age of blobs, from a clock that does not jump. nil: time.Now. The time of a blob's
	// file stores it.
	Now func() time.Time
	// Ledger is charged for each blob; nil: no charge.
	Ledger Ledger
}

// Store is a folder of blobs. Its methods are safe for concurrent use.
type Store struct {
	dir    string
	limits Limits
	lock   *os.File

	// names are locks that serialize operations on the files of one name, by its hash. They guard no field and are
	// held across I/O; s.mu is taken within them, never around them.
	names [64]sync.Mutex

	mu     sync.Mutex // guards the fields below; never held across I/O
	blobs  map[Ref]time.Time
	owners map[Ref]string              // owner of each blob; blobs without an owner are not in the map
	used   int64                       // bytes of the stored blobs and of those being written
	pins   map[Ref]map[string]struct{} // conversations by blob
	closed bool
	stats  Stats
}

// Stats describe a store.
type Stats struct {
	Blobs   int   // stored
	Bytes   int64 // of the stored blobs and of those being written
	Pinned  int   // blobs that a conversation needs, whether stored or not
	Damaged int   // blobs that were found damaged since Open, and removed
}

const (
	blobFolder = "blobs"
	pinFolder  = "pins"
	tmpFolder  = "tmp"
)

// Open opens or creates the store in dir, and removes the files that an interrupted Put left. It fails with ErrLocked
// if the folder is open already.
func Open(dir string, limits Limits) (*Store, error) {
	if limits.MaxBlob < 0 || limits.Quota < 0 {
		return nil, fmt.Errorf("blob: open %s: negative limit", dir)
	}
	if limits.MaxBlob == 0 {
		limits.MaxBlob = DefaultMaxBlob
	}
	if limits.Now == nil {
		limits.Now = time.Now
	}
	s := &Store{dir: dir, limits: limits, blobs: make(map[Ref]time.Time), owners: make(map[Ref]string), pins: make(map[Ref]map[string]struct{})}
	for _, sub := range []string{"", blobFolder, pinFolder, tmpFolder} {
		if err := makeFolder(filepath.Join(dir, sub)); err != nil {
			return nil, err
		}
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	err := errors.Join(s.clearTmp(), s.scanBlobs(), s.scanOwners(), s.scanPins())
	if err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// Close releases the folder. Readers that were opened before remain usable.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.lock.Close()
}

func (s *Store) takeLock() error {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return failure("open", err)
	}
	if err := platform.TryLock(f); err != nil {
		return errors.Join(fmt.Errorf("%w: %s", ErrLocked, s.dir), f.Close())
	}
	s.lock = f
	return nil
}

func (s *Store) clearTmp() error {
	left, err := os.ReadDir(filepath.Join(s.dir, tmpFolder))
	if err != nil {
		return failure("open", err)
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(s.dir, tmpFolder, e.Name())); err != nil {
			return failure("remove temporary file", err)
		}
	}
	return nil
}

// scanBlobs lists the blobs. A file whose length differs from the one in its name cannot be that blob and is removed;
// other names do not belong to the store and are ignored.
func (s *Store) scanBlobs() error {
	dir := filepath.Join(s.dir, blobFolder)
	files, err := os.ReadDir(dir)
	if err != nil {
		return failure("list blobs", err)
	}
	for _, e := range files {
		ref, err := ParseRef(e.Name())
		if err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return failure("list blobs", err)
		}
		if !info.Mode().IsRegular() || uint64(info.Size()) != ref.Size {
			s.stats.Damaged++
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return failure("remove damaged blob", err)
			}
			continue
		}
		if s.blobs[ref], err = s.sane(filepath.Join(dir, e.Name()), info.ModTime()); err != nil {
			return err
		}
		s.used += info.Size()
	}
	return nil
}

// sane returns the time from which a blob's age is counted. For a file whose time is in the future, the age begins
// now: otherwise the blob would never be old.
func (s *Store) sane(path string, at time.Time) (time.Time, error) {
	now := s.limits.Now()
	if !at.After(now.Add(time.Hour)) {
		return at, nil
	}
	if err := os.Chtimes(path, now, now); err != nil {
		return at, failure("open", err)
	}
	return now, nil
}

// Has reports whether the blob is stored. Its content is verified when it is read.
func (s *Store) Has(ref Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.blobs[ref]
	return ok && !s.closed
}

// List returns the blobs stored, in no order.
func (s *Store) List() []Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Ref, 0, len(s.blobs))
	for ref := range s.blobs {
		out = append(out, ref)
	}
	return out
}

// Stats returns the figures of the store.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Blobs, st.Bytes, st.Pinned = len(s.blobs), s.used, len(s.pins)
	return st
}

// Delete removes a blob. It fails with ErrPinned if a conversation needs it; a
// blob that is not stored is no error.
func (s *Store) Delete(ref Ref) error {
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	pinned := len(s.pins[ref])
	s.mu.Unlock()
	if pinned > 0 {
		return fmt.Errorf("%w: %v by %d conversations", ErrPinned, ref, pinned)
	}
	return s.remove(ref)
}

// remove removes a blob's file; the caller holds its name.
func (s *Store) remove(ref Ref) error {
	s.mu.Lock()
	since, ok := s.blobs[ref]
	delete(s.blobs, ref)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := os.Remove(s.path(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.mu.Lock()
		s.blobs[ref] = since
		s.mu.Unlock()
		return failure("delete", err)
	}
	s.release(int64(ref.Size))
	return s.disown(ref)
}

// Sweep removes the blobs that were stored at least olderThan ago, are not pinned, and for which live returns false.
// live is called without a lock and may take its time; a blob that is pinned meanwhile stays. Sweep returns the
// number of removed blobs and bytes.
func (s *Store) Sweep(live func(Ref) bool, olderThan time.Duration) (blobs int, bytes int64, err error) {
	if err := s.usable(); err != nil {
		return 0, 0, err
	}
	limit := s.limits.Now().Add(-olderThan)
	for _, ref := range s.List() {
		if !s.sweepable(ref, limit) || live(ref) {
			continue
		}
		gone, rerr := s.sweepOne(ref, limit)
		if gone {
			blobs++
			bytes += int64(ref.Size)
		}
		err = errors.Join(err, rerr)
	}
	return blobs, bytes, err
}

func (s *Store) sweepOne(ref Ref, limit time.Time) (bool, error) {
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	if !s.sweepable(ref, limit) {
		return false, nil
	}
	err := s.remove(ref)
	return err == nil, err
}

func (s *Store) sweepable(ref Ref, limit time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.blobs[ref]
	return ok && !s.closed && len(s.pins[ref]) == 0 && !since.After(limit)
}

func (s *Store) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return nil
}

// reserve reserves n bytes of the quota.
func (s *Store) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits.Quota > 0 && n > s.limits.Quota-s.used {
		return fmt.Errorf("%w: %d bytes in use, %d more asked for, %d allowed", ErrQuota, s.used, n, s.limits.Quota)
	}
	s.used += n
	return nil
}

func (s *Store) release(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

func (s *Store) name(ref Ref) *sync.Mutex { return &s.names[int(ref.Hash[0])%len(s.names)] }

func (s *Store) path(ref Ref) string { return filepath.Join(s.dir, blobFolder, ref.String()) }

// makeFolder creates dir and its missing parents, durably.
func makeFolder(dir string) error {
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || d == filepath.Dir(d) {
			return failure("make folder", err)
		}
		missing = append(missing, d)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return failure("make folder", err)
	}
	for _, d := range missing {
		if err := syncFolder(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return failure("sync folder", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(failure("sync folder", err), d.Close())
	}
	return d.Close()
}
