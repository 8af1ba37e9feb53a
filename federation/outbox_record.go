package federation

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Keys of an outbox, after its prefix:
//
//	'i' | length of organization | organization | length of conversation | conversation | sequence  an item
//	'd' | bucket of time | hash of organization, conversation and id                                 an id that is known
//
// Numbers are big endian, so that the items of a lane stand together, in order. Sequences are of the
// whole outbox.
const (
	outboxItems = 'i'
	outboxIDs   = 'd'
)

type outboxKeys struct{ prefix []byte }

// lane is the beginning of all keys of a lane's items.
func (k outboxKeys) lane(d wire.Domain, c wire.ConversationID) []byte {
	b := make([]byte, 0, len(k.prefix)+3+len(d)+len(c)+8)
	b = append(append(b, k.prefix...), outboxItems, byte(len(d)))
	b = append(append(b, d...), byte(len(c)))
	return append(b, c...)
}

func (k outboxKeys) item(d wire.Domain, c wire.ConversationID, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(k.lane(d, c), sequence)
}

// parseItem reads a key that item has made.
func (k outboxKeys) parseItem(key []byte) (d wire.Domain, c wire.ConversationID, sequence uint64, err error) {
	rest := key[min(len(key), len(k.prefix)+1):]
	field := func() string {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			err = fmt.Errorf("outbox: key %x is damaged", key)
			return ""
		}
		s := string(rest[1 : 1+rest[0]])
		rest = rest[1+rest[0]:]
		return s
	}
	d, c = wire.Domain(field()), wire.ConversationID(field())
	if err == nil && len(rest) != 8 {
		err = fmt.Errorf("outbox: key %x is damaged", key)
	}
	if err != nil {
		return "", "", 0, err
	}
	return d, c, binary.BigEndian.Uint64(rest), nil
}

// sequenceOf reads the last eight bytes of an item's key.
func sequenceOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

func (k outboxKeys) bucket(b uint64) []byte {
	key := append(append(make([]byte, 0, len(k.prefix)+9+outboxHash), k.prefix...), outboxIDs)
	return binary.BigEndian.AppendUint64(key, b)
}

// outboxHash is how many bytes of the SHA-256 stand for an id.
const outboxHash = 24

type outboxID [outboxHash]byte

func idOf(it *OutboxItem) outboxID {
	h := sha256.New()
	h.Write([]byte{byte(len(it.Organization))})
	h.Write([]byte(it.Organization))
	h.Write([]byte{byte(len(it.Conversation))})
	h.Write([]byte(it.Conversation))
	h.Write(it.ID[:])
	return outboxID(h.Sum(nil))
}

func (k outboxKeys) id(bucket uint64, id outboxID) []byte { return append(k.bucket(bucket), id[:]...) }

// all is the range of one kind of key.
func (k outboxKeys) all(kind byte) *pebble.IterOptions {
	low := append(append([]byte(nil), k.prefix...), kind)
	high := append(append([]byte(nil), k.prefix...), kind+1)
	return &pebble.IterOptions{LowerBound: low, UpperBound: high}
}

// An item's value: version, CRC-32C over key and the rest, time, id, payload.
const (
	outboxVersion = 1
	outboxHeader  = 1 + 4 + 8 + 16
)

// The polynomial is the one that processors compute.
func checksum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

func encodeItem(key []byte, it Item) []byte {
	b := make([]byte, 5, outboxHeader+len(it.Payload))
	b[0] = outboxVersion
	b = binary.BigEndian.AppendUint64(b, uint64(it.Time))
	b = append(append(b, it.ID[:]...), it.Payload...)
	binary.BigEndian.PutUint32(b[1:], checksum(key, b[5:]))
	return b
}

// decodeItem reads a value. The payload is part of it.
func decodeItem(key, b []byte) (Item, error) {
	if len(b) < outboxHeader || b[0] != outboxVersion {
		return Item{}, fmt.Errorf("outbox: item %x of %d bytes is damaged, or of a version that this node does not know", key, len(b))
	}
	if binary.BigEndian.Uint32(b[1:]) != checksum(key, b[5:]) {
		return Item{}, fmt.Errorf("outbox: item %x is damaged: its checksum is wrong", key)
	}
	it := Item{Time: wire.Time(binary.BigEndian.Uint64(b[5:])), Payload: b[outboxHeader:]}
	copy(it.ID[:], b[13:])
	return it, nil
}

func compare[T cmp.Ordered](a, b T) int { return cmp.Compare(a, b) }
