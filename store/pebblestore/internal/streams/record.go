package streams

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/mlsfed/mlsfed/wire"
)

// Every record is: version, fields in big-endian order, CRC-32C of the key and all bytes before it. The key is
// covered so that a value that turns up under another key is noticed.
const recordVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is wrapped by the error of a record that is not as it was written.
var ErrCorrupt = errors.New("stored record is damaged: restore the database from a backup")

func seal(key, b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b))
}

// unseal checks version and sum, and returns the fields.
func unseal(what string, key, b []byte) ([]byte, error) {
	if len(b) < 5 {
		return nil, fmt.Errorf("%s of %d bytes: %w", what, len(b), ErrCorrupt)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body) != sum {
		return nil, fmt.Errorf("%s: checksum differs: %w", what, ErrCorrupt)
	}
	if body[0] != recordVersion {
		return nil, wire.Errorf(wire.Version, "read", "%s of version %d, this node knows %d: upgrade it", what, body[0], recordVersion)
	}
	return body[1:], nil
}

// numbers is a record of a fixed count of 64-bit fields.
func encodeNumbers(key []byte, v ...uint64) []byte {
	b := append(make([]byte, 0, 5+8*len(v)), recordVersion)
	for _, n := range v {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return seal(key, b)
}

func decodeNumbers(what string, key, b []byte, v ...*uint64) error {
	body, err := unseal(what, key, b)
	if err != nil {
		return err
	}
	if len(body) != 8*len(v) {
		return fmt.Errorf("%s with %d bytes of fields, wanted %d: %w", what, len(body), 8*len(v), ErrCorrupt)
	}
	for i, p := range v {
		*p = binary.BigEndian.Uint64(body[8*i:])
	}
	return nil
}

// global is what all streams share.
type global struct {
	next   uint64 // the number of the next stream
	period uint64 // of ids: never goes back, whatever the clock does
}

func (g global) encode(key []byte) []byte { return encodeNumbers(key, g.next, g.period) }

func decodeGlobal(key, b []byte) (g global, err error) {
	return g, decodeNumbers("global record", key, b, &g.next, &g.period)
}

// head is the state of a stream. It is written when it changes by anything but an append: an append is
// found again in the last item, which repeats bytes, position and time.
type head struct {
	number       uint64 // 0 where there is no such stream
	last         uint64 // the sequence number of the last item
	removed      uint64 // items up to this one are gone
	bytes        uint64 // of payload, all items up to last
	removedBytes uint64 // the same, up to removed
	position     uint64 // the highest position of an item in a conversation's log
	time         uint64 // milliseconds, of the last item: never goes back
}

func (h head) encode(key []byte) []byte {
	return encodeNumbers(key, h.number, h.last, h.removed, h.bytes, h.removedBytes, h.position, h.time)
}

func decodeHead(key, b []byte) (h head, err error) {
	err = decodeNumbers("head", key, b, &h.number, &h.last, &h.removed, &h.bytes, &h.removedBytes, &h.position, &h.time)
	if err == nil && (h.removed > h.last || h.removedBytes > h.bytes || h.number == 0) {
		err = fmt.Errorf("head with %d of %d removed: %w", h.removed, h.last, ErrCorrupt)
	}
	return h, err
}

// cursor is how far a reader has come.
type cursor struct {
	acked uint64
	until uint64 // the last item that a reader who leaves may read; 0 for one who stays
}

func (c cursor) encode(key []byte) []byte { return encodeNumbers(key, c.acked, c.until) }

func decodeCursor(key, b []byte) (c cursor, err error) {
	return c, decodeNumbers("cursor", key, b, &c.acked, &c.until)
}

func encodeSequence(key []byte, sequence uint64) []byte { return encodeNumbers(key, sequence) }

func decodeSequence(key, b []byte) (sequence uint64, err error) {
	return sequence, decodeNumbers("id", key, b, &sequence)
}

// item is an Item as it is stored, with the stream's counters as of it.
type item struct {
	kind     Kind
	ordered  bool // it has a position of its own
	id       ID
	time     uint64
	bytes    uint64
	position uint64
	payload  []byte
}

// itemFields is the size of the fields before the payload, version included.
const itemFields = 1 + 1 + 1 + 16 + 8 + 8 + 8 + 4

func (i *item) size() int { return itemFields + len(i.payload) + 4 }

// encode writes into room for size bytes.
func (i *item) encode(key, room []byte) []byte {
	b := room[:0]
	flags := byte(0)
	if i.ordered {
		flags = 1
	}
	b = append(b, recordVersion, byte(i.kind), flags)
	b = append(b, i.id[:]...)
	b = binary.BigEndian.AppendUint64(b, i.time)
	b = binary.BigEndian.AppendUint64(b, i.bytes)
	b = binary.BigEndian.AppendUint64(b, i.position)
	b = binary.BigEndian.AppendUint32(b, uint32(len(i.payload)))
	return seal(key, append(b, i.payload...))
}

// decodeItem shares the payload with b.
func decodeItem(key, b []byte) (i item, err error) {
	f, err := unseal("item", key, b)
	if err != nil {
		return i, err
	}
	if len(f) < itemFields-1 || f[0] == 0 || f[1] > 1 || uint64(binary.BigEndian.Uint32(f[42:])) != uint64(len(f)-itemFields+1) {
		return i, fmt.Errorf("item with %d bytes of fields: %w", len(f), ErrCorrupt)
	}
	i = item{
		kind: Kind(f[0]), ordered: f[1] == 1, id: ID(f[2:18]),
		time: binary.BigEndian.Uint64(f[18:]), bytes: binary.BigEndian.Uint64(f[26:]), position: binary.BigEndian.Uint64(f[34:]),
		payload: f[itemFields-1:],
	}
	return i, nil
}
