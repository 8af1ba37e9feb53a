package content

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// EncryptionAlg is the algorithm that encrypts an external part: a number of IANA's registry of AEAD algorithms
// (RFC 5116), or zero for none.
type EncryptionAlg uint16

// Encryption algorithms. Other numbers are kept, and cannot be opened.
const (
	EncryptionNone EncryptionAlg = 0
	AES128GCM      EncryptionAlg = 1
	AES256GCM      EncryptionAlg = 2
	// ChunkedAES256GCM is the encryption of files of this project, from the range for private use. The package does not
	// open it: a file is read in chunks while it is downloaded. docs/spec/content.md specifies the number and its fields.
	ChunkedAES256GCM EncryptionAlg = 0xfed1
)

func (a EncryptionAlg) String() string {
	switch a {
	case EncryptionNone:
		return "none"
	case AES128GCM:
		return "AES-128-GCM"
	case AES256GCM:
		return "AES-256-GCM"
	case ChunkedAES256GCM:
		return "AES-256-GCM in chunks"
	}
	return "AEAD algorithm " + strconv.Itoa(int(a))
}

// HashAlg is a number of IANA's registry of Named Information hash algorithms, or zero for none.
type HashAlg uint8

// Hash algorithms. Other numbers are kept, and cannot be checked.
const (
	HashNone   HashAlg = 0
	HashSHA256 HashAlg = 1
	HashSHA384 HashAlg = 7
	HashSHA512 HashAlg = 8
)

func (h HashAlg) String() string {
	switch h {
	case HashNone:
		return "none"
	case HashSHA256:
		return "SHA-256"
	case HashSHA384:
		return "SHA-384"
	case HashSHA512:
		return "SHA-512"
	}
	return "hash algorithm " + strconv.Itoa(int(h))
}

// DefaultOpen is the default of the most bytes that Open decrypts.
const DefaultOpen = 16 << 20

// Errors of external parts.
var (
	// ErrUnsupported reports an algorithm that the package does not have.
	ErrUnsupported = errors.New("unsupported algorithm of an external part")
	// ErrForged reports data that is not what the message names.
	ErrForged = errors.New("data is not the external part that the message names")
)

// invalid returns an error for the fields of a reference.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// CheckHash checks the data at the URL against the hash in the message. It refuses a message without a hash.
func (e *Reference) CheckHash(data []byte) error {
	var sum []byte
	switch e.Hash {
	case HashSHA256:
		s := sha256.Sum256(data)
		sum = s[:]
	case HashSHA384:
		s := sha512.Sum384(data)
		sum = s[:]
	case HashSHA512:
		s := sha512.Sum512(data)
		sum = s[:]
	default:
		return fmt.Errorf("%w: %v", ErrUnsupported, e.Hash)
	}
	if subtle.ConstantTimeCompare(sum, e.ContentHash) != 1 {
		return fmt.Errorf("%w: the hash differs", ErrForged)
	}
	return nil
}

// Open returns the content of an external part, given the data at its URL. It checks the hash, if the message has one,
// and decrypts with AES-GCM. Data without hash and encryption is refused: a server could replace it. Open refuses more
// than most bytes of data, or than DefaultOpen if most is zero. The result does not share memory with data.
func (e *Reference) Open(data []byte, most int) ([]byte, error) {
	if most == 0 {
		most = DefaultOpen
	}
	if len(data) > most {
		return nil, exceeded("bytes of an external part", uint64(len(data)), uint64(most))
	}
	if e.Hash != HashNone || e.Encryption == EncryptionNone {
		if err := e.CheckHash(data); err != nil {
			return nil, err
		}
	}
	plain, err := e.decrypt(data)
	if err != nil {
		return nil, err
	}
	// The draft does not say which of the two sizes it means.
	if e.Size != 0 && e.Size != uint64(len(data)) && e.Size != uint64(len(plain)) {
		return nil, fmt.Errorf("%w: %d bytes, the message says %d", ErrForged, len(plain), e.Size)
	}
	return plain, nil
}

