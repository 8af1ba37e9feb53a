package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Limits of the node's own area, in bytes.
const (
	MaxMetaKey   = 1 << 10
	MaxMetaValue = 1 << 20
)

// KV is the node's own durable area of keys and values, for example for the registry of conversations. Its writes
// share transactions with the groups'. Keys are held in memory, some 100 bytes each; values are on disk.
type KV struct{ log *Log }

// MetaChange sets a key, or deletes it.
type MetaChange struct {
	Key, Value []byte
	Delete     bool
}

// Each key has a slot: a record of the last group with the slot's number as its index. A deleted key's slot is
// overwritten with an empty record and used again, so a change of many keys is one transaction in any backend.
type metaIndex struct {
	mu    sync.RWMutex // guards the fields; the committer alone changes them
	slots map[string]uint64
	free  []uint64
	next  uint64 // lowest slot never used
}

// Meta returns the node's own area.
func (l *Log) Meta() KV { return KV{l} }

// Get returns the value of key, or ErrNotFound.
func (kv KV) Get(key []byte) ([]byte, error) {
	const tries = 4
	for try := 1; ; try++ {
		if kv.log.isClosed() {
			return nil, ErrClosed
		}
		slot, ok := kv.log.meta.slot(key)
		if !ok {
			return nil, ErrNotFound
		}
		found, value, err := kv.log.readSlot(slot)
		switch {
		case err != nil:
			return nil, err
		case bytes.Equal(found, key):
			return value, nil
		case len(found) == 0: // a deletion is about to be published
			return nil, ErrNotFound
		case try == tries:
			return nil, kv.log.damaged(&CorruptError{metaGroup, slot, "record of another key"})
		}
		// The key was deleted and its slot reused since the lookup.
	}
}

// Set stores a key and returns when it is durable.
func (kv KV) Set(key, value []byte) error { return kv.Apply(MetaChange{Key: key, Value: value}) }

// Delete removes a key, if it is there, and returns when that is durable.
func (kv KV) Delete(key []byte) error { return kv.Apply(MetaChange{Key: key, Delete: true}) }

// Apply makes all changes, in their order, or none, and returns when they are durable.
func (kv KV) Apply(changes ...MetaChange) error {
	if len(changes) == 0 {
		return nil
	}
	req := &request{op: opMeta, changes: changes}
	for _, c := range changes {
		if len(c.Key) == 0 || len(c.Key) > MaxMetaKey {
			return fmt.Errorf("raftlog: meta key of %d bytes, 1 to %d are allowed: %w", len(c.Key), MaxMetaKey, ErrTooLarge)
		}
		if len(c.Value) > MaxMetaValue {
			return fmt.Errorf("raftlog: meta value of %d bytes, %d are allowed: %w", len(c.Value), MaxMetaValue, ErrTooLarge)
		}
		req.bytes += len(c.Key) + len(c.Value)
	}
	return kv.log.do(req)
}

