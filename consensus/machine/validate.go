package machine

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// A state from another node is hostile until it is proven to be one that a machine produces. validate checks the
// invariants of Apply, field by field, before the state is used; package consensus adds the checks that need a clock,
// a past, or signatures.

// maxCount limits numbers that grow by one with an entry, so that no sum of two overflows.
const maxCount = 1 << 60

// maxTime is the end of the year 9999, in milliseconds since 1970.
const maxTime wire.Time = 253_402_300_799_999

// validator holds data that the parts of the check share.
type validator struct {
	*Machine
	entries []*wire.Entry // the entries of recent, decoded
}

// validate refuses a state that no sequence of entries produces. entries are the kept ones, decoded.
func (m *Machine) validate(entries []*wire.Entry) error {
	v := &validator{m, entries}
	if !m.created {
		return v.checkNothing()
	}
	if m.seq == 0 || m.seq > maxCount || m.now < 0 || m.now > maxTime {
		return fmt.Errorf("%d entries at time %d", m.seq, m.now)
	}
	if err := m.policy.Check(); err != nil {
		return err
	}
	for _, check := range []func() error{v.checkKept, v.checkTimes, v.checkHeads, v.checkSpans, v.checkReplicas, v.checkClosed, v.checkAnswers, v.checkClocks} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// checkNothing checks the state before the first entry.
func (v *validator) checkNothing() error {
	if v.closed || v.policy != (wire.Policy{}) || v.seq != 0 || v.order != (wire.Hash{}) || v.now != 0 || v.replicas != nil || v.since != 0 ||
		v.level != wire.FirstLevel || len(v.heads)+len(v.spans)+len(v.recent)+len(v.answered)+len(v.clocks) != 0 {
		return fmt.Errorf("has content before the first entry")
	}
	return nil
}

// checkKept checks the kept entries against each other, the policy and the order hash.
func (v *validator) checkKept() error {
	count, size, _ := keepLimits(v.policy)
	if len(v.recent) == 0 || len(v.recent) > count || len(v.recent) > 1 && v.recentBytes > size {
		return fmt.Errorf("keeps %d entries of %d bytes, the policy %d of %d", len(v.recent), v.recentBytes, count, size)
	}
	for i := range v.recent {
		k, e := &v.recent[i], v.entries[i]
		switch {
		case i > 0:
			if k.Order != wire.NextOrder(v.recent[i-1].Order, k.Entry) {
				return fmt.Errorf("order hash of entry %d is not that of its content", k.Sequence)
			}
		case k.Sequence == 1 && k.Order != wire.NextOrder(wire.Hash{}, k.Entry):
			return fmt.Errorf("order hash of the first entry is not that of its content")
		}
		if err := v.checkEntry(k.Sequence, e); err != nil {
			return fmt.Errorf("entry %d: %w", k.Sequence, err)
		}
	}
	if last := &v.recent[len(v.recent)-1]; last.Order != v.order {
		return fmt.Errorf("order hash is not that of the last entry")
	}
	return nil
}

// checkEntry checks one kept entry against the entry that it follows.
func (v *validator) checkEntry(seq wire.SequenceNumber, e *wire.Entry) error {
	env := e.Envelope
	if first := seq == 1; first != (env != nil && env.Kind == wire.KindCreate) {
		return fmt.Errorf("a conversation begins with a create, and has no other")
	}
	switch {
	case env == nil:
		return nil
	case env.Conversation != v.id:
		return fmt.Errorf("is of conversation %v", env.Conversation)
	case env.Kind == wire.KindCreate:
		if env.Create.Policy != v.policy {
			return fmt.Errorf("creates with another policy")
		}
		return nil
	case env.Parent >= seq || uint64(env.Epoch) >= uint64(env.Parent):
		return fmt.Errorf("for epoch %d after entry %d", env.Epoch, env.Parent)
	case env.Kind != wire.KindClose:
		if _, err := checkHeader(v.id, v.policy.Handshakes, env); err != nil {
			return err
		}
		if env.Commit != nil {
			if err := v.needsLevel(env); err != nil {
				return err
			}
		}
	}
	if parent := v.kept(env.Parent); parent != nil {
		if epoch, _, ok := opened(parent); !ok || epoch != env.Epoch {
			return fmt.Errorf("entry %d did not open epoch %d", env.Parent, env.Epoch)
		}
	}
	return nil
}

// kept returns the entry at seq, or nil if it is not kept.
func (v *validator) kept(seq wire.SequenceNumber) *wire.Entry {
	if first := v.recent[0].Sequence; seq >= first && seq <= v.seq {
		return v.entries[seq-first]
	}
	return nil
}

// opened returns the epoch that an entry opens, with its submission key.
func opened(e *wire.Entry) (wire.Epoch, wire.SubmissionKey, bool) {
	switch {
	case e.Envelope == nil:
	case e.Envelope.Create != nil:
		return 0, e.Envelope.Create.Key, true
	case e.Envelope.Commit != nil:
		return e.Envelope.Epoch + 1, e.Envelope.Commit.Key, true
	}
	return 0, wire.SubmissionKey{}, false
}

// checkTimes checks the times given to entries against the times in them.
func (v *validator) checkTimes() error {
	_, _, life := keepLimits(v.policy)
	for i := range v.recent {
		at, said := v.recent[i].time, v.entries[i].Time
		if at < 0 || at > maxTime || v.now-at > life && i < len(v.recent)-1 {
			return fmt.Errorf("keeps entry %d of time %d at %d", v.recent[i].Sequence, at, v.now)
		}
		switch {
		case i == 0 && v.recent[i].Sequence == 1:
			if at != max(said, 0) {
				return fmt.Errorf("time %d of the first entry, which bears %d", at, said)
			}
		case i > 0:
			before := v.recent[i-1].time
			if at < before || at-before > MaxStep || at > max(said, before) {
				return fmt.Errorf("time %d of entry %d after %d, which bears %d", at, v.recent[i].Sequence, before, said)
			}
			if v.level == wire.FirstLevel && at != min(max(said, before), before+MaxStep) {
				return fmt.Errorf("time %d of entry %d after %d, which bears %d", at, v.recent[i].Sequence, before, said)
			}
		}
	}
	if last := v.recent[len(v.recent)-1].time; last != v.now {
		return fmt.Errorf("time %d, that of the last entry is %d", v.now, last)
	}
	return nil
}

func (v *validator) checkHeads() error {
	if n := len(v.heads); n == 0 || n > MaxBranches || v.level < 2 && (n > MaxHeads || v.closed && n > 1) {
		return fmt.Errorf("%d heads, closed %v", n, v.closed)
	}
	if open := slices.ContainsFunc(v.heads, func(h *head) bool { return !h.closed }); v.level >= 2 && v.closed == open {
		return fmt.Errorf("closed %v, with an open head: %v", v.closed, open)
	}
	seen := make(map[wire.SequenceNumber]*point) // by the entry that opened the point
	last := v.heads[0]
	for _, h := range v.heads {
		if h.used > last.used {
			last = h
		}
	}
	for _, h := range v.heads {
		if err := v.checkHead(h); err != nil {
			return fmt.Errorf("head %d: %w", h.seq, err)
		}
		if v.headAt(h.seq) != h || v.level < 2 && len(v.heads) > 1 && h != last && v.now-h.used > HeadLife {
			return fmt.Errorf("head %d is there twice, or has expired", h.seq)
		}
		for _, p := range h.ended() {
			if v.headAt(p.seq) != nil {
				return fmt.Errorf("head %d has another head before it", h.seq)
			}
			if other := seen[p.seq]; other != nil {
				if same, err := samePoint(other, p); err != nil || !same {
					return fmt.Errorf("heads do not agree on their ancestor %d (%v)", p.seq, err)
				}
			}
			seen[p.seq] = p
		}
	}
	return nil
}

// ended returns the kept epochs before a head.
func (h *head) ended() (list []*point) {
	if h.parent == nil {
		return nil
	}
	for i := range max(0, len(h.trail)-1) {
		list = append(list, h.trail[i].point)
	}
	return append(list, h.parent)
}

func samePoint(a, b *point) (bool, error) {
	one, err := packPublic(a.public)
	if err != nil {
		return false, err
	}
	two, err := packPublic(b.public)
	return a.epoch == b.epoch && a.key == b.key && a.winner == b.winner && bytes.Equal(one, two), err
}

func (v *validator) checkHead(h *head) error {
	if h.seq == 0 || h.seq > v.seq || uint64(h.epoch) >= uint64(h.seq) || h.key.IsZero() || h.used < 0 || h.used > v.now || h.proposals > MaxProposals {
		return fmt.Errorf("epoch %d, used at %d, %d proposals", h.epoch, h.used, h.proposals)
	}
	if first := h.seq == 1; first != (h.parent == nil) || first != (h.epoch == 0) || first && !h.change.IsZero() {
		return fmt.Errorf("epoch %d with a parent: %v", h.epoch, h.parent != nil)
	}
	list := wire.DeliveryChange{Add: h.delivery}
	if err := list.Check(); err != nil {
		return err
	}
	if len(h.delivery) == 0 || len(h.delivery) > MaxAddresses {
		return fmt.Errorf("delivered to %d addresses", len(h.delivery))
	}
	if err := h.change.Check(); err != nil {
		return err
	}
	if _, err := undoChange(h.delivery, h.change); err != nil {
		return err
	}
	bundle := wire.CommitBundle{Commit: []byte{0}, Key: h.key, Info: h.info, Tree: h.tree}
	if err := bundle.Check(); err != nil { // the limits for the content of a commit
		return err
	}
	if err := v.checkPublic(h.public, h.epoch); err != nil {
		return err
	}
	for _, p := range h.ended() {
		if err := v.checkPoint(h, p); err != nil {
			return err
		}
	}
	return v.checkOpening(h)
}

// checkPublic checks a public group state against its epoch and the conversation.
func (v *validator) checkPublic(g PublicGroup, epoch wire.Epoch) error {
	if (g != nil) != (v.policy.Handshakes == wire.HandshakesPublic) {
		return fmt.Errorf("public group state: %v, which is not the policy", g != nil)
	}
	if g == nil {
		return nil
	}
	if wire.Epoch(g.Epoch()) != epoch {
		return fmt.Errorf("group state of epoch %d, the log's is %d", g.Epoch(), epoch)
	}
	if id := g.GroupID(); wire.ConversationID(id) != v.id {
		return fmt.Errorf("group state of group %v", wire.ConversationID(id))
	}
	return nil
}

func (v *validator) checkPoint(h *head, p *point) error {
	if p.seq == 0 || p.seq >= h.seq || p.epoch >= h.epoch || p == h.parent && p.epoch+1 != h.epoch || (p.seq == 1) != (p.epoch == 0) || uint64(p.epoch) >= uint64(p.seq) ||
		p.key.IsZero() || p.winner <= p.seq || p.winner > h.seq {
		return fmt.Errorf("parent %d of epoch %d, ended by %d", p.seq, p.epoch, p.winner)
	}
	if e := v.kept(p.seq); e != nil {
		if epoch, key, ok := opened(e); !ok || epoch != p.epoch || key != p.key {
			return fmt.Errorf("parent %d is not what its entry opened", p.seq)
		}
	}
	if e := v.kept(p.winner); e != nil && (e.Envelope == nil || e.Envelope.Commit == nil || e.Envelope.Commit.Contest || e.Envelope.Parent != p.seq) {
		return fmt.Errorf("entry %d did not end epoch %d", p.winner, p.epoch)
	}
	return v.checkPublic(p.public, p.epoch)
}

// checkOpening checks a head against the entry that opened it, and against the entries for its epoch.
func (v *validator) checkOpening(h *head) error {
	e := v.kept(h.seq)
	proposals := 0
	for i := range v.recent {
		if env := v.entries[i].Envelope; env != nil && env.Kind == wire.KindProposal && env.Parent == h.seq {
			proposals++
			if h.used < v.recent[i].time {
				return fmt.Errorf("used at %d, before entry %d", h.used, v.recent[i].Sequence)
			}
		}
	}
	if e == nil {
		if proposals > h.proposals {
			return fmt.Errorf("%d proposals, more are kept", h.proposals)
		}
		return nil
	}
	epoch, key, ok := opened(e)
	if !ok || epoch != h.epoch || key != h.key || proposals != h.proposals || h.used < v.recent[h.seq-v.recent[0].Sequence].time {
		return fmt.Errorf("is not what its entry opened")
	}
	if c := e.Envelope.Create; c != nil {
		if !equalLists(c.Delivery, h.delivery) || !equalPayloads(inline(c.Info), h.info) || !equalPayloads(inline(c.Tree), h.tree) {
			return fmt.Errorf("is not what its create says")
		}
		return nil
	}
	c := e.Envelope.Commit
	if e.Envelope.Parent != h.parent.seq || c.Contest == (h.parent.winner == h.seq) || !equalLists(c.Delivery.Add, h.change.Add) ||
		!equalLists(c.Delivery.Remove, h.change.Remove) || !equalPayloads(c.Info, h.info) || !equalPayloads(c.Tree, h.tree) {
		return fmt.Errorf("is not what its commit says")
	}
	return nil
}

func equalLists(a, b []wire.Address) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func equalPayloads(a, b *wire.Payload) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Blob == nil || b.Blob == nil {
		return a.Blob == b.Blob && bytes.Equal(a.Inline, b.Inline)
	}
	return *a.Blob == *b.Blob && bytes.Equal(a.Inline, b.Inline)
}

