package content

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
)

// A Salt makes each message different from every other one. It must be random (§4.1).
type Salt [16]byte

// DeriveSalt makes a salt from a secret that the MLS key schedule exports and a local nonce (§9.2).
func DeriveSalt(secret, nonce []byte) Salt {
	h := hmac.New(sha256.New, secret)
	h.Write(nonce)
	return Salt(h.Sum(nil)[:len(Salt{})])
}

// A MessageID identifies a message for all members (§3.3). Its first octet is the number of the hash algorithm in
// IANA's registry of Named Information hash algorithms. The zero value means no message.
type MessageID [32]byte

// String returns the id in hexadecimal.
func (m MessageID) String() string { return hex.EncodeToString(m[:]) }

// IsZero reports whether m names no message.
func (m MessageID) IsZero() bool { return m == MessageID{} }

// Compare returns the order of two ids: the order of their octets, as for messages with the same time (§5.11).
func (m MessageID) Compare(other MessageID) int { return bytes.Compare(m[:], other[:]) }

// DeriveID derives the id of an encoded message (§3.3): sender is the URI of the sending user, room is the URI of the
// room. Each URI has at most 65,535 bytes.
//
// A message in another format has an id too, if it has 16 bytes of its own that identify it: they take the place of the
// salt.
func DeriveID(sender, room string, message []byte, salt Salt) (MessageID, error) {
	h := sha256.New()
	for _, uri := range []string{sender, room} {
		if uri == "" || len(uri) > math.MaxUint16 {
			return MessageID{}, fmt.Errorf("derive a message id: a URI has %d bytes, wanted 1 to %d", len(uri), math.MaxUint16)
		}
		var length [2]byte
		binary.BigEndian.PutUint16(length[:], uint16(len(uri)))
		h.Write(length[:])
		h.Write([]byte(uri))
	}
	h.Write(message)
	h.Write(salt[:])
	id := MessageID{0: byte(HashSHA256)}
	copy(id[1:], h.Sum(nil))
	return id, nil
}
