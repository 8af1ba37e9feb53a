// Package node is the server that an organization runs: it builds the parts of mlsfed from a configuration, connects
// them, runs them and stops them.
//
//	device ══ gateway ── Service ──▶ Router ─┬─▶ consensus.Manager   handshakes
//	             │                           ├─▶ store.Write         messages for devices here and other organizations
//	             │                           ├─▶ directory           users here
//	             └──── Feeds ─▶ feed ────────┴─▶ store.Mailbox         what devices read
//	node   ══ federation ── Handlers ──▶ peers (calls.go)
//	             └──── ordering streams ──▶ consensus.Manager ── Consumer ──▶ delivery ──▶ store.Write
//
// # Where to find what
//
//	node.go      New, Run, and the order in which parts start and stop
//	stores.go    the store, and the other databases in the data folder
//	router.go    requests of devices: one method each; submit.go: the two paths of what they send
//	delivery.go  committed entries on their way to the organization's streams
//	readers.go   which conversations a device reads; feed.go: what its session gets of them
//	calls.go     requests of other organizations' nodes; lanes.go: what is sent to them
//	files.go     encrypted files that members share
//	control.go   the socket for the operator's commands; status.go, backup.go: what they answer
//
// New opens what is on disk and starts nothing; Run owns every goroutine.
package node
