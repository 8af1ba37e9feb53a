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

// patience is how long a submission without a deadline of its caller's is tried.
const patience = 30 * time.Second

// entryOverhead is what an Entry adds to the envelope in it, generously.
const entryOverhead = 512

// Submit has a submission ordered and returns its receipt when it is durable on a majority. It works on
// every replica, awake or not, whoever leads. What was lost on the way is tried again until ctx ends:
// the submission's id makes that harmless. A refusal is a *wire.Error.
func (m *Manager) Submit(ctx context.Context, e *wire.Envelope) (wire.Receipt, error) {
	return m.SubmitWith(ctx, e, nil)
}

// SubmitWith is Submit for a submission whose blobs the caller holds: lend stores them with PutBlob. It is
// called once, and only when the right of the submission is proven; a nil lend has nothing to store.
func (m *Manager) SubmitWith(ctx context.Context, e *wire.Envelope, lend func() error) (wire.Receipt, error) {
	if err := checkSize(e); err != nil {
		return wire.Receipt{}, err
	}
	c, err := m.find(e.Conversation)
	if err != nil {
		return wire.Receipt{}, err
	}
	return m.submitTo(ctx, c, e, proof{}, lend)
}

// submitTo has a submission ordered. known is what the caller has already proven, if anything.
func (m *Manager) submitTo(ctx context.Context, c *conversation, e *wire.Envelope, known proof, lend func() error) (_ wire.Receipt, err error) {
	defer m.caught(c, "submit", &err)
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
	if behind && len(e.Blobs()) > 0 {
		p, err = m.prove(ctx, c, e, known)
	}
	if err != nil {
		return wire.Receipt{}, err
	}
	if p.receipt != nil {
		return *p.receipt, nil
	}
	if lend != nil && len(e.Blobs()) > 0 {
		if err := lend(); err != nil {
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
	s := &submission{m: m, c: c, e: e, known: p, began: time.Now()}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		receipt, err := s.try(ctx)
		if err == nil || !retriable(err) {
			return receipt, err
		}
		if err := c.refused("submit"); err != nil {
			return wire.Receipt{}, err
		}
		if leader, may := s.mayComplain(err); may {
			s.complain(leader)
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

// errAgain is what happened on the way and may go better next time.
var errAgain = errors.New("it is not in order yet")

// retriable reports whether another try may bring a submission home.
func retriable(err error) bool {
	switch wire.CodeOf(err) {
	case codeNotLeader, codeAsleep, codeSuperseded, wire.Unavailable, wire.NotAdmitted, wire.Busy, wire.NotReplica, wire.UnknownConversation:
		return true // this node holds a replica: who answers otherwise has gone, or lags behind
	}
	return errors.Is(err, errAgain) || errors.Is(err, errUnreachable) || errors.Is(err, errRPC)
}

// submission is one on its way.
type submission struct {
	m     *Manager
	c     *conversation
	e     *wire.Envelope
	known proof
	turn  int         // counts tries without a known leader
	hint  wire.NodeID // who is said to lead

	began      time.Time
	complained bool
}

// try brings the submission to the leader, once.
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
	if leader == "" && !l.votes() {
		leader = s.nextVoter()
	}
	if leader == "" || leader == s.m.cfg.Node {
		l.used.Store(time.Now().UnixNano())
		return wire.Receipt{}, fmt.Errorf("no leader: %w", errAgain)
	}
	return s.forward(ctx, l, leader)
}

// propose is for a node that leads. What it could not prove as a follower it proves now.
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

// nextVoter is the voter whose turn it is to be asked, "" if none is known. A replica without a vote elects
// nobody, and hears nothing of voters that sleep: being asked wakes them.
func (s *submission) nextVoter() wire.NodeID {
	voters := slices.DeleteFunc(s.m.voters(s.c), func(n wire.NodeID) bool { return n == s.m.cfg.Node })
	if len(voters) == 0 {
		return ""
	}
	s.turn++
	return voters[s.turn%len(voters)]
}

// tryAsleep wakes the conversation: by way of its last leader, else here, else by the next voter.
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

// awaitLeader waits a little for an election that is under way, and returns the leader, or "".
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

// candidates are the voters that may wake a sleeper: the last leader, this node, then the others.
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
		order = append(order, self) // nothing is known yet: open it and listen
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

// forward hands the submission to another node. It is given up when another leader is heard of, or nothing
// at all of that node: the next try finds out what has become of it. l is nil while the replica sleeps.
func (s *submission) forward(ctx context.Context, l *live, to wire.NodeID) (wire.Receipt, error) {
	if from := s.known.from; from != "" {
		return wire.Receipt{}, wire.Errorf(wire.Denied, "submit", "%s leads %v: %s hands it in there", to, s.c.id, from)
	}
	payload, err := wire.Encode(s.e)
	if err != nil {
		return wire.Receipt{}, err
	}
	f := &frame{kind: kindSubmit, generation: s.c.generation(), conversation: s.c.id, payload: payload}
	b, err := s.await(ctx, l, to, f)
	if err != nil {
		var e *wire.Error
		if errors.As(err, &e) && e.Code == codeNotLeader && len(e.Nodes) == 1 {
			s.hint = e.Nodes[0]
		}
		return wire.Receipt{}, err
	}
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
	check := time.NewTicker(t.Silence / 4)
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
			if min(waited, p.silence(now)) < t.Silence && waited < t.Heartbeat+t.Election+t.Call {
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

// receiveSubmit serves a submission that another replica forwarded. It is not forwarded again. A sender
// without a part in the conversation is refused before the submission is decoded.
func (m *Manager) receiveSubmit(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	c, err := m.party(from, f.conversation, leastRoles[kindSubmit])
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
	// Whatever the sender has checked: this node proves the right of the submission by its own state, and
	// has not woken the conversation before.
	p, err := m.prove(ctx, c, e, proof{from: from})
	if err == nil && p.receipt == nil {
		p.receipt, err = m.serveSubmit(ctx, c, e, p)
	}
	if errors.Is(err, errAgain) { // as where the disk is slow: who forwards it tries again while its caller waits
		err = wire.Errorf(wire.Unavailable, "submit", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	return wire.Encode(p.receipt)
}

func (m *Manager) serveSubmit(ctx context.Context, c *conversation, e *wire.Envelope, p proof) (*wire.Receipt, error) {
	for {
		l, release := c.use()
		if l == nil {
			if _, err := m.wakeUp(ctx, c); err != nil {
				return nil, err
			}
			continue
		}
		leader := l.awaitLeader(ctx, patience) // an election may be under way
		if l.leads() {
			defer release()
			// This node sees for itself that a majority has what the entry names.
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
		c.settle() // it was closed under us
	}
}

// propose puts a submission, whose right is proven, into the log. This node leads, or did a moment ago.
func (l *live) propose(ctx context.Context, e *wire.Envelope, p proof) (wire.Receipt, error) {
	l.used.Store(time.Now().UnixNano())
	var entry *wire.Entry
	l.fsm.read(func(s *machine.Machine) { entry = l.m.entryOf(s, e, p.from) })
	return l.order(ctx, entry, p.key)
}

// turns is closed when this replica's role changes, or the leader that it knows.
func (l *live) turns() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turned
}

// watchRoles tells of it.
func (l *live) watchRoles(r *raft.Raft) {
	seen := make(chan raft.Observation, 1) // one that waits is enough: what changed is looked up
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	r.RegisterObserver(observer)
	l.tasks.Go(func() {
		defer l.m.caught(l.c, "watch roles", nil)
		defer r.DeregisterObserver(observer)
		var follows wire.NodeID
		defer func() { l.m.leaders.move(l, follows, "") }()
		for {
			leader := l.leader()
			l.c.noteLeader(leader != "" || follows != "")
			l.m.leaders.move(l, follows, leader)
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

// noQuorum is the end of a submission that found nobody in time. It says who is missing.
func (m *Manager) noQuorum(op string, c *conversation, cause error) error {
	if code := wire.CodeOf(cause); code == wire.NotReplica || code == wire.UnknownConversation {
		return cause // this node has lost its part
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
			return voters // none where this node was invited and has not been sent anything yet
		}
	}
	if rec, err := m.readRecord(c.id); err == nil {
		return rec.Voters
	}
	return nil
}

// Create opens a conversation on this node, which becomes its first voter. A retry gets the first
// answer, like that of any submission.
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
		// What would be refused leaves nothing behind.
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
		if c, err = m.found(e.Conversation); err != nil {
			return wire.Receipt{}, err
		}
	}
	return m.submitTo(ctx, c, e, known, nil)
}

// try judges the create of a conversation that is not here.
func (m *Manager) try(f *fsm, e *wire.Envelope) (p proof) {
	defer m.caughtIn(f.id, "create", &p.err)
	return m.judge(f.m, e, proof{})
}

// found makes the Raft group of a new conversation, with this node as its only voter.
func (m *Manager) found(id wire.ConversationID) (*conversation, error) {
	if m.context() == nil {
		return nil, wire.Errorf(wire.Unavailable, "create", "node %s is not running", m.cfg.Node)
	}
	return m.hold(id, &record{Voters: []wire.NodeID{m.cfg.Node}, Leader: m.cfg.Node})
}

// bootstrap writes the first configuration of a conversation that this node founded, once.
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
	// Nothing is there, or a bootstrap that ended after its first write.
	if err := l.m.cfg.Log.Drop(l.c.group); err != nil {
		return err
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(l.m.cfg.Node), Address: raft.ServerAddress(l.m.cfg.Node)}
	return raft.BootstrapCluster(l.m.raftConfig(l.c.id), l.store, l.store, snaps, l.trans, raft.Configuration{Servers: []raft.Server{self}})
}
