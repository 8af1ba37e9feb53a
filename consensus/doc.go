// Package consensus orders conversations: one Raft group for each, ten thousand to a node.
//
//	caller ── Create, Order, Entries, Blob, … ──▶ Manager ─┬─ conversation (asleep: a record on disk)
//	                                                        └─ conversation ── live ── raft.Raft
//	                                                                                 │  │   │
//	      Consumer ◀── pump ◀── committed entries ◀── machine.Machine ◀── fsm ◀──────┘  │   └─ guard ─▶ raftlog.Log
//	                                                                                    │      (one file for all)
//	      other nodes ◀══ Link (bytes) ══▶ mesh (one connection a node) ◀── transport ◀─┘
//
// Package machine decides the outcome of an entry, and is pure. Package raftlog keeps all logs of a node in one file.
// The Raft implementation is hashicorp's; only this package and raftlog use it.
//
// # The caller's duties, in order
//
//  1. Open a raftlog.Log, and hand it to New with the interfaces of Config: a Link that opens proven byte
//     streams, a Roster of the admitted organizations' nodes, a Consumer that stores entries with its
//     position.
//  2. Run the Manager. Run owns every goroutine and returns when all have ended.
//  3. Hand every byte stream that another node opens to Accept, with that node's proven name.
//  4. Order with a deadline, and repeat a submission that got no answer under its own id.
//  5. After Run has returned, close the log.
//
// # Where to find what
//
//	manager.go       the list of conversations, and what comes in from other nodes
//	conversation.go  one replica: asleep, being opened, awake, being closed
//	submission.go        a submission's way to the leader and into the log
//	sleep.go         when a conversation falls asleep, and how it wakes
//	detector.go      how the leader on an unresponsive node is replaced
//	exchange.go      state exchange between nodes after an absence; vouch.go: leaders not known yet
//	place.go         which nodes hold replicas; replicas.go: how Raft's configuration follows
//	repair.go        damaged replicas; recover.go: lost majorities
//	mesh.go          connections and calls; frame.go, rpc.go: their bytes; fabric_test.go: their faults
//	transport.go     Raft's view of the mesh; heartbeat.go, nudge.go: fewer frames and faster commits
//	guard.go         the layer between Raft and its log; stable.go: its term and its vote
//	watch.go         delivery to the consumer; read.go: reading without waking
//	blobs.go         content that is transferred separately from the log
//
// docs/spec/consensus.md describes the life of one entry.
package consensus
