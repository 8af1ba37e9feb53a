package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt follows the numbers on its pages without a check: a damaged number can lead it in a circle, out of the mapped
// file, or past an existing record. Therefore the structure of a file is read once before bbolt opens it: every page
// that its newest transaction reaches, and the list of pages that bbolt would write over. Values are not read, except
// nested buckets; values authenticate themselves.
//
// The format is bbolt's version 2, in the byte order of the machine, as bbolt writes it.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	flagBucket = 0x01 // of a leaf's element

	pageHeaderSize   = 16
	elementSize      = 16 // the same for a leaf and a branch
	bucketHeaderSize = 16
	metaSize         = 64

	minPageSize  = 1 << 10
	maxPageSize  = 1 << 24
	maxTreeDepth = 32
)

var order = binary.NativeEndian

// boltMeta is a meta page: the root of one transaction.
type boltMeta struct {
	pageSize uint32
	root     uint64 // page of the root bucket
	freelist uint64 // page of the free list
	pages    uint64 // pages from this one on have never been used
	txid     uint64
}

// parseMeta reads a meta page's content; b has metaSize bytes.
func parseMeta(b []byte) (m boltMeta, ok bool) {
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion || order.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return m, false
	}
	m = boltMeta{
		pageSize: order.Uint32(b[8:]),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		pages:    order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
	}
	size := m.pageSize
	return m, size >= minPageSize && size <= maxPageSize && size&(size-1) == 0
}

// boltFile is a bbolt file that is being read.
type boltFile struct {
	file io.ReaderAt
	meta boltMeta
	used pageSet // that the transaction reaches
}

// pageSet is a set of pages, a bit for each.
type pageSet []uint64

func newPageSet(pages uint64) pageSet { return make(pageSet, (pages+63)/64) }

func (s pageSet) has(id uint64) bool { return id/64 < uint64(len(s)) && s[id/64]>>(id%64)&1 != 0 }
func (s pageSet) add(id uint64)      { s[id/64] |= 1 << (id % 64) }

// readMetas reads both meta pages and returns the newer one. whole reports whether both are valid. With an invalid
// meta page bbolt silently falls back to the previous transaction; but a disk writes the 80 bytes of a meta page at
// once, so damage is more likely than an incomplete write.
func readMetas(file io.ReaderAt, size int64) (newest boltMeta, whole bool, err error) {
	at := func(off int64) (boltMeta, bool) {
		var b [metaSize]byte
		if _, err := file.ReadAt(b[:], off+pageHeaderSize); err != nil {
			return boltMeta{}, false
		}
		return parseMeta(b[:])
	}
	if size < 2*minPageSize {
		return newest, false, fmt.Errorf("%d bytes are less than an empty store has", size)
	}
	first, ok := at(0)
	if ok {
		second, also := at(int64(first.pageSize))
		if also && second.txid > first.txid {
			return second, true, nil
		}
		return first, also, nil
	}
	for pageSize := int64(minPageSize); pageSize <= maxPageSize; pageSize *= 2 {
		if second, ok := at(pageSize); ok && int64(second.pageSize) == pageSize {
			return second, false, nil
		}
	}
	return newest, false, errors.New("the file is not a bbolt file, or both of its meta pages are damaged")
}

// readStructure checks the structure of a file's newest transaction and returns its meta page.
func readStructure(file io.ReaderAt, size int64) (meta boltMeta, whole bool, err error) {
	meta, whole, err = readMetas(file, size)
	if err != nil {
		return meta, false, err
	}
	f := &boltFile{file: file, meta: meta}
	if meta.pages < 4 || meta.pages > uint64(size)/uint64(meta.pageSize) {
		return meta, whole, fmt.Errorf("its meta page counts %d pages of %d bytes, the file has %d bytes", meta.pages, meta.pageSize, size)
	}
	f.used = newPageSet(meta.pages)
	if err := f.walk(meta.root, tree{buckets: true}); err != nil {
		return meta, whole, err
	}
	_, err = f.freePages()
	return meta, whole, err
}

// page is a page with its overflow pages.
type page struct {
	id    uint64
	flags uint16
	count int
	more  uint64 // pages that continue it
	body  []byte // header included
	at    int64  // of the body, in the file
}

