package consensus

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A hostile history consists of commits, crashes and restarts among honest nodes, together with a replica that sends
// arbitrary messages: as a learner, or with a vote, which makes it a lying leader. The hostile node runs our code, so
// that the others accept it; its attacks are sent explicitly, and messages from its node are changed on the way.

const (
	accessory wire.NodeID = "n1.x.example" // from another hostile organization, which has no part
)

// hostileHistory is the history of one seed.
type hostileHistory struct {
	*cluster
	dice   *rand.Rand
	honest []wire.NodeID
	voter  bool // the hostile replica has a vote
	forks  bool // it shows a victim another log while it leads
	lies   bool // it vouches for its accessory

	victim  wire.NodeID // victim of forks
	openers map[wire.SubmissionKey]wire.SubmissionID
	seen    map[wire.NodeID]map[wire.SequenceNumber]wire.Hash // entries that each honest node has applied
	crashed map[wire.NodeID]bool                              // nodes after a simulated power failure
	misled  map[wire.NodeID]bool                              // see mislead

	mu      sync.Mutex // guards the fields below
	alarms  map[wire.NodeID]int
	asked   map[uint64]frameKind // questions to the hostile node that await an answer, by number and sender
	faults  []string
	mangled int
	acts    []string
}

func (h *hostileHistory) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

func (h *hostileHistory) failed() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.faults)
}

func (h *hostileHistory) alarm(at wire.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alarms[at]++
}

func (h *hostileHistory) alarmed() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.alarms {
		n += k
	}
	return n
}

// mostCarried is far more than the frames and connections of any terminating history.
const mostCarried = 500_000

// play runs the history of one seed with some rules switched off, and returns the failure.
func play(t *testing.T, seed uint64, off ...rule) (faults, acts []string) {
	synctest.Test(t, func(t *testing.T) {
		h := &hostileHistory{dice: rand.New(rand.NewPCG(seed, 7)), honest: []wire.NodeID{nodeA, nodeB, nodeC},
			openers: make(map[wire.SubmissionKey]wire.SubmissionID), seen: make(map[wire.NodeID]map[wire.SequenceNumber]wire.Hash),
			crashed: make(map[wire.NodeID]bool), misled: make(map[wire.NodeID]bool), alarms: make(map[wire.NodeID]int), asked: make(map[uint64]frameKind)}
		h.voter = h.dice.IntN(2) == 0
		h.forks = h.voter && h.dice.IntN(3) == 0
		h.lies = h.dice.IntN(2) == 0
		// The limit of unelected leaders keeps most acts from the other rules: half of the histories do without it.
		without := map[rule]bool{ruleUnrest: seed%2 == 1 || len(off) > 0}
		for _, r := range off {
			without[r] = true
		}
		edit := func(cfg *Config) {
			cfg.Timers.Compare = 2 * time.Second
			if cfg.Node == nodeM || cfg.Node == accessory {
				return
			}
			cfg.without = without
			node := cfg.Node
			cfg.Alarm = func(wire.ConversationID, Quarantine) { h.alarm(node) }
			cfg.Suspect = func(wire.ConversationID, Refusal, wire.NodeID, error) { h.alarm(node) }
		}
		h.cluster = newCluster(t, seed, edit, append([]wire.NodeID{nodeM, accessory}, h.honest...)...)
		defer h.stopAll()
		h.f.mangle, h.f.most = h.mangle, mostCarried
		h.run()
		h.f.mu.Lock()
		carried := h.f.carried
		h.f.mu.Unlock()
		if carried > mostCarried {
			h.fault("%d frames were carried: the history does not end by itself", carried)
		}
		faults, acts = h.failed(), h.acts
	})
	return faults, acts
}

