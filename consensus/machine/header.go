package machine

import (
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// checkHeader holds a handshake against the conversation's policy and the submission around it. It reports
// whether a member has made it: of a public one the sender says so, a private one needs the key of the epoch.
func checkHeader(msg []byte, id wire.ConversationID, policy wire.Handshakes, e *wire.Envelope) (member bool, _ *wire.Error) {
	h, err := mlscore.Peek(msg)
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

func isContest(e *wire.Envelope) bool { return e.Kind == wire.KindCommit && e.Commit.Contest }
