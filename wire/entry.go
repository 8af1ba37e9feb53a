package wire

import (
	"crypto/sha256"
	"strconv"
	"strings"
)

// EntryVersion is the version of Entry that this package writes.
const EntryVersion = 1

// Entry is the content of a Raft log entry: a submission, or a change of replicas by the nodes themselves. Exactly
// one of Envelope and Replicas is set.
//
// Devices decode entries too, and devices of the first release refuse unknown keys. So new content goes into the
// existing fields.
type Entry struct {
	Version uint8 `cbor:"1,keyasint"`
	Time    Time  `cbor:"2,keyasint"` // the proposer's clock
	// Proposer is the leader that made the entry. From level 2 of the rules on, the Proposer of a submission is the
	// node that brought it to the leader.
	Proposer NodeID    `cbor:"3,keyasint"`
	Envelope *Envelope `cbor:"4,keyasint,omitempty"`
	Replicas *Replicas `cbor:"5,keyasint,omitempty"`
}

// The levels of the state machine's rules. Level 2 decides contests in another way, level 3 accepts
// CommitBundle.Rest.
const (
	FirstLevel = 1 // the level of every conversation until an entry raises it
	UsualLevel = 2 // a leader raises to it by itself; a higher level comes with a submission that needs it
	LastLevel  = 3 // the highest level that this package knows
)

// LevelFeature returns the feature with which a node announces that it knows a level of the rules.
func LevelFeature(level uint8) Feature { return Feature(levelPrefix + strconv.Itoa(int(level))) }

const levelPrefix = "rules/"

// Replicas names the nodes that hold the conversation from this entry on.
type Replicas struct {
	// Generation counts how often an operator has forced a new configuration after a majority was lost. Nodes of an
	// earlier generation have no vote.
	Generation uint64   `cbor:"1,keyasint"`
	Voters     []NodeID `cbor:"2,keyasint"`
	Learners   []NodeID `cbor:"3,keyasint,omitempty"`
	// Recovery is set if this entry follows an operator's forced recovery. With the present generation of the
	// conversation, it raises the level of the rules instead; see RaiseLevel.
	Recovery *Recovery `cbor:"4,keyasint,omitempty"`
}

// RaiseLevel returns the content of an entry that raises the rules to level and leaves the replicas as in now. A
// leader orders it when all replicas have announced LevelFeature(level). Replicas of the first release refuse it;
// devices of the first release ignore it.
func RaiseLevel(now *Replicas, level uint8) *Replicas {
	next := *now
	next.Recovery = &Recovery{Note: string(LevelFeature(level))}
	return &next
}

// RaisesTo returns the level to which r raises the rules in a conversation of generation current. ok is false if r
// does something else, or names a level that this package does not know.
func (r *Replicas) RaisesTo(current uint64) (level uint8, ok bool) {
	if r.Recovery == nil || r.Generation != current || len(r.Recovery.Lost) > 0 {
		return 0, false
	}
	number, found := strings.CutPrefix(r.Recovery.Note, levelPrefix)
	n, err := strconv.ParseUint(number, 10, 8)
	if !found || err != nil || n <= FirstLevel || n > LastLevel || string(LevelFeature(uint8(n))) != r.Recovery.Note {
		return 0, false
	}
	return uint8(n), true
}

// Recovery records an operator's act, visible to all members.
type Recovery struct {
	Lost []NodeID `cbor:"1,keyasint,omitempty"` // the voters that were given up
	Note string   `cbor:"2,keyasint"`           // the operator's reason, at most MaxNote bytes
}

// Bounds of a change of replicas.
const (
	MaxReplicas = 256 // nodes
	MaxNote     = 512 // bytes
)

// Check refuses an entry that breaks a rule that needs no state.
func (e *Entry) Check() error {
	if e.Version != EntryVersion {
		return Errorf(Version, "entry", "version %d, this node knows %d", e.Version, EntryVersion)
	}
	if err := e.Proposer.Check(); err != nil {
		return Errorf(Malformed, "entry", "proposer: %v", err)
	}
	if (e.Envelope != nil) == (e.Replicas != nil) {
		return Errorf(Malformed, "entry", "wanted either a submission or a change of replicas")
	}
	if e.Envelope != nil {
		return e.Envelope.Check()
	}
	return e.Replicas.Check()
}

// Check refuses replicas that exceed the bounds, have no voter, or name a node twice.
func (r *Replicas) Check() error {
	if len(r.Voters) == 0 || len(r.Voters)+len(r.Learners) > MaxReplicas {
		return Errorf(Malformed, "replicas", "%d voters and %d learners, wanted a voter and at most %d nodes",
			len(r.Voters), len(r.Learners), MaxReplicas)
	}
	seen := make(map[NodeID]bool, len(r.Voters)+len(r.Learners))
	for _, list := range [][]NodeID{r.Voters, r.Learners} {
		for _, n := range list {
			if err := n.Check(); err != nil {
				return Errorf(Malformed, "replicas", "%v", err)
			}
			if seen[n] {
				return Errorf(Malformed, "replicas", "%s is named twice", n)
			}
			seen[n] = true
		}
	}
	if r.Recovery != nil && (len(r.Recovery.Note) > MaxNote || len(r.Recovery.Lost) > MaxReplicas) {
		return Errorf(Malformed, "replicas", "recovery with a note of %d bytes and %d nodes", len(r.Recovery.Note), len(r.Recovery.Lost))
	}
	return nil
}

// Committed is an accepted entry with its position.
type Committed struct {
	Sequence SequenceNumber `cbor:"1,keyasint"`
	Order    Hash           `cbor:"2,keyasint"` // the order hash up to and with this entry
	Entry    []byte         `cbor:"3,keyasint"` // an Entry, encoded: the order hash covers these bytes
}

// Check refuses an entry at position 0 or over MaxEntry.
func (c *Committed) Check() error {
	if c.Sequence == 0 || len(c.Entry) == 0 || len(c.Entry) > MaxEntry {
		return Errorf(Malformed, "committed", "entry %d of %d bytes", c.Sequence, len(c.Entry))
	}
	return nil
}

// Open decodes the entry.
func (c *Committed) Open() (*Entry, error) {
	e := new(Entry)
	return e, Decode(c.Entry, MaxEntry, e)
}

// NextOrder returns the order hash after entry, where before is the order hash so far, zero before the first entry:
// h(n) = SHA-256("mlsfed order 1" 0 h(n-1) entry n).
func NextOrder(before Hash, entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte("mlsfed order 1\x00"))
	h.Write(before[:])
	h.Write(entry)
	return Hash(h.Sum(nil))
}

// Receipt answers an accepted submission. A retry gets the same answer.
type Receipt struct {
	Sequence SequenceNumber `cbor:"1,keyasint"`
	Epoch    Epoch          `cbor:"2,keyasint"` // the epoch after the entry
	Order    Hash           `cbor:"3,keyasint"`
	Time     Time           `cbor:"4,keyasint"`
}
