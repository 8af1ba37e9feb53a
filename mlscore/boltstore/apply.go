package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mlsfed/mlsfed/mlscore"
)

// journal is the state of the journal of an open file. Store.writer guards it. A change of overlay also needs
// Store.mu, held exclusively.
type journal struct {
	generation uint64 // 0 in a file of the first format, which has no journal
	region     int64  // offset of the journal in the file
	size       int
	end        int    // where the next entry is written
	entries    uint64 // number of entries of this generation
	durable    uint64 // entries that are on the disk
	last       [32]byte
	overlay    overlay
	stale      []span // replaced ciphertexts, which are erased when their replacements are on the disk
	appended   bool   // entries were appended since the file was opened
	base       *earlyReader
}

// span is a part of the file.
type span struct{ from, size int64 }

// Apply implements mlscore.Store: when it returns nil, all writes are on the disk; when it returns an error other
// than ErrFailed, the store has none of them. A key has 1 to 32,768 bytes, a value at most 2 GiB. A relaxed batch
// survives the end of the process once Apply returns, and a power failure once the next batch that is not relaxed is
// written.
//
// Apply does not store Batch.Output. To queue the output in the same transaction, wrap the store and add a write to
// the batch.
func (s *Store) Apply(b mlscore.Batch) error {
	if err := s.await(); err != nil {
		return s.notAccepted(err)
	}
	s.writer.Lock()
	defer s.writer.Unlock()
	e, old, err := s.prepare(b.Writes)
	switch {
	case err != nil:
	case e == nil:
		err = s.fold(b.Writes)
	case len(e.records) > 0:
		err = s.append(e, old, !b.Relaxed)
	case !b.Relaxed:
		err = s.settle()
	}
	return s.explained("write to", err)
}

// most returns the size of the largest batch that goes into the journal. A larger batch is written by a fold to the
// bucket of records.
func (j *journal) most() int { return (j.size - markerSize) / 4 }

// prepare makes the entry of a batch, and finds the ciphertexts in the bucket of records that the batch replaces. It
// returns no entry if the batch cannot go into the journal.
func (s *Store) prepare(writes []mlscore.Write) (e *entry, old []span, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	j := &s.journal
	switch {
	case s.closed:
		return nil, nil, s.errClosed()
	case s.failed != nil:
		return nil, nil, s.failed
	case j.generation == 0, s.opts.Salvage: // a file to be salvaged may have a damaged journal
		return nil, nil, nil
	}
	size := entryHeader
	for _, w := range writes {
		if len(w.Key) == 0 && !w.Prefix || len(w.Key) > bbolt.MaxKeySize {
			return nil, nil, fmt.Errorf("write record %s: %d bytes of key, 1 to %d are allowed", keyName(w.Key), len(w.Key), bbolt.MaxKeySize)
		}
		if size += recordHead + len(w.Key) + overhead + len(w.Value); size > j.most() {
			return nil, nil, nil
		}
	}
	p := &preparation{s: s, e: &entry{generation: j.generation, number: j.entries + 1, durable: j.durable, before: j.last}, at: make(map[string]int)}
	err = s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			p.records = tx.Bucket(bucketRecords)
			return p.all(writes)
		})
	})
	if err != nil || p.replaced > j.most() || p.e.size() > j.most() || j.end+p.e.size() > j.size {
		return nil, nil, err
	}
	for _, key := range p.found {
		at, box, err := s.place(key)
		if err != nil {
			return nil, nil, err
		}
		if n := len(box) - overhead; n > 0 {
			old = append(old, span{at + chacha20poly1305.NonceSizeX, int64(n)})
		}
	}
	return p.e, old, nil
}

// preparation is an entry under construction.
type preparation struct {
	s        *Store
	e        *entry
	at       map[string]int // key → its record of the entry
	records  *bbolt.Bucket
	found    []string // keys whose boxes in the bucket of records the batch replaces
	replaced int      // bytes of those boxes
}

func (p *preparation) all(writes []mlscore.Write) error {
	for _, w := range writes {
		switch {
		case w.Prefix:
			p.deleteAll(w.Key)
		case w.Value == nil:
			p.delete(string(w.Key))
		default:
			box, err := p.s.keys.seal(p.s.opts.Rand, w.Key, w.Value)
			if err != nil {
				return fmt.Errorf("write record %s: %w", keyName(w.Key), err)
			}
			p.change(string(w.Key), box)
		}
		if p.e.size() > p.s.journal.most() {
			return nil
		}
	}
	return nil
}

// change puts a record into the entry, once for each key.
func (p *preparation) change(key string, box []byte) {
	if i, ok := p.at[key]; ok {
		p.e.records[i].box = box
		return
	}
	p.at[key] = len(p.e.records)
	p.e.records = append(p.e.records, change{key: key, box: box})
	if _, ok := p.s.journal.overlay.find(key); ok {
		return // the version in the bucket of records is already erased
	}
	if old := p.records.Get([]byte(key)); old != nil {
		p.found = append(p.found, key)
		p.replaced += len(old)
	}
}