func (e *Reference) decrypt(data []byte) ([]byte, error) {
	var keySize int
	switch e.Encryption {
	case EncryptionNone:
		return append([]byte{}, data...), nil
	case AES128GCM:
		keySize = 16
	case AES256GCM:
		keySize = 32
	default:
		return nil, fmt.Errorf("%w: %v", ErrUnsupported, e.Encryption)
	}
	if len(e.Key) != keySize {
		return nil, invalid("a key of %v has %d bytes, wanted %d", e.Encryption, len(e.Key), keySize)
	}
	block, err := aes.NewCipher(e.Key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if len(e.Nonce) != aead.NonceSize() {
		return nil, invalid("a nonce of %v has %d bytes, wanted %d", e.Encryption, len(e.Nonce), aead.NonceSize())
	}
	plain, err := aead.Open(nil, e.Nonce, data, e.AAD)
	if err != nil {
		return nil, fmt.Errorf("%w: the data does not decrypt", ErrForged)
	}
	return plain, nil
}

// Sizes of ChunkedAES256GCM, in bytes.
const (
	ChunkSize    = 64 << 10 // before encryption
	chunkTag     = 16
	chunkedKey   = 32
	sha256Length = 32
)

// Form of the URL of a file with ChunkedAES256GCM: mimi://a.example/b/ and the hash in hexadecimal.
const (
	chunkedScheme = "mimi://"
	chunkedPath   = "/b/"
)

// ChunkedURL returns the URL of a file with ChunkedAES256GCM that an organization stores. hash is its ContentHash.
func ChunkedURL(organization string, hash []byte) string {
	return chunkedScheme + organization + chunkedPath + hex.EncodeToString(hash)
}

// Organization returns the organization that stores a file with ChunkedAES256GCM. The caller checks that the result is
// a domain.
func (e *Reference) Organization() (string, bool) {
	organization, ok := strings.CutPrefix(e.URL, chunkedScheme)
	if !ok {
		return "", false
	}
	organization, ok = strings.CutSuffix(organization, chunkedPath+hex.EncodeToString(e.ContentHash))
	return organization, ok && organization != "" && !strings.Contains(organization, "/")
}

// CheckChunked refuses a reference with ChunkedAES256GCM that cannot be valid.
func (e *Reference) CheckChunked() error {
	switch {
	case e.Encryption != ChunkedAES256GCM:
		return fmt.Errorf("%w: %v", ErrUnsupported, e.Encryption)
	case len(e.Key) != chunkedKey:
		return invalid("a key of %v has %d bytes, wanted %d", e.Encryption, len(e.Key), chunkedKey)
	case len(e.Nonce) > 0 || len(e.AAD) > 0:
		return invalid("%v has a nonce or additional data", e.Encryption)
	case e.Hash != HashSHA256 || len(e.ContentHash) != sha256Length:
		return invalid("%v has %v of %d bytes, wanted %v", e.Encryption, e.Hash, len(e.ContentHash), HashSHA256)
	}
	if _, ok := e.PlainSize(); !ok {
		return invalid("%d bytes are no file in chunks", e.Size)
	}
	if _, ok := e.Organization(); !ok {
		return invalid("the URL of %v does not name an organization and the hash: %.200q", e.Encryption, e.URL)
	}
	return nil
}

// PlainSize returns the size of a file with ChunkedAES256GCM before its encryption, and false if no file has the
// encrypted size that the reference gives.
func (e *Reference) PlainSize() (uint64, bool) {
	const sealed = ChunkSize + chunkTag
	last := e.Size % sealed
	whole := e.Size / sealed
	switch {
	case e.Size == chunkTag: // an empty file has one empty chunk
		return 0, true
	case last == 0:
		return whole * ChunkSize, whole > 0
	}
	return whole*ChunkSize + last - min(last, chunkTag), last > chunkTag
}