// head reads the header of a page, which must have one of the given types, and returns the number of its overflow
// pages.
func (f *boltFile) head(id uint64, flags ...uint16) (p page, more uint64, err error) {
	if id < 2 || id >= f.meta.pages {
		return p, 0, fmt.Errorf("page %d is not one of the %d that are in use", id, f.meta.pages)
	}
	var head [pageHeaderSize]byte
	off := int64(id * uint64(f.meta.pageSize))
	if _, err := f.file.ReadAt(head[:], off); err != nil {
		return p, 0, fmt.Errorf("page %d cannot be read: %w", id, err)
	}
	p = page{id: id, flags: order.Uint16(head[8:]), count: int(order.Uint16(head[10:])), at: off}
	if at := order.Uint64(head[:]); at != id {
		return p, 0, fmt.Errorf("page %d says that it is page %d", id, at)
	}
	allowed := false
	for _, flag := range flags {
		allowed = allowed || p.flags == flag
	}
	if !allowed {
		return p, 0, fmt.Errorf("page %d is of type %#x, which does not belong there", id, p.flags)
	}
	if more = uint64(order.Uint32(head[12:])); more >= f.meta.pages-id {
		return p, 0, fmt.Errorf("page %d goes on over %d more pages, beyond the last", id, more)
	}
	p.more = more
	return p, more, nil
}

// fill reads the body of a page whose header was read.
func (f *boltFile) fill(p *page) error {
	p.body = make([]byte, (p.more+1)*uint64(f.meta.pageSize))
	if _, err := f.file.ReadAt(p.body, int64(p.id*uint64(f.meta.pageSize))); err != nil {
		return fmt.Errorf("page %d cannot be read: %w", p.id, err)
	}
	return nil
}

// read reads a page and marks it as used; no other page may refer to it.
func (f *boltFile) read(id uint64, flags ...uint16) (page, error) {
	p, more, err := f.head(id, flags...)
	if err != nil {
		return p, err
	}
	for i := id; i <= id+more; i++ {
		if f.used.has(i) {
			return p, fmt.Errorf("page %d is reached in two ways", i)
		}
		f.used.add(i)
	}
	return p, f.fill(&p)
}

// tree holds what the pages above require of a subtree.
type tree struct {
	buckets bool   // its records are buckets, not values
	depth   int    // of this page
	low     []byte // no key is below
	high    []byte // every key is below; nil for no bound
}

// walk reads the subtree at a page.
func (f *boltFile) walk(id uint64, t tree) error {
	if t.depth > maxTreeDepth {
		return fmt.Errorf("page %d is at a depth of more than %d pages", id, maxTreeDepth)
	}
	p, err := f.read(id, flagBranch, flagLeaf)
	if err != nil {
		return err
	}
	if p.flags == flagLeaf {
		return f.leaf(p, t)
	}
	if p.count == 0 {
		return fmt.Errorf("page %d has no branches", id)
	}
	keys := make([][]byte, p.count)
	below := make([]uint64, p.count)
	for i := range p.count {
		if keys[i], below[i], err = p.child(i); err != nil {
			return err
		}
	}
	if err := p.ordered(keys, t); err != nil {
		return err
	}
	for i := range keys {
		next := tree{buckets: t.buckets, depth: t.depth + 1, low: keys[i], high: t.high}
		if i+1 < len(keys) {
			next.high = keys[i+1]
		}
		if err := f.walk(below[i], next); err != nil {
			return err
		}
	}
	return nil
}

// leaf reads a leaf's records.
func (f *boltFile) leaf(p page, t tree) error {
	keys := make([][]byte, p.count)
	for i := range p.count {
		key, value, bucket, err := p.record(i)
		if err != nil {
			return err
		}
		keys[i] = key
		if bucket != t.buckets {
			return fmt.Errorf("page %d, record %d: a bucket where a value belongs, or the other way round", p.id, i)
		}
		if t.buckets {
			if err := f.bucket(p, value); err != nil {
				return err
			}
		}
	}
	return p.ordered(keys, t)
}

