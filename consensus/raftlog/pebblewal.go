package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// When Pebble opens, it reads its newest write-ahead log up to the first invalid chunk and treats that chunk as the
// end of a write that a crash tore. Only chunks in later blocks of 32 KiB show Pebble that a bit was flipped instead:
// up to one block of acknowledged writes would be lost without a report. checkWAL also examines the rest of the
// block: a valid chunk, or the mark of a clean close, after an invalid chunk proves damage. The exception is the last
// transaction before a crash: its damage looks like a torn write.
//
// A block holds chunks of CRC (4 bytes), length of the data (2), encoding (1), log number (4), for encodings 9 to 12
// the offset up to which the log was synced when the chunk was written (8), and data, all little endian. The CRC is
// CRC-32C, masked, from the encoding to the data's end. A clean close writes a header of zeros but for encoding 5 and
// the number of the next log. No chunk crosses a block, and a rest that is too short for a chunk is zeros.
const (
	walBlock      = 32 << 10
	walHeader     = 11
	walSyncHeader = 19
	walFirstPlain = 5
	walFirstSync  = 9
	walLast       = 12
)

// checkWAL returns an error if the newest write-ahead log in dir is damaged
// before its end.
func checkWAL(files vfs.FS, dir string) error {
	names, err := files.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftlog: check write-ahead log: %w", err)
	}
	var newest uint64
	var name string
	for _, n := range names {
		base, isLog := strings.CutSuffix(n, ".log")
		if num, err := strconv.ParseUint(base, 10, 32); isLog && err == nil && num >= newest {
			newest, name = num, n
		}
	}
	if name == "" {
		return nil
	}
	f, err := files.Open(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("raftlog: check write-ahead log: %w", err)
	}
	defer f.Close()
	at, err := damagedChunk(f, uint32(newest))
	if err != nil {
		return fmt.Errorf("raftlog: check write-ahead log: %w", err)
	}
	if at >= 0 {
		return fmt.Errorf("%w: %s: write-ahead log %s is damaged at %d: move the folder away and start again, the other replicas have its groups",
			ErrDamagedFile, dir, name, at)
	}
	return nil
}

// damagedChunk returns the offset of the first invalid chunk if a valid one
// follows, -1 otherwise.
func damagedChunk(r io.Reader, log uint32) (int64, error) {
	block := make([]byte, walBlock)
	for base := int64(0); ; base += walBlock {
		n, err := io.ReadFull(r, block)
		if err == io.EOF {
			return -1, nil
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return 0, err
		}
		b := block[:n]
		at, ended := validChunks(b, log)
		switch {
		case ended:
			return -1, nil
		case at == len(b):
			continue
		}
		for i := at + 1; i+walHeader <= len(b); i++ {
			if endMark(b[i:], log) {
				return base + int64(at), nil
			}
			if size, synced := validChunk(b[i:], log); size > 0 && synced > uint64(base)+uint64(at) {
				return base + int64(at), nil
			}
		}
		return -1, nil // Pebble checks the blocks that follow
	}
}

// validChunks returns the length of the valid part of the block, and whether the log ended cleanly there.
func validChunks(b []byte, log uint32) (at int, ended bool) {
	for at+walHeader <= len(b) {
		if endMark(b[at:], log) {
			return at, true
		}
		size, _ := validChunk(b[at:], log)
		if size == 0 {
			if len(b) == walBlock && len(b)-at < walSyncHeader && len(strings.Trim(string(b[at:]), "\x00")) == 0 {
				return len(b), false
			}
			return at, false
		}
		at += size
	}
	return len(b), false
}

// validChunk returns the size of the chunk at the start of b, or 0 if the chunk is not valid, and the offset up to
// which the log was synced before it.
func validChunk(b []byte, log uint32) (size int, synced uint64) {
	if len(b) < walHeader || b[6] < walFirstPlain || b[6] > walLast || binary.LittleEndian.Uint32(b[7:]) != log {
		return 0, 0
	}
	head := walHeader
	if b[6] >= walFirstSync {
		head = walSyncHeader
	}
	size = head + int(binary.LittleEndian.Uint16(b[4:]))
	if size > len(b) {
		return 0, 0
	}
	sum := crc32.Checksum(b[6:size], castagnoli)
	if (sum>>15|sum<<17)+0xa282ead8 != binary.LittleEndian.Uint32(b) {
		return 0, 0
	}
	if head == walSyncHeader {
		synced = binary.LittleEndian.Uint64(b[walHeader:])
	}
	return size, synced
}

func endMark(b []byte, log uint32) bool {
	return binary.LittleEndian.Uint32(b) == 0 && binary.LittleEndian.Uint16(b[4:]) == 0 &&
		b[6] == walFirstPlain && binary.LittleEndian.Uint32(b[7:]) == log+1
}
