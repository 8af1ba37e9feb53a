// Package boltstore implements mlscore.Store in one encrypted file that survives crashes.
//
//	store, err := boltstore.Open(path, key, boltstore.Options{})
//	if err != nil {
//		return err
//	}
//	defer store.Close()
//	client, err := mlscore.NewClient(mlscore.Config{Store: store, ...})
//
// The file is a bbolt database, in which one value is a journal. A batch is an entry of the journal: one write of the
// batch's own size and one fsync. When the journal is full, one transaction moves its records to the bucket of
// records; such a transaction also writes a batch that is too large for the journal. When Apply returns, the batch is
// on the disk as a whole or not at all. A relaxed batch (mlscore.Batch.Relaxed) is written at once, and synced with
// the next batch that is not relaxed. Only one process at a time can have the file open.
//
// # What is encrypted
//
// Every value is encrypted with XChaCha20-Poly1305 under a key derived from the caller's, with a random nonce, and is
// bound to its record's key: the value does not decrypt under another record's key. The keys of the records are
// readable, since Scan needs their order. They hold group ids, KeyPackageRefs, ids of external PSKs, epochs and leaf
// numbers (see docs/spec/state.md). A reader of the file can therefore learn the number of the client's groups,
// the sizes of their trees, and their epochs.
//
// A digest under the caller's key covers the set of records and the version of each; each entry of the journal has a
// MAC that covers the MAC of the previous entry. Open detects a record that was deleted, added, or put back to an
// earlier version. It cannot detect that the whole file was put back to an earlier state.
//
// # What damage does
//
// bbolt has checksums only on its two meta pages, and follows the numbers on a damaged page without a check. Open
// therefore reads the structure of the whole file first, and refuses an inconsistent one; a value with a changed bit
// does not decrypt. An unreadable entry of the journal is damage too, except the last entry after a crash, whose
// write may be incomplete. Damage gives a DamagedError, which names the record if there is one, and never a wrong
// value. With Options.VerifyLater the check continues after Open: records can be read meanwhile, and the first batch
// waits for the result.
//
// # Erasure
//
// A key that MLS has consumed must be gone (RFC 9420 §9.2). When a batch that replaces or deletes a record is on the
// disk, the store overwrites the ciphertext of the earlier version with zeros, in the journal or in the bucket of
// records. bbolt writes a changed page to another place and does not change the old page; the store overwrites the
// pages that a transaction freed after the transaction. The overwriting is not synced: the next batch or Close syncs
// it, and Open repeats overwriting that a crash has interrupted. With Options.KeepFreed nothing is overwritten.
//
// Overwriting reaches only the file itself, not copies of its blocks: blocks that a flash disk has remapped, a file
// system's journal, a snapshot, a backup, swapped memory. An attacker with such a copy and the key can read consumed
// secrets in it. As a countermeasure, change the store's key regularly (ChangeKey) and destroy the old key: every
// copy that was written under the old key is then unreadable. The file never shrinks; freed pages are used again.
package boltstore
