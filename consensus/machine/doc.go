// Package machine is the state machine of a conversation: it determines the outcome of each entry that Raft has
// ordered. It is pure. It has no clock, no randomness, no configuration and no I/O, so that replicas which apply the
// same entries hold the same state, bit for bit:
//
//	consensus ── Judge(entry) ──▶ would it be accepted now?        (before it is proposed; changes nothing)
//	Raft ──────── Apply(bytes) ─▶ Judge, then enact ─▶ Outcome     (once per log entry, in order)
//	consensus ── Snapshot ──────▶ Image ─ WriteTo ─▶ bytes ─ Restore ─▶ the same Machine elsewhere
//
// # Heads
//
// A conversation usually has one head: the epoch that members are in. A commit for the head replaces it. A commit for
// an epoch that has ended is refused with the commit that ended it, unless it bears the contest mark: then it opens
// another head. Each head has its own submission key and delivery list; entries are delivered to the union of the
// lists. At level 1 of the rules the parent of a head can be contested, heads are few (MaxHeads), and a head that is
// not used for HeadLife expires. From level 2 on each head has a trail of epochs that can be contested, and there are
// up to MaxBranches heads (branches.go; docs/spec/consensus.md, Contests).
//
// # Time
//
// The only time is the time in entries. It never runs backwards here, and one entry moves it forward by at most
// MaxStep, so that a proposer with a wrong clock cannot make everything expire.
package machine
