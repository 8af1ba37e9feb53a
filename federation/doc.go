// Package federation connects the nodes of organizations that have admitted each other: links between nodes, gossip of
// node addresses, calls and streams for ordering.
//
//	node ─▶ Federation ─┬─▶ organization.Verifier   which certificates and records are accepted
//	                    ├─▶ organization.Peers      the allow-list
//	                    └─▶ organization.Identity   this node's key and certificate
//	node ─▶ outbox.Outbox ── outbox.Link ─▶ Federation.Notify
//
// Package organization needs no sockets, and package outbox knows no link but its interface Link; neither imports this
// package.
//
// # One port
//
// A node listens on one port, for TLS 1.3 with certificates on both sides. The application protocol that the handshake
// selects is the purpose of the connection:
//
//	h2               calls: POST /v1/<method>, CBOR in both directions
//	mlsfed-order/1   a byte stream for the ordering of conversations
//	mlsfed-gossip/1  gossip
//	mlsfed-gossip/2  gossip, with the exchange of records over the link itself
//
// Each connection is registered with its node and organization. When an organization is removed or suspended, all its
// connections are closed; when a certificate expires, its connections are.
//
// # Gossip
//
// memberlist runs inside these links, and carries each [organization.Record]. A record has the address of a node. The
// node signs the record, and its organization has signed the certificate of the node. A record is a hint: the handshake
// with the node at that address proves its name. Memberlist's view of a node's health decides only which node is asked
// first.
//
// # The caller's duties
//
//  1. [organization.LoadIdentity], [organization.OpenPeers] and [New] start nothing.
//  2. [Federation.Run] does the work until its context ends.
//  3. Handlers are called concurrently, and by nodes of admitted organizations only. Federation proves the name of the
//     caller; the handler decides what the caller may do.
package federation