// Scan calls fn for every key with the prefix, ascending, until fn returns an
// error, which Scan returns. Keys set or deleted meanwhile may be missed.
func (kv KV) Scan(prefix []byte, fn func(key, value []byte) error) error {
	if kv.log.isClosed() {
		return ErrClosed
	}
	for _, key := range kv.log.meta.keys(string(prefix)) {
		value, err := kv.Get([]byte(key))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			err = fn([]byte(key), value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *metaIndex) slot(key []byte) (uint64, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	slot, ok := m.slots[string(key)]
	return slot, ok
}

func (m *metaIndex) keys(prefix string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []string
	for k := range m.slots {
		if strings.HasPrefix(k, prefix) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// A slot's body is the key's length (4 bytes, big endian), the key and the
// value; it is empty for a free slot.
func encodeSlot(key, value []byte) []byte { return append(appendBytes(nil, key), value...) }

func decodeSlot(body []byte) (key, value []byte, err error) {
	if len(body) == 0 {
		return nil, nil, nil
	}
	key, value, err = cutBytes(body, MaxMetaKey)
	switch {
	case err != nil:
		return nil, nil, err
	case len(key) == 0:
		return nil, nil, errors.New("empty key")
	case len(value) > MaxMetaValue:
		return nil, nil, fmt.Errorf("value of %d bytes exceeds %d", len(value), MaxMetaValue)
	}
	return key, value, nil
}

// readSlot reads a slot; the key is empty if it is free.
func (l *Log) readSlot(slot uint64) (key, value []byte, err error) {
	at := entryKey(metaGroup, slot)
	rec, err := l.read(at)
	var bad *damagedRead
	switch {
	case errors.Is(err, errMissing):
		return nil, nil, l.damaged(&CorruptError{metaGroup, slot, "record is missing"})
	case errors.As(err, &bad):
		return nil, nil, l.damaged(&CorruptError{metaGroup, slot, bad.reason})
	case err != nil:
		return nil, nil, fmt.Errorf("raftlog: read meta: %w", err)
	}
	body, err := openRecord(rec, at, kindMeta)
	if err == nil {
		key, value, err = decodeSlot(body)
	}
	if err != nil {
		return nil, nil, l.damaged(&CorruptError{metaGroup, slot, err.Error()})
	}
	return key, value, nil
}

// loadMeta builds the index from the slots found at opening. A damaged slot is reported and skipped: its key is lost,
// and only the caller knows other references to it. The slot is not used again.
func (l *Log) loadMeta(slots []uint64) error {
	m := &l.meta
	m.slots = make(map[string]uint64, len(slots))
	m.next = 1
	for _, slot := range slots {
		m.next = max(m.next, slot+1)
		key, _, err := l.readSlot(slot)
		switch {
		case errors.Is(err, ErrCorrupt):
		case err != nil:
			return err
		case len(key) == 0:
			m.free = append(m.free, slot)
		default:
			m.slots[string(key)] = slot
		}
	}
	return nil
}

// metaDelta is the change of the index by a batch.
type metaDelta struct {
	slots map[string]uint64 // 0: deleted
	freed []uint64
	taken int    // number of slots taken from the end of the free list
	next  uint64 // lowest slot never used
}

// admitMeta adds the changes' records to the batch.
func (l *Log) admitMeta(b *batch, req *request) bool {
	m := &l.meta
	if b.meta == nil {
		b.meta = &metaDelta{slots: make(map[string]uint64), next: m.next}
	}
	for _, c := range req.changes {
		slot := b.meta.lookup(m, c.Key)
		var body []byte
		switch {
		case c.Delete && slot == 0:
			continue
		case c.Delete:
			b.meta.slots[string(c.Key)] = 0
			b.meta.freed = append(b.meta.freed, slot)
		default:
			if slot == 0 {
				slot = b.meta.take(m)
			}
			b.meta.slots[string(c.Key)] = slot
			body = encodeSlot(c.Key, c.Value)
		}
		at := entryKey(metaGroup, slot)
		rec := appendRecord(nil, at, kindMeta, body)
		b.pairs = append(b.pairs, pair{at, rec})
		b.bytes += len(rec)
	}
	b.reqs = append(b.reqs, req)
	return true
}

func (d *metaDelta) lookup(m *metaIndex, key []byte) uint64 {
	if slot, ok := d.slots[string(key)]; ok {
		return slot
	}
	slot, _ := m.slot(key)
	return slot
}

// take returns a slot that is free before this batch. Slots freed by the batch
// itself wait, so that a reader never finds another key under a published slot.
func (d *metaDelta) take(m *metaIndex) uint64 {
	if d.taken < len(m.free) {
		d.taken++
		return m.free[len(m.free)-d.taken]
	}
	d.next++
	return d.next - 1
}

// publish applies a durable batch.
func (m *metaIndex) publish(d *metaDelta) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, slot := range d.slots {
		if slot == 0 {
			delete(m.slots, key)
		} else {
			m.slots[key] = slot
		}
	}
	m.free = append(m.free[:len(m.free)-d.taken], d.freed...)
	m.next = d.next
}
