package machine

import (
	"github.com/mlsfed/mlsfed/consensus/internal/fault"
	"github.com/mlsfed/mlsfed/wire"
)

// Limits that every replica shares. A change of one is a new version of the state machine.
const (
	MaxHeads       = 4 // at level 1 of the rules; see MaxBranches
	MaxAddresses   = wire.MaxElements
	MaxProposals   = 512  // in one epoch
	MaxSubmissions = 1024 // remembered, so that a retry gets the first answer; more than MaxProposals

	HeadLife wire.Time = 7 * 24 * 3600_000 // milliseconds until an unused head of a contested epoch expires
	MaxStep  wire.Time = 24 * 3600_000     // milliseconds by which one entry moves the time forward at most

	DefaultRecentCount           = 256
	DefaultRecentBytes           = 2 << 20
	DefaultRecentLife  wire.Time = 30 * 24 * 3600_000
)

// Machine is the state of one conversation. It is not safe for concurrent use.
type Machine struct {
	public   PublicRules
	anyEpoch bool // see fault.DisableEpochCheck
	off      rules

	id       wire.ConversationID
	created  bool
	closed   bool
	policy   wire.Policy
	seq      wire.SequenceNumber
	order    wire.Hash
	now      wire.Time
	heads    []*head
	spans    []Span
	holders  []wire.Domain // organizations that hold replicas and do not take part; see updateHolders
	replicas *wire.Replicas
	since    wire.SequenceNumber // the entry that set replicas
	orderers []wire.Domain       // organizations with replicas, whose nodes may propose, sorted; set with replicas
	level    uint8               // of the rules; wire.FirstLevel until an entry raises it

	clocks []Clock // clocks of the organizations, from level 2 on; sorted

	recent      []kept
	recentBytes int     // bytes of their content
	held        int     // the part of those bytes that is in memory
	gone        int     // number of entries of recent, the oldest ones, without content in memory
	archive     Archive // reads that content; nil if all content is in memory
	stored      string  // the snapshot to which offsets refer
	answers     map[wire.SubmissionID]submitted
	answered    []wire.SubmissionID // the keys of answers, oldest first
}

// New returns the state before the first entry. rules may be nil if public handshakes are not supported; then all
// replicas must do without them.
func New(id wire.ConversationID, rules PublicRules) *Machine {
	return &Machine{id: id, public: rules, level: wire.FirstLevel, answers: make(map[wire.SubmissionID]submitted)}
}

func init() { fault.DisableEpochCheck = func(m any) { m.(*Machine).anyEpoch = true } }

// Outcome is the outcome of one entry.
type Outcome struct {
	Receipt   wire.Receipt
	Committed *wire.Committed // nil if the entry was refused, or answered from memory
	Err       *wire.Error     // reason of the refusal
	Moved     bool            // organizations joined or left, or the replicas were ordered
}

// plan is the result of an accepting judgement: the actions for enact.
type plan struct {
	entry    *wire.Entry
	index    uint64 // index in Raft's log; 0 for none
	now      wire.Time
	receipt  *wire.Receipt // the submission is a retry: answer with this and change nothing
	from     *head         // the head that the entry belongs to
	next     *head         // the head that replaces from or is added to it; seq is set by enact
	addsHead bool
	at       int         // from level 2 on, for a contest: the index of the contested epoch in from's trail
	evicted  *head       // the head that gives way to next; nil for none
	member   bool        // a member of from's epoch has made the submission
	public   PublicGroup // from's state after a proposal
	ends     bool        // from is closed
	epoch    wire.Epoch  // the epoch after the entry
	creating bool
	level    uint8              // level to which the entry raises the rules, 0 for none
	key      wire.SubmissionKey // key with which the signature has been verified, zero for none
	checked  bool               // see Known.Checked
}

// Judge reports whether e would be accepted now, and changes nothing: it returns the receipt of an earlier
// acceptance, if there was one, or an error.
func (m *Machine) Judge(e *wire.Entry) (*wire.Receipt, error) {
	receipt, _, err := m.judgeKey(e)
	return receipt, err
}

// judgeKey does the work of Judge, and also returns the key with which it has verified the submission's signature,
// zero for none.
func (m *Machine) judgeKey(e *wire.Entry) (*wire.Receipt, wire.SubmissionKey, error) {
	return m.JudgeVerified(e, wire.SubmissionKey{})
}

