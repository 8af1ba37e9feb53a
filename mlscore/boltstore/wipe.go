package boltstore

import (
	"fmt"
	"os"
)

// wipeChunk is the number of bytes that are read and overwritten at a time.
const wipeChunk = 1 << 16

// wiped is the set of unused pages that are known to be zero, so that they need not be read again. The set is empty
// when the file is opened.
type wiped struct {
	pages pageSet
	tail  bool // all pages behind the last that was ever used

	buf []byte
}

// buffer returns the buffer for reading parts of the file, for one caller at a time.
func (w *wiped) buffer() []byte {
	if w.buf == nil {
		w.buf = make([]byte, wipeChunk)
	}
	return w.buf
}

// forget keeps only the pages that are still free, because a transaction may have written to the others. bbolt does
// not free a page in the transaction that allocated it.
func (w *wiped) forget(pages uint64, free []uint64) {
	still := newPageSet(pages)
	for _, id := range free {
		if w.pages.has(id) {
			still.add(id)
		}
	}
	w.pages = still
}

// wipe overwrites the pages that the newest transaction does not use: the pages on its list of free pages, and the
// pages after the last page that it counts, which an interrupted transaction may have written. bbolt itself may write
// over any of them in its next transaction, so none of them is needed, provided that nobody reads an older
// transaction: the caller holds mu exclusively.
//
// wipe does not sync: the next batch or Close does. After a crash, Open wipes the pages again.
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
	w := wiper{file: s.file, buf: s.wiped.buffer()}
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

// wipe overwrites with zeros those chunks of a part of the file that are not zero.
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