func (p *preparation) delete(key string) {
	_, here := p.at[key]
	if !here {
		i, ok := p.s.journal.overlay.find(key)
		if ok && p.s.journal.overlay[i].box == nil || !ok && p.records.Get([]byte(key)) == nil {
			return // there is none
		}
	}
	p.change(key, nil)
}

// deleteAll deletes the records with a prefix. It stops when the entry is too large.
func (p *preparation) deleteAll(prefix []byte) {
	for i := range p.e.records {
		if bytes.HasPrefix([]byte(p.e.records[i].key), prefix) {
			p.e.records[i].box = nil
		}
	}
	for _, c := range p.s.journal.overlay.under(prefix) {
		p.delete(c.key)
	}
	cursor := p.records.Cursor()
	size := 0
	for key, _ := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix) && size <= p.s.journal.most(); key, _ = cursor.Next() {
		p.delete(string(key))
		size += recordHead + len(key)
	}
}

// place returns the box of a record in the bucket of records, and the offset of the box in the file.
func (s *Store) place(key string) (int64, []byte, error) {
	var at int64
	var box []byte
	r, err := s.baseReader()
	if err == nil {
		at, box, err = r.place(r.records, []byte(key))
	}
	if err != nil {
		return 0, nil, s.damaged(nil, err.Error())
	}
	return at, box, nil
}

// baseReader returns a reader of the bucket of records as the last fold left it.
func (s *Store) baseReader() (*earlyReader, error) {
	if s.journal.base != nil {
		return s.journal.base, nil
	}
	meta, _, err := s.metas()
	if err != nil {
		return nil, err
	}
	r := &earlyReader{file: &boltFile{file: s.file, meta: meta}, branches: make(map[uint64]page)}
	if r.records, err = r.bucket(bucketRecords); err != nil {
		return nil, err
	}
	s.journal.base = r
	return r, nil
}

