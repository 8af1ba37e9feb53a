package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Epoch is the epoch of a conversation (RFC 9420).
type Epoch uint64

// SequenceNumber counts the accepted entries of a conversation, from 1. 0 means 'before the first'.
type SequenceNumber uint64

// Time is a point in time in milliseconds since 1970 (UTC). In a log it comes from the proposer's clock, never from
// the reader's.
type Time int64

// TimeOf truncates t to milliseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMilli()) }

// Std returns t as a time.Time in UTC.
func (t Time) Std() time.Time { return time.UnixMilli(int64(t)).UTC() }

// SubmissionID identifies a submission: 16 random bytes that the client chose.
type SubmissionID [16]byte

// String returns the id in hexadecimal.
func (s SubmissionID) String() string { return hex.EncodeToString(s[:]) }

// Hash is a SHA-256.
type Hash [32]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// SubmissionKey is the public half of an epoch's submission key pair, Ed25519.
type SubmissionKey [32]byte

// String returns the key in hexadecimal: the key is public.
func (k SubmissionKey) String() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether no key is set.
func (k SubmissionKey) IsZero() bool { return k == SubmissionKey{} }

// Token is the second half of a mailbox address: 16 random bytes that reveal nothing about their owner.
type Token [16]byte

// Address is the mailbox address of a device: its organization, and a token that only this organization can associate
// with a person.
type Address struct {
	_            struct{} `cbor:",toarray"`
	Organization Domain
	Token        Token
}

// String returns "hexadecimal@domain".
func (a Address) String() string {
	return hex.EncodeToString(a.Token[:]) + "@" + string(a.Organization)
}

// ParseAddress parses the output of String.
func ParseAddress(s string) (Address, error) {
	token, domain, ok := strings.Cut(s, "@")
	if !ok || len(token) != 32 || strings.ToLower(token) != token {
		return Address{}, fmt.Errorf("address %.300q: wanted 32 hexadecimal digits, '@' and a domain", s)
	}
	d, err := ParseDomain(domain)
	if err != nil {
		return Address{}, err
	}
	a := Address{Organization: d}
	if _, err := hex.Decode(a.Token[:], []byte(token)); err != nil {
		return Address{}, fmt.Errorf("address %.300q: %w", s, err)
	}
	return a, nil
}

// Check refuses an address without a valid organization.
func (a Address) Check() error { return a.Organization.Check() }

// Compare orders addresses by organization, then by token.
func (a Address) Compare(b Address) int {
	if c := strings.Compare(string(a.Organization), string(b.Organization)); c != 0 {
		return c
	}
	return bytes.Compare(a.Token[:], b.Token[:])
}

// BlobRef names content outside the log: its SHA-256 and its size in bytes.
type BlobRef struct {
	_    struct{} `cbor:",toarray"`
	Hash Hash
	Size uint64
}

// String returns "hash/size".
func (r BlobRef) String() string { return fmt.Sprintf("%s/%d", r.Hash, r.Size) }