func (h *hostileHistory) run() {
	orgs := []wire.Domain{"a.example", "b.example", "c.example"}
	if h.voter {
		// Two honest organizations and the hostile one hold the votes and the third honest one has a learner, or all
		// four hold votes, as placement decides.
		orgs = []wire.Domain{"a.example", "b.example", "mallory.example"}
	}
	e := author.Create(conv, h.id(), wire.Policy{}, author.Addresses(1, orgs...))
	h.note(e)
	if _, err := h.nodes[nodeA].m.Create(h.context(20*time.Second), e); err != nil {
		h.fault("create: %v", err)
		return
	}
	h.settled(conv, 3, 0)
	late := wire.Domain("mallory.example")
	if h.voter {
		late = "c.example"
	}
	if !h.commitOn(nodeA, wire.DeliveryChange{Add: author.Addresses(1, late)}, time.Minute) {
		h.fault("the fourth organization was not added")
		return
	}
	h.settled(conv, 3, 1)
	h.look()
	for range 14 {
		if h.dice.IntN(4) > 0 {
			h.act()
		}
		h.honestStep()
		h.look()
		if len(h.failed()) > 0 {
			return
		}
	}
	h.end()
}

// note records the submission that opened the epoch of a key.
func (h *hostileHistory) note(e *wire.Envelope) {
	switch {
	case e.Create != nil:
		h.openers[e.Create.Key] = e.Submission
	case e.Commit != nil:
		h.openers[e.Commit.Key] = e.Submission
	}
}

// place returns the epoch that a node considers current.
func (h *hostileHistory) place(at wire.NodeID) (author.Place, bool) {
	heads, err := h.nodes[at].m.Heads(conv)
	if err != nil || len(heads) == 0 {
		return author.Place{}, false
	}
	opener, known := h.openers[heads[0].Key]
	if !known {
		h.fault("%s takes a key for the current one that no member made", at)
	}
	return author.Place{Conversation: conv, Epoch: heads[0].Epoch, Parent: heads[0].Sequence, Opener: opener}, known
}

// commitOn makes an honest member commit through a node. It retries until patience ends.
func (h *hostileHistory) commitOn(at wire.NodeID, change wire.DeliveryChange, patience time.Duration) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Second) {
		p, ok := h.place(at)
		if !ok {
			continue
		}
		e := p.Commit(h.id(), 32, change)
		h.note(e)
		if _, err := h.nodes[at].m.Order(h.context(15*time.Second), e); err == nil {
			return true
		}
	}
	return false
}

// honestStep does what happens in addition to the attacks: commits, crashes, silence long enough to fall asleep.
func (h *hostileHistory) honestStep() {
	at := h.honest[h.dice.IntN(len(h.honest))]
	switch h.dice.IntN(8) {
	case 0:
		node := h.nodes[at]
		h.crash(node, h.dice.IntN(2) == 0)
		h.crashed[at] = true
		time.Sleep(time.Duration(h.dice.IntN(8)) * time.Second)
		h.start(node)
	case 1:
		time.Sleep(time.Duration(20+h.dice.IntN(40)) * time.Second)
	default:
		h.commitOn(at, wire.DeliveryChange{}, 15*time.Second) // may fail while the hostile node is active
	}
	time.Sleep(time.Duration(h.dice.IntN(3000)) * time.Millisecond)
}

// viewAny checks that the entries which an honest node has applied do not change.
func (h *hostileHistory) look() {
	for _, n := range h.honest {
		if h.nodes[n].m == nil {
			continue
		}
		entries, _, err := h.nodes[n].m.Entries(conv, 0, 1000, 16<<20)
		if err != nil {
			// If two futures were shown, nodes are in quarantine and contradict nobody: operators decide then.
			if wire.CodeOf(err) == wire.UnknownConversation && len(h.seen[n]) > 0 && !(h.forks && h.alarmed() > 0) {
				h.fault("%s has lost its replica: %v", n, err)
			}
			continue
		}
		if h.seen[n] == nil {
			h.seen[n] = make(map[wire.SequenceNumber]wire.Hash)
		}
		for i := range entries {
			before, known := h.seen[n][entries[i].Sequence]
			if known && before != entries[i].Order {
				h.mislead(n, entries[i].Sequence)
				break
			}
			h.seen[n][entries[i].Sequence] = entries[i].Order
		}
		for _, d := range h.consumed(n) {
			if before, known := h.seen[n][d.Sequence]; known && before != d.Order {
				h.mislead(n, d.Sequence)
				break
			}
		}
	}
}

