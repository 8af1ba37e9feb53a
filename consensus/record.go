package consensus

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// record is what this node stores about a conversation in addition to its log. With the record, a sleeping
// conversation can be read and frames for it can be validated.
type record struct {
	Version    uint8               `cbor:"1,keyasint"`
	Group      uint32              `cbor:"2,keyasint"` // number of its group in the log
	Generation uint64              `cbor:"3,keyasint"`
	Applied    uint64              `cbor:"4,keyasint"` // entries of the log up to this index are committed; later ones may be too
	Sequence   wire.SequenceNumber `cbor:"5,keyasint"` // upper limit at Applied: the log may hold entries of Raft's own
	Voters     []wire.NodeID       `cbor:"6,keyasint"`
	Learners   []wire.NodeID       `cbor:"7,keyasint"`
	Leader     wire.NodeID         `cbor:"8,keyasint"`  // the last known leader; empty for none
	Inviter    wire.Domain         `cbor:"9,keyasint"`  // the organization whose quota pays; empty for our own
	Last       uint64              `cbor:"10,keyasint"` // index of the last entry when the conversation went to sleep
	LastTerm   uint64              `cbor:"11,keyasint"`
	Missing    []wire.NodeID       `cbor:"12,keyasint"`           // nodes that should hold a replica and could not be reached
	Rejoin     bool                `cbor:"13,keyasint,omitempty"` // this replica was lost: it has no say until it is invited again
	// Fenced: this replica comes from a backup and is the only voter, and other replicas, without a vote, may know
	// more. It has no say until an operator recovers this replica or another one.
	Fenced bool `cbor:"14,keyasint,omitempty"`
	// ConfigIndex is the index of the committed configuration that consists of Voters and Learners. 0: not known, as
	// in records of builds before this key.
	ConfigIndex uint64 `cbor:"15,keyasint,omitempty"`
}

const recordVersion = 1

const recordPrefix = "conversation/"

// maxRecordSize limits the size of a record: names of MaxReplicas nodes.
const maxRecordSize = 128 << 10

func recordKey(id wire.ConversationID) []byte { return []byte(recordPrefix + string(id)) }

// fresh reports whether this replica was invited, and has received nothing yet.
func (r *record) fresh() bool { return r.ConfigIndex == 0 && r.Applied == 0 && r.Inviter != "" }

func (r *record) members() []wire.NodeID { return append(slices.Clone(r.Voters), r.Learners...) }

// fenceIfOutdated takes a replica that comes from a backup out of service if another replica may know more, and reports
// whether it did.
func (r *record) fenceIfOutdated(self wire.NodeID) bool {
	switch {
	case len(r.othersThan(self)) > 0:
		r.Rejoin, r.Applied, r.Sequence = true, 0, 0
	case len(r.Learners) > 0:
		r.Fenced = true
	default:
		return false
	}
	return true
}

// othersThan returns the voters except one node.
func (r *record) othersThan(n wire.NodeID) []wire.NodeID {
	return slices.DeleteFunc(slices.Clone(r.Voters), func(v wire.NodeID) bool { return v == n })
}

func (r *record) has(n wire.NodeID) bool {
	return slices.Contains(r.Voters, n) || slices.Contains(r.Learners, n)
}

func (m *Manager) readRecord(id wire.ConversationID) (*record, error) {
	b, err := m.cfg.Log.Meta().Get(recordKey(id))
	if errors.Is(err, raftlog.ErrNotFound) {
		return nil, wire.Errorf(wire.UnknownConversation, "open", "this node holds no replica of %v", id)
	}
	if err != nil {
		return nil, fmt.Errorf("record of %v: %w", id, err)
	}
	return decodeRecord(b)
}

func decodeRecord(b []byte) (*record, error) {
	r := new(record)
	if err := wire.Decode(b, maxRecordSize, r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if r.Version != recordVersion {
		return nil, wire.Errorf(wire.Version, "open", "record of version %d, this node knows %d", r.Version, recordVersion)
	}
	return r, nil
}

func (m *Manager) writeRecord(id wire.ConversationID, r *record, with ...raftlog.MetaChange) error {
	change, err := recordChange(id, r)
	if err != nil {
		return err
	}
	if err := m.cfg.Log.Meta().Apply(append(with, change)...); err != nil {
		return fmt.Errorf("record of %v: %w", id, err)
	}
	return nil
}

func recordChange(id wire.ConversationID, r *record) (raftlog.MetaChange, error) {
	r.Version = recordVersion
	b, err := wire.Encode(r)
	return raftlog.MetaChange{Key: recordKey(id), Value: b}, err
}
