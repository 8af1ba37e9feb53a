// Package orderbench measures the ordering of conversations: three nodes in one process, real loopback
// TCP, real fsync, entries of 4 KiB, everything in one run.
//
//	Run ── setUp ──▶ naive: a raft-boltdb file and a TCP transport for each group
//	    │            ours:  three Managers on one raftlog each, bolt or pebble
//	    ├─ drive ──▶ every conversation has one submission under way, always
//	    └─ floors ─▶ append + fdatasync, and a round trip on loopback
//
// The designs take turns for several rounds, and the median round counts, since the machine is shared.
package orderbench
