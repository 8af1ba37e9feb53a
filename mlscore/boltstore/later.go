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

// verification is the check of a file that continues after Open. Until the verification has ended, an earlyReader,
// which is safe on damaged pages, reads records, and nothing is written.
type verification struct {
	stop atomic.Bool   // set by Close, which does not wait for the rest
	done chan struct{} // closed at its end
	err  error         // why the file is not accepted; set before done is closed

	early *earlyReader // the reader until the verification ends, then nil; guarded by the store's mu
}

// errStopped ends the verification of a store that was closed.
var errStopped = errors.New("the store was closed before it was verified")

// openLater opens an existing file and reads its header. The caller must start its verification: see verify.
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
	// The lock is held: no other process changes the file.
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
	s.header = h
	if s.keys, err = c.unlock(h); err != nil {
		return err
	}
	generation, _, err := r.get(file, recordGeneration)
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	if err := s.readJournal(r, generation); err != nil {
		return err
	}
	s.later.done, s.later.early = make(chan struct{}), r
	return nil
}

// verify makes the checks that Open makes without Options.VerifyLater.
func (s *Store) verify() {
	v := &s.later
	err := s.verified()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !s.opts.KeepFreed && !v.stop.Load() {
		err = s.wipe()
	}
	if err == nil && !v.stop.Load() {
		err = s.clean()
	}
	v.early, v.err = nil, s.explained("open", err)
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

// stoppable is a file whose reads fail after the verification was stopped.
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

// await waits until the file is verified. It returns the reason if the file is not accepted.
func (s *Store) await() error {
	if s.later.done == nil {
		return nil
	}
	<-s.later.done
	return s.later.err
}

// notAccepted returns the error of an operation on a file that the verification has not accepted.
func (s *Store) notAccepted(err error) error {
	if errors.Is(err, errStopped) {
		return s.errClosed()
	}
	return err
}

// early calls f with the earlyReader, if the file is not verified yet. It reports whether it called f. The caller
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

// earlyReader reads a file that is not verified. It checks the fields of each page that it uses; a scan reads at most
// as many pages as the file has. A record that is found authenticates itself. The absence of a record is not
// authenticated.
type earlyReader struct {
	file    *boltFile
	records branch

	mu       sync.Mutex // guards branches
	branches map[uint64]page
}

// branch is the root of a bucket: a page, or a leaf inside another bucket's leaf.
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

// find returns the leaf of a key and the index of the key's entry.
func (r *earlyReader) find(b branch, key []byte) (p page, i int, ok bool, err error) {
	p = b.inside
	for id, depth := b.root, 0; id != 0; depth++ {
		if depth > maxTreeDepth {
			return p, 0, false, fmt.Errorf("page %d is deeper than %d pages", id, maxTreeDepth)
		}
		if p, err = r.page(id); err != nil {
			return p, 0, false, err
		}
		id = 0
		if p.flags == flagBranch {
			if id, err = p.below(key); err != nil {
				return p, 0, false, err
			}
		}
	}
	for i := range p.count {
		k, _, _, err := p.record(i)
		if err != nil || bytes.Equal(k, key) {
			return p, i, err == nil, err
		}
	}
	return p, 0, false, nil
}

// get returns the encrypted value of a key.
func (r *earlyReader) get(b branch, key []byte) (value []byte, ok bool, err error) {
	_, value, err = r.place(b, key)
	return bytes.Clone(value), value != nil, err
}

// place returns the value of a key, nil if there is none, and the offset of the value in the file.
func (r *earlyReader) place(b branch, key []byte) (at int64, value []byte, err error) {
	p, i, ok, err := r.find(b, key)
	if err != nil || !ok {
		return 0, nil, err
	}
	_, value, bucket, err := p.record(i)
	if err != nil || bucket {
		return 0, nil, err
	}
	return p.valueAt(i), value, nil
}

// below returns the child page of a branch for a key.
func (p page) below(key []byte) (uint64, error) {
	low, high := 0, p.count // finds the last entry that is not above the key, or the first entry
	for high-low > 1 {
		middle := (low + high) / 2
		k, _, err := p.child(middle)
		if err != nil {
			return 0, err
		}
		if bytes.Compare(k, key) <= 0 {
			low = middle
		} else {
			high = middle
		}
	}
	_, id, err := p.child(low)
	if err == nil && id == 0 {
		err = fmt.Errorf("page %d has page 0 below it", p.id)
	}
	return id, err
}

// bucket finds a bucket of the file.
func (r *earlyReader) bucket(name []byte) (b branch, err error) {
	p, i, ok, err := r.find(branch{root: r.file.meta.root}, name)
	if err != nil {
		return b, err
	}
	bucket := false
	var value []byte
	if ok {
		_, value, bucket, err = p.record(i)
	}
	switch {
	case err != nil:
		return b, err
	case !bucket:
		return b, errors.New("the file is a bbolt file, but not a store of this package")
	}
	return insideOf(value, p.valueAt(i))
}

// insideOf decodes the root of a nested bucket from the bucket's value at an offset of the file.
func insideOf(value []byte, at int64) (branch, error) {
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
	return branch{inside: page{flags: flagLeaf, count: int(order.Uint16(body[10:])), body: body, at: at + bucketHeaderSize}}, nil
}

// missing reports whether a file does not exist.
func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