// mislead is called for an entry that has changed at a node. A voter that leads can make one node apply an entry that
// no majority has. The node keeps the entry; but if it crashes before it has recorded its progress (Timers.Flush),
// the entry is replaced. Its devices have the replaced entry, and notice the change with the next one. Nothing else
// may change an entry.
func (h *hostileHistory) mislead(n wire.NodeID, seq wire.SequenceNumber) {
	if !h.voter || !h.crashed[n] {
		h.fault("entry %d at %s has changed", seq, n)
	}
	h.misled[n] = true
	delete(h.seen, n)
}

// noticed reports whether a device that reads a node's stream sees a break in the chain of order hashes.
func (h *hostileHistory) noticed(n wire.NodeID) bool {
	list := h.consumed(n)
	for i := 1; i < len(list); i++ {
		if list[i].Sequence == list[i-1].Sequence+1 && wire.NextOrder(list[i-1].Order, list[i].Entry) != list[i].Order {
			return true
		}
	}
	return false
}

func (h *hostileHistory) consumed(n wire.NodeID) []wire.Committed {
	c := h.nodes[n].consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []wire.Committed
	for _, d := range c.got[conv] {
		list = append(list, d.Committed)
	}
	return list
}

// diverged reports whether two honest nodes have applied different entries at the same place.
func (h *hostileHistory) diverged() bool {
	first := make(map[wire.SequenceNumber]wire.Hash)
	for _, n := range h.honest {
		for seq, order := range h.seen[n] {
			if other, known := first[seq]; known && other != order {
				return true
			}
			first[seq] = order
		}
	}
	return false
}

// end silences the hostile node. If nobody has two futures, the honest nodes, which are a majority, continue and
// agree; if somebody does, an alarm was raised.
func (h *hostileHistory) end() {
	h.f.mu.Lock()
	h.f.mangle = nil
	h.f.mu.Unlock()
	if h.forks {
		for range 6 { // some messages, and the time in which replicas compare
			h.commitOn(h.honest[h.dice.IntN(len(h.honest))], wire.DeliveryChange{}, 20*time.Second)
			time.Sleep(5 * time.Second)
			h.look()
		}
	}
	if h.diverged() {
		if !h.voter {
			h.fault("a replica without a vote made two histories")
		}
		if h.alarmed() == 0 {
			h.fault("two honest nodes have two histories, and no alarm was raised")
		}
		return
	}
	h.stop(h.nodes[nodeM])
	h.stop(h.nodes[accessory])
	var serving []wire.NodeID
	for _, n := range h.honest {
		if h.commitOn(n, wire.DeliveryChange{}, 25*time.Minute) {
			serving = append(serving, n)
			continue
		}
		if h.forks && h.alarmed() > 0 {
			return // two futures were shown: an alarm was raised, and operators decide which one holds
		}
		if h.endsSplit() {
			return
		}
		if !h.deceived(n) {
			h.fault("a commit on %s, without the hostile node, is not ordered:\n%s", n, h.states())
			return
		}
	}
	if len(serving) < 2 {
		h.fault("no majority of the honest nodes serves:\n%s", h.states())
		return
	}
	h.look()
	for n := range h.misled {
		if !h.noticed(n) && h.alarmed() == 0 {
			h.fault("an entry at %s was replaced, and neither devices nor operators can notice", n)
		}
	}
	for range 120 {
		orders := make(map[wire.Hash]bool)
		for _, n := range serving {
			s, err := h.nodes[n].m.Status(conv)
			if err == nil {
				orders[s.Order] = true
			}
		}
		if len(orders) == 1 {
			return
		}
		time.Sleep(time.Second)
	}
	if !h.endsSplit() {
		h.fault("the honest nodes do not agree in the end:\n%s", h.states())
	}
}

