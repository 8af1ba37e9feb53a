package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// copyBuffer is the number of bytes read at a time, and the step in which the quota is reserved.
const copyBuffer = 128 << 10

// Put stores the data of r until io.EOF and returns its Ref when the blob is durable. If the blob is stored already,
// its age for Sweep begins again.
func (s *Store) Put(ctx context.Context, r io.Reader) (Ref, error) {
	w := &writing{store: s, limit: s.limits.MaxBlob}
	if err := w.store.usable(); err != nil {
		return Ref{}, err
	}
	return w.run(ctx, r, nil)
}

// PutExpected stores the blob of that Ref from r. It reads at most one byte beyond the Ref's size. If the content
// differs from the Ref, it stores nothing and fails with ErrMismatch. A blob that is stored already is not read
// again.
func (s *Store) PutExpected(ctx context.Context, ref Ref, r io.Reader) error {
	return s.PutOwned(ctx, "", ref, r)
}

// PutOwned does the work of PutExpected, and charges owner in Limits.Ledger before it reads r. A blob that is stored
// already keeps its first owner. The name of an owner has at most MaxOwner bytes; "" is the node itself.
func (s *Store) PutOwned(ctx context.Context, owner string, ref Ref, r io.Reader) error {
	if err := s.usable(); err != nil {
		return err
	}
	if ref.Size > uint64(s.limits.MaxBlob) {
		return fmt.Errorf("%w: %d bytes, %d are allowed", ErrTooLarge, ref.Size, s.limits.MaxBlob)
	}
	if s.touch(ref) {
		return nil
	}
	if len(owner) > MaxOwner {
		return fmt.Errorf("%w: owner of %d bytes, at most %d", ErrBadName, len(owner), MaxOwner)
	}
	if err := s.charge(owner, ref); err != nil {
		return err
	}
	w := &writing{store: s, limit: int64(ref.Size), owner: owner}
	_, err := w.run(ctx, r, &ref)
	if err != nil || !w.stored {
		s.discharge(owner, ref)
	}
	return err
}

// touch resets the blob's age, and reports whether the blob is stored.
func (s *Store) touch(ref Ref) bool {
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	if !s.Has(ref) {
		return false
	}
	now := s.limits.Now()
	// If the file's time cannot be set, Sweep could consider the blob older than it is after a restart. In that case
	// the blob is not counted as stored.
	if os.Chtimes(s.path(ref), now, now) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[ref] = now
	return true
}

// writing is one blob on its way to the disk.
type writing struct {
	store *Store
	limit int64
	size  int64
	taken int64 // bytes of the quota
	file  *os.File

	owner  string // charged for the blob
	stored bool   // the same blob was not stored before
}

func (w *writing) run(ctx context.Context, r io.Reader, want *Ref) (_ Ref, err error) {
	w.file, err = os.CreateTemp(filepath.Join(w.store.dir, tmpFolder), "put-*")
	if err != nil {
		return Ref{}, failure("put", err)
	}
	defer func() {
		if err != nil {
			w.store.release(w.taken)
			os.Remove(w.file.Name())
		}
	}()
	ref, err := w.copy(ctx, r, want)
	if err == nil {
		if err = w.file.Sync(); err != nil {
			err = failure("put: sync", err)
		}
	}
	if cerr := w.file.Close(); err == nil && cerr != nil {
		err = failure("put: close", cerr)
	}
	if err != nil {
		return Ref{}, err
	}
	return ref, w.publish(ref)
}

// copy writes the data of r and returns its Ref.
func (w *writing) copy(ctx context.Context, r io.Reader, want *Ref) (Ref, error) {
	hash := sha256.New()
	buf := make([]byte, copyBuffer)
	for {
		if err := ctx.Err(); err != nil {
			return Ref{}, fmt.Errorf("blob: put: %w", err)
		}
		n, err := r.Read(buf)
		if werr := w.write(hash, buf[:n], want != nil); werr != nil {
			return Ref{}, werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return Ref{}, fmt.Errorf("blob: put: read content: %w", err)
		}
	}
	ref := Ref{Hash: [32]byte(hash.Sum(nil)), Size: uint64(w.size)}
	if want != nil && ref != *want {
		return Ref{}, fmt.Errorf("%w: got %v, want %v", ErrMismatch, ref, *want)
	}
	return ref, nil
}

func (w *writing) write(hash io.Writer, b []byte, expected bool) error {
	if len(b) == 0 {
		return nil
	}
	if int64(len(b)) > w.limit-w.size {
		if expected {
			return fmt.Errorf("%w: more than its %d bytes", ErrMismatch, w.limit)
		}
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, w.limit)
	}
	if err := w.store.room(w.owner, len(b)); err != nil {
		return err
	}
	if err := w.store.reserve(int64(len(b))); err != nil {
		return err
	}
	w.taken += int64(len(b))
	hash.Write(b)
	if _, err := w.file.Write(b); err != nil {
		return failure("put: write", err)
	}
	w.size += int64(len(b))
	return nil
}

// publish gives the synced file its name.
func (w *writing) publish(ref Ref) error {
	s := w.store
	if s.touch(ref) { // another call stored the same blob
		s.release(w.taken)
		w.taken = 0
		if err := os.Remove(w.file.Name()); err != nil {
			return failure("put: remove temporary file", err)
		}
		return nil
	}
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	_, twice := s.stored(ref) // stored since touch: an equal file replaces the file
	if !twice {
		if err := s.writeOwner(ref, w.owner); err != nil {
			return err
		}
	}
	now := s.limits.Now()
	if err := os.Chtimes(w.file.Name(), now, now); err != nil {
		return failure("put: set time", err)
	}
	if err := os.Rename(w.file.Name(), s.path(ref)); err != nil {
		return failure("put: rename", err)
	}
	if err := syncFolder(filepath.Join(s.dir, blobFolder)); err != nil {
		return errors.Join(err, os.Remove(s.path(ref)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if twice {
		s.used -= w.taken
	} else if w.stored = true; w.owner != "" {
		s.owners[ref] = w.owner
	}
	s.blobs[ref] = now
	return nil
}