// bucket reads a nested bucket, which holds values.
func (f *boltFile) bucket(outer page, value []byte) error {
	if len(value) < bucketHeaderSize {
		return fmt.Errorf("page %d: a bucket of %d bytes", outer.id, len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return f.walk(root, tree{})
	}
	body := value[bucketHeaderSize:]
	if len(body) < pageHeaderSize || order.Uint16(body[8:]) != flagLeaf {
		return fmt.Errorf("page %d: a bucket inside it is not a leaf", outer.id)
	}
	return f.leaf(page{id: outer.id, flags: flagLeaf, count: int(order.Uint16(body[10:])), body: body}, tree{})
}

// element returns the i-th entry of a page and the entry's offset.
func (p page) element(i int) (e []byte, at uint64, err error) {
	at = pageHeaderSize + uint64(i)*elementSize
	if at+elementSize > uint64(len(p.body)) {
		return nil, 0, fmt.Errorf("page %d: %d entries do not fit", p.id, p.count)
	}
	return p.body[at : at+elementSize], at, nil
}

// child returns the i-th entry of a branch: the first key that may be below it, and its page.
func (p page) child(i int) (key []byte, id uint64, err error) {
	e, at, err := p.element(i)
	if err != nil {
		return nil, 0, err
	}
	key, err = p.bytes(at, order.Uint32(e), 0, order.Uint32(e[4:]))
	return key, order.Uint64(e[8:]), err
}

// record returns the i-th entry of a leaf.
func (p page) record(i int) (key, value []byte, bucket bool, err error) {
	e, at, err := p.element(i)
	if err != nil {
		return nil, nil, false, err
	}
	pos, keySize := order.Uint32(e[4:]), order.Uint32(e[8:])
	if key, err = p.bytes(at, pos, 0, keySize); err != nil {
		return nil, nil, false, err
	}
	value, err = p.bytes(at, pos, keySize, order.Uint32(e[12:]))
	return key, value, order.Uint32(e)&flagBucket != 0, err
}

// valueAt returns the offset in the file of the value of a leaf's i-th entry. The entry must have been read.
func (p page) valueAt(i int) int64 {
	e, at, _ := p.element(i)
	return p.at + int64(at) + int64(order.Uint32(e[4:])) + int64(order.Uint32(e[8:]))
}

// bytes returns size bytes at the entry's offset plus pos plus skip.
func (p page) bytes(element uint64, pos, skip, size uint32) ([]byte, error) {
	from := element + uint64(pos) + uint64(skip)
	to := from + uint64(size)
	if to > uint64(len(p.body)) {
		return nil, fmt.Errorf("page %d: an entry points out of the page", p.id)
	}
	return p.body[from:to:to], nil
}

// ordered checks a page's keys: ascending, and within the bounds from above.
func (p page) ordered(keys [][]byte, t tree) error {
	for i, k := range keys {
		switch {
		case len(k) == 0:
			return fmt.Errorf("page %d: key %d is empty", p.id, i)
		case i > 0 && bytes.Compare(keys[i-1], k) >= 0:
			return fmt.Errorf("page %d: key %d does not follow the one before", p.id, i)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if bytes.Compare(keys[0], t.low) < 0 || t.high != nil && bytes.Compare(keys[len(keys)-1], t.high) >= 0 {
		return fmt.Errorf("page %d: its keys are not those that the page above promises", p.id)
	}
	return nil
}

// freePages reads the list of pages that the next transaction may write over: ascending, and none of
// them in use.
func (f *boltFile) freePages() ([]uint64, error) {
	p, err := f.read(f.meta.freelist, flagFreelist)
	if err != nil {
		return nil, fmt.Errorf("list of free pages: %w", err)
	}
	rest := p.body[pageHeaderSize:]
	count := uint64(p.count)
	if count == 0xffff { // a longer list begins with its length
		count, rest = order.Uint64(rest), rest[8:]
	}
	if count > uint64(len(rest))/8 {
		return nil, fmt.Errorf("list of free pages: %d do not fit on page %d", count, p.id)
	}
	ids := make([]uint64, count)
	for i := range ids {
		id := order.Uint64(rest[8*i:])
		switch {
		case id < 2 || id >= f.meta.pages:
			return nil, fmt.Errorf("list of free pages: page %d is not one of %d", id, f.meta.pages)
		case i > 0 && id <= ids[i-1]:
			return nil, fmt.Errorf("list of free pages: page %d after %d", id, ids[i-1])
		case f.used.has(id):
			return nil, fmt.Errorf("list of free pages: page %d is in use", id)
		}
		ids[i] = id
	}
	return ids, nil
}
