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

// A leader changes the replicas in two steps: first an entry in the log says which nodes are to hold the
// conversation, then Raft's configuration follows it, one node at a time. Followers validate both before they
// acknowledge them, with the state of the log up to that point. Placement is the same rule for all nodes, so the
// changes of a genuine leader follow it. Followers check the promises of place.go, not its exact result, because
// rosters differ for a while.
//
// If a follower refuses a leader's change, it suspects the leader: this node campaigns, and other nodes that refuse
// the change vote for it.

// errNotYet means that a change cannot be validated because entries before it are missing from the log. The answer to
// the leader is the one that Raft would give, so the leader sends the missing entries.
var errNotYet = errors.New("entries before a change of replicas are missing")

// validateRequest refuses changes of replicas that break a rule.
func (l *live) validateRequest(from wire.NodeID, a *raft.AppendEntriesRequest) error {
	if !l.m.holds(ruleConfigurations) {
		return nil
	}
	l.validating.Lock() // two connections may deliver requests of two leaders
	defer l.validating.Unlock()
	var ahead stateAhead
	for i, e := range a.Entries {
		if e.Type != raft.LogConfiguration && (e.Type != raft.LogCommand || !namesReplicas(e.Data)) || l.inLog(e) {
			continue
		}
		err := l.validateChange(from, a, i, &ahead)
		var passing *wire.Error
		switch {
		case errors.As(err, &passing) || errors.Is(err, errNotYet):
			return err
		case err != nil:
			return l.rejectChange(from, fmt.Errorf("entry %d from %s: %w", e.Index, from, err))
		}
	}
	return nil
}

// missingEntriesReply returns Raft's answer to entries whose predecessor is missing.
func (l *live) missingEntriesReply() *raft.AppendEntriesResponse {
	a := &raft.AppendEntriesResponse{Term: l.term(), NoRetryBackoff: true}
	if r := l.r.Load(); r != nil {
		a.LastLog = r.LastIndex()
	}
	return a
}

// inLog reports whether an entry was validated when it was written.
func (l *live) inLog(e *raft.Log) bool {
	var have raft.Log
	return l.store.GroupLog.GetLog(e.Index, &have) == nil && have.Term == e.Term && have.Type == e.Type && bytes.Equal(have.Data, e.Data)
}

// namesReplicas reports whether the encoding of an entry is that of a change of replicas. It skips the fields before
// it and decodes nothing.
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

// validateChange validates entry i of a request. It uses the applied state if that is the state just before the entry.
func (l *live) validateChange(from wire.NodeID, a *raft.AppendEntriesRequest, i int, ahead *stateAhead) error {
	// The entries of this log may come from another leader and be replaced a moment later: Raft compares the entry
	// just before the first one.
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
			err = l.validateWith(from, l.fsm.m, bases, a, i, nil)
		}
		l.fsm.mu.RUnlock()
		if current && !errors.Is(err, errRemovalUnchecked) {
			return err
		}
	}
	if err := l.advanceTo(ahead, a, i); err != nil {
		return err
	}
	return l.validateWith(from, ahead.m, bases, a, i, l.validateRemoval)
}

// between returns the entries after index at and before entry i of a request that change the state. It does not keep
// configurations: while many nodes are added one at a time, there is always one that is not applied yet.
func (l *live) between(at uint64, a *raft.AppendEntriesRequest, i int) ([]*raft.Log, error) {
	var list []*raft.Log
	for index := at + 1; index < a.Entries[i].Index; index++ {
		e := new(raft.Log)
		if index > a.PrevLogEntry {
			e = a.Entries[index-a.PrevLogEntry-1]
		} else if err := l.store.GroupLog.GetLog(index, e); err != nil {
			return nil, errNotYet
		}
		if e.Type == raft.LogCommand {
			list = append(list, e)
		}
	}
	return list, nil
}

// stateAhead is a copy of the state for all changes in one request: it advances from one change to the next.
type stateAhead struct {
	m  *machine.Machine // nil before the first change
	at uint64           // index of the last entry applied to m
}

