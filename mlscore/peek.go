package mlscore

import (
	"bytes"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Header is the part of an MLSMessage that can be read without a key.
type Header struct {
	WireFormat WireFormat
	// Of PublicMessage, PrivateMessage and GroupInfo:
	GroupID []byte
	Epoch   uint64
	// Of PublicMessage and PrivateMessage:
	ContentType       ContentType
	AuthenticatedData []byte
	// Of PublicMessage:
	Sender Sender
	// Of Welcome, GroupInfo and KeyPackage:
	CipherSuite CipherSuite
	// Of Welcome: the KeyPackageRefs of its recipients.
	NewMembers [][]byte
}

// Peek reads a message's header without any key, and checks the form of the whole message (RFC 9420 §6). Errors:
// ErrMalformed; ErrUnsupported for another protocol version or wire format; ErrLimit for a message over
// codec.DefaultLimits. The header shares no memory with the message.
func Peek(msg []byte) (Header, error) {
	m, err := parseMessage(msg, codec.DefaultLimits)
	if err != nil {
		return Header{}, err
	}
	h := Header{WireFormat: m.format}
	switch {
	case m.public != nil:
		c := m.public.content
		h.GroupID, h.Epoch, h.ContentType, h.Sender = bytes.Clone(c.groupID), c.epoch, c.kind, c.sender
		h.AuthenticatedData = bytes.Clone(c.authenticatedData)
	case m.private != nil:
		h = m.private.header()
	case m.groupInfo != nil:
		c := &m.groupInfo.context
		h.GroupID, h.Epoch, h.CipherSuite = bytes.Clone(c.GroupID), c.Epoch, c.CipherSuite
	case m.welcome != nil:
		h.CipherSuite = m.welcome.suite
		for _, s := range m.welcome.secrets {
			h.NewMembers = append(h.NewMembers, bytes.Clone(s.newMember))
		}
	case m.keyPackage != nil:
		h.CipherSuite = m.keyPackage.CipherSuite
	}
	return h, nil
}

func (m *privateMessage) header() Header {
	return Header{
		WireFormat: WireFormatPrivateMessage, GroupID: bytes.Clone(m.groupID), Epoch: m.epoch, ContentType: m.kind,
		AuthenticatedData: bytes.Clone(m.authenticatedData),
	}
}

// SplitPrivate cuts a PrivateMessage where its ciphertext begins (RFC 9420 §6.3.1), so that a large one can travel in
// two parts. Both parts are views into msg. It returns ErrMalformed if msg is not a PrivateMessage.
func SplitPrivate(msg []byte) (head, ciphertext []byte, err error) {
	m, err := parseMessage(msg, codec.DefaultLimits)
	if err != nil {
		return nil, nil, err
	}
	if m.private == nil {
		return nil, nil, fail(ErrMalformed, "§6.3.1", "message", "%v, wanted a PrivateMessage", m.format)
	}
	at := len(msg) - len(m.private.ciphertext)
	return msg[:at:at], msg[at:], nil
}

// PeekHead is Peek for the first part that SplitPrivate returns. It also returns the length of the ciphertext that the
// part announces.
func PeekHead(head []byte) (h Header, ciphertext int, err error) {
	r := codec.NewReader(head, codec.DefaultLimits)
	if version, format := ProtocolVersion(r.Uint16()), WireFormat(r.Uint16()); r.Err() == nil && (version != MLS10 || format != WireFormatPrivateMessage) {
		return Header{}, 0, fail(ErrMalformed, "§6.3.1", "message", "version %d and %v, wanted a PrivateMessage of version %d", version, format, MLS10)
	}
	m := decodePrivateHead(r)
	ciphertext = int(r.Varint())
	if err := r.Finish(); err != nil {
		return Header{}, 0, malformed("message", err)
	}
	return m.header(), ciphertext, nil
}
