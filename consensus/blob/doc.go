// Package blob stores data that is too large for a log entry: blobs on disk, named by their SHA-256 and size.
//
// A blob is written to a temporary file, synced, renamed and its folder synced before Put returns: a blob is stored
// completely or not at all, and Open removes temporary files that a crash left. Reading verifies: a reader gets the
// last bytes of a blob only after the hash of the whole blob was found right, so no reader gets a complete damaged
// blob. A damaged blob is removed, so that it can be fetched again from another replica.
//
// A caller pins a blob for a conversation before anything names the blob, and unpins it when nothing of the
// conversation names it any more. Pins are durable. Sweep removes blobs that are old, not pinned and not known to the
// caller: they were stored for an entry which was never accepted.
//
// A blob can have an owner. A Ledger charges the owner before a byte is written, until the blob is removed.
//
// The folder contains: blobs/ with a file for each blob, named by its Ref, and, with the suffix .owner, a file with
// the name of its owner, if it has one; pins/ with a folder for each conversation and in it an empty file for each
// pinned Ref; tmp/ with files that are being written; lock, held while the store is open.
package blob
