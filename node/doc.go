// Package node joins the parts of mlsfed to what an organization runs: it builds them from a
// configuration, connects them, runs and stops them.
//
//	device ══ gateway ── Service ──▶ Router ─┬─▶ consensus.Manager   handshakes
//	             │                           ├─▶ federation.Outbox   messages for other organizations
//	             │                           ├─▶ mailbox, directory  messages and users here
//	             └──── Mail ──▶ feed ────────┘
//	node   ══ federation ── Handlers ──▶ peers (calls.go)
//	             └──── ordering streams ──▶ consensus.Manager ── Consumer ──▶ delivery ──▶ mailbox
//
// # Where to find what
//
//	node.go      New, Run, and the order in which parts start and stop
//	stores.go    the databases in the data folder
//	router.go    requests of devices: one method each; submit.go: the two paths of what they send
//	delivery.go  committed entries on their way to the organization's streams
//	streams.go   which conversations a device reads; feed.go: what its session is given of them
//	calls.go     requests of other organizations' nodes; lanes.go: what is sent to them
//	files.go     encrypted files that members share
//	control.go   the socket for the operator's commands; status.go, backup.go: what they answer
//
// New opens what is on disk and starts nothing; Run owns every goroutine.
package node
