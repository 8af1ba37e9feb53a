package consensus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// transport connects one conversation to its other replicas: it is Raft's view of the mesh. Nodes are named, not
// addressed: a server's ID and address are both its NodeID.
type transport struct {
	m     *Manager
	conv  *conversation
	store *guard
	rpcs  chan raft.RPC
	beat  atomic.Pointer[func(raft.RPC)] // Raft's fast path for heartbeats
	ready func()                         // called when Raft is about to start its goroutines
	acks  acks

	yielded atomic.Int64 // when this leader last asked another voter to lead, in nanoseconds since 1970

	ctx   context.Context // ends with the replica
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// Raft accepts requests one at a time; requests beyond this queue are refused, and the peer sends them again.
const rpcQueue = 64

func newTransport(ctx context.Context, m *Manager, c *conversation) *transport {
	ctx, cancel := context.WithCancel(ctx)
	return &transport{m: m, conv: c, rpcs: make(chan raft.RPC, rpcQueue), ctx: ctx, stop: cancel}
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func (t *transport) Consumer() <-chan raft.RPC     { return t.rpcs }
func (t *transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.m.cfg.Node) }
func (t *transport) SetHeartbeatHandler(cb func(raft.RPC)) {
	t.beat.Store(&cb)
	if t.ready != nil {
		t.ready()
	}
}

func (t *transport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }
func (t *transport) DecodePeer(b []byte) raft.ServerAddress                     { return raft.ServerAddress(b) }

// Close is called by Raft when its goroutines have ended.
func (t *transport) Close() error {
	t.stop()
	t.tasks.Wait()
	return nil
}

func (t *transport) frame(kind frameKind, payload []byte) *frame {
	return &frame{kind: kind, generation: t.conv.generation(), conversation: t.conv.id, payload: payload}
}

// header returns the header that describes the sender of a message to Raft.
func header(n wire.NodeID) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n), Addr: []byte(n)}
}

// do makes one Raft call.
func (t *transport) do(to raft.ServerID, cmd any) ([]byte, error) {
	if err := t.store.settle(); err != nil {
		return nil, err
	}
	kind, payload := encodeRPC(cmd)
	b, err := t.m.mesh.ask(t.ctx, wire.NodeID(to), t.frame(kind, payload))
	t.noteRefusal(wire.NodeID(to), err)
	return b, err
}

// noteRefusal handles the errors of peers that sleep, or that know a later generation.
func (t *transport) noteRefusal(from wire.NodeID, err error) {
	var e *wire.Error
	if errors.As(err, &e) {
		t.conv.refusedBy(from, e)
	}
}

func isBeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// AppendEntries sends entries and waits for the answer; a heartbeat first waits to be sent with others.
func (t *transport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (err error) {
	defer t.m.quarantineOnPanic(t.conv, "append", &err)
	if holdsSnapshotEnd(args) {
		return raft.ErrNotLeader
	}
	if isBeat(args) {
		return t.heartbeat(wire.NodeID(id), args.Term, resp)
	}
	b, err := t.do(id, args)
	if errors.Is(err, errUnreachable) && t.awaitPeer(wire.NodeID(id), args.Term) {
		b, err = t.do(id, args)
	}
	if err != nil {
		return err
	}
	return t.appended(wire.NodeID(id), args, resp, b)
}

// awaitPeer waits until an absent node is back, as long as this replica leads it in the term. Raft doubles its pause
// with each failure, up to 10 s, and nothing ends the pause early. With awaitPeer, an absence causes one failure
// instead of many.
func (t *transport) awaitPeer(n wire.NodeID, term uint64) bool {
	for {
		if t.m.mesh.await(t.ctx, n, t.m.cfg.Timers.Absence) {
			return true
		}
		r := t.conv.raft()
		if t.ctx.Err() != nil || r == nil || r.State() != raft.Leader || r.CurrentTerm() != term || t.m.mesh.peer(n) == nil {
			return false
		}
		if voters, learners := splitServers(r.GetConfiguration().Configuration().Servers); !contains(voters, n) && !contains(learners, n) {
			return false
		}
	}
}

// appended processes the answer to an AppendEntries.
func (t *transport) appended(from wire.NodeID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, b []byte) error {
	got, err := decodeAppendReply(b)
	if err != nil {
		return err
	}
	if err := t.checkAnswer(from, args.Term, got.Term); err != nil {
		return err
	}
	t.conv.noteFrame(from)
	*resp = *got
	resp.RPCHeader = header(from)
	if resp.Success {
		t.acks.note(from, args)
		t.nudge(from)
	}
	return nil
}

// RequestVote asks for a vote.
func (t *transport) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) (err error) {
	defer t.m.quarantineOnPanic(t.conv, "vote", &err)
	b, err := t.do(id, args)
	if err != nil {
		return err
	}
	resp.RPCHeader = header(wire.NodeID(id))
	if resp.Term, resp.Granted, err = decodeVoteReply(b); err != nil {
		return err
	}
	return t.checkAnswer(wire.NodeID(id), args.Term, resp.Term)
}

