package boltstore

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mlsfed/mlsfed/mlscore"
)

// The versions of the file's format. A file of formatFirst has no journal; the first batch converts it to
// formatJournal.
const (
	formatFirst   = 1
	formatJournal = 2
)

// The sources of a file's key.
const (
	fromKey        = 0
	fromPassphrase = 1
)

const (
	saltSize   = 32
	checkSize  = sha256.Size
	sumSize    = 8
	headerSize = 2 + costSize + PassphraseSaltSize + saltSize + checkSize + sumSize
)

// header is the part of a file that can be read without a key. It is not secret.
type header struct {
	format byte
	source byte
	cost   Cost                     // of a passphrase, else zero
	pass   [PassphraseSaltSize]byte // salt of a passphrase, else zero
	salt   [saltSize]byte
	check  [checkSize]byte // MAC of all above: fails under a wrong key
}

// newHeader returns a new header for a raw key.
func newHeader(random io.Reader) (*header, error) {
	h := &header{format: formatJournal}
	if _, err := io.ReadFull(random, h.salt[:]); err != nil {
		return nil, fmt.Errorf("read randomness for a salt: %w", err)
	}
	return h, nil
}

func (h *header) appendBody(b []byte) []byte {
	b = append(b, h.format, h.source)
	b = h.cost.append(b)
	b = append(b, h.pass[:]...)
	return append(b, h.salt[:]...)
}

// marshal encodes the header. The last field is a checksum without a key, which distinguishes a damaged header from a
// wrong key.
func (h *header) marshal() []byte {
	b := append(h.appendBody(make([]byte, 0, headerSize)), h.check[:]...)
	sum := sha256.Sum256(b)
	return append(b, sum[:sumSize]...)
}

func parseHeader(b []byte) (*header, error) {
	if len(b) > 0 && (b[0] < formatFirst || b[0] > formatJournal) {
		return nil, fmt.Errorf("%w: the file has format %d, this release reads %d to %d", ErrVersion, b[0], formatFirst, formatJournal)
	}
	if len(b) != headerSize {
		return nil, fmt.Errorf("the header has %d bytes, not %d", len(b), headerSize)
	}
	sum := sha256.Sum256(b[:headerSize-sumSize])
	if !bytes.Equal(sum[:sumSize], b[headerSize-sumSize:]) {
		return nil, errors.New("the header's checksum does not match")
	}
	h := &header{format: b[0], source: b[1]}
	rest := b[2:]
	h.cost = Cost{
		Time:      binary.BigEndian.Uint32(rest),
		MemoryKiB: binary.BigEndian.Uint32(rest[4:]),
		Threads:   rest[8],
	}
	rest = rest[costSize:]
	rest = rest[copy(h.pass[:], rest):]
	rest = rest[copy(h.salt[:], rest):]
	copy(h.check[:], rest)
	switch h.source {
	case fromKey:
		if h.cost != (Cost{}) || h.pass != [PassphraseSaltSize]byte{} {
			return nil, errors.New("the header has the cost of a passphrase, and no passphrase")
		}
	case fromPassphrase:
		if err := h.cost.check(); err != nil {
			return nil, fmt.Errorf("the header's cost of a passphrase: %w", err)
		}
	default:
		return nil, fmt.Errorf("the header has a key of unknown source %d", h.source)
	}
	return h, nil
}

// bind derives a file's keys and sets the header's check value for them.
func (h *header) bind(key mlscore.Secret) (*keys, error) {
	k, err := deriveKeys(key, h.salt[:])
	if err != nil {
		return nil, err
	}
	copy(h.check[:], h.mac(k))
	return k, nil
}

// unlock derives a file's keys and compares them with the header's check value.
func (h *header) unlock(key mlscore.Secret) (*keys, error) {
	k, err := deriveKeys(key, h.salt[:])
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(h.check[:], h.mac(k)) {
		k.erase()
		return nil, ErrWrongKey
	}
	return k, nil
}

func (h *header) mac(k *keys) []byte {
	m := hmac.New(sha256.New, k.header.Bytes())
	m.Write(h.appendBody(nil))
	return m.Sum(nil)
}
