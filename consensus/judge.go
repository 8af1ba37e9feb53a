package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A leader changes the replicas: first an entry in the log says which nodes are to hold the conversation, then
// Raft's configuration follows it, one node at a time. Followers judge both before they acknowledge them, with
// the state that the log has up to there: placement is the same rule for all, so a genuine leader's changes
// obey it. What place.go promises is checked rather than its result, because rosters differ for a while.
//
// A leader whose change is refused is suspected: this node campaigns, and others that refuse it vote for it.

// errNotYet says that a change cannot be judged, because entries before it are not in the log. The leader is
// answered as Raft would answer it, and sends what is missing.
var errNotYet = errors.New("entries before a change of replicas are missing")

// judge refuses changes of replicas that break a rule.
func (l *live) judge(from wire.NodeID, a *raft.AppendEntriesRequest) error {
	if !l.m.holds(ruleConfigurations) {
		return nil
	}
	l.judging.Lock() // two connections may bring requests of two leaders
	defer l.judging.Unlock()
	for i, e := range a.Entries {
		if e.Type != raft.LogConfiguration && (e.Type != raft.LogCommand || !namesReplicas(e.Data)) || l.inLog(e) {
			continue
		}
		err := l.judgeChange(from, a, i)
		var passing *wire.Error
		switch {
		case errors.As(err, &passing) || errors.Is(err, errNotYet):
			return err
		case err != nil:
			return l.suspect(from, fmt.Errorf("entry %d from %s: %w", e.Index, from, err))
		}
	}
	return nil
}

// lacks is Raft's answer to entries whose predecessor is missing.
func (l *live) lacks() *raft.AppendEntriesResponse {
	a := &raft.AppendEntriesResponse{Term: l.term(), NoRetryBackoff: true}
	if r := l.r.Load(); r != nil {
		a.LastLog = r.LastIndex()
	}
	return a
}

// inLog reports whether an entry was judged when it was written.
func (l *live) inLog(e *raft.Log) bool {
	var have raft.Log
	return l.store.GroupLog.GetLog(e.Index, &have) == nil && have.Term == e.Term && have.Type == e.Type && bytes.Equal(have.Data, e.Data)
}

// namesReplicas reports whether an entry's encoding is that of a change of replicas: the fields before it are
// skipped, nothing is decoded.
func namesReplicas(b []byte) bool {
	if len(b) == 0 || b[0] != 0xa4 {
		return false
	}
	b = b[1:]
	for _, key := range []byte{1, 2, 3} {
		if len(b) < 2 || b[0] != key {
			return false
		}
		major, n, rest, ok := cborHead(b[1:])
		if !ok || major != 0 && major != 1 && major != 3 {
			return false
		}
		if b = rest; major == 3 {
			if uint64(len(b)) < n {
				return false
			}
			b = b[n:]
		}
	}
	return len(b) > 0 && b[0] == 5
}

// cborHead reads the head of one CBOR item (RFC 8949 §3).
func cborHead(b []byte) (major byte, n uint64, rest []byte, ok bool) {
	major, n = b[0]>>5, uint64(b[0]&31)
	rest = b[1:]
	if n < 24 {
		return major, n, rest, true
	}
	size := 1 << (n - 24)
	if n > 27 || len(rest) < size {
		return 0, 0, nil, false
	}
	n = 0
	for _, c := range rest[:size] {
		n = n<<8 | uint64(c)
	}
	return major, n, rest[size:], true
}

// judgeChange judges entry i of a request, with the state that is applied where that is the one before the entry.
func (l *live) judgeChange(from wire.NodeID, a *raft.AppendEntriesRequest, i int) error {
	// What this log holds may be of another leader's, and replaced in a moment: Raft compares the place before first.
	if term, known := l.store.termAt(a.PrevLogEntry); a.PrevLogEntry > 0 && (!known || term != a.PrevLogTerm) {
		return errNotYet
	}
	bases := l.configurations() // takes the state's lock, as read does
	l.fsm.mu.RLock()
	at := l.fsm.index
	l.fsm.mu.RUnlock()
	between, err := l.between(at, a, i)
	if err != nil {
		return err
	}
	if len(between) == 0 {
		err, current := error(nil), false
		l.fsm.mu.RLock()
		if current = l.fsm.index == at; current {
			err = l.judgeWith(from, l.fsm.m, bases, a, i, nil)
		}
		l.fsm.mu.RUnlock()
		if current && !errors.Is(err, errUnjudged) {
			return err
		}
	}
	s, err := l.stateBefore(a, i)
	if err != nil {
		return err
	}
	return l.judgeWith(from, s, bases, a, i, l.judgeRemoved)
}