// JudgeVerified does the work of judgeKey for a caller that has verified the submission's signature with key: it does
// not repeat that check. A zero key means that the caller has not.
func (m *Machine) JudgeVerified(e *wire.Entry, key wire.SubmissionKey) (*wire.Receipt, wire.SubmissionKey, error) {
	p := &plan{entry: e, key: key}
	if err := m.judge(p); err != nil {
		return nil, wire.SubmissionKey{}, err
	}
	return p.receipt, p.key, nil
}

// Apply applies the entry that Raft ordered next. The same entries in the same order give the same state and outcomes
// on all replicas.
func (m *Machine) Apply(raw []byte) Outcome { return m.applyVerified(raw, wire.SubmissionKey{}) }

// applyVerified does the work of Apply for a caller that has verified the signature of the submission in raw with
// key: it does not repeat that check, whose result is known. A zero key means that the caller has not.
func (m *Machine) applyVerified(raw []byte, key wire.SubmissionKey) Outcome {
	return m.ApplyLogged(raw, Known{Key: key}, 0)
}

// Known holds what the caller of ApplyLogged has found out about an entry, so that the machine does not repeat the
// work. The outcome and the state are the same with the zero value.
type Known struct {
	// Entry is the result of wire.Decode for exactly these bytes; nil if the caller has not decoded them. The machine
	// keeps references to it.
	Entry *wire.Entry
	// Key is the key with which the caller has verified the signature of the submission; zero if it has not.
	Key wire.SubmissionKey
	// Checked reports that a machine of this node has already applied this entry, as the same part of the same log,
	// and has not refused it as forged.
	Checked bool
}

// ApplyLogged does the work of Apply for the entry at an index of Raft's log; index is 0 for an entry that is in no
// log.
func (m *Machine) ApplyLogged(raw []byte, known Known, index uint64) Outcome {
	e := known.Entry
	if e == nil {
		e = new(wire.Entry)
		if err := wire.Decode(raw, wire.MaxEntry, e); err != nil {
			return Outcome{Err: wire.AsError("apply", err)}
		}
	}
	p := &plan{entry: e, key: known.Key, checked: known.Checked, index: index}
	if err := m.judge(p); err != nil {
		return Outcome{Err: err}
	}
	if p.receipt != nil {
		return Outcome{Receipt: *p.receipt}
	}
	return m.enact(p, raw)
}

func (m *Machine) judge(p *plan) *wire.Error {
	p.now = m.clock(p.entry)
	if p.entry.Replicas != nil {
		return m.judgeReplicas(p, p.entry.Replicas)
	}
	env := p.entry.Envelope
	if env.Conversation != m.id {
		return wire.Errorf(wire.Invalid, "submit", "is for conversation %v, this is %v", env.Conversation, m.id)
	}
	receipt, err := m.answerBefore(env)
	if err != nil || receipt != nil {
		p.receipt = receipt
		return err
	}
	if env.Kind == wire.KindCreate {
		return m.judgeCreate(p, env)
	}
	switch {
	case !m.created:
		return wire.Errorf(wire.UnknownConversation, "submit", "%v has not been created", m.id)
	case m.closed && !(m.level >= 2 && isContest(env)):
		return wire.Errorf(wire.Closed, "submit", "%v was closed with entry %d", m.id, m.seq)
	}
	h, err := m.locate(p, env)
	if err != nil {
		return err
	}
	if h.closed && !p.addsHead {
		return wire.Errorf(wire.Closed, "submit", "the branch of epoch %d that entry %d opened was closed", h.epoch, h.seq)
	}
	p.from, p.epoch = h, env.Epoch
	switch env.Kind {
	case wire.KindProposal:
		return m.judgeProposal(p, env)
	case wire.KindCommit:
		return m.judgeCommit(p, env)
	default:
		p.ends, p.member = true, true
		return p.authentic(env, h.key)
	}
}

