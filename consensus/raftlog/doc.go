// Package raftlog keeps the Raft logs of all conversations of a node in one
// store, so that appends of many conversations share one fsync.
//
// # Writing
//
// Callers hand their writes to one committer goroutine and wait. The committer takes all writes that arrived while
// its last transaction ran, up to Config.MaxBatch entries, and writes them in one transaction. A call returns when
// its transaction is durable, never before.
//
// # What is on disk
//
// Both backends map a 64-bit key to a record. A key is a group's number in the upper 24 bits and, below it, either
// the index of an entry or, from 1<<39 on, a record of the store's own. Each group has one state record: the ranges
// of indexes that it holds, the ranges that are deleted but not yet swept, and the stable keys. The state record is
// rewritten in the transaction of the entries. So no search for the bounds of a log is needed, and a gap, which Raft
// leaves on purpose when a snapshot is restored, is not mistaken for damage. The last group number, 1<<24-1, is the
// store's own and holds Meta.
//
// Deleting takes two steps. The state record without the range is made durable, which is when the call returns; the
// records are swept when the committer is idle, or when too many wait. A crash in between leaves the range named in
// the state record, and it is swept after the next load.
//
// # Damage
//
// Every record carries a CRC-32C over its version, kind, key and body, checked on each read. CRC-32C finds every
// burst of up to 32 bits and every three flipped bits in a record of any size accepted here, in hardware, at memory
// speed; a longer hash would only help against an adversary who writes to the disk, and such an adversary could write
// a matching hash as well. The checksum covers the key, so a record that a damaged index leads to is not mistaken for
// another record. A missing record that the state names is damage too, never 'not found'.
//
// GetLog answers damage with a *CorruptError, never with the entry and never with raft.ErrLogNotFound: on a leader
// the latter means 'send a snapshot', which would never end for an entry before the newest one. Raft handles the
// error as follows:
//
//   - a leader that should send the entry stops replicating to that follower;
//   - a follower that should compare it refuses the append;
//   - NewRaft, and applying a committed entry, panic.
//
// So the caller's duties are, in order:
//
//  1. Run NewRaft under a recover, or call Verify before it. NewRaft reads all
//     entries after the snapshot, on the caller's goroutine: damage is found
//     there, before anything is served.
//  2. When Config.OnCorrupt names a group, shut its replica down; a leader
//     transfers its leadership first. Reads of a running replica come from
//     its snapshot's end onwards, which NewRaft has read before.
//  3. Repair. When all damaged indexes that Verify lists are covered by a local
//     snapshot, DeleteRange up to the highest of them is enough. Otherwise the
//     replica has lost entries that it may have acknowledged and must not vote:
//     the others remove it from the configuration, this node calls Drop, and it
//     joins again as a learner. Never truncate a damaged suffix and continue as a
//     voter: if the entry was committed with this node's vote, a majority
//     without it could be formed.
//
// Open also checks for damage below the records. A walk over all pages of a Bolt file finds pages at which bbolt
// would fail; a check of the data after the end of Pebble's write-ahead log shows whether it is the true end. Open
// then fails with ErrDamagedFile: the file has to be moved away, and all replicas of the node joined again as in 3. A
// damaged block of a Pebble table costs the groups in it, not the others.
//
// One kind of damage looks like a crash in the middle of a write, and loses the last transaction: in Bolt's newest
// meta page, 64 bytes of the file, which is reported as group MaxGroups, index 0; and in the last transaction of
// Pebble's write-ahead log before a crash, which cannot be detected.
//
// # Full disk
//
// A write for which there is no space fails with ErrNoSpace, nothing of it is kept, and the store continues when
// space returns. Any other failure of a write or sync is final (ErrFailed): the kernel's cached data cannot be
// trusted after a failed fsync, so an operator has to check the disk and restart the node. Below Config.MinFree bytes
// writes are refused beforehand; Pebble needs that, because it cannot survive a full disk by itself.
package raftlog