// between are the entries after index at and before entry i of a request that the state machine is told of.
func (l *live) between(at uint64, a *raft.AppendEntriesRequest, i int) ([]*raft.Log, error) {
	var list []*raft.Log
	for index := at + 1; index < a.Entries[i].Index; index++ {
		e := new(raft.Log)
		if index > a.PrevLogEntry {
			e = a.Entries[index-a.PrevLogEntry-1]
		} else if err := l.store.GroupLog.GetLog(index, e); err != nil {
			return nil, errNotYet
		}
		if e.Type == raft.LogCommand || e.Type == raft.LogConfiguration {
			list = append(list, e)
		}
	}
	return list, nil
}

// stateBefore is the state that the log makes of all before entry i of a request.
func (l *live) stateBefore(a *raft.AppendEntriesRequest, i int) (*machine.Machine, error) {
	var image bytes.Buffer
	l.fsm.mu.RLock()
	at, snapshot := l.fsm.index, l.fsm.m.Snapshot()
	l.fsm.mu.RUnlock()
	if _, err := snapshot.WriteTo(&image); err != nil {
		return nil, err
	}
	s, err := machine.Restore(l.c.id, l.m.cfg.Public, &image)
	if err != nil {
		return nil, err
	}
	between, err := l.between(at, a, i)
	if err != nil {
		return nil, err
	}
	for _, e := range between {
		if e.Type == raft.LogCommand {
			s.Apply(e.Data)
		}
	}
	return s, nil
}

// judgeWith judges entry i of a request with a state before it. removed may take locks; it is nil under the state's.
func (l *live) judgeWith(from wire.NodeID, s *machine.Machine, bases []raft.Configuration, a *raft.AppendEntriesRequest, i int, removed judgeRemoved) error {
	e := a.Entries[i]
	if e.Type == raft.LogConfiguration {
		next, err := decodeConfiguration(e.Data)
		if err != nil {
			return err
		}
		if err := l.judgeConfiguration(s, bases, next, expulsion{from: from, entry: e, fresh: e.Index > a.LeaderCommitIndex, judge: removed}); err != nil {
			return err
		}
		l.pending.note(e.Index, next)
		return nil
	}
	entry := new(wire.Entry)
	if err := wire.Decode(e.Data, wire.MaxEntry, entry); err != nil || entry.Replicas == nil {
		return nil // refused when it is applied
	}
	return l.judgeReplicas(s, entry.Replicas)
}

// judgeReplicas holds a change of replicas to what placement promises.
func (l *live) judgeReplicas(s *machine.Machine, r *wire.Replicas) error {
	if _, raises := r.RaisesTo(s.Generation()); raises {
		return nil
	}
	if r.Recovery != nil {
		if r.Generation != l.c.generation() {
			return fmt.Errorf("an operator's recovery begins generation %d, and this replica is in %d", r.Generation, l.c.generation())
		}
		return nil // its alarm is raised when it is applied
	}
	if !s.Created() || r.Generation != s.Generation() {
		return nil // refused when it is applied
	}
	if err := l.fairlyPlaced(s, r, false); err != nil {
		return err
	}
	old, _ := s.Replicas()
	if old == nil {
		return nil
	}
	for _, span := range s.Spans() {
		if span.Until == 0 && hasNodeOf(old, span.Organization) && !hasNodeOf(r, span.Organization) {
			return late(s, span.Since, fmt.Errorf("takes the replica of %s away, which has members", span.Organization))
		}
	}
	self := l.m.cfg.Node
	if roster := l.m.cfg.Roster; roster != nil && names(old, self) && !names(r, self) && hasNodeOf(r, self.Organization()) &&
		!roster.OrdersOnly(self) && contains(roster.Nodes(self.Organization()), self) {
		return fmt.Errorf("takes the replica away from %s, where the devices are", self)
	}
	return nil
}