// checkSpans checks the organizations against the heads' delivery lists: an organization that takes part is in one of
// them.
func (v *validator) checkSpans() error {
	present := make(map[wire.Domain]bool)
	for _, h := range v.heads {
		if h.closed && !v.closed {
			continue
		}
		for _, org := range Organizations(h.delivery) {
			present[org] = true
		}
	}
	for i, s := range v.spans {
		if err := s.Organization.Check(); err != nil {
			return err
		}
		if i > 0 && v.spans[i-1].Organization >= s.Organization {
			return fmt.Errorf("%s is out of order among the organizations", s.Organization)
		}
		if s.Since == 0 || s.Since > v.seq || s.Until > v.seq || s.Until != 0 && s.Until <= s.Since {
			return fmt.Errorf("%s takes part from entry %d to %d of %d", s.Organization, s.Since, s.Until, v.seq)
		}
		if present[s.Organization] != (s.Until == 0) {
			return fmt.Errorf("%s takes part from entry %d to %d, the delivery lists say otherwise", s.Organization, s.Since, s.Until)
		}
		delete(present, s.Organization)
	}
	if len(present) > 0 {
		return fmt.Errorf("%d organizations of the delivery lists have no beginning", len(present))
	}
	return nil
}

// checkReplicas checks the replicas and the level of the rules against the kept entries.
func (v *validator) checkReplicas() error {
	if (v.replicas == nil) != (v.since == 0) || v.since == 1 || v.since > v.seq {
		return fmt.Errorf("replicas since entry %d", v.since)
	}
	generation := uint64(0)
	if v.replicas != nil {
		if err := v.replicas.Check(); err != nil {
			return err
		}
		if e := v.kept(v.since); e != nil && e.Replicas == nil {
			return fmt.Errorf("entry %d sets no replicas", v.since)
		}
		if generation = v.replicas.Generation; generation >= uint64(v.since) || v.replicas.Recovery != nil && generation == 0 {
			return fmt.Errorf("generation %d since entry %d", generation, v.since)
		}
	}
	level := uint8(wire.FirstLevel)
	for i, e := range v.entries {
		r, seq := e.Replicas, v.recent[i].Sequence
		if r == nil {
			continue
		}
		raised, raises := r.RaisesTo(r.Generation)
		if raises && raised > level && seq != v.since && (i == 0 || r.Generation <= generation) {
			level = raised
			continue
		}
		if seq > v.since || r.Generation > generation {
			return fmt.Errorf("entry %d sets replicas that are not the last", seq)
		}
		if seq == v.since {
			one, err := wire.Encode(r)
			if err != nil {
				return err
			}
			if two, err := wire.Encode(v.replicas); err != nil || !bytes.Equal(one, two) {
				return fmt.Errorf("replicas are not those of entry %d (%v)", seq, err)
			}
		}
	}
	if level > v.level || v.level > wire.FirstLevel && v.recent[0].Sequence == 1 && level != v.level {
		return fmt.Errorf("rules of level %d, the entries have raised them to %d", v.level, level)
	}
	return nil
}