// deceived reports whether a lying leader has made a node apply an entry that no majority has: such a node finds that
// others contradict it, and is in quarantine, with an alarm.
func (h *hostileHistory) deceived(n wire.NodeID) bool {
	s, err := h.nodes[n].m.Status(conv)
	return err == nil && s.Quarantine != nil && h.voter
}

// endsSplit reports whether two honest nodes have two histories. A voter can cause that without being a leader, by
// voting twice in a term: each of two honest candidates has a majority with it. In that case the test requires an
// alarm; operators decide which history holds. A node without a vote cannot cause it.
func (h *hostileHistory) endsSplit() bool {
	for i, x := range h.honest {
		for _, y := range h.honest[:i] {
			if !h.split(x, y) {
				continue
			}
			if !h.voter {
				h.fault("a replica without a vote made two histories:\n%s", h.states())
			} else if h.alarmed() == 0 {
				h.fault("%s and %s have two histories, and no alarm was raised:\n%s", x, y, h.states())
			}
			return true
		}
	}
	return false
}

// split reports whether two nodes know different entries as committed at the same place of the log, or have different
// order hashes after the same entry.
func (h *hostileHistory) split(x, y wire.NodeID) bool {
	a, b := h.nodes[x].m, h.nodes[y].m
	ca, errA := a.held(conv)
	cb, errB := b.held(conv)
	if errA != nil || errB != nil {
		return false
	}
	for at := min(a.floorOf(ca), b.floorOf(cb)); at > 0; at-- {
		one, _ := a.committedEntry(ca, at)
		other, _ := b.committedEntry(cb, at)
		if differ(one, other) {
			return true
		}
	}
	var orders [2]wire.Hash
	last := wire.SequenceNumber(math.MaxUint64)
	look := func(m *Manager, c *conversation, fn func(*machine.Machine)) {
		if err := m.viewAny(c, fn); err != nil {
			h.fault("read %v: %v", c.id, err)
		}
	}
	for _, v := range []struct {
		m *Manager
		c *conversation
	}{{a, ca}, {b, cb}} {
		look(v.m, v.c, func(s *machine.Machine) { last = min(last, s.Sequence()) })
	}
	look(a, ca, func(s *machine.Machine) { _, orders[0] = orderAt(s, last) })
	look(b, cb, func(s *machine.Machine) { _, orders[1] = orderAt(s, last) })
	return differ(orders[0], orders[1])
}

// states describes the honest nodes.
func (h *hostileHistory) states() string {
	var b strings.Builder
	for _, n := range h.honest {
		m := h.nodes[n].m
		if m == nil {
			continue
		}
		s, err := m.Status(conv)
		var term uint64
		if c, err := m.held(conv); err == nil {
			term = m.termOf(c)
		}
		fmt.Fprintf(&b, "%s: %s, leader %q, voters %v, learners %v, generation %d, term %d, entry %d, commit %d of %d, quarantine %+v, refused %v (%v)\n", n, s.State, s.Leader,
			s.Voters, s.Learners, s.Generation, term, s.Sequence, s.Commit, s.Last, s.Quarantine, m.Refusals(), err)
	}
	return b.String()
}

// ---- the attacks ----

func (h *hostileHistory) act() {
	acts := map[string]func(to wire.NodeID){
		"entries": h.sendEntries, "snapshot": h.sendSnapshot, "terms": h.sendTerms, "recovery": h.sendRecovery,
		"configuration": h.sendConfiguration, "control": h.sendControl, "complaint": h.sendComplaint, "claim": h.sendClaim,
	}
	if h.lies {
		acts["accessory"] = h.sendByAccessory
	}
	if h.forks {
		acts["lead"] = h.lead
	}
	names := make([]string, 0, len(acts))
	for name := range acts {
		names = append(names, name)
	}
	slices.Sort(names)
	name := names[h.dice.IntN(len(names))]
	h.acts = append(h.acts, name)
	victims := h.honest
	if h.dice.IntN(2) == 0 {
		victims = []wire.NodeID{h.honest[h.dice.IntN(len(h.honest))]}
	}
	for _, to := range victims {
		if h.nodes[to].m != nil && h.nodes[nodeM].m != nil {
			acts[name](to)
		}
	}
}

