package consensus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// A snapshot has a stream of its own:
//
//	leader                                    follower
//	size (4), snapshotRequest, content  ──▶
//	                                    ◀──   size (4), reply: as in a frame, with Raft's answer

type snapshotRequest struct {
	Conversation  wire.ConversationID `cbor:"1,keyasint"`
	Generation    uint64              `cbor:"2,keyasint"`
	Term          uint64              `cbor:"3,keyasint"`
	Index         uint64              `cbor:"4,keyasint"`
	IndexTerm     uint64              `cbor:"5,keyasint"`
	Configuration []byte              `cbor:"6,keyasint"`
	ConfigIndex   uint64              `cbor:"7,keyasint"`
	Size          int64               `cbor:"8,keyasint"`
}

// maxSnapshot limits the size of a snapshot: full delivery lists in all heads, and the most that a policy may keep.
const maxSnapshot = 512 << 20

func (s *snapshotRequest) Check() error {
	if s.Size < 0 || s.Size > maxSnapshot {
		return wire.Errorf(wire.TooLarge, "snapshot", "of %d bytes, at most %d", s.Size, maxSnapshot)
	}
	if s.Index == 0 || s.Index > maxPlace || s.IndexTerm == 0 || s.IndexTerm > s.Term || s.Term > maxPlace || s.ConfigIndex > s.Index {
		return wire.Errorf(wire.Malformed, "snapshot", "of entry %d in term %d, configuration of entry %d, sent in term %d", s.Index, s.IndexTerm, s.ConfigIndex, s.Term)
	}
	c, err := decodeConfiguration(s.Configuration)
	if err == nil {
		err = checkConfiguration(c)
	}
	if err != nil {
		return wire.Errorf(wire.Malformed, "snapshot", "%v", err)
	}
	return s.Conversation.Check()
}

// InstallSnapshot streams a snapshot to a follower.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) (err error) {
	defer t.m.quarantineOnPanic(t.conv, "snapshot", &err)
	req := &snapshotRequest{Conversation: t.conv.id, Generation: t.conv.generation(), Term: args.Term, Index: args.LastLogIndex,
		IndexTerm: args.LastLogTerm, Configuration: args.Configuration, ConfigIndex: args.ConfigurationIndex, Size: args.Size}
	b, err := wire.Encode(req)
	if err != nil {
		return err
	}
	if err := t.store.settle(); err != nil {
		return err
	}
	if !t.awaitPeer(wire.NodeID(id), args.Term) {
		return fmt.Errorf("snapshot to %s: %w", id, errUnreachable)
	}
	ctx, cancel := context.WithTimeout(t.ctx, transferTime(uint64(args.Size)))
	defer cancel()
	conn, err := t.m.mesh.open(ctx, wire.NodeID(id), streamSnapshot)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(transferTime(uint64(args.Size)))); err != nil {
		return err
	}
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	content, err := exchangeSnapshot(conn, io.MultiReader(bytes.NewReader(head), data))
	if err != nil {
		return fmt.Errorf("snapshot to %s: %w", id, err)
	}
	resp.RPCHeader = header(wire.NodeID(id))
	if resp.Term, resp.Success, err = decodeVoteReply(content); err != nil {
		return err
	}
	return t.checkAnswer(wire.NodeID(id), args.Term, resp.Term)
}

// refusalTime bounds the wait for an answer after a write failed: the answer was sent before the stream was closed.
const refusalTime = time.Second

// exchangeSnapshot writes a snapshot to a stream and returns the receiver's answer. A receiver that refuses the
// snapshot answers and closes the stream before it has read everything: the write fails, and the answer says why.
func exchangeSnapshot(conn net.Conn, data io.Reader) ([]byte, error) {
	_, written := io.Copy(conn, data)
	if written != nil {
		if err := conn.SetReadDeadline(time.Now().Add(refusalTime)); err != nil {
			return nil, written
		}
	}
	answer, err := readSized(conn, wire.MaxError)
	if err != nil {
		return nil, cmp.Or(written, err)
	}
	content, err := openReply(answer)
	return content, cmp.Or(err, written)
}

// receiveSnapshot gives a leader's snapshot to this replica.
func (m *Manager) receiveSnapshot(ctx context.Context, from wire.NodeID, conn net.Conn) (err error) {
	req := new(snapshotRequest)
	defer func() { m.quarantineOnPanicAt(recover(), req.Conversation, "snapshot", &err) }()
	if err := conn.SetDeadline(time.Now().Add(m.cfg.Timers.Call)); err != nil {
		return err
	}
	b, err := readSized(conn, 256<<10)
	if err != nil {
		return err
	}
	var content []byte
	if err = wire.Decode(b, 256<<10, req); err == nil {
		if err = conn.SetDeadline(time.Now().Add(transferTime(uint64(req.Size)))); err == nil {
			content, err = m.installSnapshot(ctx, from, req, conn)
		}
	}
	if err != nil {
		m.log.Debug("snapshot refused", "peer", from, "conversation", req.Conversation, "error", err)
	}
	answer := sealReply(content, err)
	_, err = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...))
	return err
}