// checkClosed checks that the last submission of a conversation that has ended is its end.
func (v *validator) checkClosed() error {
	closing := false
	for _, e := range v.entries {
		env := e.Envelope
		if env == nil {
			continue
		}
		h := v.headAt(env.Parent)
		closing = env.Kind == wire.KindClose && h != nil
		if closing && !v.closed && !h.closed {
			return fmt.Errorf("is not closed, and a close of head %d is kept", env.Parent)
		}
	}
	if v.closed && !closing && v.lastSubmission() {
		return fmt.Errorf("is closed, and the last submission is no close")
	}
	return nil
}

// lastSubmission reports whether a submission is among the kept entries.
func (v *validator) lastSubmission() bool {
	for _, e := range v.entries {
		if e.Envelope != nil {
			return true
		}
	}
	return false
}

// checkAnswers checks that the remembered submissions are the last ones, in order, each with the receipt of its
// entry.
func (v *validator) checkAnswers() error {
	first := v.recent[0].Sequence
	var before wire.Receipt
	for i, id := range v.answered {
		s := v.answers[id]
		r := s.Receipt
		if id == (wire.SubmissionID{}) || r.Sequence <= before.Sequence || r.Sequence > v.seq || r.Time < before.Time || r.Time > v.now || uint64(r.Epoch) >= uint64(r.Sequence) {
			return fmt.Errorf("answer %d is for entry %d of epoch %d at %d", i, r.Sequence, r.Epoch, r.Time)
		}
		if i == 0 && len(v.answered) < MaxSubmissions && r.Sequence != 1 {
			return fmt.Errorf("submissions before entry %d are forgotten", r.Sequence)
		}
		before = r
		if r.Sequence < first {
			continue
		}
		if err := v.checkAnswer(&s); err != nil {
			return fmt.Errorf("answer for entry %d: %w", r.Sequence, err)
		}
	}
	return v.checkAnswered()
}

