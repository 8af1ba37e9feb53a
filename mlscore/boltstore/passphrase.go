package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/argon2"

	"github.com/mlsfed/mlsfed/mlscore"
)

// PassphraseSaltSize is the length of the salt of a passphrase in bytes.
const PassphraseSaltSize = 16

const costSize = 9

// Cost is the cost of one passphrase derivation with Argon2id (RFC 9106).
type Cost struct {
	Time      uint32 // passes over the memory, 1 to 64
	MemoryKiB uint32 // 8 for each thread to 1 GiB
	Threads   uint8  // 1 to 16
}

// DefaultCost returns the second recommendation of RFC 9106 §4: 64 MiB, some tenths of a second.
func DefaultCost() Cost { return Cost{Time: 3, MemoryKiB: 64 << 10, Threads: 4} }

// check bounds a cost. The cost in a file is used before it can be authenticated, so without a bound a manipulated
// file could request all memory.
func (c Cost) check() error {
	switch {
	case c.Time < 1 || c.Time > 64:
		return fmt.Errorf("%d passes, 1 to 64 are allowed", c.Time)
	case c.Threads < 1 || c.Threads > 16:
		return fmt.Errorf("%d threads, 1 to 16 are allowed", c.Threads)
	case c.MemoryKiB < 8*uint32(c.Threads) || c.MemoryKiB > 1<<20:
		return fmt.Errorf("%d KiB of memory, 8 for each thread to %d are allowed", c.MemoryKiB, 1<<20)
	}
	return nil
}

func (c Cost) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, c.Time)
	b = binary.BigEndian.AppendUint32(b, c.MemoryKiB)
	return append(b, c.Threads)
}

// KeyFromPassphrase derives a store's key from a passphrase, for Open. OpenWithPassphrase does the same with the salt
// and the cost in the file; KeyFromPassphrase is for a caller who stores them elsewhere.
//
// The passphrase is used as bytes: normalize text that a person types to one Unicode normalization form first.
func KeyFromPassphrase(passphrase mlscore.Secret, salt []byte, cost Cost) (mlscore.Secret, error) {
	if passphrase.Len() == 0 {
		return mlscore.Secret{}, errors.New("the passphrase is empty")
	}
	if len(salt) != PassphraseSaltSize {
		return mlscore.Secret{}, fmt.Errorf("salt of %d bytes, it must have %d", len(salt), PassphraseSaltSize)
	}
	if err := cost.check(); err != nil {
		return mlscore.Secret{}, fmt.Errorf("cost of a passphrase: %w", err)
	}
	b := argon2.IDKey(passphrase.Bytes(), salt, cost.Time, cost.MemoryKiB, cost.Threads, KeySize)
	defer clear(b)
	return mlscore.NewSecret(b), nil
}

// credential is a caller's means to open a file: a key or a passphrase.
type credential struct {
	key        mlscore.Secret
	passphrase mlscore.Secret
	cost       Cost // for a new file
}

func (c credential) isPassphrase() bool { return c.passphrase.Len() > 0 }

// begin makes the header and the keys of a new file.
func (c credential) begin(random io.Reader) (*header, *keys, error) {
	h, err := newHeader(random)
	if err != nil {
		return nil, nil, err
	}
	key := c.key
	if c.isPassphrase() {
		h.source, h.cost = fromPassphrase, c.cost
		if _, err := io.ReadFull(random, h.pass[:]); err != nil {
			return nil, nil, fmt.Errorf("read randomness for a salt: %w", err)
		}
		if key, err = KeyFromPassphrase(c.passphrase, h.pass[:], h.cost); err != nil {
			return nil, nil, err
		}
		defer key.Erase()
	}
	k, err := h.bind(key)
	return h, k, err
}

// unlock returns the keys of a file with a header.
func (c credential) unlock(h *header) (*keys, error) {
	key := c.key
	if c.isPassphrase() {
		if h.source != fromPassphrase {
			return nil, fmt.Errorf("%w: the file was made with a key, not with a passphrase: use Open", ErrWrongKey)
		}
		var err error
		if key, err = KeyFromPassphrase(c.passphrase, h.pass[:], h.cost); err != nil {
			return nil, err
		}
		defer key.Erase()
	}
	k, err := h.unlock(key)
	if errors.Is(err, ErrWrongKey) && !c.isPassphrase() && h.source == fromPassphrase {
		err = fmt.Errorf("%w: the file was made with a passphrase, see OpenWithPassphrase", err)
	}
	return k, err
}
