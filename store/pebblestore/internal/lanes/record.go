package lanes

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

// Keys of the lanes, after their prefix:
//
//	'i' | length of organization | organization | length of conversation | conversation | sequence  an item
//	'd' | period of time | hash of organization, conversation and id                                 an id that is known
//
// Numbers are big endian, so that the items of a lane stand together, in order. Sequences are of the
// whole store.
const (
	keyItem = 'i'
	keyID   = 'd'
)

type keys struct{ prefix []byte }

// of is the beginning of all keys of a lane's items.
func (k keys) of(d wire.Domain, c wire.ConversationID) []byte {
	b := make([]byte, 0, len(k.prefix)+3+len(d)+len(c)+8)
	b = append(append(b, k.prefix...), keyItem, byte(len(d)))
	b = append(append(b, d...), byte(len(c)))
	return append(b, c...)
}

func (k keys) item(d wire.Domain, c wire.ConversationID, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(k.of(d, c), sequence)
}

// parseItem reads a key that item has made.
func (k keys) parseItem(key []byte) (d wire.Domain, c wire.ConversationID, sequence uint64, err error) {
	rest := key[min(len(key), len(k.prefix)+1):]
	field := func() string {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			err = fmt.Errorf("outbox: key %x is damaged", key)
			return ""
		}
		end := 1 + int(rest[0])
		s := string(rest[1:end])
		rest = rest[end:]
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

// ids returns the prefix of the window of ids.
func (k keys) ids() []byte {
	return append(append(make([]byte, 0, len(k.prefix)+1), k.prefix...), keyID)
}

// hashSize is how many bytes of the SHA-256 stand for an id.
const hashSize = 24

type itemID [hashSize]byte

func idOf(it *lanestore.Item) itemID {
	h := sha256.New()
	h.Write([]byte{byte(len(it.Organization))})
	h.Write([]byte(it.Organization))
	h.Write([]byte{byte(len(it.Conversation))})
	h.Write([]byte(it.Conversation))
	h.Write(it.ID[:])
	return itemID(h.Sum(nil))
}

// all is the range of one kind of key.
func (k keys) all(kind byte) *pebble.IterOptions {
	low := append(append([]byte(nil), k.prefix...), kind)
	high := append(append([]byte(nil), k.prefix...), kind+1)
	return &pebble.IterOptions{LowerBound: low, UpperBound: high}
}

// An item's value: version, CRC-32C over key and the rest, time, id, payload.
const (
	recordVersion = 1
	itemHeader    = 1 + 4 + 8 + 16
)

// The polynomial is the one that processors compute.
func checksum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

func encodeItem(key []byte, it lanestore.Stored) []byte {
	b := make([]byte, 5, itemHeader+len(it.Payload))
	b[0] = recordVersion
	b = binary.BigEndian.AppendUint64(b, uint64(it.Time))
	b = append(append(b, it.ID[:]...), it.Payload...)
	binary.BigEndian.PutUint32(b[1:], checksum(key, b[5:]))
	return b
}

// decodeItem reads a value. The payload is part of it.
func decodeItem(key, b []byte) (lanestore.Stored, error) {
	if len(b) < itemHeader || b[0] != recordVersion {
		return lanestore.Stored{}, fmt.Errorf("outbox: item %x of %d bytes is damaged, or of a version that this node does not know", key, len(b))
	}
	if binary.BigEndian.Uint32(b[1:]) != checksum(key, b[5:]) {
		return lanestore.Stored{}, fmt.Errorf("outbox: item %x is damaged: its checksum is wrong", key)
	}
	it := lanestore.Stored{Time: wire.Time(binary.BigEndian.Uint64(b[5:])), Payload: b[itemHeader:]}
	copy(it.ID[:], b[13:])
	return it, nil
}