func names(r *wire.Replicas, n wire.NodeID) bool {
	return contains(r.Voters, n) || contains(r.Learners, n)
}

func hasNodeOf(r *wire.Replicas, org wire.Domain) bool {
	of := func(n wire.NodeID) bool { return n.Organization() == org }
	return slices.ContainsFunc(r.Voters, of) || slices.ContainsFunc(r.Learners, of)
}

// leaderLag is how many entries a leader of the first release may not have applied when it orders a change of
// replicas: it names an organization that has just left, and the next change, which follows at once, mends that. Or it
// leaves one out that has just come: that is refused, but is no reason for an alarm.
const leaderLag = 2 * maxAppend

// unaware is a refusal of what such a leader does without knowing better.
type unaware struct{ error }

// late is the refusal of what is done to an organization since, unaware where it has just come.
func late(s *machine.Machine, since wire.SequenceNumber, err error) error {
	if s.Level() == wire.FirstLevel && s.Sequence()-since < leaderLag {
		return unaware{err}
	}
	return err
}

// fairlyPlaced holds to what place promises whatever a roster says: organizations with members (or the witness),
// an odd number of voters, as many as there are nodes for up to the policy's number, and spread evenly. past
// says that organizations which have left may still be named.
func (l *live) fairlyPlaced(s *machine.Machine, r *wire.Replicas, past bool) error {
	policy := s.Policy()
	most := DefaultVoters
	if policy.Voters > 0 {
		most = int(policy.Voters)
	}
	var orgs []wire.Domain
	since := make(map[wire.Domain]wire.SequenceNumber)
	open := 0
	for _, span := range s.Spans() {
		if span.Until == 0 {
			open++
			since[span.Organization] = span.Since
		}
		if span.Until == 0 || past || s.Sequence()-span.Until < leaderLag {
			orgs = append(orgs, span.Organization)
		}
	}
	if policy.Witness != "" && (open <= 2 || past) && !slices.Contains(orgs, policy.Witness) {
		orgs = append(orgs, policy.Witness)
	}
	votes := make(map[wire.Domain]int)
	seen := make(map[wire.NodeID]bool)
	for i, n := range slices.Concat(r.Voters, r.Learners) {
		if seen[n] {
			return fmt.Errorf("names %s twice", n)
		}
		seen[n] = true
		if !slices.Contains(orgs, n.Organization()) {
			return fmt.Errorf("names %s, whose organization has no members", n)
		}
		if i < len(r.Voters) {
			votes[n.Organization()]++
		}
	}
	least := min(most, len(seen))
	if least%2 == 0 {
		least--
	}
	if n := len(r.Voters); n%2 == 0 || n > most || n < least {
		return fmt.Errorf("names %d voters among %d nodes, wanted an odd number from %d to %d", n, len(seen), least, most)
	}
	for _, org := range orgs {
		for _, other := range orgs {
			if votes[org] > votes[other]+1 && votes[other] < l.nodesKnown(other) {
				return late(s, since[other], fmt.Errorf("gives %s %d votes and %s %d of %d nodes", org, votes[org], other, votes[other], l.nodesKnown(other)))
			}
		}
	}
	return nil
}

// nodesKnown is how many nodes of an organization this node knows.
func (l *live) nodesKnown(org wire.Domain) int {
	if l.m.cfg.Roster == nil {
		return 0
	}
	return len(l.m.cfg.Roster.Nodes(org))
}

// pendingConfigurations are those that were judged and have not reached Raft's log yet: requests follow each
// other without waiting. One whose place in the log is taken was refused by Raft, or has arrived.
type pendingConfigurations struct{ list []pendingConfiguration }

type pendingConfiguration struct {
	index uint64
	raft.Configuration
}

// maxPending is more than a request holds.
const maxPending = 2 * maxAppend