// advanceTo advances ahead to the state of the log before entry i of a request.
func (l *live) advanceTo(ahead *stateAhead, a *raft.AppendEntriesRequest, i int) error {
	if ahead.m == nil {
		l.m.stats.copies.Add(1)
		var image bytes.Buffer
		l.fsm.mu.RLock()
		at, snapshot := l.fsm.index, l.fsm.m.Snapshot()
		l.fsm.mu.RUnlock()
		if _, err := snapshot.WriteTo(&image); err != nil {
			return err
		}
		s, err := machine.Restore(l.c.id, l.m.cfg.Public, &image)
		if err != nil {
			return err
		}
		ahead.m, ahead.at = s, at
	}
	between, err := l.between(ahead.at, a, i)
	if err != nil {
		return err
	}
	for _, e := range between {
		ahead.m.Apply(e.Data)
	}
	ahead.at = max(ahead.at, a.Entries[i].Index-1)
	return nil
}

// validateWith validates entry i of a request with a state from before the entry. removed may take locks; it is nil if
// the caller holds the state's lock.
func (l *live) validateWith(from wire.NodeID, s *machine.Machine, bases []raft.Configuration, a *raft.AppendEntriesRequest, i int, removed removalCheck) error {
	e := a.Entries[i]
	if e.Type == raft.LogConfiguration {
		next, err := decodeConfiguration(e.Data)
		if err != nil {
			return err
		}
		if err := l.validateConfiguration(s, bases, next, expulsion{from: from, entry: e, fresh: e.Index > a.LeaderCommitIndex, checkRemoval: removed}); err != nil {
			return err
		}
		l.pending.note(e.Index, next)
		return nil
	}
	entry := new(wire.Entry)
	if err := wire.Decode(e.Data, wire.MaxEntry, entry); err != nil || entry.Replicas == nil {
		return nil // the state machine refuses it
	}
	return l.validateReplicas(s, entry.Replicas)
}

// validateReplicas checks a change of replicas against the promises of placement.
func (l *live) validateReplicas(s *machine.Machine, r *wire.Replicas) error {
	if _, raises := r.RaisesTo(s.Generation()); raises {
		return nil
	}
	if r.Recovery != nil {
		if r.Generation != l.c.generation() {
			return fmt.Errorf("an operator's recovery begins generation %d, and this replica is in %d", r.Generation, l.c.generation())
		}
		return nil // the alarm is raised when the entry is applied
	}
	if !s.Created() || r.Generation != s.Generation() {
		return nil // the state machine refuses it
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

// leaderLag is the number of entries that a leader of the first release may not have applied when it orders a change
// of replicas. Such a leader names an organization that has just left; the next change follows at once and corrects
// that. Or it omits an organization that has just joined: that change is refused, but gives no reason for an alarm.
const leaderLag = 2 * maxAppend

// unaware is the refusal of a change that such a leader makes because its state is behind.
type unaware struct{ error }

// late returns the refusal of a change that concerns an organization's state since an entry. The refusal is unaware
// if the conversation has the first level of rules and the entry is recent.
func late(s *machine.Machine, since wire.SequenceNumber, err error) error {
	if s.Level() == wire.FirstLevel && s.Sequence()-since < leaderLag {
		return unaware{err}
	}
	return err
}

// fairlyPlaced checks the promises that placement makes independent of rosters: the change names organizations with
// members (or the witness); the number of voters is odd, as large as the nodes allow up to the policy's number, and
// spread evenly over organizations. past means that organizations which have left may still be named.
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

// nodesKnown returns the number of an organization's nodes that this node knows.
func (l *live) nodesKnown(org wire.Domain) int {
	if l.m.cfg.Roster == nil {
		return 0
	}
	return len(l.m.cfg.Roster.Nodes(org))
}

// pendingConfigurations holds configurations that were validated and have not reached Raft's log yet: requests follow
// each other without waiting. If another entry has the index of a pending configuration, Raft refused it, or it has
// arrived.
type pendingConfigurations struct{ list []pendingConfiguration }

type pendingConfiguration struct {
	index uint64
	raft.Configuration
}

// maxPending exceeds the number of configurations in one request.
const maxPending = 2 * maxAppend

func (p *pendingConfigurations) note(index uint64, c raft.Configuration) {
	p.list = append(p.list, pendingConfiguration{index, c})
	if len(p.list) > maxPending {
		p.list = p.list[1:]
	}
}

// expulsion holds the facts for validating a configuration that leaves out a node which the log names.
type expulsion struct {
	from         wire.NodeID // the leader that sent the configuration
	entry        *raft.Log
	fresh        bool // the leader does not say that the configuration is committed
	checkRemoval removalCheck
}

// removalCheck validates the removal of a node that the log names.
type removalCheck func(wire.NodeID, expulsion) error

// errRemovalUnchecked takes the place of the result of a removalCheck.
var errRemovalUnchecked = errors.New("takes a node out that the log names")

// validateConfiguration validates a Raft configuration.
func (l *live) validateConfiguration(s *machine.Machine, bases []raft.Configuration, next raft.Configuration, x expulsion) error {
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
		if err = l.validateStep(ordered, changes(base, next), x); err == nil {
			return nil
		}
	}
	return err
}

// configurations returns the configurations that the next one may be a change of: Raft's latest one and those on
// their way to Raft.
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

// change is the difference of one node between two configurations.
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

// validateStep checks a change of the configuration against the replicas that the log has ordered.
func (l *live) validateStep(ordered *wire.Replicas, list []change, x expulsion) error {
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
		case c.then == roleNone && names(ordered, c.node) && x.checkRemoval == nil:
			return errRemovalUnchecked
		case c.then == roleNone && names(ordered, c.node):
			return x.checkRemoval(c.node, x)
		}
	}
	return nil
}

