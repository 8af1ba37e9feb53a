package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
)

// verification is the check of a file that goes on after Open. Until it has ended, records are read by an earlyReader,
// which follows no damaged page astray, and nothing is written.
type verification struct {
	stop atomic.Bool   // Close does not wait for the rest
	done chan struct{} // closed at its end
	err  error         // why the file is not accepted; set before done is closed

	early *earlyReader // reads until the end, nil afterwards; guarded by the store's mu
}

// errStopped ends a verification that nobody waits for any more.
var errStopped = errors.New("the store was closed before it was verified")

// openLater opens a file that is there and reads its header. The caller has it verified: see verify.
func (s *Store) openLater(c credential) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if _, err := s.openBolt(); err != nil {
		return err
	}
	// The lock is held: the file is read as it stays.
	meta, whole, err := s.metas()
	switch {
	case err != nil:
		return s.damaged(nil, err.Error())
	case !whole:
		return s.damaged(nil, "one of the two meta pages is damaged, and the last transaction may be lost with it")
	}
	r := &earlyReader{file: &boltFile{file: s.file, meta: meta}, branches: make(map[uint64]page)}
	file, err := r.bucket(bucketFile)
	if err == nil {
		r.records, err = r.bucket(bucketRecords)
	}
	var raw []byte
	if err == nil {
		raw, _, err = r.get(file, recordHeader)
	}
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	h, err := parseHeader(raw)
	if errors.Is(err, ErrVersion) {
		return err
	}
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	if s.keys, err = c.unlock(h); err != nil {
		return err
	}
	s.later.done, s.later.early = make(chan struct{}), r
	return nil
}

// verify does what Open does at once where it does not verify later.
func (s *Store) verify() {
	v := &s.later
	err := s.verified()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !s.opts.KeepFreed && !v.stop.Load() {
		err = s.wipe()
	}
	v.early, v.err = nil, s.told("open", err)
	close(v.done)
}

func (s *Store) verified() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if _, _, err := readStructure(stoppable{s.file, &s.later.stop}, info.Size()); err != nil {
		if s.later.stop.Load() {
			return errStopped
		}
		return s.damaged(nil, err.Error())
	}
	return s.guard(s.compareDigest)
}

// stoppable is a file whose reading ends when nobody waits for it any more.
type stoppable struct {
	file *os.File
	stop *atomic.Bool
}

func (r stoppable) ReadAt(b []byte, off int64) (int, error) {
	if r.stop.Load() {
		return 0, errStopped
	}
	return r.file.ReadAt(b, off)
}

// await waits until the file is verified. It returns why it is not accepted.
func (s *Store) await() error {
	if s.later.done == nil {
		return nil
	}
	<-s.later.done
	return s.later.err
}

// notAccepted is the error of an operation on a file that the verification has not accepted.
func (s *Store) notAccepted(err error) error {
	if errors.Is(err, errStopped) {
		return s.errClosed()
	}
	return err
}

// early calls f with the reader to be used before the file is verified. It reports whether there was one. The caller
// holds mu.
func (s *Store) early(f func(*earlyReader) error) (bool, error) {
	v := &s.later
	if v.done == nil {
		return false, nil
	}
	if v.early == nil {
		return false, s.notAccepted(v.err)
	}
	if err := f(v.early); err != nil {
		return true, s.damaged(nil, err.Error())
	}
	return true, nil
}

// earlyReader reads a file that nothing is known of. Each page is checked for what reading it needs; a scan reads no more
// pages than there are. A record that is found authenticates itself. That none is found proves nothing yet.
type earlyReader struct {
	file    *boltFile
	records branch

	mu       sync.Mutex // guards branches
	branches map[uint64]page
}

// branch is where a bucket begins: a page, or a leaf inside another one.
type branch struct {
	root   uint64
	inside page
}

func (r *earlyReader) page(id uint64) (page, error) {
	r.mu.Lock()
	p, ok := r.branches[id]
	r.mu.Unlock()
	if ok {
		return p, nil
	}
	p, _, err := r.file.head(id, flagBranch, flagLeaf)
	if err == nil {
		err = r.file.fill(&p)
	}
	if err == nil && p.flags == flagBranch {
		r.mu.Lock()
		r.branches[id] = p
		r.mu.Unlock()
	}
	return p, err
}

// errEnough ends a visit of records.
var errEnough = errors.New("enough")

// visit calls f with the records from a key on, in the order of the pages, until f returns an error.
func (r *earlyReader) visit(b branch, from []byte, f func(key, value []byte, bucket bool) error) error {
	left := r.file.meta.pages
	var err error
	if b.root == 0 {
		err = r.leaf(b.inside, from, f)
	} else {
		err = r.below(b.root, 0, from, &left, f)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (r *earlyReader) below(id uint64, depth int, from []byte, left *uint64, f func(key, value []byte, bucket bool) error) error {
	if depth > maxTreeDepth || *left == 0 {
		return fmt.Errorf("page %d is reached by more pages than there are", id)
	}
	*left--
	p, err := r.page(id)
	if err != nil {
		return err
	}
	if p.flags == flagLeaf {
		return r.leaf(p, from, f)
	}
	for i := range p.count {
		if i+1 < p.count {
			next, _, err := p.child(i + 1)
			if err != nil {
				return err
			}
			if bytes.Compare(next, from) <= 0 {
				continue
			}
		}
		_, at, err := p.child(i)
		if err != nil {
			return err
		}
		if err := r.below(at, depth+1, from, left, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *earlyReader) leaf(p page, from []byte, f func(key, value []byte, bucket bool) error) error {
	for i := range p.count {
		key, value, bucket, err := p.record(i)
		if err != nil {
			return err
		}
		if bytes.Compare(key, from) < 0 {
			continue
		}
		if err := f(key, value, bucket); err != nil {
			return err
		}
	}
	return nil
}

// get returns the value of a key, as it stands in the file.
func (r *earlyReader) get(b branch, key []byte) (value []byte, ok bool, err error) {
	err = r.visit(b, key, func(k, v []byte, bucket bool) error {
		if ok = bytes.Equal(k, key) && !bucket; ok {
			value = bytes.Clone(v)
		}
		return errEnough
	})
	return value, ok, err
}

// bucket finds a bucket of the file.
func (r *earlyReader) bucket(name []byte) (b branch, err error) {
	found := false
	err = r.visit(branch{root: r.file.meta.root}, name, func(k, v []byte, bucket bool) error {
		if !bytes.Equal(k, name) || !bucket {
			return errEnough
		}
		found = true
		b, err = insideOf(v)
		if err != nil {
			return err
		}
		return errEnough
	})
	if err == nil && !found {
		err = errors.New("it is a bbolt file, but not a store of this package")
	}
	return b, err
}

// insideOf reads where a nested bucket begins.
func insideOf(value []byte) (branch, error) {
	if len(value) < bucketHeaderSize {
		return branch{}, fmt.Errorf("a bucket of %d bytes", len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return branch{root: root}, nil
	}
	body := bytes.Clone(value[bucketHeaderSize:])
	if len(body) < pageHeaderSize || order.Uint16(body[8:]) != flagLeaf {
		return branch{}, errors.New("a bucket inside a page is not a leaf")
	}
	return branch{inside: page{flags: flagLeaf, count: int(order.Uint16(body[10:])), body: body}}, nil
}

// missing reports whether a file is not there yet.
func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