// locate finds the head that a submission is for. For a contest it finds a child of the contested epoch.
func (m *Machine) locate(p *plan, e *wire.Envelope) (*head, *wire.Error) {
	if h := m.headAt(e.Parent); h != nil {
		if h.epoch != e.Epoch {
			return nil, wire.Errorf(wire.Invalid, "submit", "entry %d opened epoch %d, not %d", h.seq, h.epoch, e.Epoch)
		}
		if e.Kind == wire.KindCommit && e.Commit.Contest {
			return nil, wire.Errorf(wire.Invalid, "submit", "contests epoch %d, which nobody has ended: commit without the mark", e.Epoch)
		}
		return h, nil
	}
	if e.Parent > m.seq {
		return nil, wire.Errorf(wire.Invalid, "submit", "entry %d does not exist, the last is %d", e.Parent, m.seq)
	}
	child := m.childOf(e.Parent)
	if m.anyEpoch && e.Kind == wire.KindCommit {
		return m.heads[0], nil
	}
	if m.level >= 2 {
		return m.locateEnded(p, e)
	}
	if child == nil {
		return nil, m.stale(e, nil)
	}
	if err := m.signed(p, e, child.parent.key); err != nil {
		return nil, err
	}
	if e.Kind != wire.KindCommit || !e.Commit.Contest || child.parent.epoch != e.Epoch {
		return nil, m.stale(e, child.parent)
	}
	if len(m.heads) >= MaxHeads {
		return nil, wire.Errorf(wire.TooManyHeads, "submit", "epoch %d is contested: %d heads, at most %d", e.Epoch, len(m.heads), MaxHeads)
	}
	p.addsHead = true
	return child, nil
}

// signed checks the submission signature if the policy requires it. With public handshakes the message itself proves
// its sender.
func (m *Machine) signed(p *plan, e *wire.Envelope, key wire.SubmissionKey) *wire.Error {
	if m.policy.Handshakes == wire.HandshakesPublic && e.Kind != wire.KindClose {
		return nil
	}
	return p.authentic(e, key)
}

func (p *plan) authentic(e *wire.Envelope, key wire.SubmissionKey) *wire.Error {
	known := p.checked || key == p.key && !key.IsZero()
	if !known && !e.Verify(key) {
		return wire.Errorf(wire.Forged, "submit", "signature does not verify under the submission key of epoch %d", e.Epoch)
	}
	p.key = key
	return nil
}

func (m *Machine) judgeCreate(p *plan, e *wire.Envelope) *wire.Error {
	if m.created {
		return wire.Errorf(wire.Exists, "create", "%v exists since %v", m.id, m.recentTime())
	}
	if err := p.authentic(e, e.Create.Key); err != nil {
		return err
	}
	group, err := m.openPublic(e.Create)
	if err != nil {
		return err
	}
	p.creating = true
	p.next = &head{key: e.Create.Key, delivery: e.Create.Delivery, public: group,
		info: inline(e.Create.Info), tree: inline(e.Create.Tree)}
	return nil
}

func inline(b []byte) *wire.Payload {
	if len(b) == 0 {
		return nil
	}
	return &wire.Payload{Inline: b}
}

func (m *Machine) recentTime() string { return m.now.Std().Format("2006-01-02 15:04:05Z") }

func (m *Machine) judgeProposal(p *plan, e *wire.Envelope) *wire.Error {
	if err := m.signed(p, e, p.from.key); err != nil {
		return err
	}
	if p.from.proposals >= MaxProposals {
		return wire.Errorf(wire.Quota, "submit", "epoch %d has %d proposals: commit them first", p.from.epoch, p.from.proposals)
	}
	var err *wire.Error
	if p.member, err = checkHeader(m.id, m.policy.Handshakes, e); err != nil {
		return err
	}
	p.public, err = processPublic(p.from.public, e.Proposal, p.from.epoch)
	return err
}

func (m *Machine) judgeCommit(p *plan, e *wire.Envelope) *wire.Error {
	base := &point{seq: p.from.seq, epoch: p.from.epoch, key: p.from.key, public: p.from.public}
	list := p.from.delivery
	var err *wire.Error
	switch {
	case p.addsHead && m.level >= 2:
		base = p.from.trail[p.at].point
		list, err = p.from.listAt(p.at)
	case p.addsHead:
		base = p.from.parent
		list, err = undoChange(list, p.from.change)
	}
	if err != nil {
		return err
	}
	if !m.anyEpoch && !p.addsHead { // locate has already verified a contest
		if err := m.signed(p, e, base.key); err != nil {
			return err
		}
	}
	if p.member, err = checkHeader(m.id, m.policy.Handshakes, e); err != nil {
		return err
	}
	if list, err = applyChange(list, e.Commit.Delivery); err != nil {
		return err
	}
	group, err := processPublic(base.public, e.Commit.Commit, base.epoch+1)
	if err != nil {
		return err
	}
	p.epoch = base.epoch + 1
	p.next = &head{epoch: p.epoch, key: e.Commit.Key, delivery: list, change: e.Commit.Delivery, public: group,
		info: e.Commit.Info, tree: e.Commit.Tree, parent: base}
	return m.needsLevel(e)
}

