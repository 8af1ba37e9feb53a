package boltstore

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// The journal holds the batches since the last fold. It is one value of the bbolt file, in a separate bucket. bbolt
// never moves that value, because nothing else is in its pages. The store appends entries to the value in place: one
// batch costs one write of its own size and one sync.
//
//	region: marker, entries, zeros
//	marker: generation 8, number of entries that are on the disk 8, MAC 32, zeros 16
//	entry:  length 4, generation 8, number 8, durable 8, MAC of the entry before 32, MAC 32, records, zeros up to a multiple of entryAlign
//	record: size of the key 4, size of the box 4, key, box
//
// Integers are big-endian. A box of the size deletedBox means a deletion and has no bytes. The MAC of an entry covers
// all of the entry except the ciphertexts, so that a ciphertext can be erased later. Nonce and tag authenticate the
// ciphertext. A fold moves all records to the bucket of records, in one transaction that also increments the
// generation. Entries of an earlier generation are void.
const (
	journalSize = 256 << 10 // of the region
	markerSize  = 64
	entryHeader = 4 + 8 + 8 + 8 + sha256.Size + sha256.Size
	recordHead  = 8
	entryAlign  = 32
	deletedBox  = 1<<32 - 1
)

// entry is one batch of the journal.
type entry struct {
	generation, number uint64
	durable            uint64 // entries up to this number were on the disk when this entry was written
	before             [sha256.Size]byte
	records            []change
}

// change is a record of the journal.
type change struct {
	key string
	box []byte // nil for a deletion
	at  int    // of the box, in the region
}

// cipher returns the bounds of a box's ciphertext in the region.
func (c *change) cipher() (from, to int) {
	if len(c.box) <= overhead {
		return 0, 0
	}
	return c.at + chacha20poly1305.NonceSizeX, c.at + len(c.box) - chacha20poly1305.Overhead
}

// erased reports whether the ciphertext of a box was overwritten.
func erased(box []byte) bool {
	return len(box) > overhead && allZero(box[chacha20poly1305.NonceSizeX:len(box)-chacha20poly1305.Overhead])
}

func align(n int) int { return (n + entryAlign - 1) &^ (entryAlign - 1) }

// size returns the number of bytes that an entry takes in the region.
func (e *entry) size() int {
	n := entryHeader
	for i := range e.records {
		n += recordHead + len(e.records[i].key) + len(e.records[i].box)
	}
	return align(n)
}

// marshal encodes an entry for the offset at of the region, sets the offsets of its records, and returns its MAC.
func (e *entry) marshal(k *keys, at int) (b []byte, mac [sha256.Size]byte) {
	b = make([]byte, entryHeader, e.size())
	for i := range e.records {
		r := &e.records[i]
		size := uint32(len(r.box))
		if r.box == nil {
			size = deletedBox
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.key)))
		b = binary.BigEndian.AppendUint32(b, size)
		b = append(b, r.key...)
		if r.box != nil {
			r.at = at + len(b)
			b = append(b, r.box...)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	binary.BigEndian.PutUint64(b[4:], e.generation)
	binary.BigEndian.PutUint64(b[12:], e.number)
	binary.BigEndian.PutUint64(b[20:], e.durable)
	copy(b[28:], e.before[:])
	mac = e.mac(k, b)
	copy(b[28+sha256.Size:], mac[:])
	return b[:e.size()], mac
}

// mac computes the MAC of an encoded entry.
func (e *entry) mac(k *keys, b []byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, k.journal.Bytes())
	h.Write([]byte{'e'})
	h.Write(b[:28+sha256.Size])
	var sizes [recordHead]byte
	for i := range e.records {
		r := &e.records[i]
		binary.BigEndian.PutUint32(sizes[:], uint32(len(r.key)))
		binary.BigEndian.PutUint32(sizes[4:], uint32(len(r.box)))
		if r.box == nil {
			binary.BigEndian.PutUint32(sizes[4:], deletedBox)
		}
		h.Write(sizes[:])
		h.Write([]byte(r.key))
		if r.box != nil {
			h.Write(r.box[:chacha20poly1305.NonceSizeX])
			h.Write(r.box[len(r.box)-chacha20poly1305.Overhead:])
		}
	}
	h.Sum(sum[:0])
	return sum
}

var errNoEntry = errors.New("no entry")

// parseEntry decodes the entry at an offset of the region. It returns errNoEntry if there is no entry of this
// generation under these keys. The boxes are parts of the region.
func parseEntry(k *keys, region []byte, at int, generation uint64) (e *entry, mac [sha256.Size]byte, err error) {
	if len(region)-at < entryHeader {
		return nil, mac, errNoEntry
	}
	b := region[at:]
	length := uint64(binary.BigEndian.Uint32(b))
	e = &entry{generation: binary.BigEndian.Uint64(b[4:]), number: binary.BigEndian.Uint64(b[12:]), durable: binary.BigEndian.Uint64(b[20:])}
	if e.generation != generation || length < entryHeader || length > uint64(len(b)) || align(int(length)) > len(b) {
		return nil, mac, errNoEntry
	}
	copy(e.before[:], b[28:])
	padding := b[length:align(int(length))]
	b = b[:length]
	for pos := entryHeader; pos < len(b); {
		if len(b)-pos < recordHead {
			return nil, mac, errNoEntry
		}
		keySize, boxSize := uint64(binary.BigEndian.Uint32(b[pos:])), uint64(binary.BigEndian.Uint32(b[pos+4:]))
		pos += recordHead
		deleted := boxSize == deletedBox
		if deleted {
			boxSize = 0
		}
		if rest := uint64(len(b) - pos); keySize == 0 || keySize > rest || boxSize > rest-keySize || !deleted && boxSize < overhead {
			return nil, mac, errNoEntry
		}
		c := change{key: string(b[pos : pos+int(keySize)])}
		pos += int(keySize)
		if !deleted {
			c.at = at + pos
			c.box = b[pos : pos+int(boxSize) : pos+int(boxSize)]
			pos += int(boxSize)
		}
		e.records = append(e.records, c)
	}
	mac = e.mac(k, b)
	if !hmac.Equal(mac[:], b[28+sha256.Size:entryHeader]) || !allZero(padding) {
		return nil, mac, errNoEntry
	}
	return e, mac, nil
}

