package consensus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mlsfed/mlsfed/wire"
)

// frameKind is the kind of a frame between nodes.
type frameKind uint8

const (
	kindAppend       frameKind = 1  // Raft's AppendEntries
	kindVote         frameKind = 2  // Raft's RequestVote
	kindPreVote      frameKind = 3  // Raft's RequestPreVote
	kindTimeoutNow   frameKind = 4  // Raft's TimeoutNow
	kindReply        frameKind = 5  // the answer to the frame with the same number
	kindBeats        frameKind = 6  // heartbeats of several conversations
	kindWake         frameKind = 7  // open the conversation: an election follows
	kindSleep        frameKind = 8  // shut down, if you hold what I hold
	kindOrder        frameKind = 9  // a submission for the leader
	kindInvite       frameKind = 10 // hold a replica of this conversation
	kindFarewell     frameKind = 11 // you are no longer in the configuration
	kindSummary      frameKind = 12 // what I hold of the conversations that we share
	kindGone         frameKind = 13 // is this node still in the configuration?
	kindRejoin       frameKind = 14 // I lost my log: remove me, and invite me again
	kindUnresponsive frameKind = 15 // have you not heard from this node lately?
	kindTestify      frameKind = 16 // what do you know of this? Only to nodes that announced wire.FeatureTestify
	kindComplain     frameKind = 17 // the leader does not order this. Only to nodes that announced wire.FeatureComplain
	kindLast                   = kindComplain
)

// frame is the unit of data on the connection between two nodes:
//
//	length      4 bytes, big-endian, of the rest of the frame
//	kind        1
//	number      8 bytes; matches a reply to its request, 0 if no reply is expected
//	generation  8 bytes; the sender's generation of the conversation's configuration
//	size of id  1
//	id          the conversation's; empty if the frame concerns several
//	payload     the rest
type frame struct {
	kind         frameKind
	number       uint64
	generation   uint64
	conversation wire.ConversationID
	payload      []byte
}

const frameHead = 1 + 8 + 8 + 1

func (f *frame) size() int { return 4 + frameHead + len(f.conversation) + len(f.payload) }

func (f *frame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(f.size()-4))
	b = append(b, byte(f.kind))
	b = binary.BigEndian.AppendUint64(b, f.number)
	b = binary.BigEndian.AppendUint64(b, f.generation)
	b = append(b, byte(len(f.conversation)))
	b = append(b, f.conversation...)
	return append(b, f.payload...)
}

var errFrame = errors.New("malformed frame")

// readFrame reads one frame of at most limit bytes. The buffer grows with the received data.
func readFrame(r *bufio.Reader, limit int) (*frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameHead || uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes, wanted %d to %d", errFrame, n, frameHead, limit)
	}
	body, err := readBody(r, int(n))
	if err != nil {
		return nil, err
	}
	return parseFrame(body)
}

// readBody allocates at most 64 KiB ahead of the received data.
func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	body := make([]byte, 0, min(n, step))
	for len(body) < n {
		at := len(body)
		body = append(body, make([]byte, min(n-at, max(step, at)))...)
		if _, err := io.ReadFull(r, body[at:]); err != nil {
			return nil, fmt.Errorf("frame ends early: %w", io.ErrUnexpectedEOF)
		}
	}
	return body, nil
}

func parseFrame(b []byte) (*frame, error) {
	if len(b) < frameHead {
		return nil, fmt.Errorf("%w: %d bytes", errFrame, len(b))
	}
	f := &frame{kind: frameKind(b[0]), number: binary.BigEndian.Uint64(b[1:]), generation: binary.BigEndian.Uint64(b[9:])}
	n := int(b[17])
	if f.kind == 0 || f.kind > kindLast || n > wire.MaxConversationID || len(b) < frameHead+n {
		return nil, fmt.Errorf("%w: kind %d with an id of %d bytes in %d", errFrame, f.kind, n, len(b))
	}
	f.conversation = wire.ConversationID(b[frameHead : frameHead+n])
	f.payload = b[frameHead+n:]
	return f, nil
}
