// Package boltstore keeps an mlscore client's state in one file that survives crashes and tells
// nothing without its key.
//
//	store, err := boltstore.Open(path, key, boltstore.Options{})
//	if err != nil {
//		return err
//	}
//	defer store.Close()
//	client, err := mlscore.NewClient(mlscore.Config{Store: store, ...})
//
// The file is a bbolt database. A batch is one transaction: it is on the disk, with fsync, before Apply
// returns, or it never was. One process has the file open at a time.
//
// # What is encrypted
//
// Every value is encrypted with XChaCha20-Poly1305 under a key derived from the caller's, with a random
// nonce, and bound to the key under which it stands: a record moved to another place does not open. The
// keys of the records are readable, since Scan needs their order. They hold group ids, KeyPackageRefs,
// ids of external PSKs, epochs and leaf numbers (see docs/state.md), so that whoever reads the file
// learns in how many groups the client is, how large their trees are, and how far they have come.
//
// A digest under the caller's key covers which records there are and which version of each. A record
// that was deleted, brought in, or put back to an earlier version, is noticed when the file is opened.
// The whole file put back to an earlier state is not: nothing in it could tell.
//
// # What damage does
//
// bbolt has no checksums but on its two meta pages, and follows a damaged page wherever it leads. So
// Open reads the structure of the whole file first, and refuses one that does not add up; a value that
// was changed by a single bit does not decrypt. Both give a DamagedError that names the record, where
// one is to blame, and never another value. With Options.VerifyLater that check goes on after Open: records
// can be read meanwhile, and the first batch waits for the verdict.
//
// # Erasure
//
// bbolt writes a changed page to another place and leaves the old one as it was. Since a key that MLS
// has consumed must be gone (RFC 9420 §9.2), the pages that a batch freed are overwritten with zeros
// after it. Options.KeepFreed leaves that out.
//
// Overwriting reaches what the file system calls the file. Copies that lie below or beside it are out of
// reach: blocks that a flash disk has remapped, a journal, a snapshot, a backup, swapped memory. Whoever
// has such a copy and the key can read consumed secrets in it. Against that, give the store another key
// now and then (ChangeKey) and destroy the old one where it was kept: all that was written under it is
// unreadable then, wherever it lies. The file itself never shrinks; what is freed is used again.
package boltstore
