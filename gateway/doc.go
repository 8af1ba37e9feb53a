// Package gateway is the side of a node that devices see: WebSocket sessions, and HTTP beside them.
// docs/protocol.md describes both for somebody who writes a client.
//
// It knows nothing of conversations, mailboxes or the directory. Who may log in it asks [Devices], who
// answers requests is [Service], what a device has to read comes from [Mail]: the node supplies them.
//
// # A session
//
// A device connects, signs a challenge of this connection alone, and is logged in. Then it sends
// requests, which are answered as they are done, and, if it receives, is given what its streams hold: a
// page at a time, never more than [Config.Window] pushes that it has not acknowledged. What it has
// acknowledged is remembered by [Mail]; a session remembers only what it has pushed.
//
// Requests of one device that submit to one conversation (methods update and submitMessage) are served
// one after the other in the order in which they came; all others at once.
//
// A session ends for one reason, which is counted, and which the device learns by a close code of its own.
//
// # Goroutines and memory
//
// [New] starts none. [Gateway.Serve] owns all of them and returns when they have ended. A session has two:
// one reads, one writes. A request under way has one more, and acknowledgements under way have one. An
// idle session holds no frame and no write buffer: one without anything to do costs what two stacks, the
// TLS connection and 1 KiB for reading take.
//
// # Bounds
//
// Nothing that a client sends waits without a bound: requests are counted, the answers of a session have
// a place each, pushes are read only when they can be written, reading stops while acknowledgements
// pile up. Each limit is a field of [Config]. Time that a socket is waited for is the machine's; all
// else is measured by [Clock].
package gateway
