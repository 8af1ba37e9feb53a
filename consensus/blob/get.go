package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
)

// Get opens a blob for reading. The reader verifies the content: if it differs from the Ref, the reader ends with
// ErrCorrupt instead of the last bytes and io.EOF, and the blob is removed. Do not rely on any data before io.EOF.
func (s *Store) Get(ref Ref) (io.ReadCloser, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if !s.Has(ref) {
		return nil, fmt.Errorf("%w: %v", ErrNotFound, ref)
	}
	f, err := os.Open(s.path(ref))
	if errors.Is(err, fs.ErrNotExist) {
		s.mu.Lock()
		_, still := s.blobs[ref]
		s.mu.Unlock()
		if still { // not removed by Delete
			return nil, s.damaged(ref, nil, "its file is gone")
		}
		return nil, fmt.Errorf("%w: %v", ErrNotFound, ref)
	}
	if err != nil {
		return nil, failure("get", err)
	}
	return &reader{store: s, ref: ref, file: f, hash: sha256.New(), left: ref.Size}, nil
}

// Verify reads a whole blob. It returns nil, ErrNotFound, ErrCorrupt or the error that prevented reading.
func (s *Store) Verify(ref Ref) error {
	r, err := s.Get(ref)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

type reader struct {
	store *Store
	ref   Ref
	file  *os.File
	hash  hash.Hash
	left  uint64
	err   error // the error with which reading ended
}

// Read reads the next bytes. It verifies the whole content before it returns the last bytes.
func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 && r.left > 0 {
		return 0, nil
	}
	n := 0
	if r.left > 0 {
		var err error
		n, err = r.file.Read(p[:min(uint64(len(p)), r.left)])
		if err == io.EOF {
			r.err = r.store.damaged(r.ref, r.file, fmt.Sprintf("%d bytes are missing at the end", r.left))
			return 0, r.err
		}
		if err != nil {
			r.err = failure("read", err)
			return 0, r.err
		}
		r.hash.Write(p[:n])
		r.left -= uint64(n)
	}
	if r.left > 0 {
		return n, nil
	}
	if [32]byte(r.hash.Sum(nil)) != r.ref.Hash {
		r.err = r.store.damaged(r.ref, r.file, "its hash differs")
		return 0, r.err
	}
	r.err = io.EOF
	return n, io.EOF
}

// Close closes the file. It does not verify the unread part.
func (r *reader) Close() error { return r.file.Close() }

// damaged removes a blob that is damaged in file, unless its name has been given to another file since, and returns
// ErrCorrupt with the reason.
func (s *Store) damaged(ref Ref, file *os.File, reason string) error {
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	err := fmt.Errorf("%w: %v: %s: fetch it again from another replica", ErrCorrupt, ref, reason)
	if !s.Has(ref) || file != nil && !sameFile(file, s.path(ref)) {
		return err
	}
	s.mu.Lock()
	s.stats.Damaged++
	s.mu.Unlock()
	return errors.Join(err, s.remove(ref))
}

func sameFile(file *os.File, path string) bool {
	a, err := file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
