package boltstore

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/mlsfed/mlsfed/mlscore"
)

// ChangeKey encrypts every record anew under another key, in one transaction: after a crash the file has
// the old key or the new one. Copies of the old pages that may exist elsewhere still open with the old
// key, so the old key must be destroyed. A damaged record makes it fail, with nothing changed.
func (s *Store) ChangeKey(key mlscore.Secret) error {
	if key.Len() != KeySize {
		return fmt.Errorf("change key of store %s: key of %d bytes, a store's key has %d", s.path, key.Len(), KeySize)
	}
	return s.rekey(credential{key: key})
}

// ChangePassphrase is ChangeKey to a passphrase, with Options.Cost.
func (s *Store) ChangePassphrase(passphrase mlscore.Secret) error {
	if passphrase.Len() == 0 {
		return fmt.Errorf("change passphrase of store %s: the passphrase is empty", s.path)
	}
	return s.rekey(credential{passphrase: passphrase, cost: s.opts.cost()})
}

func (s *Store) rekey(c credential) error {
	if err := s.await(); err != nil {
		return s.notAccepted(err)
	}
	h, next, err := c.begin(s.opts.Rand)
	if err != nil {
		return s.told("change key of", err)
	}
	if err := s.exchange(h, next); err != nil {
		next.erase()
		return s.told("change key of", err)
	}
	s.wipeFreed()
	return nil
}

// exchange encrypts everything anew, while nobody reads.
func (s *Store) exchange(h *header, next *keys) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.keys
	err := s.update(func(tx *bbolt.Tx, sum *setSum) error {
		*sum = setSum{}
		if err := s.reseal(tx.Bucket(bucketRecords), old, next, sum); err != nil {
			return err
		}
		s.keys = next // for the digest
		return tx.Bucket(bucketFile).Put(recordHeader, h.marshal())
	})
	if err != nil {
		s.keys = old
		return err
	}
	old.erase()
	return nil
}

// reseal moves all records from one key to another.
func (s *Store) reseal(records *bbolt.Bucket, old, next *keys, sum *setSum) error {
	var list [][]byte
	cursor := records.Cursor()
	for key, _ := cursor.First(); key != nil; key, _ = cursor.Next() {
		list = append(list, bytes.Clone(key))
	}
	for _, key := range list {
		value, err := old.open(key, records.Get(key))
		if err != nil {
			return s.damaged(key, err.Error())
		}
		box, err := next.seal(s.opts.Rand, key, value)
		clear(value)
		if err != nil {
			return err
		}
		next.toggle(sum, key, box)
		if err := records.Put(key, box); err != nil {
			return err
		}
	}
	return nil
}