func (m *Machine) judgeReplicas(p *plan, r *wire.Replicas) *wire.Error {
	if !m.created {
		return wire.Errorf(wire.UnknownConversation, "replicas", "%v has not been created", m.id)
	}
	current := m.Generation()
	p.epoch = m.heads0Epoch()
	if level, ok := r.RaisesTo(current); ok {
		if level <= m.level {
			return wire.Errorf(wire.Invalid, "rules", "level %d, the conversation has level %d", level, m.level)
		}
		p.level = level
		return nil
	}
	if r.Recovery == nil && r.Generation != current || r.Recovery != nil && r.Generation != current+1 {
		return wire.Errorf(wire.Invalid, "replicas", "generation %d, the conversation is in %d", r.Generation, current)
	}
	return nil
}

// heads0Epoch returns the epoch of the first branch; a closed conversation keeps its last head.
func (m *Machine) heads0Epoch() wire.Epoch { return m.heads[0].epoch }

// enact carries out p. It cannot fail: judge has refused everything that can be refused.
func (m *Machine) enact(p *plan, raw []byte) Outcome {
	e := p.entry
	m.now = p.now
	m.seq++
	m.order = wire.NextOrder(m.order, raw)
	if p.creating {
		m.created, m.policy = true, e.Envelope.Create.Policy
	}
	moved := m.moveHeads(p)
	switch {
	case p.level > 0:
		m.raise(p.level)
	case e.Replicas != nil:
		m.setReplicas(e.Replicas, m.seq)
		moved = true
	}
	m.noteClock(e)
	c := wire.Committed{Sequence: m.seq, Order: m.order, Entry: raw}
	k := kept{Committed: c, time: m.now, at: location{index: p.index, size: len(raw)}}
	receipt := wire.Receipt{Sequence: m.seq, Epoch: p.epoch, Order: m.order, Time: m.now}
	if e.Envelope != nil {
		k.submission, k.blobs = e.Envelope.Submission, e.Envelope.Blobs()
		digest, err := e.Envelope.Digest()
		if err != nil {
			return Outcome{Err: wire.AsError("apply", err)} // unreachable: the entry was decoded from an encoding
		}
		m.noteSubmission(submitted{ID: e.Envelope.Submission, Digest: digest, Receipt: receipt})
	}
	m.remember(k)
	return Outcome{Receipt: receipt, Committed: &c, Moved: moved}
}

// moveHeads replaces or adds heads, and reports whether organizations joined or left.
func (m *Machine) moveHeads(p *plan) bool {
	if m.level >= 2 {
		return m.moveBranches(p)
	}
	if p.from != nil {
		p.from.used = m.now
	}
	changed := false
	switch {
	case p.next != nil:
		p.next.seq, p.next.used = m.seq, m.now
		changed = p.creating || p.addsHead || !p.next.change.IsZero() || m.someLeft()
		switch {
		case p.creating, p.addsHead:
			m.heads = append(m.heads, p.next)
		default:
			p.next.parent.winner = m.seq
			m.replaceHead(p.from, p.next)
		}
	case p.ends && len(m.heads) == 1:
		m.closed = true // the head stays, so that entry and list can still be delivered
	case p.ends:
		m.heads = dropHead(m.heads, p.from)
		changed = true
	case p.from != nil:
		p.from.proposals++
		if p.public != nil {
			p.from.public = p.public
		}
	}
	return (m.expireHeads() || changed) && m.updateSpans(m.seq)
}

func dropHead(heads []*head, gone *head) []*head {
	var rest []*head
	for _, h := range heads {
		if h != gone {
			rest = append(rest, h)
		}
	}
	return rest
}