// replica returns the hostile node's replica, nil if there is none.
func (h *hostileHistory) replica() *conversation {
	c, err := h.nodes[nodeM].m.held(conv)
	if err != nil {
		return nil
	}
	return c
}

// own returns the entry at an index of the hostile node's log, nil if there is none.
func (h *hostileHistory) own(index uint64) *raft.Log {
	c := h.replica()
	if c == nil {
		return nil
	}
	l := new(raft.Log)
	if err := h.nodes[nodeM].m.cfg.Log.Group(c.group).GetLog(index, l); err != nil {
		return nil
	}
	return l
}

func (h *hostileHistory) last() (index, term uint64) {
	s, err := h.nodes[nodeM].m.Status(conv)
	if err != nil {
		return 0, 0
	}
	if l := h.own(s.Last); l != nil {
		term = l.Term
	}
	if c := h.replica(); c != nil {
		if r := c.raft(); r != nil {
			term = max(term, r.CurrentTerm())
		}
	}
	return s.Last, term
}

// sendEntries sends entries as a leader would: after the end of the log, or over existing ones.
func (h *hostileHistory) sendEntries(to wire.NodeID) { h.entriesFrom(nodeM, to) }

// entriesFrom reports whether the entries were accepted.
func (h *hostileHistory) entriesFrom(from, to wire.NodeID) bool {
	last, term := h.last()
	back := uint64(h.dice.IntN(4))
	if last <= back+1 {
		return false
	}
	prev := h.own(last - back)
	p, ok := h.place(nodeM)
	if prev == nil || !ok {
		return false
	}
	// The hostile organization's member has the key: the commit is genuine, and was never ordered.
	e := p.Commit(h.id(), 16, wire.DeliveryChange{})
	h.note(e)
	data, err := wire.Encode(&wire.Entry{Version: 1, Time: wire.TimeOf(time.Now()), Proposer: nodeA, Envelope: e})
	if err != nil {
		h.fault("%v", err)
		return false
	}
	term += 1 + uint64(h.dice.IntN(3))
	r, err := appendAs(h.t, h.cluster, from, to, conv, &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev.Index, PrevLogTerm: prev.Term,
		LeaderCommitIndex: prev.Index + 1, Entries: []*raft.Log{{Index: prev.Index + 1, Term: term, Type: raft.LogCommand, Data: data}}})
	return err == nil && r.Success
}

// sendSnapshot sends the hostile node's own state with another key and delivery list in it.
func (h *hostileHistory) sendSnapshot(to wire.NodeID) {
	last, term := h.last()
	var spans []machine.Span
	var sequence wire.SequenceNumber
	var head machine.Head
	m := h.nodes[nodeM].m
	c := h.replica()
	if c == nil || m.view(c, func(s *machine.Machine) {
		spans, sequence = s.Spans(), s.Sequence()
		if heads := s.Heads(); len(heads) > 0 {
			head = heads[0]
		}
	}) != nil || head.Sequence == 0 {
		return
	}
	state := forgeState(h.t, xHeader{ID: conv, Created: true, Policy: wire.Policy{Handshakes: 1}, Sequence: sequence + 1, Spans: spans, Now: wire.TimeOf(time.Now())},
		xHead{Sequence: head.Sequence, Epoch: head.Epoch, Key: author.Public(author.Submission(1 << 40)), Delivery: author.Addresses(9, to.Organization(), "spy.example")})
	_ = plant(h.t, h.cluster, nodeM, to, conv, 0, term+1, last+1, []wire.NodeID{nodeM, to}, state)
}

