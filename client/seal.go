package client

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"

	"github.com/mlsfed/mlsfed/wire"
)

// A file is encrypted with AES-256-GCM under its own key, in chunks of 64 KiB. The nonce of a chunk is its number and
// whether it is the last one, as in STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): chunks cannot be dropped,
// moved or cut off, and each can be opened independently. The key is fresh for each file, so nonces may begin at
// zero.
const (
	fileKeySize = 32
	chunkSize   = 64 << 10 // bytes before encryption
	tagSize     = 16
)

// MaxFileSize is the maximum size of a file, in bytes.
const MaxFileSize = wire.MaxBlob / (chunkSize + tagSize) * chunkSize

// chunks returns the number of chunks of a file: an empty file has one empty chunk.
func chunks(size uint64) uint64 { return max(1, (size+chunkSize-1)/chunkSize) }

// sealedSize returns the size of an encrypted file, or 0 for a file that is too large.
func sealedSize(size uint64) uint64 {
	if size > MaxFileSize {
		return 0
	}
	return size + chunks(size)*tagSize
}

// sealer encrypts and decrypts the chunks of one file.
type sealer struct {
	aead cipher.AEAD
	size uint64 // size of the file
}

func newSealer(key []byte, size uint64) (*sealer, error) {
	if len(key) != fileKeySize {
		return nil, wire.Errorf(wire.Malformed, "file", "key of %d bytes, wanted %d", len(key), fileKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &sealer{aead: aead, size: size}, err
}

func (s *sealer) nonce(n uint64) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	binary.BigEndian.PutUint64(nonce[3:], n)
	if n == chunks(s.size)-1 {
		nonce[11] = 1
	}
	return nonce
}

// length returns the size of chunk n before encryption.
func (s *sealer) length(n uint64) int {
	return int(min(chunkSize, s.size-min(s.size, n*chunkSize)))
}

// seal reads chunk n of the file and encrypts it.
func (s *sealer) seal(file io.ReaderAt, n uint64) ([]byte, error) {
	plain := make([]byte, s.length(n), s.length(n)+tagSize)
	if len(plain) > 0 {
		if got, err := file.ReadAt(plain, int64(n*chunkSize)); got < len(plain) {
			return nil, err
		}
	}
	return s.aead.Seal(plain[:0], s.nonce(n), plain, nil), nil
}

// open decrypts chunk n.
func (s *sealer) open(n uint64, sealed []byte) ([]byte, error) {
	if len(sealed) != s.length(n)+tagSize {
		return nil, wire.Errorf(wire.Forged, "file", "chunk %d has %d bytes, wanted %d", n, len(sealed), s.length(n)+tagSize)
	}
	plain, err := s.aead.Open(sealed[:0], s.nonce(n), sealed, nil)
	if err != nil {
		return nil, wire.Errorf(wire.Forged, "file", "chunk %d does not decrypt: the file is damaged or not the one that was sent", n)
	}
	return plain, nil
}
