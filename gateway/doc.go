// Package gateway is the side of a node that devices see: WebSocket sessions and HTTP. docs/spec/protocol.md describes
// both for somebody who writes a client.
//
// The package knows nothing of conversations, mailboxes or the directory. [Devices] decides on logins, [Service]
// answers requests, and [Feeds] supplies what a device has to read. The node implements all three.
//
// # A session
//
// A device connects, signs a challenge that is valid for this connection alone, and is logged in. Its requests are
// answered in the order in which they finish. A device that receives gets the items of its streams, a page at a time,
// and never more than [Config.Window] unacknowledged pushes. [Feeds] remembers acknowledgements; a session remembers
// only its pushes.
//
// Requests of one device that submit to one conversation (methods update and submitMessage) are served one after
// another in order of arrival. All other requests are served concurrently.
//
// A session ends for exactly one reason. A metric counts the reason, and a close code reports it to the device.
//
// # Goroutines and memory
//
// [New] starts no goroutine. [Gateway.Serve] owns all of them and returns when they have ended. A session has two:
// one reads, one writes. Each request under way has one more, and all acknowledgements under way share one. An idle
// session holds no frame and no write buffer: its cost is two stacks, the TLS connection and a read buffer of 1 KiB.
//
// # Bounds
//
// Every queue is bounded: requests are counted, each answer has a reserved place, pushes are read only when they can
// be written, and reading stops while acknowledgements pile up. Each limit is a field of [Config]. Socket deadlines
// use the machine's clock; all other times use Config.Clock.
package gateway