// rejectChange refuses a leader's change, reports it, and starts a campaign of this node.
func (l *live) rejectChange(leader wire.NodeID, err error) error {
	m, c := l.m, l.c
	_ = m.refuse(leader, c.id, RefusedConfiguration, err)
	if _, honest := errors.AsType[unaware](err); !honest {
		m.warn(c.id, RefusedConfiguration, leader, err)
	}
	if l.isVoter() && m.meter.take(meterKey{leader, c.id, meterSuspect}, 1, m.cfg.Timers.Election) {
		m.stats.elections.Add(1)
		l.trans.campaign()
	}
	return wire.Errorf(wire.Invalid, "raft", "%v", err)
}

// warn raises the operator's alarm, at most once per peer and conversation in an interval.
func (m *Manager) warn(id wire.ConversationID, why Refusal, peer wire.NodeID, err error) {
	if m.cfg.Suspect != nil && m.meter.take(meterKey{peer, id, meterAlarm}, 1, refusalPause) {
		m.cfg.Suspect(id, why, peer, err)
	}
}

// validateSnapshotConfiguration validates the configuration in a snapshot with the state in the same snapshot.
func (l *live) validateSnapshotConfiguration(from wire.NodeID, req *snapshotRequest, s *machine.Machine) error {
	if !l.m.holds(ruleConfigurations) {
		return nil
	}
	err := l.validateReceived(req, s)
	if err != nil {
		return l.rejectChange(from, fmt.Errorf("snapshot from %s: %w", from, err))
	}
	return nil
}

func (l *live) validateReceived(req *snapshotRequest, s *machine.Machine) error {
	l.validating.Lock()
	defer l.validating.Unlock()
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
	// The configuration may still follow an order before the last one, so the kept orders count too.
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

// keptReplicas returns the changes of replicas among the entries that a state keeps.
func keptReplicas(s *machine.Machine) []*wire.Replicas {
	var list []*wire.Replicas
	kept, _ := s.Entries(0, math.MaxInt, math.MaxInt)
	entries, err := kept.Read()
	if err != nil {
		return nil // impossible: a state that has just been received is in memory
	}
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
