// Package author makes submissions as a client would, for tests: envelopes that are signed, around
// MLS messages whose visible head is right. What the messages hold is random: with private handshakes
// no server can look into them.
package author

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
	"github.com/mlsfed/mlsfed/wire"
)

// Values of RFC 9420 §6.
const (
	FormatPublic  = 1
	FormatPrivate = 2
	Proposing     = 2
	Committing    = 3
)

// Key is the submission key of the epoch that the submission id opens.
func Key(id wire.SubmissionID) ed25519.PrivateKey {
	seed := sha256.Sum256(append([]byte("epoch opened by "), id[:]...))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Public is the public half of Key.
func Public(id wire.SubmissionID) wire.SubmissionKey {
	return wire.SubmissionKey(Key(id).Public().(ed25519.PublicKey))
}

// Submission makes an id of a number. 0 is not allowed.
func Submission(n uint64) wire.SubmissionID {
	var id wire.SubmissionID
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

// Address makes an address of a number.
func Address(org wire.Domain, n uint64) wire.Address {
	a := wire.Address{Organization: org}
	binary.BigEndian.PutUint64(a.Token[:], n)
	return a
}

// Addresses makes one address for each organization.
func Addresses(n uint64, orgs ...wire.Domain) []wire.Address {
	var list []wire.Address
	for _, org := range orgs {
		list = append(list, Address(org, n))
	}
	slices.SortFunc(list, wire.Address.Compare)
	return list
}

// Message is an MLSMessage with the given head. A private one is whole; a public one holds no valid content.
func Message(format uint16, group wire.ConversationID, epoch wire.Epoch, content uint8, body []byte) []byte {
	w := codec.NewWriter(nil)
	w.Uint16(1)
	w.Uint16(format)
	w.Bytes([]byte(group))
	w.Uint64(uint64(epoch))
	if format == FormatPublic {
		w.Uint8(1) // a member
		w.Uint32(0)
		w.Bytes(nil) // authenticated_data
	}
	w.Uint8(content)
	if format == FormatPrivate {
		w.Bytes(nil)              // authenticated_data
		w.Bytes(make([]byte, 28)) // encrypted_sender_data
	}
	w.Bytes(body)
	return w.Buffer()
}

// Create makes a signed create with private handshakes.
func Create(id wire.ConversationID, n wire.SubmissionID, policy wire.Policy, delivery []wire.Address) *wire.Envelope {
	if policy.Handshakes == 0 {
		policy.Handshakes = wire.HandshakesPrivate
	}
	e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: id, Submission: n, Kind: wire.KindCreate,
		Create: &wire.Create{Policy: policy, Key: Public(n), Delivery: delivery}}
	return Sign(e, n)
}

// Place is an epoch that a submission can be made for.
type Place struct {
	Conversation wire.ConversationID
	Epoch        wire.Epoch
	Parent       wire.SequenceNumber // the entry that opened it
	Opener       wire.SubmissionID   // the submission of that entry: its key signs
}

// Commit makes a signed commit with a body of size bytes.
func (p Place) Commit(n wire.SubmissionID, size int, change wire.DeliveryChange) *wire.Envelope {
	body := make([]byte, size)
	copy(body, n[:])
	e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: p.Conversation, Submission: n, Kind: wire.KindCommit,
		Epoch: p.Epoch, Parent: p.Parent,
		Commit: &wire.CommitBundle{Commit: Message(FormatPrivate, p.Conversation, p.Epoch, Committing, body), Key: Public(n), Delivery: change}}
	return Sign(e, p.Opener)
}

// Contest makes a signed commit with the contest mark.
func (p Place) Contest(n wire.SubmissionID, change wire.DeliveryChange) *wire.Envelope {
	e := p.Commit(n, 16, change)
	e.Commit.Contest = true
	return Sign(e, p.Opener)
}

// Propose makes a signed proposal.
func (p Place) Propose(n wire.SubmissionID, size int) *wire.Envelope {
	body := make([]byte, size)
	copy(body, n[:])
	e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: p.Conversation, Submission: n, Kind: wire.KindProposal,
		Epoch: p.Epoch, Parent: p.Parent, Proposal: Message(FormatPrivate, p.Conversation, p.Epoch, Proposing, body)}
	return Sign(e, p.Opener)
}

// Close makes a signed close.
func (p Place) Close(n wire.SubmissionID) *wire.Envelope {
	e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: p.Conversation, Submission: n, Kind: wire.KindClose, Epoch: p.Epoch, Parent: p.Parent}
	return Sign(e, p.Opener)
}

// After is the place that an accepted commit or create opened.
func After(e *wire.Envelope, r wire.Receipt) Place {
	return Place{Conversation: e.Conversation, Epoch: r.Epoch, Parent: r.Sequence, Opener: e.Submission}
}

// Sign signs with the key of the epoch that opener opened.
func Sign(e *wire.Envelope, opener wire.SubmissionID) *wire.Envelope {
	if err := e.Sign(Key(opener)); err != nil {
		panic(err) // every envelope made here can be encoded
	}
	return e
}
