package machine

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// checkHeader checks a handshake against the conversation's policy and the enclosing submission. It reports whether a
// member has made the handshake: the sender of a public handshake says so, and a private one needs the key of the
// epoch.
func checkHeader(id wire.ConversationID, policy wire.Handshakes, e *wire.Envelope) (member bool, _ *wire.Error) {
	h, err := headerOf(policy, e)
	if err != nil {
		return false, wire.Errorf(wire.Invalid, "handshake", "%v", err)
	}
	wantFormat, wantContent := mlscore.WireFormatPrivateMessage, mlscore.ContentProposal
	if policy == wire.HandshakesPublic {
		wantFormat = mlscore.WireFormatPublicMessage
	}
	if e.Kind == wire.KindCommit {
		wantContent = mlscore.ContentCommit
	}
	switch {
	case h.WireFormat != wantFormat:
		return false, wire.Errorf(wire.Invalid, "handshake", "wire format %d, the conversation's policy wants %d", h.WireFormat, wantFormat)
	case wire.ConversationID(h.GroupID) != id:
		return false, wire.Errorf(wire.Invalid, "handshake", "is for group %v, not for %v", wire.ConversationID(h.GroupID), id)
	case wire.Epoch(h.Epoch) != e.Epoch:
		return false, wire.Errorf(wire.Invalid, "handshake", "is for epoch %d, its submission for %d", h.Epoch, e.Epoch)
	case h.ContentType != wantContent:
		return false, wire.Errorf(wire.Invalid, "handshake", "content type %d, a %v has %d", h.ContentType, e.Kind, wantContent)
	}
	return policy != wire.HandshakesPublic || h.Sender.Type == mlscore.SenderMember, nil
}

// headerOf reads the header of the handshake in a submission.
func headerOf(policy wire.Handshakes, e *wire.Envelope) (mlscore.Header, error) {
	switch {
	case e.Commit == nil:
		return mlscore.Peek(e.Proposal)
	case e.Commit.Rest == nil:
		return mlscore.Peek(e.Commit.Commit)
	case policy == wire.HandshakesPublic:
		return mlscore.Header{}, errors.New("a part of a public commit is named as a blob: replicas read the whole, so it has to be in the entry")
	}
	h, size, err := mlscore.PeekHead(e.Commit.Commit)
	if err == nil && uint64(size) != e.Commit.Rest.Size {
		err = fmt.Errorf("names a blob of %d bytes for a ciphertext of %d", e.Commit.Rest.Size, size)
	}
	return h, err
}

// restLevel is the level of the rules from which the ciphertext of a commit may be a blob.
const restLevel = 3

// needsLevel refuses a submission that the conversation's rules do not support yet. It is called after all other
// checks have passed.
func (m *Machine) needsLevel(e *wire.Envelope) *wire.Error {
	if e.Commit.Rest == nil || m.level >= restLevel {
		return nil
	}
	return wire.Errorf(wire.Version, opLevel, "a commit that is transferred separately from its entry needs level %d of the conversation's rules, which are of level %d", restLevel, m.level)
}

const opLevel = "rules"

// NeedsLevel reports whether err refuses a submission only because of the level of the rules, and returns the level
// that the submission needs.
func NeedsLevel(err error) (level uint8, needs bool) {
	var e *wire.Error
	if errors.As(err, &e) && e.Code == wire.Version && e.Op == opLevel {
		return restLevel, true
	}
	return 0, false
}

func isContest(e *wire.Envelope) bool { return e.Kind == wire.KindCommit && e.Commit.Contest }
