package blob

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Ledger is charged for what a store keeps, by owner. Its methods are called with no lock of the store's
// but that of one name.
type Ledger interface {
	// Charge takes bytes into account before they are written, or refuses them.
	Charge(owner string, n uint64) error
	// Room refuses bytes that were charged when the disk has become too full for them.
	Room(owner string, n uint64) error
	// Adopt takes bytes into account that are on the disk already.
	Adopt(owner string, n uint64)
	// Release gives back bytes that were charged or adopted.
	Release(owner string, n uint64)
}

// Overhead is what a blob is charged for in addition to its size, in bytes: files and memory, so that many
// small blobs are no way around a limit.
const Overhead = 16 << 10

// MaxOwner is the length of the longest name of an owner, in bytes.
const MaxOwner = 512

// ownerSuffix names the file beside a blob that holds its owner's name.
const ownerSuffix = ".owner"

func cost(ref Ref) uint64 { return ref.Size + Overhead }

func (s *Store) charge(owner string, ref Ref) error {
	if s.limits.Ledger == nil {
		return nil
	}
	return s.limits.Ledger.Charge(owner, cost(ref))
}

func (s *Store) discharge(owner string, ref Ref) {
	if s.limits.Ledger != nil {
		s.limits.Ledger.Release(owner, cost(ref))
	}
}

func (s *Store) room(owner string, n int) error {
	if s.limits.Ledger == nil {
		return nil
	}
	return s.limits.Ledger.Room(owner, uint64(n))
}

// Owner is who is charged for a blob, "" for the node itself or a blob that is not stored.
func (s *Store) Owner(ref Ref) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owners[ref]
}

func (s *Store) stored(ref Ref) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.blobs[ref]
	return since, ok
}

func (s *Store) ownerPath(ref Ref) string { return s.path(ref) + ownerSuffix }

// writeOwner writes down who is charged for a blob before the blob has its name; the caller syncs the folder.
func (s *Store) writeOwner(ref Ref, owner string) (err error) {
	if owner == "" { // what a Put that failed left names somebody else
		if err := os.Remove(s.ownerPath(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failure("put: owner", err)
		}
		return nil
	}
	f, err := os.OpenFile(s.ownerPath(ref), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return failure("put: owner", err)
	}
	_, err = io.WriteString(f, owner)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(failure("put: owner", err), os.Remove(s.ownerPath(ref)))
	}
	return nil
}

// disown forgets the owner of a blob that was removed, and releases what it was charged.
func (s *Store) disown(ref Ref) error {
	s.mu.Lock()
	owner := s.owners[ref]
	delete(s.owners, ref)
	s.mu.Unlock()
	s.discharge(owner, ref)
	if owner == "" {
		return nil
	}
	if err := os.Remove(s.ownerPath(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failure("delete owner", err)
	}
	return nil
}

// scanOwners reads who is charged for the blobs that are stored, and removes names without a blob, which
// an interrupted Put or Delete left.
func (s *Store) scanOwners() error {
	dir := filepath.Join(s.dir, blobFolder)
	files, err := os.ReadDir(dir)
	if err != nil {
		return failure("list owners", err)
	}
	for _, e := range files {
		base, ok := strings.CutSuffix(e.Name(), ownerSuffix)
		if !ok {
			continue
		}
		ref, err := ParseRef(base)
		if err != nil {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if _, stored := s.blobs[ref]; !stored {
			if err := os.Remove(path); err != nil {
				return failure("remove owner", err)
			}
			continue
		}
		owner, err := readOwner(path)
		if err != nil {
			return failure("read owner", err)
		}
		if owner != "" {
			s.owners[ref] = owner
		}
	}
	if s.limits.Ledger != nil {
		for ref := range s.blobs {
			s.limits.Ledger.Adopt(s.owners[ref], cost(ref))
		}
	}
	return nil
}

func readOwner(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxOwner))
	return string(b), err
}
