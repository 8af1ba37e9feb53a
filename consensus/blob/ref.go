package blob

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Ref names a blob by its content. The zero Ref names none.
type Ref struct {
	Hash [32]byte // SHA-256
	Size uint64   // bytes
}

// RefSize is the length of a Ref in binary, in bytes.
const RefSize = 40

const refPrefix = "sha256-"

// String returns the text of the Ref: 'sha256-', the hash in lower-case
// hexadecimal, '-', the size in decimal. It is safe as a file name.
func (r Ref) String() string {
	return refPrefix + hex.EncodeToString(r.Hash[:]) + "-" + strconv.FormatUint(r.Size, 10)
}

// IsZero reports whether the Ref names no blob.
func (r Ref) IsZero() bool { return r == Ref{} }

// ParseRef reads the text that String returns, and nothing else.
func ParseRef(s string) (Ref, error) {
	rest, ok := strings.CutPrefix(s, refPrefix)
	if !ok || len(rest) < 2*32+2 || rest[64] != '-' {
		return Ref{}, fmt.Errorf("blob: reference of %d characters is not of the form sha256-<hash>-<size>: %w", len(s), ErrBadRef)
	}
	var r Ref
	if _, err := hex.Decode(r.Hash[:], []byte(rest[:64])); err != nil {
		return Ref{}, fmt.Errorf("blob: reference's hash: %v: %w", err, ErrBadRef)
	}
	var err error
	if r.Size, err = strconv.ParseUint(rest[65:], 10, 64); err != nil {
		return Ref{}, fmt.Errorf("blob: reference's size is no number below 2^64: %w", ErrBadRef)
	}
	if r.String() != s {
		return Ref{}, fmt.Errorf("blob: reference is not in its one form, lower case and without leading zeros: %w", ErrBadRef)
	}
	return r, nil
}

// MarshalText returns String's text.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText does the work of ParseRef.
func (r *Ref) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRef(string(b))
	return err
}

// AppendBinary appends the hash and the size in 8 bytes, big endian.
func (r Ref) AppendBinary(b []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(append(b, r.Hash[:]...), r.Size), nil
}

// MarshalBinary returns the RefSize bytes of the Ref.
func (r Ref) MarshalBinary() ([]byte, error) { return r.AppendBinary(nil) }

// UnmarshalBinary reads exactly RefSize bytes.
func (r *Ref) UnmarshalBinary(b []byte) error {
	if len(b) != RefSize {
		return fmt.Errorf("blob: reference of %d bytes, must be %d: %w", len(b), RefSize, ErrBadRef)
	}
	copy(r.Hash[:], b)
	r.Size = binary.BigEndian.Uint64(b[32:])
	return nil
}
