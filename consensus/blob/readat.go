package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ReadAt reads at most n bytes at an offset, and fewer only at the end. It does not verify the content: the caller
// that joins the pieces checks the hash of the whole. It fails with ErrNotFound for a blob that is not stored.
func (s *Store) ReadAt(ref Ref, offset uint64, n int) ([]byte, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if offset > ref.Size {
		return nil, fmt.Errorf("%w: offset %d of %v", ErrBadRef, offset, ref)
	}
	if !s.Has(ref) {
		return nil, fmt.Errorf("%w: %v", ErrNotFound, ref)
	}
	f, err := os.Open(s.path(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v", ErrNotFound, ref)
	}
	if err != nil {
		return nil, failure("read", err)
	}
	defer f.Close()
	p := make([]byte, min(uint64(max(n, 0)), ref.Size-offset))
	if _, err := io.ReadFull(io.NewSectionReader(f, int64(offset), int64(len(p))), p); err != nil {
		return nil, failure("read", err)
	}
	return p, nil
}
