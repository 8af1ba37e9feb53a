package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Epoch is RFC 9420's epoch of a conversation.
type Epoch uint64

// SequenceNumber counts the accepted entries of a conversation, from 1. 0 stands for 'before the first'.
type SequenceNumber uint64

// Time is a moment in milliseconds since 1970 (UTC). In a log it is the proposer's, never the reader's.
type Time int64

// TimeOf cuts t to milliseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMilli()) }

// Std is t as a time.Time in UTC.
func (t Time) Std() time.Time { return time.UnixMilli(int64(t)).UTC() }

// SubmissionID names a submission: 16 random bytes of the client's choice.
type SubmissionID [16]byte

// String is the id in hexadecimal.
func (s SubmissionID) String() string { return hex.EncodeToString(s[:]) }

// Hash is a SHA-256.
type Hash [32]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// SubmissionKey is the public half of an epoch's submission key pair, Ed25519.
type SubmissionKey [32]byte

// String is the key in hexadecimal: it is public.
func (k SubmissionKey) String() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether no key is set.
func (k SubmissionKey) IsZero() bool { return k == SubmissionKey{} }

// Token is the second half of a mailbox address: 16 random bytes that say nothing about their owner.
type Token [16]byte

// Address is where a device receives: its organization, and a token that only this organization can
// attach to a person.
type Address struct {
	_            struct{} `cbor:",toarray"`
	Organization Domain
	Token        Token
}

// String is "hexadecimal@domain".
func (a Address) String() string {
	return hex.EncodeToString(a.Token[:]) + "@" + string(a.Organization)
}

// ParseAddress reads what String writes.
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

// BlobRef names content that travels beside the log: its SHA-256 and its size in bytes.
type BlobRef struct {
	_    struct{} `cbor:",toarray"`
	Hash Hash
	Size uint64
}

// String is "hash/size".
func (r BlobRef) String() string { return fmt.Sprintf("%s/%d", r.Hash, r.Size) }
