// Package federation lets organizations that trust each other little reach each other: who an
// organization is, whom it has admitted, links between nodes, gossip of where nodes are, calls, and a
// durable outbox.
//
// # Identity and trust
//
// [Init] makes an organization: a root certificate for its domain, and a node certificate below it.
// [Bundle] is what it hands to others; [Peers] is the list of those whose bundles were admitted. Nothing
// is believed of anyone else. A node proves itself with a certificate whose only name is the node's, and
// whose chain ends in the root that was admitted for exactly that node's organization.
//
// # One port
//
// A node listens on one port, for TLS 1.3 with certificates on both sides. The application protocol that
// the handshake selects says what a connection is for:
//
//	h2               calls: POST /v1/<method>, CBOR in both directions
//	mlsfed-order/1   a byte stream for the ordering of conversations
//	mlsfed-gossip/1  gossip
//
// Each connection is known by node and organization, so that all of an organization's are cut when it is
// removed or suspended, and one whose certificate ends is cut then.
//
// # Gossip
//
// memberlist runs inside these links (see [Record] for what it carries). Records tell where a node is;
// each is signed by its node, whose certificate its organization has signed. A record is a hint: the
// handshake with whoever answers there proves the name. What memberlist says of a node's health is used
// to choose whom to ask first, and for nothing else.
//
// # Outbox
//
// [Outbox] holds what other organizations are to get, until they have taken it: one lane for each
// organization and conversation, in order, at least once. It needs no Federation: what sends is given to
// it, and [Federation.Notify] fits.
//
// # The caller's duties
//
//  1. [LoadIdentity], [OpenPeers], [New]: none of them starts anything.
//  2. [Federation.Run] does the work until its context ends; so does [Outbox.Run]. Close the outbox's
//     database after that.
//  3. Handlers are called concurrently, and by nodes of admitted organizations only. They decide what a
//     caller may do: federation vouches for the name, not for the right.
package federation
