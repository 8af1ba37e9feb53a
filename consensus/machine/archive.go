package machine

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/mlsfed/mlsfed/wire"
)

// The newest kept entries are in memory, up to maxHeld bytes of them, and always the last one. The content of older
// ones is already on disk, in Raft's log or in the newest snapshot: the machine knows the location, and an Archive
// reads it. Without an Archive all content is in memory.

// maxHeld limits the content of kept entries in memory, in bytes. The limit is about the amount that conversations
// with the default policy and ordinary commits keep, so that their snapshots read nothing from disk.
const maxHeld = 1 << 20

// Archive reads the content of kept entries from disk. It is safe for concurrent use.
type Archive interface {
	// Logged returns the entry at an index of the log.
	Logged(index uint64) ([]byte, error)
	// Stored opens a snapshot. If the reader implements io.Seeker, it is sought with io.SeekCurrent.
	Stored(snapshot string) (io.ReadCloser, error)
}

// ErrMoved means that content is no longer where the machine had it: a newer state of the conversation knows its
// location.
var ErrMoved = errors.New("kept entry has moved on disk")

// location is the location of a kept entry's content.
type location struct {
	index  uint64 // index in Raft's log; 0 for none
	offset int64  // offset in the snapshot; 0 for none
	size   int
	sum    uint32 // CRC-32C, set when the content leaves memory
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// UseArchive drops content from memory that an archive can read. The machine was restored from snapshot, or is new.
func (m *Machine) UseArchive(s Archive, snapshot string) {
	m.archive, m.stored = s, snapshot
	m.trimMemory()
}

// Moved records that an image of this machine has become the newest snapshot on disk.
func (m *Machine) Moved(img *Image, snapshot string) {
	if m.archive == nil || len(m.recent) == 0 || len(img.offsets) == 0 {
		return
	}
	first, end := img.recent[0].Sequence, img.recent[len(img.offsets)-1].Sequence
	for i := range m.recent {
		if k := &m.recent[i]; k.Sequence < first || k.Sequence > end && k.at.index == 0 {
			return // the machine has been restored from a later snapshot in the meantime
		}
	}
	m.stored = snapshot
	for i := range m.recent {
		k := &m.recent[i]
		if k.at.offset = 0; k.Sequence <= end {
			k.at.offset = img.offsets[k.Sequence-first]
		}
	}
	m.trimMemory()
}

// trimMemory drops the content of the oldest entries in memory until the rest is within maxHeld.
func (m *Machine) trimMemory() {
	for ; m.archive != nil && m.held > maxHeld && m.gone < len(m.recent)-1; m.gone++ {
		k := &m.recent[m.gone]
		if k.at.index == 0 && k.at.offset == 0 {
			return
		}
		k.at.sum = crc32.Checksum(k.Entry, castagnoli)
		m.held -= len(k.Entry)
		k.Entry = nil
	}
}

// archiveReader reads entries in order. It opens the snapshot once.
type archiveReader struct {
	archive  Archive
	snapshot string
	in       io.ReadCloser // nil until it is needed
	at       int64         // offset in the snapshot
}

func (r *archiveReader) close() {
	if r.in != nil {
		_ = r.in.Close() // the file was only read
	}
}

// stored reads a part of the snapshot that follows the part read last.
func (r *archiveReader) stored(offset int64, size int) (b []byte, err error) {
	if r.in == nil {
		if r.in, err = r.archive.Stored(r.snapshot); err != nil {
			return nil, err
		}
	}
	if in, ok := r.in.(io.Seeker); ok {
		_, err = in.Seek(offset-r.at, io.SeekCurrent)
	} else {
		_, err = io.CopyN(io.Discard, r.in, offset-r.at)
	}
	if err != nil {
		return nil, err
	}
	b = make([]byte, size)
	n, err := io.ReadFull(r.in, b)
	r.at = offset + int64(n)
	return b, err
}

// read returns an entry with its content.
func (r *archiveReader) read(k *kept) (c wire.Committed, err error) {
	c = k.Committed
	if c.Entry != nil || k.at.size == 0 {
		return c, nil
	}
	if k.at.offset > 0 {
		c.Entry, err = r.stored(k.at.offset, k.at.size)
	} else {
		c.Entry, err = r.archive.Logged(k.at.index)
	}
	if err == nil && (len(c.Entry) != k.at.size || crc32.Checksum(c.Entry, castagnoli) != k.at.sum) {
		err = errors.New("other content is there")
	}
	if err != nil {
		return c, fmt.Errorf("entry %d: %w: %w", k.Sequence, ErrMoved, err)
	}
	return c, nil
}

// EntryRange is a sequence of kept entries. Read reads their content, outside of any lock that guards the machine.
type EntryRange struct {
	list     []kept
	archive  Archive
	snapshot string
}

// Len is the number of entries.
func (s *EntryRange) Len() int { return len(s.list) }

// Read returns the entries. ErrMoved means that the conversation has advanced since: ask its state again.
func (s *EntryRange) Read() ([]wire.Committed, error) {
	r := &archiveReader{archive: s.archive, snapshot: s.snapshot}
	defer r.close()
	entries := make([]wire.Committed, len(s.list))
	for i := range s.list {
		var err error
		if entries[i], err = r.read(&s.list[i]); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// OrderAt returns the order hash after a kept entry.
func (m *Machine) OrderAt(seq wire.SequenceNumber) (wire.Hash, bool) {
	k := m.keptAt(seq)
	if k == nil {
		return wire.Hash{}, false
	}
	return k.Order, true
}