// marker encodes the number of entries of a generation that are on the disk. A closed store has a marker, so that
// damage to its last entry is not mistaken for an incomplete write.
func (k *keys) marker(generation, entries uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markerSize), generation)
	b = binary.BigEndian.AppendUint64(b, entries)
	h := hmac.New(sha256.New, k.journal.Bytes())
	h.Write([]byte{'m'})
	h.Write(b)
	return h.Sum(b)[:markerSize]
}

// parseMarker returns the number of entries of a generation that are certainly on the disk.
func (k *keys) parseMarker(b []byte, generation uint64) (uint64, error) {
	of, entries := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	if of < generation {
		return 0, nil // of an earlier generation, or none
	}
	if !hmac.Equal(b[:markerSize], k.marker(generation, entries)) {
		return 0, errors.New("the marker of the journal does not match")
	}
	return entries, nil
}

// replayed is the content of a region.
type replayed struct {
	entries []*entry
	last    [sha256.Size]byte // MAC of the last entry
	end     int               // offset of the next entry
	durable uint64            // number of entries that are certainly on the disk
}

// replay reads a region. It leaves out incomplete entries at the end, which a crash can leave. An unreadable entry
// that was on the disk is damage; replay then returns the entries before it with the error.
func replay(k *keys, region []byte, generation uint64) (r *replayed, err error) {
	r = &replayed{end: markerSize, last: k.journalStart(generation)}
	if len(region) < markerSize {
		return r, fmt.Errorf("a journal of %d bytes", len(region))
	}
	if r.durable, err = k.parseMarker(region, generation); err != nil {
		return r, err
	}
	ends := []int{r.end}
	lasts := [][sha256.Size]byte{r.last}
	for {
		e, mac, err := parseEntry(k, region, r.end, generation)
		if err != nil || e.number != uint64(len(r.entries))+1 || e.before != r.last {
			break
		}
		r.entries, r.last, r.end = append(r.entries, e), mac, r.end+e.size()
		r.durable = max(r.durable, e.durable)
		ends, lasts = append(ends, r.end), append(lasts, r.last)
	}
	for at := r.end; at < len(region); at += entryAlign { // looks for an entry after a damaged one
		if e, _, err := parseEntry(k, region, at, generation); err == nil {
			r.durable = max(r.durable, e.durable)
		}
	}
	n := r.complete(k)
	r.entries, r.end, r.last = r.entries[:n], ends[n], lasts[n]
	if uint64(n) < r.durable {
		return r, fmt.Errorf("the journal has %d entries that can be read, and %d were written", n, r.durable)
	}
	return r, nil
}

// complete returns the number of complete entries. A missing ciphertext makes an entry incomplete, unless the entry
// is certainly on the disk or a later entry replaces the record.
func (r *replayed) complete(k *keys) int {
	n := len(r.entries)
again:
	replaced := make(map[string]bool)
	for i := n - 1; i >= 0 && uint64(i) >= r.durable; i-- {
		for _, c := range slices.Backward(r.entries[i].records) {
			if c.box != nil && !replaced[c.key] {
				value, err := k.open([]byte(c.key), c.box)
				if err != nil {
					n = i
					goto again
				}
				clear(value)
			}
			replaced[c.key] = true
		}
	}
	return n
}

// journalStart returns the value that the first entry has in place of the previous entry's MAC.
func (k *keys) journalStart(generation uint64) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, k.journal.Bytes())
	h.Write(binary.BigEndian.AppendUint64([]byte{'s'}, generation))
	h.Sum(sum[:0])
	return sum
}

// overlay holds the records of the journal: the newest version of each, in the order of their keys.
type overlay []change

func (o overlay) find(key string) (int, bool) {
	return slices.BinarySearchFunc(o, key, func(c change, key string) int {
		switch {
		case c.key < key:
			return -1
		case c.key > key:
			return 1
		}
		return 0
	})
}

// set replaces or adds a record. It returns the version that it replaces.
func (o *overlay) set(c change) (old change, replaced bool) {
	i, ok := o.find(c.key)
	if ok {
		old, (*o)[i] = (*o)[i], c
		return old, true
	}
	*o = slices.Insert(*o, i, c)
	return old, false
}

// under returns the records whose keys begin with a prefix.
func (o overlay) under(prefix []byte) overlay {
	i, _ := o.find(string(prefix))
	end := i
	for end < len(o) && bytes.HasPrefix([]byte(o[end].key), prefix) {
		end++
	}
	return o[i:end]
}

// merge returns the records of base, with those of the overlay replacing them. Both are in the order of their keys.
func (o overlay) merge(base []sealed) []sealed {
	if len(o) == 0 {
		return base
	}
	list := make([]sealed, 0, len(base)+len(o))
	for len(base) > 0 || len(o) > 0 {
		switch {
		case len(o) == 0 || len(base) > 0 && string(base[0].key) < o[0].key:
			list, base = append(list, base[0]), base[1:]
			continue
		case len(base) > 0 && string(base[0].key) == o[0].key:
			base = base[1:]
		}
		if o[0].box != nil {
			list = append(list, sealed{[]byte(o[0].key), o[0].box})
		}
		o = o[1:]
	}
	return list
}