// RequestPreVote asks whether a vote would be granted.
func (t *transport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) (err error) {
	defer t.m.quarantineOnPanic(t.conv, "vote", &err)
	b, err := t.do(id, args)
	if err != nil {
		return err
	}
	resp.RPCHeader = header(wire.NodeID(id))
	if resp.Term, resp.Granted, err = decodeVoteReply(b); err != nil {
		return err
	}
	return t.checkAnswer(wire.NodeID(id), args.Term, resp.Term)
}

// TimeoutNow makes the target campaign.
func (t *transport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	t.conv.pardon(wire.NodeID(id))
	_, err := t.do(id, args)
	return err
}

// receive passes a Raft request to this replica and answers it. It runs on a connection's read loop, so it does not
// block and never waits for a disk.
func (t *transport) receive(from wire.NodeID, f *frame) {
	cmd, err := decodeRPC(f.kind, f.payload, header(from))
	if err != nil {
		t.m.mesh.reply(from, f, nil, wire.Errorf(wire.Malformed, "raft", "%v", err))
		return
	}
	keep := func(*raft.Log, *wire.Entry) {}
	if l := t.conv.awake(); l != nil && l.trans == t {
		keep = l.decoded.put
		if err := l.checkRPC(from, cmd); errors.Is(err, errNotYet) {
			t.m.mesh.reply(from, f, encodeAppendReply(l.missingEntriesReply()), nil)
			return
		} else if err != nil {
			t.m.mesh.reply(from, f, nil, err)
			return
		}
	}
	if a, ok := cmd.(*raft.AppendEntriesRequest); ok {
		if err := t.m.checkForeignEntries(from, t.conv.id, a, keep); err != nil {
			t.m.mesh.reply(from, f, nil, err)
			return
		}
		t.store.align(a)
	}
	answer := make(chan raft.RPCResponse, 1)
	select {
	case t.rpcs <- raft.RPC{Command: cmd, RespChan: answer}:
	default:
		t.m.mesh.reply(from, f, nil, wire.Errorf(wire.Busy, "raft", "replica of %v has %d requests waiting", t.conv.id, rpcQueue))
		return
	}
	if f.number == 0 {
		return // a nudge: nobody waits for the answer
	}
	t.m.mesh.spawn(func(context.Context) {
		defer t.m.quarantineOnPanic(t.conv, "answer", nil)
		select {
		case r := <-answer:
			if err := t.store.settle(); err != nil {
				r.Error = err
			}
			t.m.mesh.replyRPC(from, f, r)
		case <-t.ctx.Done():
			t.m.mesh.reply(from, f, nil, wire.Errorf(wire.Unavailable, "raft", "replica is shutting down"))
		}
	})
}

// campaign starts an election on this replica at once, without a pre-vote.
func (t *transport) campaign() {
	if l := t.conv.awake(); l != nil && l.trans == t && !l.isVoter() {
		return // Raft would begin a term without any other replica in it
	}
	if l := t.conv.awake(); l != nil && l.trans == t {
		l.courted.note(t.m.cfg.Node, l.term()+1)
	}
	answer := make(chan raft.RPCResponse, 1)
	select {
	case t.rpcs <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: header(t.m.cfg.Node)}, RespChan: answer}:
	default: // busy: another goroutine is already doing this
	}
}

