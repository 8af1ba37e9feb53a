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

// Questions go only to nodes that announced wire.FeatureTestify. The first release does not know this kind of frame;
// its nodes are asked with older kinds, which ask for less.

// question is a question from one replica to another about the conversation that both hold. All fields are optional.
type question struct {
	About    wire.NodeID         `cbor:"1,keyasint,omitempty"` // the node whose role is asked for
	Claim    uint64              `cbor:"2,keyasint,omitempty"` // About says that an operator's recovery began this generation
	Sequence wire.SequenceNumber `cbor:"3,keyasint,omitempty"` // asks for the order hash after this entry
	Order    wire.Hash           `cbor:"4,keyasint"`           // the asking replica's order hash there; zero: not given
	Index    uint64              `cbor:"5,keyasint,omitempty"` // asks for the entry at this index of Raft's log
	At       uint64              `cbor:"6,keyasint,omitempty"` // index of Raft's log up to which the asking replica has applied it; 0: not given
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

// testimony answers a question. It is the claim of one node.
type testimony struct {
	Role        role                `cbor:"1,keyasint"`           // role of question.About in the committed configuration
	Generation  uint64              `cbor:"2,keyasint"`           // of the configuration here
	Term        uint64              `cbor:"3,keyasint"`           // Raft's term, or the term of the last entry if the conversation sleeps
	Contradicts bool                `cbor:"4,keyasint,omitempty"` // the generation before question.Claim is alive
	Out         bool                `cbor:"5,keyasint,omitempty"` // this replica lost its log, and waits for a new invitation
	Sequence    wire.SequenceNumber `cbor:"6,keyasint"`           // the entry of Order: question.Sequence, or the last one here
	Order       wire.Hash           `cbor:"7,keyasint"`           // zero: no longer kept
	Content     wire.Hash           `cbor:"8,keyasint"`           // digest of the committed entry at question.Index; zero: the entry is not here
	Covered     bool                `cbor:"9,keyasint,omitempty"` // a snapshot has replaced that entry here
	// At is the index of Raft's log up to which this replica has applied it, if Sequence is its last entry; else 0.
	At uint64 `cbor:"10,keyasint,omitempty"`
}

// Check refuses roles that do not exist.
func (t *testimony) Check() error {
	if t.Role > roleVoter {
		return wire.Errorf(wire.Malformed, "testify", "role %d", t.Role)
	}
	return nil
}

// maxTestimony limits the size of both messages, in bytes.
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

// witness is the answer of one node, or the reason for its absence.
type witness struct {
	node wire.NodeID
	testimony
	err error
}

// askAll asks several nodes at once by calling ask for each, and returns when all calls have returned.
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

// receiveTestify answers the question of another replica.
func (m *Manager) receiveTestify(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var q question
	if err := wire.Decode(f.payload, maxTestimony, &q); err != nil {
		return nil, err
	}
	c, err := m.findWithRole(from, f.conversation, roleOfQuestion)
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
		if err := m.viewAnyAt(c, func(s *machine.Machine, applied uint64) {
			t.Sequence, t.Order = orderAt(s, q.Sequence)
			own, at = s.Sequence(), applied
		}); err != nil {
			return nil, err
		}
		if t.Sequence == own {
			t.At = at
		}
		if f.generation == c.generation() && q.At > 0 && (isBehind(own, at, q.Sequence, q.At) || isBehind(q.Sequence, q.At, own, at)) {
			m.serve(c, "compare", func(ctx context.Context) {
				m.handleDifference(ctx, c, from, differentCount(from, q.Sequence, q.At, own, at))
			})
		} else if t.Sequence == q.Sequence && differ(q.Order, t.Order) {
			m.serve(c, "compare", func(ctx context.Context) {
				m.handleDifference(ctx, c, from, differentOrder(from, t.Sequence, q.Order, t.Order))
			})
		}
	}
	return wire.Encode(&t)
}

// committedEntry returns the digest of the entry at an index of Raft's log, if this replica knows that the entry is
// committed.
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

// floorOf returns the index of the last entry of Raft's log that this replica, awake or not, knows to be committed.
func (m *Manager) floorOf(c *conversation) uint64 {
	if l := c.awake(); l != nil {
		return l.floor()
	}
	if rec, err := m.readRecord(c.id); err == nil {
		return rec.Applied
	}
	return 0
}

// entryDigest identifies an entry of Raft's log by its content.
func entryDigest(e *raft.Log) wire.Hash {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64([]byte("mlsfed log entry 1\x00"), e.Term))
	h.Write([]byte{byte(e.Type)})
	h.Write(e.Data)
	return wire.Hash(h.Sum(nil))
}

// orderAt returns the order hash after entry seq, or after the last entry if there are fewer. A zero hash means that
// the hash is no longer kept.
func orderAt(s *machine.Machine, seq wire.SequenceNumber) (wire.SequenceNumber, wire.Hash) {
	if seq >= s.Sequence() {
		return s.Sequence(), s.Order()
	}
	if seq == 0 {
		return 0, wire.Hash{}
	}
	order, _ := s.OrderAt(seq)
	return seq, order
}

// differ reports whether two order hashes after the same entry contradict each other.
func differ(a, b wire.Hash) bool { return a != b && a != (wire.Hash{}) && b != (wire.Hash{}) }
