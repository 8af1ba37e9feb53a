package client

import (
	"encoding/hex"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of a content. The whole content fits a message of wire.MaxMessage with room for the MLS framing.
const (
	MaxText     = 192 << 10 // bytes of Text and Body together
	MaxReceipts = 1024      // messages that one receipt names
	maxFileName = 255       // bytes
)

// maxContent is the largest encoded content, in bytes.
const maxContent = MaxText + 32<<10

// MessageID identifies a message for replies and receipts: 16 random bytes that the sender chose.
type MessageID [16]byte

// String returns the id in hexadecimal.
func (m MessageID) String() string { return hex.EncodeToString(m[:]) }

// IsZero reports whether no id is set.
func (m MessageID) IsZero() bool { return m == MessageID{} }

// ContentType says what kind of content a message holds.
type ContentType uint8

// The types of content. A content of an unknown type is kept and shown as unknown.
const (
	ContentText    ContentType = 1 // Text
	ContentBytes   ContentType = 2 // Body, for applications
	ContentFile    ContentType = 3 // File, and Text as its caption
	ContentReceipt ContentType = 4 // Refs: messages that have reached a device
)

// Content is the plaintext of an application message.
type Content struct {
	Type ContentType `cbor:"1,keyasint"`
	Text string      `cbor:"2,keyasint,omitempty"`
	Body []byte      `cbor:"3,keyasint,omitempty"`
	File *File       `cbor:"4,keyasint,omitempty"`
	// Refs names the messages that a receipt confirms. In a content of another type it names the message that this
	// one answers.
	Refs []MessageID `cbor:"5,keyasint,omitempty"`
	Time wire.Time   `cbor:"6,keyasint"` // the sender's clock
	ID   MessageID   `cbor:"7,keyasint"`
}

// File says where a file is stored and how to decrypt it. The key is as secret as the message.
type File struct {
	Name         string       `cbor:"1,keyasint"`
	Size         uint64       `cbor:"2,keyasint"` // bytes, before encryption
	Key          []byte       `cbor:"3,keyasint"` // an AES-256-GCM key for this file alone
	Blob         wire.BlobRef `cbor:"4,keyasint"` // the uploaded blob
	Organization Domain       `cbor:"5,keyasint"` // the organization that stores the blob
}

// EncodeContent encodes a content in the one form that DecodeContent accepts.
func EncodeContent(c *Content) ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	b, err := wire.Encode(c)
	if err == nil && len(b) > maxContent {
		return nil, wire.Errorf(wire.TooLarge, "content", "%d bytes, at most %d: send it as a file", len(b), maxContent)
	}
	return b, err
}

// DecodeContent decodes a content from a member.
func DecodeContent(b []byte) (*Content, error) {
	c := new(Content)
	return c, wire.Decode(b, maxContent, c)
}

// Check refuses a content that exceeds its bounds or has fields that do not belong to its type.
func (c *Content) Check() error {
	if c.ID.IsZero() || c.Type == 0 {
		return wire.Errorf(wire.Malformed, "content", "without an id or a type")
	}
	if len(c.Text)+len(c.Body) > MaxText {
		return wire.Errorf(wire.TooLarge, "content", "%d bytes, at most %d: send it as a file", len(c.Text)+len(c.Body), MaxText)
	}
	if !utf8.ValidString(c.Text) {
		return wire.Errorf(wire.Malformed, "content", "text is not UTF-8")
	}
	if len(c.Refs) > MaxReceipts {
		return wire.Errorf(wire.TooLarge, "content", "names %d messages, at most %d", len(c.Refs), MaxReceipts)
	}
	if (c.Type == ContentFile) != (c.File != nil) {
		return wire.Errorf(wire.Malformed, "content", "type %d with or without a file", c.Type)
	}
	if c.File != nil {
		return c.File.Check()
	}
	return nil
}

// Check refuses a file description that cannot be valid.
func (f *File) Check() error {
	if f.Name == "" || len(f.Name) > maxFileName || !utf8.ValidString(f.Name) {
		return wire.Errorf(wire.Malformed, "content", "file name of %d bytes, wanted 1 to %d of UTF-8", len(f.Name), maxFileName)
	}
	if len(f.Key) != fileKeySize {
		return wire.Errorf(wire.Malformed, "content", "file key of %d bytes, wanted %d", len(f.Key), fileKeySize)
	}
	if f.Blob.Size > wire.MaxBlob || f.Blob.Size != sealedSize(f.Size) {
		return wire.Errorf(wire.Malformed, "content", "file of %d bytes in a blob of %d, at most %d", f.Size, f.Blob.Size, wire.MaxBlob)
	}
	return f.Organization.Check()
}