// append writes an entry after the others. The caller holds writer.
func (s *Store) append(e *entry, old []span, durable bool) error {
	j := &s.journal
	b, mac := e.marshal(s.keys, j.end)
	if _, err := s.file.WriteAt(b, j.region+int64(j.end)); err != nil {
		return s.fail(err)
	}
	if durable {
		if err := s.sync(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j.end += len(b)
	j.entries, j.last, j.appended = e.number, mac, true
	j.stale = append(j.stale, old...)
	for _, c := range e.records {
		if was, ok := j.overlay.set(c); ok {
			j.forget(was)
		}
	}
	if durable {
		j.durable = e.number
		s.erase()
	}
	return nil
}

// forget marks the ciphertext of a record of the journal as replaced.
func (j *journal) forget(c change) {
	if from, to := c.cipher(); to > from {
		j.stale = append(j.stale, span{j.region + int64(from), int64(to - from)})
	}
}

// settle makes relaxed batches durable.
func (s *Store) settle() error {
	j := &s.journal
	if j.durable == j.entries && len(j.stale) == 0 {
		return nil
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j.durable = j.entries
	s.erase()
	return nil
}

func (s *Store) sync() error {
	if err := s.db.Sync(); err != nil {
		return s.fail(err)
	}
	return nil
}

// fail stops all writing, because it is not known whether a batch is on the disk.
func (s *Store) fail(err error) error {
	s.failed = fmt.Errorf("%w: store %s, while a batch was written, which may be on the disk or not: open it again: %w", ErrFailed, s.path, err)
	return s.failed
}

// erase overwrites the ciphertexts that entries on the disk have replaced. Like wipe, it does not sync, and an error
// stops the next batch. The caller holds mu exclusively.
func (s *Store) erase() {
	j := &s.journal
	if !s.opts.KeepFreed {
		for _, p := range j.stale {
			if _, err := s.file.WriteAt(make([]byte, p.size), p.from); err != nil && s.failed == nil {
				s.failed = fmt.Errorf("erase replaced records of store %s: %w", s.path, err)
			}
		}
	}
	j.stale = j.stale[:0]
}

// fold moves the records of the journal to the bucket of records, makes the changes of a batch, and empties the
// journal, in one transaction. The caller holds writer.
func (s *Store) fold(writes []mlscore.Write) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &s.journal
	next := j.generation
	if j.entries > 0 || next == 0 || s.opts.Salvage {
		next++
	}
	err := s.update(next, func(tx *bbolt.Tx, sum *setSum) error {
		records := tx.Bucket(bucketRecords)
		for i := range j.overlay {
			if err := s.move(records, &j.overlay[i], sum); err != nil {
				return err
			}
		}
		if err := s.write(tx, writes, sum); err != nil {
			return err
		}
		if j.generation == 0 {
			return s.raise(tx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.folded(next)
}

// move copies a record of the journal, without encrypting it again, into the bucket of records.
func (s *Store) move(records *bbolt.Bucket, c *change, sum *setSum) error {
	key := []byte(c.key)
	if c.box == nil {
		return s.delete(records, key, sum)
	}
	if old := records.Get(key); old != nil {
		s.keys.toggle(sum, key, old)
	}
	s.keys.toggle(sum, key, c.box)
	return records.Put(key, c.box)
}

// raise adds a journal to a file of the first format.
func (s *Store) raise(tx *bbolt.Tx) error {
	h := *s.header
	h.format = formatJournal
	copy(h.check[:], h.mac(s.keys))
	if err := tx.Bucket(bucketFile).Put(recordHeader, h.marshal()); err != nil {
		return err
	}
	return makeJournal(tx, s.opts.journalSize())
}

// makeJournal creates the journal of a file.
func makeJournal(tx *bbolt.Tx, size int) error {
	b, err := tx.CreateBucket(bucketJournal)
	if err != nil {
		return err
	}
	return b.Put(recordRegion, make([]byte, size))
}

// folded begins an empty journal. The entries of the previous generation are void, and are overwritten like freed
// pages. An error stops only the next batch, since this batch is on the disk.
func (s *Store) folded(generation uint64) error {
	j := &s.journal
	used, region := j.end, j.region
	*j = journal{generation: generation, end: markerSize, last: s.keys.journalStart(generation)}
	err := s.findRegion()
	if err == nil && used > markerSize && !s.opts.KeepFreed {
		_, err = s.file.WriteAt(make([]byte, used-markerSize), region+markerSize)
	}
	if err == nil && !s.opts.KeepFreed {
		err = s.wipe()
	}
	if err != nil && s.failed == nil {
		s.failed = err
	}
	return nil
}

// findRegion finds the journal in the file.
func (s *Store) findRegion() error {
	r, err := s.baseReader()
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	return s.findRegionBy(r)
}

func (s *Store) findRegionBy(r *earlyReader) error {
	b, err := r.bucket(bucketJournal)
	if err != nil {
		return s.damaged(nil, "its journal is missing")
	}
	at, region, err := r.place(b, recordRegion)
	if err != nil {
		return s.damaged(nil, err.Error())
	}
	if len(region) < minJournal {
		return s.damaged(nil, fmt.Sprintf("its journal has %d bytes", len(region)))
	}
	s.journal.region, s.journal.size = at, len(region)
	return nil
}

// readJournal reads the journal of a file whose header and keys are known.
func (s *Store) readJournal(r *earlyReader, generation []byte) error {
	j := &s.journal
	if s.header.format == formatFirst {
		return nil
	}
	if len(generation) != 8 || binary.BigEndian.Uint64(generation) == 0 {
		return s.damaged(nil, "the file does not say which generation its journal has")
	}
	j.generation = binary.BigEndian.Uint64(generation)
	if err := s.findRegionBy(r); err != nil {
		return err
	}
	region := make([]byte, j.size)
	if _, err := s.file.ReadAt(region, j.region); err != nil {
		return err
	}
	read, err := replay(s.keys, region, j.generation)
	if err != nil && !s.opts.Salvage {
		return s.damaged(nil, err.Error())
	}
	j.end, j.last, j.entries = read.end, read.last, uint64(len(read.entries))
	j.durable = min(read.durable, j.entries)
	for _, e := range read.entries {
		for _, c := range e.records {
			c.box = bytes.Clone(c.box)
			if was, ok := j.overlay.set(c); ok && !erased(was.box) {
				j.forget(was)
			}
		}
	}
	return nil
}

// clean erases replaced records and incomplete entries that a crash has left. The caller holds mu exclusively.
func (s *Store) clean() error {
	j := &s.journal
	if j.generation == 0 {
		return nil
	}
	if j.entries > 0 {
		for i := range j.overlay {
			at, box, err := s.place(j.overlay[i].key)
			if err != nil {
				return err
			}
			if len(box) > overhead && !erased(box) {
				j.stale = append(j.stale, span{at + chacha20poly1305.NonceSizeX, int64(len(box) - overhead)})
			}
		}
		if len(j.stale) > 0 || j.durable < j.entries {
			if err := s.sync(); err != nil { // the replacements must be on the disk first
				return err
			}
			j.durable = j.entries
			s.erase()
		}
	}
	w := wiper{file: s.file, buf: s.wiped.buffer()}
	return w.wipe(j.region+int64(j.end), int64(j.size-j.end))
}

// mark writes the number of entries of the journal before the file is closed.
func (s *Store) mark() error {
	j := &s.journal
	if !j.appended || s.failed != nil {
		return nil
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.erase()
	_, err := s.file.WriteAt(s.keys.marker(j.generation, j.entries), j.region)
	return err
}