func (v *validator) checkAnswer(s *submitted) error {
	e, k := v.kept(s.Receipt.Sequence), &v.recent[s.Receipt.Sequence-v.recent[0].Sequence]
	if e.Envelope == nil || e.Envelope.Submission != s.ID {
		return fmt.Errorf("is not of submission %v", s.ID)
	}
	epoch := e.Envelope.Epoch
	if e.Envelope.Commit != nil {
		epoch++
	}
	digest, err := e.Envelope.Digest()
	if err != nil || digest != s.Digest || epoch != s.Receipt.Epoch || k.Order != s.Receipt.Order || k.time != s.Receipt.Time {
		return fmt.Errorf("is not its receipt (%v)", err)
	}
	return nil
}

// checkAnswered checks that no kept submission among the last ones is missing from the answers.
func (v *validator) checkAnswered() error {
	if len(v.answered) == 0 {
		return fmt.Errorf("remembers no submission, and one created it")
	}
	oldest := v.answers[v.answered[0]].Receipt.Sequence
	for i, e := range v.entries {
		seq := v.recent[i].Sequence
		if e.Envelope == nil || seq < oldest && len(v.answered) == MaxSubmissions {
			continue
		}
		if s, ok := v.answers[e.Envelope.Submission]; !ok || s.Receipt.Sequence != seq {
			return fmt.Errorf("submission of entry %d is forgotten", seq)
		}
	}
	return nil
}

// Verify checks the signatures of the kept submissions whose keys are also kept. Apply has checked each of them, and
// restoring a state does not check them each time. Verify is for states from other nodes.
func (m *Machine) Verify() error {
	keys := make(map[wire.SequenceNumber]wire.SubmissionKey)
	for i := range m.recent {
		k := &m.recent[i]
		e, err := k.Open()
		if err != nil {
			return fmt.Errorf("entry %d: %w", k.Sequence, err)
		}
		if _, key, ok := opened(e); ok {
			keys[k.Sequence] = key
		}
		env := e.Envelope
		if env == nil || m.policy.Handshakes == wire.HandshakesPublic && (env.Kind == wire.KindProposal || env.Kind == wire.KindCommit) {
			continue
		}
		key, known := keys[env.Parent]
		if env.Kind == wire.KindCreate {
			key, known = env.Create.Key, true
		}
		if known && !env.Verify(key) {
			return fmt.Errorf("entry %d: signature does not verify under the submission key of epoch %d", k.Sequence, env.Epoch)
		}
	}
	return nil
}
