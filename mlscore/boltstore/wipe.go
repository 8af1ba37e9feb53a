package boltstore

import (
	"fmt"
	"os"
)

// wipeChunk is how much is read and overwritten at a time.
const wipeChunk = 1 << 18

// wiped is what is known to be zero of the pages that nothing uses, so that it need not be read again. It
// is empty when the file is opened.
type wiped struct {
	pages pageSet
	tail  bool // all pages behind the last that was ever used
}

// forget leaves only those pages that are still free: a transaction has written to others. bbolt frees no
// page in the transaction that took it.
func (w *wiped) forget(pages uint64, free []uint64) {
	still := newPageSet(pages)
	for _, id := range free {
		if w.pages.has(id) {
			still.add(id)
		}
	}
	w.pages = still
}

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
	meta, free, err := s.freePages()
	if err != nil {
		return err
	}
	s.wiped.forget(meta.pages, free)
	size := int64(meta.pageSize)
	w := wiper{file: s.file, buf: make([]byte, wipeChunk)}
	for len(free) > 0 {
		if s.wiped.pages.has(free[0]) {
			free = free[1:]
			continue
		}
		run := 1
		for run < len(free) && free[run] == free[0]+uint64(run) && !s.wiped.pages.has(free[run]) {
			run++
		}
		if err := w.wipe(int64(free[0])*size, int64(run)*size); err != nil {
			return fmt.Errorf("wipe store %s: %w", s.path, err)
		}
		for _, id := range free[:run] {
			s.wiped.pages.add(id)
		}
		free = free[run:]
	}
	if s.wiped.tail {
		return nil
	}
	info, err := s.file.Stat()
	if err == nil {
		behind := int64(meta.pages) * size
		err = w.wipe(behind, info.Size()-behind)
	}
	if err != nil {
		return fmt.Errorf("wipe store %s: %w", s.path, err)
	}
	s.wiped.tail = true
	return nil
}

// freePages lists the pages that the next transaction may write over.
func (s *Store) freePages() (boltMeta, []uint64, error) {
	newest, _, err := s.metas()
	if err != nil {
		return newest, nil, s.damaged(nil, err.Error())
	}
	f := &boltFile{file: s.file, meta: newest, used: newPageSet(newest.pages)}
	free, err := f.freePages()
	if err != nil {
		return newest, nil, s.damaged(nil, err.Error())
	}
	return newest, free, nil
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
