package boltstore

import (
	"fmt"
	"os"
)

// wipeChunk is how much is read and overwritten at a time.
const wipeChunk = 1 << 18

// wipe overwrites the pages that the newest transaction does not use: those on its list of free pages,
// and those behind the last that it counts, which a transaction that never ended may have written. bbolt
// itself would write over any of them in its next transaction, so that none of them is still needed,
// provided that nobody reads an older transaction: the caller holds mu alone.
//
// Nothing is synced. The next batch does that, or Close; and what a crash leaves, Open wipes.
func (s *Store) wipe() error {
	if s.closed {
		return nil
	}
	newest, _, err := s.metas()
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("wipe store %s: %w", s.path, err)
	}
	f := &boltFile{file: s.file, size: uint64(info.Size()), meta: newest, used: make([]uint64, (newest.pages+63)/64)}
	free, err := f.freePages()
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	size := int64(newest.pageSize)
	w := wiper{file: s.file, buf: make([]byte, wipeChunk)}
	for len(free) > 0 {
		run := 1
		for run < len(free) && free[run] == free[0]+uint64(run) {
			run++
		}
		if err := w.wipe(int64(free[0])*size, int64(run)*size); err != nil {
			return fmt.Errorf("wipe store %s: %w", s.path, err)
		}
		free = free[run:]
	}
	behind := int64(newest.pages) * size
	if err := w.wipe(behind, info.Size()-behind); err != nil {
		return fmt.Errorf("wipe store %s: %w", s.path, err)
	}
	return nil
}

type wiper struct {
	file *os.File
	buf  []byte
}

// wipe makes a part of the file zero where it is not.
func (w *wiper) wipe(off, length int64) error {
	for length > 0 {
		part := w.buf[:min(length, int64(len(w.buf)))]
		if _, err := w.file.ReadAt(part, off); err != nil {
			return err
		}
		if !allZero(part) {
			clear(part)
			if _, err := w.file.WriteAt(part, off); err != nil {
				return err
			}
		}
		off += int64(len(part))
		length -= int64(len(part))
	}
	return nil
}

func allZero(b []byte) bool {
	var or byte
	for _, v := range b {
		or |= v
	}
	return or == 0
}