func (s *mesh) reply(to wire.NodeID, f *frame, content []byte, err error) {
	if f.number == 0 {
		return
	}
	answer := &frame{kind: kindReply, number: f.number, generation: f.generation, conversation: f.conversation, payload: sealReply(content, err)}
	if sendErr := s.send(to, answer); sendErr != nil {
		s.log.Debug("reply not sent", "peer", to, "error", sendErr)
	}
}

func (s *mesh) replyRPC(to wire.NodeID, f *frame, r raft.RPCResponse) {
	err := r.Error
	var content []byte
	if err == nil {
		content, err = encodeRPCReply(r.Response)
	} else {
		err = wire.Errorf(wire.Unavailable, "raft", "%v", err)
	}
	s.reply(to, f, content, err)
}

// AppendEntriesPipeline sends entries without waiting for each answer.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	p := &pipeline{t: t, to: wire.NodeID(id), flying: make(chan *appendFuture, rpcQueue/4), done: make(chan raft.AppendFuture), stop: make(chan struct{})}
	p.ended.Go(p.collect)
	return p, nil
}

// pipeline keeps several AppendEntries in progress, in order.
type pipeline struct {
	t      *transport
	to     wire.NodeID
	flying chan *appendFuture
	done   chan raft.AppendFuture
	stop   chan struct{}
	once   sync.Once
	ended  sync.WaitGroup
}

type appendFuture struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	peer  *peer
	num   uint64
	call  *call
	err   error
	ready chan struct{}
}

func (f *appendFuture) Error() error                          { <-f.ready; return f.err }
func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.args }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }

// AppendEntries sends a request; it blocks while too many are in progress.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if holdsSnapshotEnd(args) {
		return nil, raft.ErrNotLeader
	}
	if err := p.t.store.settle(); err != nil {
		return nil, err
	}
	f := &appendFuture{start: time.Now(), args: args, resp: resp, ready: make(chan struct{})}
	kind, payload := encodeRPC(args)
	var err error
	if f.peer, f.num, f.call, err = p.t.m.mesh.start(p.to, p.t.frame(kind, payload)); err != nil {
		return nil, err
	}
	select {
	case p.flying <- f:
		return f, nil
	case <-p.stop:
	case <-p.t.ctx.Done():
	}
	f.peer.forget(f.num)
	return nil, raft.ErrPipelineShutdown
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close ends the pipeline; requests in progress are dropped.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.stop) })
	p.ended.Wait()
	return nil
}

// collect waits for the answers in the order of the requests. Raft ends the pipeline at an answer without success.
func (p *pipeline) collect() {
	defer p.t.m.quarantineOnPanic(p.t.conv, "append", nil)
	for {
		select {
		case <-p.stop:
			return
		case <-p.t.ctx.Done():
			return
		case f := <-p.flying:
			if !p.await(f) {
				return
			}
			select {
			case p.done <- f:
			case <-p.stop:
				return
			case <-p.t.ctx.Done():
				return
			}
		}
	}
}

func (p *pipeline) await(f *appendFuture) bool {
	timer := time.NewTimer(p.t.m.mesh.call)
	defer timer.Stop()
	select {
	case r := <-f.call.done:
		if f.err = r.err; f.err == nil {
			f.err = p.t.appended(p.to, f.args, f.resp, r.payload)
		} else {
			p.t.noteRefusal(p.to, r.err)
		}
	case <-timer.C:
		f.peer.forget(f.num)
		f.peer.suspect(p.t.m.mesh.call)
		f.err = errUnreachable
	case <-p.stop:
		f.peer.forget(f.num)
		return false
	case <-p.t.ctx.Done():
		f.peer.forget(f.num)
		return false
	}
	if f.err != nil {
		*f.resp = raft.AppendEntriesResponse{}
	}
	close(f.ready)
	return true
}
