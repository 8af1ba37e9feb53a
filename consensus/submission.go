package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// patience limits how long a submission is retried if its caller sets no deadline.
const patience = 30 * time.Second

// entryOverhead is an upper estimate of the bytes that an Entry adds to its envelope.
const entryOverhead = 512

// Order has a submission ordered and returns its receipt when the entry is durable on a majority. It works on every
// replica, awake or asleep, leader or follower. A lost submission is retried until ctx ends: the submission's id
// makes a repetition harmless. A refusal is a *wire.Error.
func (m *Manager) Order(ctx context.Context, e *wire.Envelope) (wire.Receipt, error) {
	return m.OrderWith(ctx, e, Caller{})
}

// Caller is what Order asks its caller while it has a submission ordered. Both functions may be nil.
type Caller struct {
	// Lend stores the blobs of the submission, which the caller holds, with PutBlob. It is called once, and only after
	// the submission is proven to be allowed.
	Lend func() error
	// Unproven is called before another node is asked to judge the submission, because the state here does not reach
	// it. An error refuses the submission.
	Unproven func() error
}

// OrderWith is Order for a caller that holds the submission's blobs, or does not answer for its sender.
func (m *Manager) OrderWith(ctx context.Context, e *wire.Envelope, by Caller) (wire.Receipt, error) {
	if err := checkSize(e); err != nil {
		return wire.Receipt{}, err
	}
	c, err := m.find(e.Conversation)
	if err != nil {
		return wire.Receipt{}, err
	}
	return m.orderIn(ctx, c, e, proof{}, by)
}

// orderIn has a submission ordered. known holds the proofs that the caller has already checked, if any.
func (m *Manager) orderIn(ctx context.Context, c *conversation, e *wire.Envelope, known proof, by Caller) (_ wire.Receipt, err error) {
	defer m.quarantineOnPanic(c, "submit", &err)
	select {
	case m.inflight <- struct{}{}:
		defer func() { <-m.inflight }()
	default:
		return wire.Receipt{}, wire.Errorf(wire.Busy, "submit", "node %s has %d submissions under way", m.cfg.Node, cap(m.inflight))
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	p, behind, err := m.proveNow(c, e, known)
	if behind && by.Unproven != nil {
		if err := by.Unproven(); err != nil {
			return wire.Receipt{}, err
		}
	}
	if behind && len(e.Blobs()) > 0 {
		p, err = m.prove(ctx, c, e, known)
	}
	if err != nil {
		return wire.Receipt{}, err
	}
	if p.receipt != nil {
		return *p.receipt, nil
	}
	if by.Lend != nil && len(e.Blobs()) > 0 {
		if err := by.Lend(); err != nil {
			return wire.Receipt{}, err
		}
	}
	for _, ref := range e.Blobs() {
		m.offers.Store(offer{c.id, ref}, nil)
		defer m.offers.Delete(offer{c.id, ref})
	}
	if err := m.placeBlobs(ctx, c, "", e); err != nil {
		return wire.Receipt{}, err
	}
	s := &submission{m: m, c: c, e: e, known: p}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		receipt, err := s.try(ctx)
		if leader, may := s.mayComplain(err); may {
			s.complain(leader)
		}
		if err == nil || !retriable(err) {
			return receipt, err
		}
		if err := c.refused("submit"); err != nil {
			return wire.Receipt{}, err
		}
		if m.context() == nil {
			return wire.Receipt{}, wire.Errorf(wire.Unavailable, "submit", "node %s is stopping", m.cfg.Node)
		}
		if !pause(ctx, wait) {
			return wire.Receipt{}, m.noQuorum("submit", c, err)
		}
	}
}

func checkSize(e *wire.Envelope) error {
	if err := e.Check(); err != nil {
		return err
	}
	n, err := wire.Size(e)
	if err != nil {
		return wire.Errorf(wire.Malformed, "submit", "%v", err)
	}
	if n > wire.MaxEntry-entryOverhead {
		return wire.Errorf(wire.TooLarge, "submit", "%v of %d bytes, at most %d: send what is large as a blob", e.Kind, n, wire.MaxEntry-entryOverhead)
	}
	return nil
}

