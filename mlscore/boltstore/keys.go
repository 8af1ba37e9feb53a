package boltstore

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mlsfed/mlsfed/mlscore"
)

// KeySize is the length of a store's key in bytes.
const KeySize = chacha20poly1305.KeySize

// overhead is the number of bytes by which a record is longer than its value.
const overhead = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// keys are derived from a file's key and salt. Because of the salt they differ between files with the same key, so
// that a record of one file does not decrypt in another.
type keys struct {
	records cipher.AEAD
	header  mlscore.Secret // authenticates the header
	set     mlscore.Secret // authenticates the set of records
	journal mlscore.Secret // authenticates the entries of the journal
}

func deriveKeys(key mlscore.Secret, salt []byte) (*keys, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("key of %d bytes, a store's key has %d", key.Len(), KeySize)
	}
	var derived [4]mlscore.Secret
	for i, label := range [...]string{"records", "header", "set", "journal"} {
		b, err := hkdf.Key(sha256.New, key.Bytes(), salt, "mlsfed boltstore 1 "+label, KeySize)
		if err != nil {
			return nil, fmt.Errorf("derive a store's keys: %w", err)
		}
		derived[i] = mlscore.NewSecret(b)
		clear(b)
	}
	defer derived[0].Erase()
	aead, err := chacha20poly1305.NewX(derived[0].Bytes())
	if err != nil {
		return nil, fmt.Errorf("derive a store's keys: %w", err)
	}
	return &keys{records: aead, header: derived[1], set: derived[2], journal: derived[3]}, nil
}

func (k *keys) erase() {
	k.header.Erase()
	k.set.Erase()
	k.journal.Erase()
}

// seal encrypts a value: nonce, ciphertext, tag.
func (k *keys) seal(random io.Reader, key, value []byte) ([]byte, error) {
	box := make([]byte, chacha20poly1305.NonceSizeX, len(value)+overhead)
	if _, err := io.ReadFull(random, box); err != nil {
		return nil, fmt.Errorf("read randomness for a nonce: %w", err)
	}
	return k.records.Seal(box, box, value, key), nil
}

// open decrypts the result of seal for the same record key. The value is nil only after an error.
func (k *keys) open(key, box []byte) ([]byte, error) {
	if len(box) < overhead {
		return nil, fmt.Errorf("%d bytes, at least %d", len(box), overhead)
	}
	nonce, sealed := box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:]
	value, err := k.records.Open(make([]byte, 0, len(sealed)), nonce, sealed, key)
	if err != nil {
		return nil, fmt.Errorf("does not decrypt")
	}
	return value, nil
}

// setSum represents the set of a file's records: the exclusive or of a keyed hash of each record's key, nonce and
// tag. Adding and removing a record are the same operation, so the cost of a batch depends only on its own writes.
// The sum itself never leaves memory: an attacker who sees the sums of many sets could compute another set with the
// same sum. The file holds the MAC of the sum.
type setSum [sha256.Size]byte

// toggle adds a record to the set, or removes it.
func (k *keys) toggle(sum *setSum, key, box []byte) { k.toggler().toggle(sum, key, box) }

// toggler computes the hashes of many records, for one caller at a time.
type toggler struct {
	mac  hash.Hash
	head [9]byte
	out  setSum
}

func (k *keys) toggler() *toggler { return &toggler{mac: hmac.New(sha256.New, k.set.Bytes())} }

// toggle adds a record to the set, or removes it.
func (t *toggler) toggle(sum *setSum, key, box []byte) {
	h := t.mac
	h.Reset()
	t.head[0] = 'r'
	binary.BigEndian.PutUint64(t.head[1:], uint64(len(key)))
	h.Write(t.head[:])
	h.Write(key)
	if len(box) >= overhead {
		h.Write(box[:chacha20poly1305.NonceSizeX])
		h.Write(box[len(box)-chacha20poly1305.Overhead:])
	} else {
		h.Write(box)
	}
	subtle.XORBytes(sum[:], sum[:], h.Sum(t.out[:0]))
}

// digest returns the MAC of a set and of the generation of its journal. A file of format 1 has no journal: its
// generation is 0.
func (k *keys) digest(sum *setSum, generation uint64) []byte {
	h := hmac.New(sha256.New, k.set.Bytes())
	h.Write([]byte{'s'})
	h.Write(sum[:])
	if generation > 0 {
		h.Write(binary.BigEndian.AppendUint64(nil, generation))
	}
	return h.Sum(nil)
}