// sendTerms sends messages with terms that are far ahead.
func (h *hostileHistory) sendTerms(to wire.NodeID) {
	_, term := h.last()
	far := []uint64{math.MaxUint64, math.MaxUint64 - 1, 1 << 62, 1 << 41, term + 100_000, term + 3}[h.dice.IntN(6)]
	switch h.dice.IntN(3) {
	case 0:
		_, _ = appendAs(h.t, h.cluster, nodeM, to, conv, &raft.AppendEntriesRequest{Term: far, LeaderCommitIndex: 1})
	case 1:
		h.ask(nodeM, to, &frame{kind: kindVote, conversation: conv, payload: encodeVote(&raft.RequestVoteRequest{Term: far, LastLogIndex: 1 << 40, LastLogTerm: far, LeadershipTransfer: true})})
	default:
		h.ask(nodeM, to, &frame{kind: kindBeats, payload: encodeBeats([]*beat{{id: conv, term: far}})})
	}
}

func (h *hostileHistory) ask(from, to wire.NodeID, f *frame) {
	_, _ = h.nodes[from].m.mesh.ask(h.context(5*time.Second), to, f)
}

// sendRecovery claims that an operator began a new generation with this node as its only member.
func (h *hostileHistory) sendRecovery(to wire.NodeID) {
	_ = inviteAs(h.t, h.cluster, nodeM, to, conv, []uint64{1, 1, 2, math.MaxUint64}[h.dice.IntN(4)], nodeM)
}

// sendConfiguration orders, as a leader would, a configuration in which the hostile organization has all votes.
func (h *hostileHistory) sendConfiguration(to wire.NodeID) {
	last, term := h.last()
	prev := h.own(last)
	if prev == nil {
		return
	}
	next := [][]wire.NodeID{{nodeM}, {nodeM, accessory, to}, {nodeM, accessory, "n3.mallory.example"}, {nodeM, to}}[h.dice.IntN(4)]
	var c raft.Configuration
	for _, n := range next {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(n), Address: raft.ServerAddress(n)})
	}
	term++
	_, _ = appendAs(h.t, h.cluster, nodeM, to, conv, &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev.Index, PrevLogTerm: prev.Term, LeaderCommitIndex: prev.Index + 1,
		Entries: []*raft.Log{{Index: prev.Index + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}}})
}

// sendControl sends the remaining control messages: dismissals, sleep, campaigns.
func (h *hostileHistory) sendControl(to wire.NodeID) {
	last, term := h.last()
	sleep, _ := wire.Encode(position{Term: term, Last: last})
	far, _ := wire.Encode(position{Term: term + 1, Last: last + 100})
	f := []*frame{
		{kind: kindFarewell}, {kind: kindSleep, payload: sleep}, {kind: kindSleep, payload: far}, {kind: kindTimeoutNow},
		{kind: kindRejoin}, {kind: kindWake, payload: far}, {kind: kindGone, payload: []byte(to)},
	}[h.dice.IntN(7)]
	f.conversation = conv
	h.ask(nodeM, to, f)
}

// sendByAccessory makes a node without a part act as a leader, for which the hostile replica vouches.
func (h *hostileHistory) sendByAccessory(to wire.NodeID) {
	if h.nodes[accessory].m == nil {
		return
	}
	for range 3 { // the first request makes the victim ask; a later one arrives after the answer
		if h.entriesFrom(accessory, to) {
			h.fault("%s obeys a node that has no part", to)
		}
		time.Sleep(2 * time.Second)
	}
}

// lead makes the hostile voter the leader, if others vote for it, and picks a victim, which is shown another log from
// now on.
func (h *hostileHistory) lead(to wire.NodeID) {
	h.mu.Lock()
	h.victim = to
	h.mu.Unlock()
	if c := h.replica(); c != nil {
		if l := c.awake(); l != nil && l.r.Load() != nil {
			l.trans.campaign()
			time.Sleep(2 * time.Second)
		}
	}
	h.commitOn(nodeM, wire.DeliveryChange{}, 10*time.Second)
}

