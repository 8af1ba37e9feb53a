package raftlog

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

var (
	// ErrNotFound is returned for a key that is not set. Raft compares the
	// text, so it must stay exactly 'not found'.
	ErrNotFound = errors.New("not found")
	// ErrClosed is returned by all calls after Close.
	ErrClosed = errors.New("raftlog: closed")
	// ErrCorrupt matches a *CorruptError and a *DamageError in errors.Is.
	ErrCorrupt = errors.New("raftlog: record damaged")
	// ErrDamagedFile is returned by Open when the file's structure is damaged:
	// move the file away and let the other replicas supply its groups.
	ErrDamagedFile = errors.New("raftlog: file damaged")
	// ErrNoSpace is returned by a write for which the disk has no space. Nothing of the write was stored; it can be
	// retried.
	ErrNoSpace = errors.New("raftlog: no space on disk")
	// ErrFailed is returned by all writes after a write failed for another reason than a full disk. Check the disk,
	// then restart the node.
	ErrFailed = errors.New("raftlog: store failed, restart the node after checking the disk")
	// ErrTooLarge is returned for an entry, key or value above its limit.
	ErrTooLarge = errors.New("raftlog: too large")
	// ErrBadGroup is returned by a group whose number is out of range.
	ErrBadGroup = errors.New("raftlog: group number out of range")

	errMissing = errors.New("raftlog: no such record")
)

// CorruptError names a record whose checksum differs, that cannot be decoded,
// or that is missing although the group's state names it.
type CorruptError struct {
	Group  uint32 // MaxGroups for the node's own area
	Index  uint64 // the entry; 0 for the group's state record, or for the file as a whole
	Reason string
}

// Error names the group and the index.
func (e *CorruptError) Error() string {
	what := fmt.Sprintf("entry %d", e.Index)
	switch {
	case e.Group == metaGroup && e.Index == 0:
		return "raftlog: file damaged: " + e.Reason
	case e.Group == metaGroup:
		return fmt.Sprintf("raftlog: node's own area: slot %d damaged: %s", e.Index, e.Reason)
	case e.Index == 0:
		what = "state record"
	}
	return fmt.Sprintf("raftlog: group %d: %s damaged: %s", e.Group, what, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// DamageError is the result of GroupLog.Verify.
type DamageError struct {
	Group   uint32
	Indexes []uint64 // damaged entries, ascending; 0 means the state record
}

// Error names the group, the number of damaged entries and the first few.
func (e *DamageError) Error() string {
	const shown = 8
	var list []string
	for _, i := range e.Indexes[:min(shown, len(e.Indexes))] {
		list = append(list, fmt.Sprint(i))
	}
	return fmt.Sprintf("raftlog: group %d: %d damaged records (entries %s): fetch the replica again from the others",
		e.Group, len(e.Indexes), strings.Join(list, ", "))
}

// Is reports whether target is ErrCorrupt.
func (e *DamageError) Is(target error) bool { return target == ErrCorrupt }

// noSpace reports whether err says that the disk, the quota or the file's permitted size is exhausted. Such a write
// leaves nothing behind that would make a later one unsafe.
func noSpace(err error) bool {
	for _, e := range []error{ErrNoSpace, syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
