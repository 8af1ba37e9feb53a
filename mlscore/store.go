package mlscore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Store keeps the durable data of a client: the state of groups, private keys of KeyPackages, PSKs. The content is
// secret: an implementation must encrypt it on disk.
//
// Every operation of this package that changes state calls Apply once, before the operation returns its result, and
// takes effect in memory only after Apply has succeeded. A crash at any point therefore leaves the old state or the
// new one, and no result of an unrecorded key use leaves the package.
type Store interface {
	// Apply makes all writes of a batch durable, in their order, or none of them. After an error that leaves open
	// whether the writes were made, such as a failed fsync, the caller must load the groups and clients that use the
	// store again: the objects in memory continue as if nothing had been written.
	Apply(Batch) error
	// Get returns the value under a key, and false if there is none. The caller must not change the value.
	Get(key []byte) ([]byte, bool, error)
	// Scan visits the records whose keys begin with prefix, in the order of their keys. If visit returns an error,
	// Scan stops and returns that error.
	Scan(prefix []byte, visit func(key, value []byte) error) error
}

// Batch holds the writes of one operation.
type Batch struct {
	Writes []Write
	// Output is the message that the operation is about to return, if it makes one: for the founding of
	// a group by ReInit or branch, the Welcome. A Store can queue the message for sending in the same transaction,
	// so that a message whose key is consumed is never lost.
	Output []byte
	// Relaxed allows a Store to return before the writes are durable. The writes become durable with the next batch
	// that is not relaxed, and no later batch is durable without them: a power failure can undo only the last relaxed
	// batches, in order. Relaxed is for writes that can be repeated without harm. No operation of this package sets
	// it.
	Relaxed bool
}

// Write is one change to a Store.
type Write struct {
	Key    []byte
	Value  []byte // nil to delete
	Prefix bool   // delete all records whose keys begin with Key
}

// Format prevents every verb of fmt from printing the value, which may be secret.
func (w Write) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "write of %d bytes", len(w.Value))
}

func (b *Batch) put(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	b.Writes = append(b.Writes, Write{Key: key, Value: value})
}

func (b *Batch) delete(key []byte) { b.Writes = append(b.Writes, Write{Key: key}) }

func (b *Batch) deleteAll(prefix []byte) {
	b.Writes = append(b.Writes, Write{Key: prefix, Prefix: true})
}

// deleteGroups deletes all records of the groups of an id.
func (b *Batch) deleteGroups(id []byte) {
	b.deleteAll(groupPrefix(groupName{id: id}))
	b.deleteAll(laterPrefix(id))
	b.delete(listKey(id))
}

// erase zeroes the values after they are stored.
func (b *Batch) erase() {
	for _, w := range b.Writes {
		clear(w.Value)
	}
}

// applyBatch applies a batch and returns a failure as ErrStore.
func applyBatch(s Store, b Batch) error {
	if err := s.Apply(b); err != nil {
		return &Error{Kind: ErrStore, Object: "store", Detail: "did not take a write; nothing changed", Err: err}
	}
	return nil
}

// The key of a group's record is 'g', the group's id, and one of these letters. See docs/spec/state.md.
const (
	recordHead     = 'h' // the small parts of the state
	recordTree     = 't' // the tree at the time of joining
	recordNode     = 'n' // node → its content, if changed since then
	recordPast     = 'e' // epoch → data for late messages
	recordTreeKey  = 'f' // epoch, node → secret tree secret
	recordRatchet  = 'r' // epoch, leaf, kind → ratchet
	recordSkipped  = 'x' // epoch, leaf, kind, generation → key
	recordProposal = 'p' // number → proposal waiting for a commit
	recordDropped  = 'd' // epoch, number → empty: this member does not commit that proposal
	recordUpdate   = 'u' // ProposalRef → private keys of an own Update
	recordPending  = 'c' // the pending own commit
	recordPSK      = 's' // epoch → resumption PSK
)

// groupName names a group in the store. A ReInit may keep the group's id (RFC 9420 §11.2): then the old and the new
// group have the same id and different places. The first group of an id has place 0.
type groupName struct {
	id    []byte
	place uint32
}

// groupPrefix returns the prefix of the keys of a group's records.
func groupPrefix(n groupName) []byte {
	return appendGroup(nil, n)
}

func appendGroup(b []byte, n groupName) []byte {
	if n.place > 0 {
		return binary.BigEndian.AppendUint32(append(b, laterPrefix(n.id)...), n.place)
	}
	return append(binary.BigEndian.AppendUint32(append(b, 'g'), uint32(len(n.id))), n.id...)
}

// laterPrefix returns the prefix of the keys of all groups of an id except the first. Its length field exceeds the
// length of any id.
func laterPrefix(id []byte) []byte {
	return append(append([]byte{'g'}, uint32Bytes(uint32(len(id))|1<<31)...), id...)
}

func groupKey(n groupName, kind byte, rest ...[]byte) []byte {
	const most = 1 + 4 + 4 + 1 + 20 // without the id: rest is at most an epoch, a leaf, a kind and a generation
	k := append(appendGroup(make([]byte, 0, most+len(n.id)), n), kind)
	for _, r := range rest {
		k = append(k, r...)
	}
	return k
}

// listKey returns the key of a group in the list of groups, so that listing the groups reads none of their records.
// Its record holds the place of the newest group of the id.
func listKey(id []byte) []byte { return append([]byte{'l'}, id...) }

func keyPackageKey(ref []byte) []byte { return append([]byte{'k'}, ref...) }
func externalPSKKey(id []byte) []byte { return append([]byte{'q'}, id...) }

func uint32Bytes(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func uint64Bytes(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// MemoryStore is a Store in memory, for tests and for short-lived clients. It is safe for concurrent use.
type MemoryStore struct {
	mu      sync.RWMutex
	records map[string]Secret // so that no struct that holds the store prints them
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore { return &MemoryStore{records: map[string]Secret{}} }

// Apply implements Store.
func (m *MemoryStore) Apply(b Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range b.Writes {
		switch {
		case w.Prefix:
			for k := range m.records {
				if strings.HasPrefix(k, string(w.Key)) {
					m.drop(k)
				}
			}
		case w.Value == nil:
			m.drop(string(w.Key))
		default:
			m.drop(string(w.Key))
			m.records[string(w.Key)] = NewSecret(w.Value)
		}
	}
	return nil
}

// drop erases a record.
func (m *MemoryStore) drop(key string) {
	m.records[key].Erase()
	delete(m.records, key)
}

// Get implements Store.
func (m *MemoryStore) Get(key []byte) ([]byte, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.records[string(key)]
	if !ok {
		return nil, false, nil
	}
	return append([]byte{}, v.Bytes()...), true, nil
}

// Scan implements Store.
func (m *MemoryStore) Scan(prefix []byte, visit func(key, value []byte) error) error {
	m.mu.RLock()
	keys := make([]string, 0, 16)
	for k := range m.records {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = append([]byte{}, m.records[k].Bytes()...)
	}
	m.mu.RUnlock()
	for i, k := range keys {
		if err := visit([]byte(k), values[i]); err != nil {
			return err
		}
	}
	return nil
}

// Clone returns a copy of the present content: the content that a crash at this moment would leave.
func (m *MemoryStore) Clone() *MemoryStore {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := NewMemoryStore()
	for k, v := range m.records {
		c.records[k] = v.Clone()
	}
	return c
}
