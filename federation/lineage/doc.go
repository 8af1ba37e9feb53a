// Package lineage implements the roots of an organization that others find by its domain name: a chain of links, each
// with the organization's root certificates, and a statement that a root of the last link signs. The package is pure:
// it reads no clock, no file and no network.
//
// Link 0 begins the chain. Its hash, the lineage, names the organization for good: a domain with another link 0
// belongs to another organization, whatever its name. An ordinary link replaces the roots and is signed by a root of
// the link before it. A recovery link is signed by the recovery key, whose hash link 0 or the last recovery link has
// set; the recovery link voids all other links after that one. A thief of a root key can therefore neither exchange the
// recovery key nor prevent a recovery.
//
// A Document has the links and the statement in the form in which a web server publishes them. A Pin is the state of
// one organization at the party that has met it. First makes a Pin from a document, Pin.Check compares a later
// document with it. The roots of a Pin change only by a valid chain of links from the pinned link; each other
// difference becomes an Outcome for the operator.
//
// docs/reach.md specifies the formats and the rules.
package lineage
