package boltstore

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/mlsfed/mlsfed/mlscore"
)

// ChangeKey encrypts every record again under another key, in one transaction: after a crash the file has the old key
// or the new one. The old key still decrypts copies of the old pages that may exist elsewhere, so the caller must
// destroy the old key. If a record is damaged, ChangeKey fails and changes nothing.
func (s *Store) ChangeKey(key mlscore.Secret) error {
	if key.Len() != KeySize {
		return fmt.Errorf("change key of store %s: key of %d bytes, a store's key has %d", s.path, key.Len(), KeySize)
	}
	return s.rekey(credential{key: key})
}

// ChangePassphrase is ChangeKey with a key that is derived from a passphrase with Options.Cost.
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
		return s.explained("change key of", err)
	}
	s.writer.Lock()
	defer s.writer.Unlock()
	if len(s.journal.overlay) > 0 || s.journal.generation == 0 {
		err = s.fold(nil)
	}
	if err == nil {
		err = s.exchange(h, next)
	}
	if err != nil {
		next.erase()
		return s.explained("change key of", err)
	}
	return nil
}

// exchange encrypts all records again, while no reader is active. The journal must be empty. The caller holds writer.
func (s *Store) exchange(h *header, next *keys) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, generation := s.keys, s.journal.generation+1
	err := s.update(generation, func(tx *bbolt.Tx, sum *setSum) error {
		*sum = setSum{}
		if err := s.reseal(tx.Bucket(bucketRecords), old, next, sum); err != nil {
			return err
		}
		s.keys = next // the digest needs the new keys
		return tx.Bucket(bucketFile).Put(recordHeader, h.marshal())
	})
	if err != nil {
		s.keys = old
		return err
	}
	old.erase()
	s.header = h
	return s.folded(generation)
}

// reseal decrypts all records with the old keys and encrypts them with the new ones.
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
