// Package discovery looks up organizations by their domain names: one TXT record, one HTTPS request without a
// redirect, and the verification of the document by package lineage. docs/reach.md specifies the look-up.
//
// A Finder makes one look-up; a Cache keeps the results of a Finder, makes at most one look-up of a domain at a time
// and bounds the look-ups at once. Nothing here depends on what an organization or its name servers answer: each
// stage has a deadline and a bound on bytes, no connection is made to an inner address, and each failure is an *Error
// with a sentence for people.
//
// No node uses the package yet.
package discovery
