// Package directory is what an organization knows of its own users: who they are, their devices, the
// certificates of these, and the KeyPackages by which others add them to conversations.
//
// A user is invited with a one-time code, or is known to an OpenID Connect issuer. Either enrols a
// device: it proves that it holds a signature key, and gets an X.509 certificate over that key with the
// device's name. It uploads KeyPackages, each of which is verified on its own (RFC 9420 §10.1) and must
// carry that certificate. A claim takes one from each device of a user, at most once for each, and is
// on disk before it is answered.
//
// [New] starts nothing; [Directory.Run] removes what has expired. Changes of one user's records follow
// one another. Package recordstore has the operations on the records, and the promises about what a crash may
// lose; package directorytest checks an implementation against them.
package directory