// mangle changes the messages of the hostile node. Frames are complete, with their length.
func (h *hostileHistory) mangle(from, to wire.NodeID, b []byte) []byte {
	f, err := parseFrame(b[4:])
	if err != nil {
		return b
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := func(n wire.NodeID) uint64 { return f.number<<8 | uint64(n[3]) } // the organization's letter: n1.a.example has a
	switch {
	case to == nodeM && (f.kind == kindGone || f.kind == kindTestify):
		h.asked[key(from)] = f.kind
	case from == nodeM && f.kind == kindReply && h.lies && h.asked[key(to)] != 0:
		kind := h.asked[key(to)]
		delete(h.asked, key(to))
		f.payload = h.vouch(kind, f.payload)
		return f.append(nil)
	case from == nodeM && to == h.victim && f.kind == kindAppend && h.forks:
		if changed := otherFuture(f.payload); changed != nil {
			h.mangled++
			f.payload = changed
			return f.append(nil)
		}
	}
	return b
}

// vouch changes an answer into one that says that the accessory has a vote.
func (h *hostileHistory) vouch(kind frameKind, payload []byte) []byte {
	if kind == kindGone {
		return []byte{0, 1}
	}
	content, err := openReply(payload)
	var said testimony
	if err != nil || wire.Decode(content, maxTestimony, &said) != nil {
		said = testimony{}
	}
	said.Role = roleVoter
	b, err := wire.Encode(&said)
	if err != nil {
		return payload
	}
	return sealReply(b, nil)
}

// otherFuture changes the commits among entries: the same content, at another time. It returns nil if there are none.
func otherFuture(payload []byte) []byte {
	a, err := decodeAppend(payload)
	if err != nil {
		return nil
	}
	changed := false
	for _, l := range a.Entries {
		e := new(wire.Entry)
		if l.Type != raft.LogCommand || wire.Decode(l.Data, wire.MaxEntry, e) != nil || e.Envelope == nil || e.Envelope.Kind != wire.KindCommit {
			continue
		}
		e.Time++
		if b, err := wire.Encode(e); err == nil {
			l.Data, changed = b, true
		}
	}
	if !changed {
		return nil
	}
	return encodeAppend(a)
}

// TestLongHostileHistories checks that one hostile organization, without a vote or with one, changes no entry that
// honest nodes have applied, does not stop an honest majority, and makes no two histories without an alarm.
func TestLongHostileHistories(t *testing.T) {
	seeds := uint64(map[string]int{"": 6, "short": 50, "full": 1000}[os.Getenv("MLSFED_LONG")])
	first := uint64(1)
	if v := os.Getenv("MLSFED_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	done := make(map[string]int)
	for seed := first; seed < first+seeds; seed++ {
		faults, acts := play(t, seed)
		if len(faults) > 0 {
			t.Fatalf("MLSFED_SEED=%d: %s\nacts: %s", seed, strings.Join(faults, "\n"), strings.Join(acts, ", "))
		}
		for _, a := range acts {
			done[a]++
		}
	}
	t.Logf("%d histories; acts: %v", seeds, done)
}

// TestLongHostileHistoriesNotice checks that each promise is needed: with any one of them broken, a history fails.
func TestLongHostileHistoriesNotice(t *testing.T) {
	most := uint64(map[string]int{"short": 100, "full": 400}[os.Getenv("MLSFED_LONG")])
	if most == 0 {
		t.Skip("searches for histories that fail: set MLSFED_LONG")
	}
	for name, r := range map[string]rule{"roles": ruleRoles, "applied": ruleApplied, "terms": ruleTerms, "aside": ruleAside,
		"compare": ruleCompare, "configurations": ruleConfigurations, "vouching": ruleVouching} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= most; seed++ {
				if faults, acts := play(t, seed, r); len(faults) > 0 {
					t.Logf("seed %d: %s; acts: %s", seed, faults[0], strings.Join(acts, ", "))
					if faults, _ := play(t, seed); len(faults) > 0 {
						t.Errorf("seed %d fails with the promise too: %s", seed, faults[0])
					}
					return
				}
			}
			t.Errorf("%d histories passed without %s: they notice nothing", most, name)
		})
	}
}
