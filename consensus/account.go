package consensus

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Account is charged for the data that this node stores of conversations which other organizations brought. An empty
// organization is the node's own, which has no limit. Charge is called before the bytes are written.
type Account interface {
	Charge(org wire.Domain, what Stored, n uint64) error
	// Adopt charges bytes that are already on the disk.
	Adopt(org wire.Domain, what Stored, n uint64)
	Release(org wire.Domain, what Stored, n uint64)
	// Room refuses data from another node while the disk is too full for it.
	Room() error
}

// Stored is the kind of stored bytes.
type Stored uint8

// The kinds of stored data that an Account is charged for. Blobs are charged by the BlobStore.
const (
	StoredLog Stored = iota
	StoredSnapshot
)

// entryCost is the number of bytes that an entry of the log is charged in addition to its size.
const entryCost = 128

// noAccount charges nobody.
type noAccount struct{}

func (noAccount) Charge(wire.Domain, Stored, uint64) error { return nil }
func (noAccount) Adopt(wire.Domain, Stored, uint64)        {}
func (noAccount) Release(wire.Domain, Stored, uint64)      {}
func (noAccount) Room() error                              { return nil }

// payer returns the organization that is charged for data from a node: "" for this node's organization.
func (m *Manager) payer(org wire.Domain) wire.Domain {
	if org == m.cfg.Node.Organization() {
		return ""
	}
	return org
}

// book is the account of one conversation. The organization that invited this node pays; a conversation that was
// founded here is not charged.
type book struct {
	account  Account
	payer    wire.Domain
	log      atomic.Uint64            // bytes of entries
	snapshot atomic.Uint64            // bytes of the newest snapshot
	arriving atomic.Pointer[arriving] // the snapshot that another node is sending
}

// arriving is a snapshot that another node sends: its sender pays until it is installed.
type arriving struct {
	index, term uint64
	payer       wire.Domain
}

// sizePrefix is the prefix of the key for the size of a conversation's log, in eight bytes. The size is written
// together with the record. After a crash it may lack the entries appended since; the next truncation of the log
// corrects it.
const sizePrefix = "log size/"

func sizeKey(id wire.ConversationID) []byte { return []byte(sizePrefix + string(id)) }

func (c *conversation) sizeChange() raftlog.MetaChange {
	return raftlog.MetaChange{Key: sizeKey(c.id), Value: binary.BigEndian.AppendUint64(nil, c.book.log.Load())}
}

// adopt charges the data of a conversation that is on the disk when the node starts.
func (m *Manager) adopt(c *conversation, snapshot uint64) {
	c.book.snapshot.Store(snapshot)
	m.cfg.Account.Adopt(c.book.payer, StoredSnapshot, snapshot)
	if b, err := m.cfg.Log.Meta().Get(sizeKey(c.id)); err == nil && len(b) == 8 {
		n := binary.BigEndian.Uint64(b)
		c.book.log.Store(n)
		m.cfg.Account.Adopt(c.book.payer, StoredLog, n)
	}
}

// close releases all charges, since the conversation's data has been deleted.
func (b *book) close() {
	b.account.Release(b.payer, StoredLog, b.log.Swap(0))
	b.account.Release(b.payer, StoredSnapshot, b.snapshot.Swap(0))
}

func logCost(logs []*raft.Log) (n uint64) {
	for _, l := range logs {
		n += uint64(len(l.Data)+len(l.Extensions)) + entryCost
	}
	return n
}

// store charges entries and then writes them. Entries from another node need room on the disk.
func (b *book) store(logs []*raft.Log, foreign bool, write func([]*raft.Log) error) error {
	if b == nil {
		return write(logs)
	}
	if foreign {
		if err := b.account.Room(); err != nil {
			return err
		}
	}
	n := logCost(logs)
	if err := b.account.Charge(b.payer, StoredLog, n); err != nil {
		return err
	}
	if err := write(logs); err != nil {
		b.account.Release(b.payer, StoredLog, n)
		return err
	}
	b.log.Add(n)
	return nil
}

// shortened corrects the size of a log after a deletion of entries, from the remaining entries.
func (b *book) shortened(log *raftlog.GroupLog) {
	if b == nil {
		return
	}
	var left uint64
	first, err1 := log.FirstIndex()
	last, err2 := log.LastIndex()
	if err1 != nil || err2 != nil {
		return
	}
	var e raft.Log
	for i := first; i <= last && i > 0; i++ {
		if log.GetLog(i, &e) == nil {
			left += logCost([]*raft.Log{&e})
		}
	}
	switch before := b.log.Swap(left); {
	case before > left:
		b.account.Release(b.payer, StoredLog, before-left)
	case before < left:
		b.account.Adopt(b.payer, StoredLog, left-before)
	}
}

// receiving records the sender of the snapshot that is being installed, until the returned function is called.
func (b *book) receiving(index, term uint64, from wire.Domain) (end func()) {
	in := &arriving{index, term, from}
	b.arriving.Store(in)
	return func() { b.arriving.CompareAndSwap(in, nil) }
}

// sink charges a snapshot that is being written: to its sender, or to the payer of the conversation.
func (b *book) sink(s raft.SnapshotSink, index, term uint64) raft.SnapshotSink {
	if b == nil {
		return s
	}
	c := &chargedSink{SnapshotSink: s, book: b, payer: b.payer}
	if in := b.arriving.Load(); in != nil && in.index == index && in.term == term {
		c.payer, c.foreign = in.payer, true
	}
	return c
}

type chargedSink struct {
	raft.SnapshotSink
	book    *book
	payer   wire.Domain
	foreign bool
	size    uint64
	over    bool
}

// Write charges the bytes and writes them.
func (s *chargedSink) Write(p []byte) (int, error) {
	if s.foreign {
		if err := s.book.account.Room(); err != nil {
			return 0, err
		}
	}
	if err := s.book.account.Charge(s.payer, StoredSnapshot, uint64(len(p))); err != nil {
		return 0, err
	}
	s.size += uint64(len(p))
	return s.SnapshotSink.Write(p)
}

// Close makes the snapshot the conversation's, in place of the previous one.
func (s *chargedSink) Close() error {
	err := s.SnapshotSink.Close()
	if s.over {
		return err
	}
	s.over = true
	s.book.account.Release(s.payer, StoredSnapshot, s.size)
	if err != nil {
		return err
	}
	s.book.account.Adopt(s.book.payer, StoredSnapshot, s.size)
	s.book.account.Release(s.book.payer, StoredSnapshot, s.book.snapshot.Swap(s.size))
	return nil
}

// Cancel releases the charge.
func (s *chargedSink) Cancel() error {
	err := s.SnapshotSink.Cancel()
	if !s.over {
		s.over = true
		s.book.account.Release(s.payer, StoredSnapshot, s.size)
	}
	return err
}
