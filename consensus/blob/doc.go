// Package blob keeps what is too large for a log entry: blobs on disk, named by
// their SHA-256 and size.
//
// A blob is written to a temporary file, synced, renamed and its folder synced
// before Put returns: it is there as a whole or not at all, and temporary files
// that a crash left are removed by Open. Reading verifies: the last bytes of a
// blob are handed out only after the hash of all of it was found right, so no
// reader gets a damaged blob whole. A damaged blob is removed, so that it can be
// fetched again from another replica.
//
// Who needs a blob pins it, for a conversation, before anything names it, and
// unpins it when nothing of the conversation names it any more. Pins are
// durable. Sweep removes what is old, not pinned and not known to the caller:
// blobs that were stored for an entry which was never accepted.
//
// A blob can have an owner, who is charged in a Ledger before a byte is written, until the blob is removed.
//
// In the folder are: blobs/ with a file for each blob, its Ref the name, and beside it, with the suffix
// .owner, a file with its owner's name, if it has one; pins/
// with a folder for each conversation and in it an empty file for each pinned
// Ref; tmp/ with what is being written; lock, held while the store is open.
package blob
