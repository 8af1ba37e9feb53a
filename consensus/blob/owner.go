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

// Ledger is charged for the blobs in a store, by owner. When its methods are called, the store holds only the lock of
// one name.
type Ledger interface {
	// Charge charges bytes before they are written, or refuses them.
	Charge(owner string, n uint64) error
	// Room refuses charged bytes if the disk has become too full for them.
	Room(owner string, n uint64) error
	// Adopt charges bytes that are already on the disk.
	Adopt(owner string, n uint64)
	// Release gives back bytes that were charged or adopted.
	Release(owner string, n uint64)
}

// Overhead is the number of bytes that a blob is charged in addition to its size, for files and memory. It prevents
// many small blobs from evading a limit.
const Overhead = 16 << 10

// MaxOwner is the length of the longest name of an owner, in bytes.
const MaxOwner = 512

// ownerSuffix ends the name of the file that holds the name of a blob's owner.
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

func (s *Store) stored(ref Ref) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.blobs[ref]
	return since, ok
}

func (s *Store) ownerPath(ref Ref) string { return s.path(ref) + ownerSuffix }

// writeOwner stores the name of a blob's owner before the blob has its name; the caller syncs the folder.
func (s *Store) writeOwner(ref Ref, owner string) (err error) {
	if owner == "" { // a failed Put may have left the name of another owner
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

// disown drops the owner of a blob that was removed, and releases its charge.
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

// scanOwners reads the owners of the stored blobs, and removes names without a blob, which an interrupted Put or
// Delete left.
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