func (p *pendingConfigurations) note(index uint64, c raft.Configuration) {
	p.list = append(p.list, pendingConfiguration{index, c})
	if len(p.list) > maxPending {
		p.list = p.list[1:]
	}
}

// expulsion is what is needed to judge that a configuration leaves out a node that the log names.
type expulsion struct {
	from  wire.NodeID // the leader that sent it
	entry *raft.Log
	fresh bool // the leader does not say that it is committed
	judge judgeRemoved
}

// judgeRemoved judges that a node that the log names is left out.
type judgeRemoved func(wire.NodeID, expulsion) error

// errUnjudged stands for what a judgeRemoved has to say.
var errUnjudged = errors.New("takes a node out that the log names")

// judgeConfiguration judges a configuration of Raft's.
func (l *live) judgeConfiguration(s *machine.Machine, bases []raft.Configuration, next raft.Configuration, x expulsion) error {
	if err := wellFormed(next); err != nil {
		return err
	}
	ordered, _ := s.Replicas()
	if ordered == nil {
		if len(next.Servers) == 1 || slices.ContainsFunc(bases, func(c raft.Configuration) bool { return len(changes(c, next)) == 0 }) {
			return nil
		}
		return fmt.Errorf("configuration of %d nodes before the log has named any", len(next.Servers))
	}
	if len(bases) == 0 {
		return nil
	}
	var err error
	for _, base := range bases {
		if err = l.judgeStep(ordered, changes(base, next), x); err == nil {
			return nil
		}
	}
	return err
}

// configurations are those that the next one may be a change of: Raft's latest and what is on its way to it.
func (l *live) configurations() []raft.Configuration {
	var list []raft.Configuration
	if r := l.r.Load(); r != nil {
		if latest := r.GetConfiguration().Configuration(); len(latest.Servers) > 0 {
			list = append(list, latest)
		}
	}
	if last, err := l.store.LastIndex(); err == nil {
		l.pending.list = slices.DeleteFunc(l.pending.list, func(p pendingConfiguration) bool { return p.index <= last })
	}
	for _, p := range l.pending.list {
		list = append(list, p.Configuration)
	}
	l.fsm.mu.RLock()
	defer l.fsm.mu.RUnlock()
	if l.fsm.configIndex > 0 {
		list = append(list, l.fsm.config)
	}
	return list
}

