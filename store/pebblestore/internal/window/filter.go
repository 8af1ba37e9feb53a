package window

import (
	"bytes"
	"errors"
	"hash/maphash"
	"math/bits"

	"github.com/cockroachdb/pebble/v2"
)

// A filter is a blocked Bloom filter of the ids of one period. It grows by layers, each twice as large as the one
// before. The last layer takes all further ids: reports of ids that are not there then become more frequent, and each
// costs one look-up. The hash has a random seed, so that nobody can choose ids that fill one block.

const (
	block       = 8     // words: a line of a processor's cache
	firstBlocks = 1024  // 64 KiB
	lastBlocks  = 65536 // 4 MiB; all layers have 8 MiB, for about 5 million ids
	perBlock    = 40    // ids for each block of a layer: 12 bits each
	probes      = 6
)

// fillStep is the number of ids that one step reads.
const fillStep = 256

type filter struct {
	seed   maphash.Seed
	layers []layer
	from   []byte // where the database is read on; nil: the filter is complete
}

type layer struct {
	blocks [][block]uint64
	room   int // ids that it still takes
}

// emptyFilter returns the filter of a period without ids.
func emptyFilter() *filter { return newFilter(nil) }

// newFilter returns the filter of a period whose ids begin at a key of the database.
func newFilter(from []byte) *filter { return &filter{seed: maphash.MakeSeed(), from: from} }

// places returns the block of an id, as a part of 1<<32, and the bits in it.
func (f *filter) places(id []byte) (part, set uint64) {
	h := maphash.Bytes(f.seed, id)
	return h >> 32, (h & 0xffffffff) * 0x9e3779b97f4a7c15
}

func (l *layer) block(part uint64) *[block]uint64 {
	at, _ := bits.Mul64(part<<32, uint64(len(l.blocks)))
	return &l.blocks[at]
}

func (f *filter) add(id []byte) {
	if n := len(f.layers); n == 0 || f.layers[n-1].room == 0 && len(f.layers[n-1].blocks) < lastBlocks {
		size := firstBlocks << n
		f.layers = append(f.layers, layer{blocks: make([][block]uint64, size), room: size * perBlock})
	}
	l := &f.layers[len(f.layers)-1]
	l.room = max(l.room-1, 0)
	part, set := f.places(id)
	b := l.block(part)
	for range probes {
		b[set>>61] |= 1 << (set >> 55 & 63)
		set = bits.RotateLeft64(set, 9)
	}
}

// mayHave reports false for an id that the period does not have.
func (f *filter) mayHave(id []byte) bool {
	if f.from != nil {
		return true
	}
	part, set := f.places(id)
	for i := range f.layers {
		if has(f.layers[i].block(part), set) {
			return true
		}
	}
	return false
}

func has(b *[block]uint64, set uint64) bool {
	for range probes {
		if b[set>>61]&(1<<(set>>55&63)) == 0 {
			return false
		}
		set = bits.RotateLeft64(set, 9)
	}
	return true
}

// fill reads some more of the ids that the database has before a key.
func (f *filter) fill(db *pebble.DB, end []byte) error {
	if f.from == nil {
		return nil
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: f.from, UpperBound: end})
	if err != nil {
		return err
	}
	n := 0
	for it.First(); it.Valid() && n < fillStep; it.Next() {
		f.add(it.Key()[len(end):]) // a period's key is as long as that of the next
		n++
	}
	if f.from = nil; it.Valid() {
		f.from = bytes.Clone(it.Key())
	}
	return errors.Join(it.Error(), it.Close())
}
