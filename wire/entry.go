package wire

import (
	"crypto/sha256"
	"strconv"
	"strings"
)

// EntryVersion is the version of Entry that this package writes.
const EntryVersion = 1

// Entry is what Raft orders: a submission, or a change of replicas by the nodes themselves. Exactly one
// of Envelope and Replicas is set.
//
// Devices decode entries too, and those of the first release refuse unknown keys. New content therefore
// goes into the fields that exist.
type Entry struct {
	Version uint8 `cbor:"1,keyasint"`
	Time    Time  `cbor:"2,keyasint"` // the proposer's clock
	// Proposer is the node that led when the entry was made; from level 2 of the rules on, of a submission,
	// the node that brought it to the leader.
	Proposer NodeID    `cbor:"3,keyasint"`
	Envelope *Envelope `cbor:"4,keyasint,omitempty"`
	Replicas *Replicas `cbor:"5,keyasint,omitempty"`
}

// The levels of the state machine's rules.
const (
	FirstLevel = 1 // of every conversation until an entry raises it
	LastLevel  = 2 // the highest that this package knows
)

// LevelFeature returns the feature with which a node announces that it knows a level of the rules.
func LevelFeature(level uint8) Feature { return Feature(levelPrefix + strconv.Itoa(int(level))) }

const levelPrefix = "rules/"

// Replicas says which nodes are to hold the conversation from this entry on.
type Replicas struct {
	// Generation counts the times that an operator has forced a new configuration after a majority was
	// lost. Nodes that are behind it have no say.
	Generation uint64   `cbor:"1,keyasint"`
	Voters     []NodeID `cbor:"2,keyasint"`
	Learners   []NodeID `cbor:"3,keyasint,omitempty"`
	// Recovery is set where this entry follows an operator's forced recovery. With the generation that the
	// conversation has already, it raises the level of the rules instead; see RaiseLevel.
	Recovery *Recovery `cbor:"4,keyasint,omitempty"`
}

// RaiseLevel returns the entry content that raises the rules to level and leaves the replicas as now says.
// A leader orders it when all replicas have announced LevelFeature(level). Replicas of the first release
// refuse it; devices of the first release pass over it.
func RaiseLevel(now *Replicas, level uint8) *Replicas {
	next := *now
	next.Recovery = &Recovery{Note: string(LevelFeature(level))}
	return &next
}

// RaisesTo returns the level that r raises the rules to in a conversation of generation current. ok is
// false where r is something else, or names a level that this package does not know.
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

// Recovery records an operator's act, for all to see.
type Recovery struct {
	Lost []NodeID `cbor:"1,keyasint,omitempty"` // the voters that were given up
	Note string   `cbor:"2,keyasint"`           // the operator's reason, at most MaxNote bytes
}

// Bounds of a change of replicas.
const (
	MaxReplicas = 256 // nodes
	MaxNote     = 512 // bytes
)

// Check refuses an entry that breaks a rule which needs no state.
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

// Check refuses replicas over the bounds, without a voter, or with a node named twice.
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

// Committed is an accepted entry at its place.
type Committed struct {
	Sequence SequenceNumber `cbor:"1,keyasint"`
	Order    Hash           `cbor:"2,keyasint"` // the order hash up to and with this entry
	Entry    []byte         `cbor:"3,keyasint"` // an Entry, encoded: the order hash covers these bytes
}

// Check refuses an entry at place 0 or over MaxEntry.
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

// NextOrder is the order hash after entry, of which before is the order hash so far; zero before the
// first: h(n) = SHA-256("mlsfed order 1" 0 h(n-1) entry n).
func NextOrder(before Hash, entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte("mlsfed order 1\x00"))
	h.Write(before[:])
	h.Write(entry)
	return Hash(h.Sum(nil))
}

// Receipt answers an accepted submission. A retry gets the same.
type Receipt struct {
	Sequence SequenceNumber `cbor:"1,keyasint"`
	Epoch    Epoch          `cbor:"2,keyasint"` // the epoch after the entry
	Order    Hash           `cbor:"3,keyasint"`
	Time     Time           `cbor:"4,keyasint"`
}
