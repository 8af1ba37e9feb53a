package mlscore

import (
	"bytes"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Header is what anybody can read of an MLSMessage.
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
	// Of Welcome: the KeyPackageRefs that it is for.
	NewMembers [][]byte
}

// Peek reads a message's header without any key, and checks the form of the whole (RFC 9420 §6).
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
		h.GroupID, h.Epoch, h.ContentType = bytes.Clone(m.private.groupID), m.private.epoch, m.private.kind
		h.AuthenticatedData = bytes.Clone(m.private.authenticatedData)
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
