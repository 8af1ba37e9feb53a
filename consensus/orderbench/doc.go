// Package orderbench measures the ordering of conversations: three nodes in one process, real loopback
// TCP, real fsync, entries of 4 KiB, everything in one run.
//
//	Run ── open ───▶ naive: a raft-boltdb file and a TCP transport for each group
//	    │            ours:  three Managers on one raftlog each, bolt or pebble
//	    ├─ drive ──▶ every conversation has one submission under way, always
//	    ├─ floor ──▶ append + fdatasync, and a round trip on loopback
//	    ├─ sleep ──▶ what sleeping conversations take, and how long they need to wake
//	    ├─ woken ──▶ many conversations wake at the same moment
//	    └─ peers ──▶ a program that measures another library, in turns with ours
//
// Both designs run the same state machine on the same entries: the leader judges, every replica applies. naive-empty
// ignores the entries. Clients sign in advance, so that their work is in none of the figures. The designs take turns
// for several rounds, and the result is the median round, since the machine is shared.
package orderbench
