package wire

import "crypto/ed25519"

// MessageVersion is the version of Message that this package writes.
const MessageVersion = 1

// MaxMessage bounds the content of an application message, in bytes. Files travel as blobs.
const MaxMessage = 256 << 10

// Message is an application message in transit: ciphertext for the members of a conversation. It does not go through
// Raft. Servers see the conversation, the epoch and the size, but neither sender nor content.
type Message struct {
	Version      uint8          `cbor:"1,keyasint"`
	Conversation ConversationID `cbor:"2,keyasint"`
	ID           SubmissionID   `cbor:"3,keyasint"` // random; a retry has the same
	Epoch        Epoch          `cbor:"4,keyasint"` // the epoch in which the content is encrypted
	Content      []byte         `cbor:"5,keyasint"` // an MLSMessage with a PrivateMessage
	// Signature is an Ed25519 signature by the submission key of the epoch over SigningInput: it shows that a member
	// sends the message, but not which member.
	Signature []byte `cbor:"6,keyasint,omitempty"`
}

// SigningInput returns the bytes that the submission key signs: a domain separator and the message without its
// signature, in its deterministic encoding.
func (m *Message) SigningInput() ([]byte, error) {
	bare := *m
	bare.Signature = nil
	b, err := Encode(&bare)
	if err != nil {
		return nil, err
	}
	return append([]byte("mlsfed message 1\x00"), b...), nil
}

// Sign sets the signature. The key is the private half of the epoch's submission key pair.
func (m *Message) Sign(key ed25519.PrivateKey) error {
	input, err := m.SigningInput()
	if err != nil {
		return err
	}
	m.Signature = ed25519.Sign(key, input)
	return nil
}

// Verify reports whether the signature was made with one of the keys.
func (m *Message) Verify(keys ...SubmissionKey) bool {
	input, err := m.SigningInput()
	if err != nil || len(m.Signature) != ed25519.SignatureSize {
		return false
	}
	for _, k := range keys {
		if ed25519.Verify(k[:], input, m.Signature) {
			return true
		}
	}
	return false
}

// Check refuses a message that breaks a rule that needs no state.
func (m *Message) Check() error {
	if m.Version != MessageVersion {
		return Errorf(Version, "message", "version %d, this node knows %d", m.Version, MessageVersion)
	}
	if err := m.Conversation.Check(); err != nil {
		return Errorf(Malformed, "message", "%v", err)
	}
	if m.ID == (SubmissionID{}) {
		return Errorf(Malformed, "message", "without an id: choose 16 random bytes")
	}
	if len(m.Content) == 0 {
		return Errorf(Malformed, "message", "without content")
	}
	if len(m.Content) > MaxMessage {
		return Errorf(TooLarge, "message", "%d bytes, at most %d: send what is large as a blob", len(m.Content), MaxMessage)
	}
	if n := len(m.Signature); n != ed25519.SignatureSize {
		return Errorf(Malformed, "message", "signature of %d bytes, wanted %d", n, ed25519.SignatureSize)
	}
	return nil
}

// Accepted answers a message that is on disk for every organization that must get it.
type Accepted struct {
	Time Time `cbor:"1,keyasint"`
}
