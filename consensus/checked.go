package consensus

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A replica verifies the signature of each submission once: before it proposes or forwards the submission, otherwise
// when it applies the entry. A conversation that sleeps and wakes applies its log again, from the newest snapshot on,
// and would verify all signatures of that part again.

// checkedRange is the part of a conversation's log whose signatures this process has verified: the entries after
// from, up to and including to. An entry that was refused as forged is in no range: a replay must refuse it again. The
// range has committed entries only: another leader may put another entry in the place of one that is not committed.
type checkedRange struct {
	mu         sync.Mutex // guards the fields below
	generation uint64
	from, to   uint64
}

// begin continues the range with a state that contains the log up to index.
func (r *checkedRange) begin(generation, index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.generation != generation || index > r.to {
		r.generation, r.from, r.to = generation, index, index
	}
}

// note adds the next applied entry. All entries between the index of begin and this one have been applied.
func (r *checkedRange) note(generation, index uint64, out machine.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.generation != generation:
	case out.Err != nil && errors.Is(out.Err, wire.Forged):
		r.from, r.to = max(r.from, index), max(r.to, index)
	default:
		r.to = max(r.to, index)
	}
}

// has reports whether the signature of the entry at an index needs no verification.
func (r *checkedRange) has(generation, index uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation == generation && r.from < index && index <= r.to
}

// reset forgets the range, because the log is deleted.
func (r *checkedRange) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation, r.from, r.to = 0, 0, 0
}

// checkedBy adds the entries that a state machine applies to a range. A nil *checkedBy does nothing.
type checkedBy struct {
	r          *checkedRange
	generation uint64
}

func (b *checkedBy) begin(index uint64) {
	if b != nil {
		b.r.begin(b.generation, index)
	}
}

func (b *checkedBy) note(index uint64, out machine.Outcome) {
	if b != nil {
		b.r.note(b.generation, index, out)
	}
}

// decodedEntries keeps entries of a leader's requests that this replica has decoded to validate them, until they are
// applied: most are, a moment later. An entry that is overwritten is decoded again.
type decodedEntries [8]atomic.Pointer[decodedEntry]

type decodedEntry struct {
	first *byte // of the entry's bytes, which nobody writes to
	entry *wire.Entry
}

// maxDecoded is the size up to which an entry is kept, in bytes.
const maxDecoded = 8 << 10

func (d *decodedEntries) put(l *raft.Log, e *wire.Entry) {
	if len(l.Data) > 0 && len(l.Data) <= maxDecoded {
		d[l.Index%uint64(len(d))].Store(&decodedEntry{&l.Data[0], e})
	}
}

// take returns the decoded form of exactly these bytes, or nil, and forgets it.
func (d *decodedEntries) take(l *raft.Log) *wire.Entry {
	slot := &d[l.Index%uint64(len(d))]
	have := slot.Load()
	if have == nil || len(l.Data) == 0 || have.first != &l.Data[0] || !slot.CompareAndSwap(have, nil) {
		return nil
	}
	return have.entry
}

// provenSubmissions holds the submissions that this replica has forwarded to the leader after it had verified their
// signatures, the newest ones only.
type provenSubmissions struct {
	mu   sync.Mutex // guards the fields below
	list [16]provenSubmission
	next int
}

type provenSubmission struct {
	id     wire.SubmissionID
	digest wire.Hash // of the envelope, its signature included
	key    wire.SubmissionKey
}

func (s *provenSubmissions) add(e *wire.Envelope, key wire.SubmissionKey) {
	if key.IsZero() {
		return
	}
	digest, err := e.Digest()
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list[s.next%len(s.list)] = provenSubmission{e.Submission, digest, key}
	s.next++
}

// key returns the key with which the signature of an envelope has been verified, or the zero key.
func (s *provenSubmissions) key(e *wire.Envelope) (key wire.SubmissionKey) {
	if e == nil {
		return key
	}
	found, ok := s.find(e.Submission)
	if !ok {
		return key
	}
	if digest, err := e.Digest(); err != nil || digest != found.digest {
		return key
	}
	return found.key
}

func (s *provenSubmissions) find(id wire.SubmissionID) (provenSubmission, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i].id == id && !s.list[i].key.IsZero() {
			return s.list[i], true
		}
	}
	return provenSubmission{}, false
}

// known returns the facts about an entry that this replica has found out before it applies the entry.
func (l *live) known(entry *raft.Log) (k machine.Known) {
	k.Checked = l.c.checked.has(l.c.generation(), entry.Index)
	if w := l.waiter(entry.Data); w != nil {
		k.Key, k.Entry = w.key, w.entry.Load()
		return k
	}
	if k.Entry = l.decoded.take(entry); k.Entry != nil && !k.Checked {
		k.Key = l.proven.key(k.Entry.Envelope)
	}
	return k
}
