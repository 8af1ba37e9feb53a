package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A record is version (1 byte), kind (1 byte), CRC-32C (4 bytes, big endian)
// and body. The checksum is over version, kind, key (8 bytes, big endian) and body.
const (
	recordVersion = 1
	recordHeader  = 6

	kindEntry byte = 1
	kindState byte = 2
	kindMeta  byte = 3
)

// maxRecord limits a record, in bytes. It is far above the size of an entry (at most 1 MiB inline); it prevents the
// use of a wrong length.
const maxRecord = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord appends the record of body under key to dst.
func appendRecord(dst []byte, key uint64, kind byte, body []byte) []byte {
	dst = append(dst, recordVersion, kind)
	dst = binary.BigEndian.AppendUint32(dst, checksum(key, kind, body))
	return append(dst, body...)
}

func checksum(key uint64, kind byte, body []byte) uint32 {
	var head [10]byte
	head[0], head[1] = recordVersion, kind
	binary.BigEndian.PutUint64(head[2:], key)
	return crc32.Update(crc32.Update(0, castagnoli, head[:]), castagnoli, body)
}

// openRecord checks a record and returns its body, which shares rec's memory.
func openRecord(rec []byte, key uint64, kind byte) ([]byte, error) {
	switch {
	case len(rec) < recordHeader:
		return nil, fmt.Errorf("record of %d bytes is shorter than its header", len(rec))
	case len(rec) > maxRecord:
		return nil, fmt.Errorf("record of %d bytes is longer than %d", len(rec), maxRecord)
	case rec[0] != recordVersion:
		return nil, fmt.Errorf("record version %d is unknown, this build reads %d", rec[0], recordVersion)
	case rec[1] != kind:
		return nil, fmt.Errorf("record kind %d where %d belongs", rec[1], kind)
	}
	body := rec[recordHeader:]
	if binary.BigEndian.Uint32(rec[2:]) != checksum(key, kind, body) {
		return nil, errors.New("checksum differs")
	}
	return body, nil
}

// An entry's body is type (1 byte), term (8), AppendedAt in seconds (8, signed) and nanoseconds (4), length of the
// extensions (4), extensions, data. The key has the index.
const entryHeader = 1 + 8 + 8 + 4 + 4

// encodeEntry returns the whole record of an entry.
func encodeEntry(key uint64, e *raft.Log) ([]byte, error) {
	size := recordHeader + entryHeader + len(e.Extensions) + len(e.Data)
	if size > maxRecord || len(e.Data) > maxRecord || len(e.Extensions) > maxRecord {
		return nil, fmt.Errorf("entry %d of %d bytes: %w", e.Index, len(e.Data)+len(e.Extensions), ErrTooLarge)
	}
	rec := make([]byte, recordHeader, size)
	rec = append(rec, byte(e.Type))
	rec = binary.BigEndian.AppendUint64(rec, e.Term)
	rec = binary.BigEndian.AppendUint64(rec, uint64(e.AppendedAt.Unix()))
	rec = binary.BigEndian.AppendUint32(rec, uint32(e.AppendedAt.Nanosecond()))
	rec = binary.BigEndian.AppendUint32(rec, uint32(len(e.Extensions)))
	rec = append(rec, e.Extensions...)
	rec = append(rec, e.Data...)
	rec[0], rec[1] = recordVersion, kindEntry
	binary.BigEndian.PutUint32(rec[2:], checksum(key, kindEntry, rec[recordHeader:]))
	return rec, nil
}

// decodeEntry fills e from the record; slices share rec's memory.
func decodeEntry(key uint64, rec []byte, e *raft.Log) error {
	body, err := openRecord(rec, key, kindEntry)
	if err != nil {
		return err
	}
	return decodeEntryBody(body, keyIndex(key), e)
}

func decodeEntryBody(body []byte, index uint64, e *raft.Log) error {
	if len(body) < entryHeader {
		return fmt.Errorf("entry of %d bytes is shorter than its header", len(body))
	}
	nanos := binary.BigEndian.Uint32(body[17:])
	ext := binary.BigEndian.Uint32(body[21:])
	rest := body[entryHeader:]
	if nanos >= 1e9 {
		return fmt.Errorf("entry's time has %d nanoseconds", nanos)
	}
	if uint64(ext) > uint64(len(rest)) {
		return fmt.Errorf("entry's extensions of %d bytes exceed the %d that are left", ext, len(rest))
	}
	*e = raft.Log{
		Index:      index,
		Type:       raft.LogType(body[0]),
		Term:       binary.BigEndian.Uint64(body[1:]),
		AppendedAt: time.Unix(int64(binary.BigEndian.Uint64(body[9:])), int64(nanos)),
		Extensions: nonEmpty(rest[:ext:ext]),
		Data:       nonEmpty(rest[ext:]),
	}
	return nil
}

func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}