// errAgain is a failure on the way to the leader; another try may succeed.
var errAgain = errors.New("the submission is not in the log yet")

// retriable reports whether another try may get a submission ordered.
func retriable(err error) bool {
	switch wire.CodeOf(err) {
	case codeNotLeader, codeAsleep, codeSuperseded, wire.Unavailable, wire.NotAdmitted, wire.Busy, wire.NotReplica, wire.UnknownConversation:
		return true // this node holds a replica: a node that answers otherwise has lost its replica, or lags behind
	}
	return errors.Is(err, errAgain) || errors.Is(err, errUnreachable) || errors.Is(err, errRPC)
}

// submission is a submission in progress.
type submission struct {
	m     *Manager
	c     *conversation
	e     *wire.Envelope
	known proof
	turn  int         // number of tries without a known leader
	hint  wire.NodeID // the node that others name as leader

	asked      wire.NodeID // the node that was asked last to order the submission
	since      time.Time   // the start of the time in which no other node was asked
	complained bool
}

// try brings the submission to the leader once.
func (s *submission) try(ctx context.Context) (wire.Receipt, error) {
	l, release := s.c.use()
	if l == nil {
		return s.tryAsleep(ctx)
	}
	defer release()
	leader := l.awaitLeader(ctx, s.m.cfg.Timers.Heartbeat/8)
	if l.leads() {
		return s.propose(ctx, l)
	}
	if leader == "" {
		leader, s.hint = s.hint, ""
	}
	if leader == "" && !l.isVoter() {
		leader = s.nextVoter()
	}
	if leader == "" || leader == s.m.cfg.Node {
		l.used.Store(time.Now().UnixNano())
		return wire.Receipt{}, fmt.Errorf("no leader: %w", errAgain)
	}
	return s.forward(ctx, l, leader)
}

// propose is for a node that leads. The node now proves what it could not prove as a follower.
func (s *submission) propose(ctx context.Context, l *live) (wire.Receipt, error) {
	p, behind, err := s.m.proveNow(s.c, s.e, s.known)
	switch {
	case err != nil:
		return wire.Receipt{}, err
	case behind:
		return wire.Receipt{}, fmt.Errorf("the leader has not applied what came before: %w", errAgain)
	case p.receipt != nil:
		return *p.receipt, nil
	}
	s.known = p
	return l.propose(ctx, s.e, p)
}

// nextVoter returns the voter to be asked next, or "" if none is known. A replica without a vote elects nobody, and
// does not hear from voters that sleep: a question wakes them.
func (s *submission) nextVoter() wire.NodeID {
	voters := slices.DeleteFunc(s.m.voters(s.c), func(n wire.NodeID) bool { return n == s.m.cfg.Node })
	if len(voters) == 0 {
		return ""
	}
	s.turn++
	return voters[s.turn%len(voters)]
}

// tryAsleep wakes the conversation: through its last leader, else on this node, else through the next voter.
func (s *submission) tryAsleep(ctx context.Context) (wire.Receipt, error) {
	rec, err := s.m.readRecord(s.c.id)
	if err != nil {
		return wire.Receipt{}, err
	}
	order := candidates(rec, s.m.cfg.Node)
	at := order[s.turn%len(order)]
	s.turn++
	if at != s.m.cfg.Node {
		return s.forward(ctx, nil, at)
	}
	if _, err := s.m.wakeUp(ctx, s.c); err != nil {
		return wire.Receipt{}, err
	}
	if l, release := s.c.use(); l != nil {
		defer release()
		if l.awaitLeader(ctx, s.m.cfg.Timers.Heartbeat/8) == s.m.cfg.Node {
			return s.propose(ctx, l)
		}
	}
	return wire.Receipt{}, fmt.Errorf("woken, no leader yet: %w", errAgain)
}

