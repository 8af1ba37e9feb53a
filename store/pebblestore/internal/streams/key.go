package streams

import (
	"encoding/binary"

	"github.com/mlsfed/mlsfed/wire"
)

// The kinds of keys, after the prefix. A stream's records are under its number, which is never used
// twice, so that what a removed stream leaves behind cannot come back in a new one of the same name.
const (
	keyGlobal = 'g' // -                     global
	keyHead   = 'h' // name                  head
	keyItem   = 'i' // number sequence       item
	keyCursor = 'c' // number reader         cursor
	keyID     = 'd' // period number id      sequence
	keySent   = 'q' // number sequence       who brought the item, and its bytes
	keyKept   = 'k' // number sequence       an entry that was removed before a reader had it
)

// keys makes keys under a prefix.
type keys struct{ prefix []byte }

func (k keys) of(kind byte, parts ...[]byte) []byte {
	n := len(k.prefix) + 1
	for _, p := range parts {
		n += len(p)
	}
	b := append(append(make([]byte, 0, n), k.prefix...), kind)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func (k keys) global() []byte       { return k.of(keyGlobal) }
func (k keys) head(s Stream) []byte { return k.of(keyHead, []byte(s)) }

func (k keys) item(number, sequence uint64) []byte {
	b := make([]byte, 0, len(k.prefix)+17)
	b = append(append(b, k.prefix...), keyItem)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, number), sequence)
}

func (k keys) cursor(number uint64, r wire.Token) []byte { return k.of(keyCursor, u64(number), r[:]) }

// idOf returns the id of an item in the window: ids differ by stream.
func idOf(number uint64, id ID) []byte { return append(u64(number), id[:]...) }

// sequenceOf reads the last eight bytes of an item's key.
func sequenceOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// readerOf reads the last sixteen bytes of a cursor's key.
func readerOf(key []byte) wire.Token { return wire.Token(key[len(key)-16:]) }