func wellFormed(c raft.Configuration) error {
	seen := make(map[wire.NodeID]bool)
	voters := 0
	for _, s := range c.Servers {
		n := wire.NodeID(s.ID)
		if err := n.Check(); err != nil {
			return err
		}
		if string(s.Address) != string(s.ID) || seen[n] || s.Suffrage != raft.Voter && s.Suffrage != raft.Nonvoter {
			return fmt.Errorf("configuration names %s twice, with another address, or in a part that nobody has", n)
		}
		seen[n] = true
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 || len(seen) > wire.MaxReplicas {
		return fmt.Errorf("configuration of %d nodes, %d with a vote", len(seen), voters)
	}
	return nil
}

// change is one node's difference between two configurations.
type change struct {
	node         wire.NodeID
	before, then role
}

func changes(before, then raft.Configuration) []change {
	var a, b members
	a.voters, a.learners = splitServers(before.Servers)
	b.voters, b.learners = splitServers(then.Servers)
	var list []change
	for _, n := range slices.Concat(a.voters, a.learners, b.voters, b.learners) {
		if was, is := a.role(n), b.role(n); was != is && !slices.ContainsFunc(list, func(c change) bool { return c.node == n }) {
			list = append(list, change{n, was, is})
		}
	}
	return list
}

// judgeStep holds a change of the configuration to what the log has ordered.
func (l *live) judgeStep(ordered *wire.Replicas, list []change, x expulsion) error {
	if len(list) > 1 {
		return fmt.Errorf("changes the parts of %d nodes at once", len(list))
	}
	for _, c := range list {
		switch {
		case c.then == roleVoter && !contains(ordered.Voters, c.node):
			return fmt.Errorf("gives %s a vote, which the log does not order", c.node)
		case c.then == roleLearner && !names(ordered, c.node):
			return fmt.Errorf("adds %s, which the log does not order", c.node)
		case c.then == roleLearner && c.before == roleVoter && contains(ordered.Voters, c.node):
			return fmt.Errorf("takes the vote of %s, which the log orders", c.node)
		case c.then == roleNone && names(ordered, c.node) && x.judge == nil:
			return errUnjudged
		case c.then == roleNone && names(ordered, c.node):
			return x.judge(c.node, x)
		}
	}
	return nil
}

// suspect refuses a leader's change, says so, and has this node campaign.
func (l *live) suspect(leader wire.NodeID, err error) error {
	m, c := l.m, l.c
	_ = m.refuse(leader, c.id, RefusedConfiguration, err)
	if _, honest := errors.AsType[unaware](err); !honest {
		m.warn(c.id, RefusedConfiguration, leader, err)
	}
	if l.votes() && m.meter.take(meterKey{leader, c.id, meterSuspect}, 1, m.cfg.Timers.Election) {
		m.stats.elections.Add(1)
		l.trans.campaign()
	}
	return wire.Errorf(wire.Invalid, "raft", "%v", err)
}

// warn tells the operator's alarm, once per peer and conversation in an interval.
func (m *Manager) warn(id wire.ConversationID, why Refusal, peer wire.NodeID, err error) {
	if m.cfg.Suspect != nil && m.meter.take(meterKey{peer, id, meterAlarm}, 1, refusalPause) {
		m.cfg.Suspect(id, why, peer, err)
	}
}

// judgeSnapshotConfiguration judges the configuration that a snapshot brings, with the state that it brings.
func (l *live) judgeSnapshotConfiguration(from wire.NodeID, req *snapshotRequest, s *machine.Machine) error {
	if !l.m.holds(ruleConfigurations) {
		return nil
	}
	err := l.judgeBrought(req, s)
	if err != nil {
		return l.suspect(from, fmt.Errorf("snapshot from %s: %w", from, err))
	}
	return nil
}

func (l *live) judgeBrought(req *snapshotRequest, s *machine.Machine) error {
	l.judging.Lock()
	defer l.judging.Unlock()
	config, err := decodeConfiguration(req.Configuration)
	if err == nil {
		err = wellFormed(config)
	}
	if err != nil {
		return err
	}
	ordered, _ := s.Replicas()
	if ordered == nil {
		ordered = &wire.Replicas{}
	}
	// The configuration may still follow an order before the last one: those that are kept count.
	known := members{ordered.Voters, ordered.Learners}
	for _, r := range append(keptReplicas(s), ordered) {
		if r.Recovery == nil && len(r.Voters) > 0 {
			if err := l.fairlyPlaced(s, r, true); err != nil {
				return err
			}
		}
		known.voters, known.learners = append(known.voters, r.Voters...), append(known.learners, r.Learners...)
	}
	for _, c := range l.configurations() {
		v, n := splitServers(c.Servers)
		known.voters, known.learners = append(known.voters, v...), append(known.learners, n...)
	}
	voters, learners := splitServers(config.Servers)
	if len(config.Servers) == 1 && (len(ordered.Voters) == 0 || s.Generation() < req.Generation) {
		return nil // nothing has been ordered yet, or an operator's recovery, whose entry follows
	}
	for _, n := range voters {
		if known.role(n) != roleVoter {
			return fmt.Errorf("gives %s a vote, which its log does not order", n)
		}
	}
	for _, n := range learners {
		if known.role(n) == roleNone && !slices.ContainsFunc(s.Spans(), func(p machine.Span) bool { return p.Organization == n.Organization() }) {
			return fmt.Errorf("names %s, whose organization has no members", n)
		}
	}
	return nil
}

// keptReplicas are the changes of replicas among the entries that a state keeps.
func keptReplicas(s *machine.Machine) []*wire.Replicas {
	var list []*wire.Replicas
	entries, _ := s.Entries(0, math.MaxInt, math.MaxInt)
	for i := range entries {
		if !namesReplicas(entries[i].Entry) {
			continue
		}
		if e, err := entries[i].Open(); err == nil && e.Replicas != nil {
			list = append(list, e.Replicas)
		}
	}
	return list
}