// awaitLeader waits for an election in progress, at most for atMost, and returns the leader, or "".
func (l *live) awaitLeader(ctx context.Context, atMost time.Duration) wire.NodeID {
	end := time.NewTimer(atMost)
	defer end.Stop()
	for {
		turned := l.turns()
		if leader := l.leader(); leader != "" {
			return leader
		}
		select {
		case <-turned:
		case <-end.C:
			return l.leader()
		case <-l.ctx.Done():
			return ""
		case <-ctx.Done():
			return ""
		}
	}
}

// candidates returns the voters that may wake a sleeping conversation: the last leader, this node, then the others.
func candidates(rec *record, self wire.NodeID) []wire.NodeID {
	var order []wire.NodeID
	add := func(n wire.NodeID) {
		if contains(rec.Voters, n) && !contains(order, n) {
			order = append(order, n)
		}
	}
	add(rec.Leader)
	add(self)
	for _, n := range rec.Voters {
		add(n)
	}
	if len(order) == 0 {
		order = append(order, self) // the replica has no entries yet: open it and listen
	}
	return order
}

// use returns the awake replica and keeps it from sleeping until release.
func (c *conversation) use() (*live, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.live
	if l == nil || c.change != nil {
		return nil, nil
	}
	l.inflight.Add(1)
	return l, func() { l.inflight.Add(-1) }
}

// forward hands the submission to another node. It gives up when another leader becomes known, or when that node is
// silent: the next try finds out what happened to the submission. l is nil while the replica sleeps.
func (s *submission) forward(ctx context.Context, l *live, to wire.NodeID) (wire.Receipt, error) {
	if from := s.known.from; from != "" {
		return wire.Receipt{}, wire.Errorf(wire.Denied, "submit", "%s leads %v: %s hands it in there", to, s.c.id, from)
	}
	if s.asked != to {
		s.asked, s.since = to, time.Now()
	}
	payload, err := wire.Encode(s.e)
	if err != nil {
		return wire.Receipt{}, err
	}
	if l != nil {
		l.proven.add(s.e, s.known.key)
	}
	f := &frame{kind: kindOrder, generation: s.c.generation(), conversation: s.c.id, payload: payload}
	b, err := s.await(ctx, l, to, f)
	if err != nil {
		var e *wire.Error
		if errors.As(err, &e) {
			s.c.refusals.add(to, e.Code, time.Now())
			if e.Code == codeNotLeader && len(e.Nodes) == 1 {
				s.hint = e.Nodes[0]
			}
		}
		return wire.Receipt{}, err
	}
	s.c.refusals.end()
	var r wire.Receipt
	return r, wire.Decode(b, 256, &r)
}

func (s *submission) await(ctx context.Context, l *live, to wire.NodeID, f *frame) ([]byte, error) {
	t := &s.m.cfg.Timers
	p, number, c, err := s.m.mesh.start(to, f)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	check := time.NewTicker(t.LeaderTimeout / 4)
	defer check.Stop()
	var turned <-chan struct{}
	for {
		if l != nil {
			turned = l.turns()
			if leader := l.leader(); leader != "" && leader != to {
				p.forget(number)
				return nil, fmt.Errorf("%s leads instead of %s: %w", leader, to, errAgain)
			}
		}
		select {
		case r := <-c.done:
			return r.payload, r.err
		case <-turned:
		case now := <-check.C:
			waited := now.Sub(sent)
			if min(waited, p.sinceHeard(now)) < t.LeaderTimeout && waited < t.Heartbeat+t.Election+t.Call {
				continue
			}
			p.forget(number)
			p.suspect(t.Call)
			return nil, fmt.Errorf("%s: %w: no answer in %v", to, errUnreachable, waited.Round(time.Millisecond))
		case <-ctx.Done():
			p.forget(number)
			return nil, ctx.Err()
		}
	}
}

