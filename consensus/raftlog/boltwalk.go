package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/mlsfed/mlsfed/internal/platform"
)

// walkBolt reads a closed Bolt file without bbolt, through read(2) instead of mapped memory, and checks everything
// that bbolt assumes: every page reachable from the newest meta page has the type that it claims, is reached once,
// holds its elements within its bounds and its keys in order. It calls visit for the keys of the log bucket. It fails
// with ErrDamagedFile on damage, except on damage of one of the two meta pages, which a torn write of the last
// transaction leaves behind: then it returns torn.
//
// The format, little endian on the machines that we build for: a page has id (8 bytes), flags (2), count (2),
// overflow (4: how many pages follow that belong to it), then count elements of 16 bytes. A branch's: pos (4, from
// the element's own start), ksize (4), child page (8). A leaf's: flags (4: 1 for a bucket), pos (4), ksize (4), vsize
// (4). A bucket's value: root page (8), sequence (8), and if root is 0 a leaf page inline. Pages 0 and 1 are meta:
// magic, version, page size, flags (4 each), root bucket (16), free list page, pages in use, transaction, FNV-1a of
// the preceding bytes (8 each).
func walkBolt(path string, visit visitor) (torn bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("raftlog: check %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("raftlog: check %s: %w", path, err)
	}
	if info.Size() == 0 {
		return false, fmt.Errorf("raftlog: check %s: %w", path, fs.ErrNotExist)
	}
	if err := shareLock(f); err != nil {
		return false, fmt.Errorf("raftlog: open %s: another process holds the file: %w", path, err)
	}
	w := &boltWalk{file: f, size: info.Size(), visit: visit}
	if err := w.run(); err != nil {
		return false, fmt.Errorf("%w: %s: %w: move the file away and start again, the other replicas have its groups",
			ErrDamagedFile, path, err)
	}
	return w.metas == 1, nil
}

// shareLock takes bbolt's lock in shared mode until f is closed: a file that another process writes to looks damaged.
func shareLock(f *os.File) error {
	const step = 50 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		err := platform.TryShare(f)
		if !errors.Is(err, platform.ErrLocked) || waited >= boltLockWait {
			return err
		}
		time.Sleep(step)
	}
}

const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltPageHeader = 16
	boltElement    = 16
	boltMetaSize   = 64
	boltMaxDepth   = 64

	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltBucketFlag = 1
)

type boltWalk struct {
	file     *os.File
	size     int64
	pageSize int64
	pages    uint64 // in use, according to the meta page
	metas    int    // number of valid meta pages
	seen     []uint64
	visit    visitor
	next     uint64 // the next key that visit asks for
}

func (w *boltWalk) run() error {
	root, err := w.meta()
	if err != nil {
		return err
	}
	w.seen = make([]uint64, w.pages/64+1)
	return w.page(root, nil, nil, 0, w.bucket)
}

// meta returns the root page of the newest valid meta page. bbolt writes them in turn, so a torn page leaves the
// previous transaction.
func (w *boltWalk) meta() (root uint64, err error) {
	var newest uint64
	for _, at := range []int64{0, int64(os.Getpagesize())} {
		m := make([]byte, boltPageHeader+boltMetaSize)
		if _, err := w.file.ReadAt(m, at); err != nil {
			continue
		}
		m = m[boltPageHeader:]
		h := fnv.New64a()
		h.Write(m[:boltMetaSize-8])
		if h.Sum64() != binary.LittleEndian.Uint64(m[boltMetaSize-8:]) ||
			binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion {
			continue
		}
		if tx := binary.LittleEndian.Uint64(m[48:]); w.metas == 0 || tx > newest {
			newest = tx
			w.pageSize = int64(binary.LittleEndian.Uint32(m[8:]))
			root = binary.LittleEndian.Uint64(m[16:])
			w.pages = binary.LittleEndian.Uint64(m[40:])
		}
		w.metas++
	}
	switch {
	case w.metas == 0:
		return 0, errors.New("neither meta page is valid")
	case w.pageSize != int64(os.Getpagesize()):
		return 0, fmt.Errorf("pages of %d bytes, this system has %d", w.pageSize, os.Getpagesize())
	case w.pages > uint64(w.size/w.pageSize):
		return 0, fmt.Errorf("%d pages are in use but the file has %d: it was cut off", w.pages, w.size/w.pageSize)
	}
	return root, nil
}

// leafElement receives each element of a leaf.
type leafElement func(flags uint32, key, value []byte) error

