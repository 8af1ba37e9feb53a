// Package organization implements the identity of an organization and of its nodes, without sockets.
//
// [Init] makes an organization: a root certificate for its domain, and a node certificate below it, in the folder that
// [LoadIdentity] reads. [Bundle] is the file that an organization gives to others. [Peers] is the allow-list: the
// organizations whose bundles this node's operator has admitted.
//
// A [Verifier] decides which certificates and which [Record]s are accepted. A node proves its name with a certificate
// that names only the node, and whose chain ends in the root that is admitted for exactly that node's organization. No
// other organization is believed.
package organization