// receiveOrder serves a submission that another replica forwarded. The submission is not forwarded again. A sender
// without a part in the conversation is refused before the submission is decoded.
func (m *Manager) receiveOrder(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	c, err := m.findWithRole(from, f.conversation, leastRoles[kindOrder])
	if err != nil {
		return nil, err
	}
	if org := m.payer(from.Organization()); org != "" {
		if err := m.cfg.Admission.Handshake(org, c.id); err != nil {
			return nil, err
		}
	}
	e := new(wire.Envelope)
	if err := wire.Decode(f.payload, wire.MaxEntry, e); err != nil {
		return nil, err
	}
	if e.Conversation != f.conversation {
		return nil, wire.Errorf(wire.Malformed, "submit", "frame for %v, envelope for %v", f.conversation, e.Conversation)
	}
	t := &m.cfg.Timers
	ctx, cancel := context.WithTimeout(ctx, t.Heartbeat+t.Election)
	defer cancel()
	// This node does not rely on the sender's checks: it proves from its own state that the submission is allowed,
	// and has not woken the conversation before.
	p, err := m.prove(ctx, c, e, proof{from: from})
	if err == nil && p.receipt == nil {
		p.receipt, err = m.serveOrder(ctx, c, e, p)
	}
	if errors.Is(err, errAgain) { // as on a slow disk: the forwarding node retries while its caller waits
		err = wire.Errorf(wire.Unavailable, "submit", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	return wire.Encode(p.receipt)
}

func (m *Manager) serveOrder(ctx context.Context, c *conversation, e *wire.Envelope, p proof) (*wire.Receipt, error) {
	for {
		l, release := c.use()
		if l == nil {
			if _, err := m.wakeUp(ctx, c); err != nil {
				return nil, err
			}
			continue
		}
		leader := l.awaitLeader(ctx, patience) // an election may be in progress
		if l.leads() {
			defer release()
			// This node checks itself that a majority has the blobs that the entry names.
			if err := m.placeBlobs(ctx, c, m.payer(p.from.Organization()), e); err != nil {
				return nil, err
			}
			receipt, err := l.propose(ctx, e, p)
			return &receipt, err
		}
		release()
		if leader != "" && leader != m.cfg.Node {
			return nil, &wire.Error{Code: codeNotLeader, Op: "submit", Nodes: []wire.NodeID{leader}}
		}
		if ctx.Err() != nil {
			return nil, &wire.Error{Code: codeNotLeader, Op: "submit"}
		}
		c.settle() // another goroutine closed the replica
	}
}

// propose puts a submission that is proven to be allowed into the log, and first raises the rules if the submission
// needs that. This node leads, or led a moment ago.
func (l *live) propose(ctx context.Context, e *wire.Envelope, p proof) (wire.Receipt, error) {
	receipt, err := l.proposeOnce(ctx, e, p)
	level, needs := machine.NeedsLevel(err)
	if !needs {
		return receipt, err
	}
	if err := l.raiseFor(ctx, level, err); err != nil {
		return wire.Receipt{}, err
	}
	return l.proposeOnce(ctx, e, p)
}

func (l *live) proposeOnce(ctx context.Context, e *wire.Envelope, p proof) (wire.Receipt, error) {
	l.used.Store(time.Now().UnixNano())
	var entry *wire.Entry
	l.fsm.read(func(s *machine.Machine) { entry = l.m.entryOf(s, e, p.from) })
	return l.order(ctx, entry, p.key)
}

// turns returns a channel that is closed when this replica's role changes, or the leader that it knows.
func (l *live) turns() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turned
}

// watchRoles closes the channel of turns when Raft reports a change.
func (l *live) watchRoles(r *raft.Raft) {
	seen := make(chan raft.Observation, 1) // one pending observation is enough: the reader looks up what changed
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	r.RegisterObserver(observer)
	l.tasks.Go(func() {
		defer l.m.quarantineOnPanic(l.c, "watch roles", nil)
		defer r.DeregisterObserver(observer)
		var follows wire.NodeID
		defer func() { l.m.failures.move(l, follows, "") }()
		for {
			leader := l.leader()
			l.c.noteLeader(leader != "" || follows != "")
			l.m.failures.move(l, follows, leader)
			follows = leader
			l.mu.Lock()
			close(l.turned)
			l.turned = make(chan struct{})
			l.mu.Unlock()
			l.wakeLoop()
			select {
			case <-l.ctx.Done():
				return
			case <-seen:
			}
		}
	})
}

// noQuorum returns the error of a submission that reached no quorum in time. The error names the missing nodes.
func (m *Manager) noQuorum(op string, c *conversation, cause error) error {
	if code := wire.CodeOf(cause); code == wire.NotReplica || code == wire.UnknownConversation {
		return cause // this node has lost its part in the conversation
	}
	voters := m.voters(c)
	var missing []wire.NodeID
	for _, n := range voters {
		if n != m.cfg.Node && !m.mesh.reachable(n) {
			missing = append(missing, n)
		}
	}
	e := wire.Errorf(wire.NoQuorum, op, "no majority of the %d voters of %v answered in time (%v): try again with the same submission id", len(voters), c.id, cause)
	e.Nodes = missing
	return e
}

func (m *Manager) voters(c *conversation) []wire.NodeID {
	if r := c.raft(); r != nil {
		if voters, _ := splitServers(r.GetConfiguration().Configuration().Servers); len(voters) > 0 {
			return voters // empty if this node was invited and has received nothing yet
		}
	}
	if rec, err := m.readRecord(c.id); err == nil {
		return rec.Voters
	}
	return nil
}

// Create opens a conversation on this node, which becomes its first voter. A retry gets the first answer, as for any
// submission.
func (m *Manager) Create(ctx context.Context, e *wire.Envelope) (wire.Receipt, error) {
	if e.Kind != wire.KindCreate {
		return wire.Receipt{}, wire.Errorf(wire.Malformed, "create", "envelope of kind %v", e.Kind)
	}
	if err := checkSize(e); err != nil {
		return wire.Receipt{}, err
	}
	var known proof
	c, err := m.find(e.Conversation)
	if err != nil && wire.CodeOf(err) != wire.UnknownConversation {
		return wire.Receipt{}, err
	}
	if err != nil {
		// A create that would be refused leaves nothing behind.
		trial := m.newFSM(e.Conversation)
		if known = m.try(trial, e); known.err != nil {
			return wire.Receipt{}, known.err
		}
		if err := m.keepsTooMuch(e.Create.Policy); err != nil {
			return wire.Receipt{}, err
		}
		if err := m.cfg.Limits.mayAdd(trial.m, e); err != nil {
			return wire.Receipt{}, err
		}
		if c, err = m.foundConversation(e.Conversation); err != nil {
			return wire.Receipt{}, err
		}
	}
	return m.orderIn(ctx, c, e, known, Caller{})
}

// try checks the create of a conversation that is not on this node.
func (m *Manager) try(f *fsm, e *wire.Envelope) (p proof) {
	defer m.quarantineOnPanicIn(f.id, "create", &p.err)
	return m.judge(f.m, e, proof{})
}

// foundConversation makes the Raft group of a new conversation with this node as its only voter.
func (m *Manager) foundConversation(id wire.ConversationID) (*conversation, error) {
	if m.context() == nil {
		return nil, wire.Errorf(wire.Unavailable, "create", "node %s is not running", m.cfg.Node)
	}
	return m.reserveReplica(id, &record{Voters: []wire.NodeID{m.cfg.Node}, Leader: m.cfg.Node})
}

// bootstrap writes the first configuration of a conversation that this node founded. It does so once.
func (l *live) bootstrap(rec *record) error {
	if len(rec.Voters) != 1 || rec.Voters[0] != l.m.cfg.Node || rec.Applied > 0 || rec.Generation > 0 {
		return nil
	}
	snaps := l.m.snaps.store(l.c.group)
	if last, err := l.store.LastIndex(); err != nil || last > 0 {
		return err
	}
	if list, err := snaps.List(); err != nil || len(list) > 0 {
		return err
	}
	// The log is empty, or a previous bootstrap ended after its first write.
	if err := l.m.cfg.Log.Drop(l.c.group); err != nil {
		return err
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(l.m.cfg.Node), Address: raft.ServerAddress(l.m.cfg.Node)}
	return raft.BootstrapCluster(l.m.raftConfig(l.c.id), l.store, l.store, snaps, l.trans, raft.Configuration{Servers: []raft.Server{self}})
}
