package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// Heartbeats of many conversations to one node share a frame: the first heartbeat waits Timers.Coalesce for others.
// The answer carries each conversation's own term and success, which the receiver asks its replica for; nothing is
// assumed. A conversation that sleeps there is not woken.

// beat is a heartbeat that waits for others or for its answer.
type beat struct {
	id         wire.ConversationID
	generation uint64
	term       uint64
	done       chan beatReply // capacity one
}

type beatReply struct {
	resp raft.AppendEntriesResponse
	err  error
}

// maxBeats is the largest number of heartbeats in one frame.
const maxBeats = 4096

// heartbeat sends one heartbeat and waits for its answer.
func (t *transport) heartbeat(to wire.NodeID, term uint64, resp *raft.AppendEntriesResponse) error {
	p := t.m.mesh.peer(to)
	if p == nil {
		return errUnreachable
	}
	if err := t.store.settle(); err != nil {
		if errors.Is(err, errStalled) {
			t.yield()
		}
		return err
	}
	b := &beat{id: t.conv.id, generation: t.conv.generation(), term: term, done: make(chan beatReply, 1)}
	p.mu.Lock()
	p.beats = append(p.beats, b)
	first, full := len(p.beats) == 1, len(p.beats) == maxBeats
	p.mu.Unlock()
	if full {
		p.mesh.spawn(func(ctx context.Context) { p.flushBeats(ctx) })
	} else if first {
		p.mesh.spawn(func(ctx context.Context) {
			if pause(ctx, t.m.cfg.Timers.Coalesce) {
				p.flushBeats(ctx)
			}
		})
	}
	select {
	case r := <-b.done:
		if r.err != nil {
			t.noteRefusal(to, r.err)
			if errors.Is(r.err, errUnreachable) {
				t.awaitPeer(to, term)
			}
			return r.err
		}
		// Raft ignores the term in the answer to a heartbeat; it uses the term in the next AppendEntries answer.
		*resp = r.resp
		resp.RPCHeader = header(to)
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

// pause waits for d and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// flushBeats sends the collected heartbeats in one frame and distributes the answers.
func (p *peer) flushBeats(ctx context.Context) {
	p.mu.Lock()
	beats := p.beats
	p.beats = nil
	p.mu.Unlock()
	if len(beats) == 0 {
		return
	}
	b, err := p.mesh.ask(ctx, p.node, &frame{kind: kindBeats, payload: encodeBeats(beats)})
	var answers []beatReply
	if err == nil {
		answers, err = decodeBeatReplies(b, len(beats))
	}
	for i, beat := range beats {
		if err != nil {
			beat.done <- beatReply{err: err}
			continue
		}
		beat.done <- answers[i]
	}
}

func encodeBeats(beats []*beat) []byte {
	w := &rpcWriter{}
	for _, b := range beats {
		w.u8(uint8(len(b.id)))
		w.b = append(w.b, b.id...)
		w.u64(b.generation)
		w.u64(b.term)
	}
	return w.b
}

func decodeBeats(payload []byte) ([]*beat, error) {
	r := &rpcReader{b: payload}
	var beats []*beat
	for len(r.b) > 0 && !r.bad {
		n := int(r.u8())
		beats = append(beats, &beat{id: wire.ConversationID(r.take(n)), generation: r.u64(), term: r.u64()})
		if n > wire.MaxConversationID || len(beats) > maxBeats {
			r.bad = true
		}
	}
	return beats, r.end()
}

// Answers to heartbeats: one byte gives the kind of the answer.
const (
	beatAnswered = 0 // the replica's answer
	beatAsleep   = 1 // the conversation sleeps here
	beatRefused  = 2 // not a member, unknown, or another generation
)

func encodeBeatReplies(replies []beatReply) []byte {
	w := &rpcWriter{}
	for i := range replies {
		switch r := &replies[i]; {
		case r.err == nil:
			w.u8(beatAnswered)
			w.bytes(encodeAppendReply(&r.resp))
		case wire.CodeOf(r.err) == codeAsleep:
			w.u8(beatAsleep)
			w.bytes(nil)
		default:
			w.u8(beatRefused)
			b, err := wire.Encode(wire.AsError("heartbeat", r.err))
			if err != nil {
				b = nil
			}
			w.bytes(b)
		}
	}
	return w.b
}

func decodeBeatReplies(payload []byte, n int) ([]beatReply, error) {
	r := &rpcReader{b: payload}
	replies := make([]beatReply, 0, n)
	for len(r.b) > 0 && !r.bad && len(replies) < n {
		kind, body := r.u8(), r.bytes()
		one := beatReply{}
		switch kind {
		case beatAnswered:
			resp, err := decodeAppendReply(body)
			if err != nil {
				return nil, err
			}
			one.resp = *resp
		case beatAsleep:
			one.err = errAsleep()
		case beatRefused:
			e := new(wire.Error)
			if err := wire.Decode(body, wire.MaxError, e); err != nil {
				return nil, err
			}
			one.err = e
		default:
			r.bad = true
		}
		replies = append(replies, one)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if len(replies) != n {
		return nil, fmt.Errorf("%w: %d answers to %d heartbeats", errRPC, len(replies), n)
	}
	return replies, nil
}

// receiveBeats answers a frame of heartbeats. Raft's fast path answers at once, but may wait for the disk when the
// term is new, so receiveBeats does not run on the read loop.
func (m *Manager) receiveBeats(from wire.NodeID, f *frame) {
	beats, err := decodeBeats(f.payload)
	if err != nil {
		m.mesh.reply(from, f, nil, wire.Errorf(wire.Malformed, "heartbeat", "%v", err))
		return
	}
	m.mesh.spawn(func(context.Context) {
		replies := make([]beatReply, len(beats))
		for i, b := range beats {
			replies[i] = m.receiveBeat(from, b)
		}
		m.mesh.reply(from, f, encodeBeatReplies(replies), nil)
	})
}

func (m *Manager) receiveBeat(from wire.NodeID, b *beat) (answered beatReply) {
	defer m.quarantineOnPanicIn(b.id, "heartbeat", &answered.err)
	live, err := m.admit(from, b.id, b.generation, roleOfBeat)
	if err != nil {
		return beatReply{err: err}
	}
	if err := live.checkTerm(from, b.term); err != nil {
		return beatReply{err: err}
	}
	if err := live.mayLead(from, b.term); err != nil {
		return beatReply{err: err}
	}
	fn := live.trans.beat.Load()
	if fn == nil {
		return beatReply{err: wire.Errorf(wire.Unavailable, "heartbeat", "replica is starting")}
	}
	answer := make(chan raft.RPCResponse, 1)
	(*fn)(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: header(from), Term: b.term}, RespChan: answer})
	select {
	case r := <-answer:
		resp, ok := r.Response.(*raft.AppendEntriesResponse)
		if r.Error == nil {
			r.Error = live.store.settle()
		}
		if r.Error != nil || !ok {
			return beatReply{err: wire.Errorf(wire.Unavailable, "heartbeat", "%v", r.Error)}
		}
		return beatReply{resp: *resp}
	default: // Raft has shut down and did not answer
		return beatReply{err: errAsleep()}
	}
}