// page checks page id and the pages below it. Keys must be from low, if set, to below high, if set.
func (w *boltWalk) page(id uint64, low, high []byte, depth int, leaf leafElement) error {
	data, err := w.read(id, depth)
	if err != nil {
		return err
	}
	if err := w.content(data, low, high, depth, leaf); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (w *boltWalk) read(id uint64, depth int) ([]byte, error) {
	if depth > boltMaxDepth {
		return nil, fmt.Errorf("tree is deeper than %d", boltMaxDepth)
	}
	if id < 2 || id >= w.pages {
		return nil, fmt.Errorf("page %d is none of the %d in use", id, w.pages)
	}
	head := make([]byte, boltPageHeader)
	if _, err := w.file.ReadAt(head, int64(id)*w.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	run := uint64(binary.LittleEndian.Uint32(head[12:])) + 1
	if own := binary.LittleEndian.Uint64(head); own != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, own)
	}
	if run > w.pages-id {
		return nil, fmt.Errorf("page %d of %d pages exceeds the %d in use", id, run, w.pages)
	}
	for p := id; p < id+run; p++ {
		if w.seen[p/64]&(1<<(p%64)) != 0 {
			return nil, fmt.Errorf("page %d is reached twice", p)
		}
		w.seen[p/64] |= 1 << (p % 64)
	}
	data := make([]byte, run*uint64(w.pageSize))
	if _, err := io.ReadFull(io.NewSectionReader(w.file, int64(id)*w.pageSize, int64(len(data))), data); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return data, nil
}

// content checks a page's bytes.
func (w *boltWalk) content(data, low, high []byte, depth int, leaf leafElement) error {
	flags := binary.LittleEndian.Uint16(data[8:])
	count := int(binary.LittleEndian.Uint16(data[10:]))
	if flags != boltLeaf && flags != boltBranch {
		return fmt.Errorf("type %#x is neither branch nor leaf", flags)
	}
	if boltPageHeader+count*boltElement > len(data) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	if flags == boltBranch && count == 0 {
		return errors.New("branch without children")
	}
	keys := make([][]byte, count)
	for i := range count {
		e := boltPageHeader + i*boltElement
		sizes := []int{4, 8, -1} // position of pos, ksize and vsize
		if flags == boltBranch {
			sizes = []int{0, 4, -1}
		} else {
			sizes[2] = 12
		}
		key, value, err := cutElement(data, e, count, sizes)
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if i == 0 && low != nil && bytes.Compare(key, low) < 0 || i > 0 && bytes.Compare(key, keys[i-1]) <= 0 ||
			high != nil && bytes.Compare(key, high) >= 0 {
			return fmt.Errorf("key of element %d is out of order", i)
		}
		keys[i] = key
		if flags == boltLeaf {
			if err := leaf(binary.LittleEndian.Uint32(data[e:]), key, value); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
	}
	if flags == boltLeaf {
		return nil
	}
	return w.children(data, keys, high, depth, leaf)
}

func (w *boltWalk) children(data []byte, keys [][]byte, high []byte, depth int, leaf leafElement) error {
	for i, key := range keys {
		end := high
		if i+1 < len(keys) {
			end = keys[i+1]
		}
		child := binary.LittleEndian.Uint64(data[boltPageHeader+i*boltElement+8:])
		if err := w.page(child, key, end, depth+1, leaf); err != nil {
			return err
		}
	}
	return nil
}

// cutElement returns key and value of the element at offset e.
func cutElement(data []byte, e, count int, at []int) (key, value []byte, err error) {
	pos := uint64(e) + uint64(binary.LittleEndian.Uint32(data[e+at[0]:]))
	ksize := uint64(binary.LittleEndian.Uint32(data[e+at[1]:]))
	var vsize uint64
	if at[2] >= 0 {
		vsize = uint64(binary.LittleEndian.Uint32(data[e+at[2]:]))
	}
	if ksize == 0 {
		return nil, nil, errors.New("empty key")
	}
	if pos < uint64(boltPageHeader+count*boltElement) || pos+ksize+vsize > uint64(len(data)) {
		return nil, nil, errors.New("lies outside its page")
	}
	return data[pos : pos+ksize], data[pos+ksize : pos+ksize+vsize], nil
}

// bucket takes an element of the root: the buckets 'logs' and 'conf'.
func (w *boltWalk) bucket(flags uint32, key, value []byte) error {
	if flags != boltBucketFlag || len(value) < 16 {
		return fmt.Errorf("%q is not a bucket", key)
	}
	var leaf leafElement
	switch string(key) {
	case "logs":
		leaf = w.logKey
	case "conf":
		leaf = w.otherKey
	default: // raft-boltdb would make an empty bucket in the place of the one whose name has changed
		return fmt.Errorf("bucket %q is neither 'logs' nor 'conf'", key)
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return w.page(root, nil, nil, 0, leaf)
	}
	if len(value) < 16+boltPageHeader {
		return fmt.Errorf("bucket %q has no page", key)
	}
	inline := value[16:]
	if binary.LittleEndian.Uint16(inline[8:]) != boltLeaf {
		return fmt.Errorf("inline page of bucket %q is no leaf", key)
	}
	return w.content(inline, nil, nil, boltMaxDepth, leaf)
}

func (w *boltWalk) otherKey(flags uint32, _, _ []byte) error {
	if flags != 0 {
		return errors.New("bucket where a key belongs")
	}
	return nil
}

func (w *boltWalk) logKey(flags uint32, key, _ []byte) error {
	if flags != 0 || len(key) != 8 {
		return fmt.Errorf("key of %d bytes with flags %#x, not a number", len(key), flags)
	}
	if k := binary.BigEndian.Uint64(key); k >= w.next {
		w.next = w.visit(k)
	}
	return nil
}
