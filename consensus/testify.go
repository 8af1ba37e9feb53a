package consensus

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Questions go only to nodes that announced wire.FeatureTestify. The first release does not know the kind, and
// its nodes are asked with older, narrower kinds.

// question is what one replica asks another about the conversation that both hold. Everything is optional.
type question struct {
	About    wire.NodeID         `cbor:"1,keyasint,omitempty"` // whose role?
	Claim    uint64              `cbor:"2,keyasint,omitempty"` // About says that an operator's recovery began this generation
	Sequence wire.SequenceNumber `cbor:"3,keyasint,omitempty"` // what is the order hash after this entry?
	Order    wire.Hash           `cbor:"4,keyasint"`           // the asker's own there; zero: not told
	Index    uint64              `cbor:"5,keyasint,omitempty"` // which entry does Raft's log have at this place?
	At       uint64              `cbor:"6,keyasint,omitempty"` // the place of Raft's log up to which the asker has applied it; 0: not told
}

// Check refuses a question about no node.
func (q *question) Check() error {
	if q.About == "" {
		return nil
	}
	if err := q.About.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "testify", "%v", err)
	}
	return nil
}

// testimony answers a question. It is one node's word.
type testimony struct {
	Role        role                `cbor:"1,keyasint"`           // of question.About, by the committed configuration
	Generation  uint64              `cbor:"2,keyasint"`           // of the configuration here
	Term        uint64              `cbor:"3,keyasint"`           // Raft's, or that of the last entry where the conversation sleeps
	Contradicts bool                `cbor:"4,keyasint,omitempty"` // the generation before question.Claim lives
	Out         bool                `cbor:"5,keyasint,omitempty"` // this replica lost its log, and waits to be invited anew
	Sequence    wire.SequenceNumber `cbor:"6,keyasint"`           // the entry that Order belongs to: question.Sequence, or the last one here
	Order       wire.Hash           `cbor:"7,keyasint"`           // zero: no longer kept
	Content     wire.Hash           `cbor:"8,keyasint"`           // digest of the committed entry at question.Index; zero: not here
	Covered     bool                `cbor:"9,keyasint,omitempty"` // a snapshot has replaced that entry here
	// At is the place of Raft's log up to which this replica has applied it, where Sequence is its last entry; else 0.
	At uint64 `cbor:"10,keyasint,omitempty"`
}

// Check refuses roles that do not exist.
func (t *testimony) Check() error {
	if t.Role > roleVoter {
		return wire.Errorf(wire.Malformed, "testify", "role %d", t.Role)
	}
	return nil
}

// maxTestimony bounds both messages, in bytes.
const maxTestimony = 1024

func (m *Manager) announced(n wire.NodeID) bool {
	return m.cfg.Roster != nil && m.cfg.Roster.Announced(n, wire.FeatureTestify)
}

// askTestimony asks one node that has announced wire.FeatureTestify.
func (m *Manager) askTestimony(ctx context.Context, n wire.NodeID, c *conversation, q question) (testimony, error) {
	var t testimony
	payload, err := wire.Encode(&q)
	if err != nil {
		return t, err
	}
	b, err := m.mesh.ask(ctx, n, &frame{kind: kindTestify, generation: c.generation(), conversation: c.id, payload: payload})
	if err != nil {
		return t, err
	}
	return t, wire.Decode(b, maxTestimony, &t)
}

// witness is one node's answer, or why there is none.
type witness struct {
	node wire.NodeID
	testimony
	err error
}

// askAll asks several nodes at once, with what ask does for each, and returns when all have answered.
func (m *Manager) askAll(nodes []wire.NodeID, ask func(wire.NodeID) witness) []witness {
	answers := make([]witness, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			answers[i] = ask(n)
			answers[i].node = n
		})
	}
	all.Wait()
	return answers
}

// receiveTestify answers another replica.
func (m *Manager) receiveTestify(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var q question
	if err := wire.Decode(f.payload, maxTestimony, &q); err != nil {
		return nil, err
	}
	c, err := m.party(from, f.conversation, roleOfQuestion)
	if err != nil {
		return nil, err
	}
	t := testimony{Generation: c.generation(), Term: m.termOf(c), Out: c.out.Load()}
	if q.About != "" {
		known, err := m.committed(c)
		if err != nil {
			return nil, err
		}
		t.Role = known.role(q.About)
		t.Contradicts = q.Claim > 0 && m.contradicts(c, q.About, q.Claim)
	}
	if q.Index > 0 && !t.Out {
		t.Content, t.Covered = m.committedEntry(c, q.Index)
	}
	if q.Sequence > 0 && !t.Out {
		if err := c.refused("read"); err != nil {
			return nil, err
		}
		var own wire.SequenceNumber
		var at uint64
		if err := m.lookAt(c, func(s *machine.Machine, applied uint64) {
			t.Sequence, t.Order = orderAt(s, q.Sequence)
			own, at = s.Sequence(), applied
		}); err != nil {
			return nil, err
		}
		if t.Sequence == own {
			t.At = at
		}
		if f.generation == c.generation() && q.At > 0 && (lacks(own, at, q.Sequence, q.At) || lacks(q.Sequence, q.At, own, at)) {
			m.serve(c, "compare", func(ctx context.Context) { m.differs(ctx, c, from, differentCount(from, q.Sequence, q.At, own, at)) })
		} else if t.Sequence == q.Sequence && differ(q.Order, t.Order) {
			m.serve(c, "compare", func(ctx context.Context) { m.differs(ctx, c, from, differentOrder(from, t.Sequence, q.Order, t.Order)) })
		}
	}
	return wire.Encode(&t)
}

// committedEntry is the digest of the entry at a place of Raft's log, where it is known to be committed here.
func (m *Manager) committedEntry(c *conversation, index uint64) (digest wire.Hash, covered bool) {
	if index > m.floorOf(c) {
		return digest, false
	}
	var e raft.Log
	if err := m.cfg.Log.Group(c.group).GetLog(index, &e); err != nil {
		return digest, errors.Is(err, raft.ErrLogNotFound)
	}
	return entryDigest(&e), false
}

// floorOf is the last entry of Raft's log that is known to be committed here, awake or not.
func (m *Manager) floorOf(c *conversation) uint64 {
	if l := c.awake(); l != nil {
		return l.floor()
	}
	if rec, err := m.readRecord(c.id); err == nil {
		return rec.Applied
	}
	return 0
}

// entryDigest names an entry of Raft's log by its content.
func entryDigest(e *raft.Log) wire.Hash {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64([]byte("mlsfed log entry 1\x00"), e.Term))
	h.Write([]byte{byte(e.Type)})
	h.Write(e.Data)
	return wire.Hash(h.Sum(nil))
}

// orderAt is the order hash after entry seq, or after the last entry where there are fewer. A zero hash
// stands for one that is no longer kept.
func orderAt(s *machine.Machine, seq wire.SequenceNumber) (wire.SequenceNumber, wire.Hash) {
	if seq >= s.Sequence() {
		return s.Sequence(), s.Order()
	}
	if seq == 0 {
		return 0, wire.Hash{}
	}
	entries, gap := s.Entries(seq-1, 1, 0)
	if gap || len(entries) == 0 {
		return seq, wire.Hash{}
	}
	return seq, entries[0].Order
}

// differ reports whether two order hashes after the same entry contradict each other.
func differ(a, b wire.Hash) bool { return a != b && a != (wire.Hash{}) && b != (wire.Hash{}) }
