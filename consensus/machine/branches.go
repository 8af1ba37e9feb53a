package machine

import (
	"cmp"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of contested conversations from level 2 of the rules on.
const (
	// MaxBranches is the largest number of heads.
	MaxBranches = 8
	// MaxBranchesOfOrganization bounds the branches whose first commit the nodes of one organization have
	// brought, and that have not lost against another. It holds where members of another one can contest as well.
	MaxBranchesOfOrganization = 4
	// MaxAncestors and MaxPublicAncestors are how many ended epochs of one head can be contested; the second
	// holds with public handshakes, where each of them keeps the state of the group.
	MaxAncestors       = 256
	MaxPublicAncestors = 16
	// BranchLife is how long a head may stay unused while there is another one, in milliseconds: longer than
	// clients take to renew their keys. A head that has lost against a confirmed one stays for HeadLife.
	BranchLife wire.Time = 30 * 24 * 3600_000
)

// ancestor is an epoch that has ended and that can be contested, with the step from it towards a head: the
// commit that ended it there.
type ancestor struct {
	*point
	child  wire.SequenceNumber // the entry of the commit
	at     wire.Time           // of that entry
	change wire.DeliveryChange // of the delivery list, up to the next kept ancestor or the head
	// by are the first two organizations whose nodes showed that a member there can process the commit: the
	// one that brought it, and one that brought a submission made after it. Empty is none.
	by [2]wire.Domain
}

// confirmed reports whether members of two organizations have processed the commit.
func (a *ancestor) confirmed() bool { return a.by[1] != "" }

// note adds an organization, and reports whether the commit is confirmed with it and was not before.
func (a *ancestor) note(org wire.Domain) bool {
	switch {
	case a.confirmed() || a.by[0] == org:
		return false
	case a.by[0] == "":
		a.by[0] = org
		return false
	}
	a.by[1] = org
	return true
}

// branch is what makes a head one of several. The zero value is that of a head which nobody contests.
type branch struct {
	base      wire.SequenceNumber // the entry that opened the contested epoch
	fork      wire.SequenceNumber // the first entry that this head does not share: a child of base
	since     wire.Time           // of fork
	by        wire.Domain         // the organization that brought fork
	contest   bool                // fork bears the contest mark
	confirmed bool                // fork is confirmed
	// lost is an entry that opened an epoch in which this head lost: another commit of that epoch is confirmed,
	// and this head's is not. 0 for none.
	lost wire.SequenceNumber
}

// rules are switched off by tests, to show that a fault is found without each of them.
type rules uint16

const (
	ruleTrail   rules = 1 << iota // more ancestors than the parent can be contested
	ruleTwo                       // two organizations confirm
	ruleFresh                     // whoever was added confirms nothing of before
	ruleFirst                     // a full trail keeps its first ancestors
	ruleRoom                      // no branch that a contest has opened gives way undecided
	ruleShare                     // a share of the branches for each organization
	ruleClose                     // a closed head can still be contested
	ruleHolders                   // organizations that were removed unconfirmed keep their replicas
	rulePast                      // a contest keeps no old key alive
)

func (r rules) has(one rules) bool { return r&one != 0 }

// raise turns the state of the rules before level 2 into one of level 2.
func (m *Machine) raise(level uint8) {
	if m.level < 2 && level >= 2 {
		for _, h := range m.heads {
			h.closed = m.closed
			if h.parent != nil {
				h.trail = []ancestor{{point: h.parent, child: h.seq, at: m.now, change: h.change}}
			}
		}
	}
	m.level = level
}

// ancestorAt finds an ended epoch that can be contested, by the entry that opened it: a head that descends
// from it, and its place in that head's trail; nil if there is none.
func (m *Machine) ancestorAt(seq wire.SequenceNumber) (*head, int) {
	for _, h := range m.heads {
		if i := h.find(seq); i >= 0 {
			return h, i
		}
	}
	return nil, 0
}

// find returns the place of an epoch in the head's trail, -1 if it is not there.
func (h *head) find(seq wire.SequenceNumber) int {
	i, found := slices.BinarySearchFunc(h.trail, seq, func(a ancestor, seq wire.SequenceNumber) int { return cmp.Compare(a.seq, seq) })
	if !found {
		return -1
	}
	return i
}

// listAt returns the delivery list of ancestor i.
func (h *head) listAt(i int) ([]wire.Address, *wire.Error) {
	list := h.delivery
	for at := len(h.trail) - 1; at >= i; at-- {
		var err *wire.Error
		if list, err = undoChange(list, h.trail[at].change); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// locateEnded finds the head that a contest descends from, from level 2 on: any epoch in a head's trail can be
// contested.
func (m *Machine) locateEnded(p *plan, e *wire.Envelope) (*head, *wire.Error) {
	h, i := m.ancestorAt(e.Parent)
	if h == nil {
		return nil, m.stale(e, nil)
	}
	ended := h.trail[i].point
	if i < len(h.trail)-1 && p.now-h.trail[i].at > HeadLife {
		return nil, m.stale(e, nil)
	}
	if err := m.signed(p, e, ended.key); err != nil {
		return nil, err
	}
	if e.Kind != wire.KindCommit || !e.Commit.Contest || ended.epoch != e.Epoch {
		return nil, m.stale(e, ended)
	}
	if err := m.makeRoom(p, h, i); err != nil {
		return nil, err
	}
	p.beside, p.at = true, i
	return h, nil
}

// makeRoom refuses a contest of ancestor i of h where there is no room for another head, or chooses the head
// that gives way.
//
// A head may only give way if no honest member can be in it. Members take the first child that they can
// process, in the order of the log, so these are: a head that has lost against a confirmed one; and a branch
// that began with a commit without the contest mark, since who contests could not process it, or what came
// before it. The newest of the latter stays: it is the one that this contest may be about. A branch that a
// contest has opened never gives way before another one is confirmed. Whoever floods the conversation with
// branches is refused instead: by the bound for each organization, and where all members are of one
// organization, by its own node, which knows its users.
func (m *Machine) makeRoom(p *plan, h *head, i int) *wire.Error {
	org, base := p.entry.Proposer.Organization(), &h.trail[i]
	held, plain := 0, 0
	var lost, first *head
	var lostFork, firstFork wire.SequenceNumber
	for _, g := range m.heads {
		b := g.contested(base.seq)
		if b.lost > 0 {
			if lost == nil || b.fork < lostFork {
				lost, lostFork = g, b.fork
			}
			continue
		}
		if b.by == org {
			held++
		}
		if !b.confirmed && !b.contest || m.off.has(ruleRoom) {
			plain++
			if first == nil || b.fork < firstFork {
				first, firstFork = g, b.fork
			}
		}
	}
	switch {
	case held >= MaxBranchesOfOrganization && !m.alone(org) && !m.off.has(ruleShare):
		return wire.Errorf(wire.TooManyHeads, "submit", "%s has opened %d branches, and none has lost yet: epoch %d is contested by another organization, or later", org, held, base.epoch)
	case len(m.heads) < MaxBranches:
	case lost != nil:
		p.evicted = lost
	case plain > 1 || m.off.has(ruleRoom):
		p.evicted = first
	default:
		return wire.Errorf(wire.TooManyHeads, "submit", "epoch %d is contested: %d heads, at most %d", base.epoch, len(m.heads), MaxBranches)
	}
	return nil
}

// alone reports whether all members are of one organization, as far back as epochs can be contested.
func (m *Machine) alone(org wire.Domain) bool {
	return !slices.ContainsFunc(m.heads, func(h *head) bool {
		list, err := h.listAt(0)
		return err != nil || !slices.Equal(Organizations(list), []wire.Domain{org})
	})
}

// contested is the branch that h is when a contest opens another child of the epoch that entry base opened.
func (h *head) contested(base wire.SequenceNumber) branch {
	j := h.find(base)
	if j < 0 || h.trail[j].child <= h.fork {
		return h.branch
	}
	a := &h.trail[j]
	return branch{base: base, fork: a.child, since: a.at, by: a.by[0], confirmed: a.confirmed(), lost: h.lost}
}

// moveBranches is moveHeads from level 2 on.
func (m *Machine) moveBranches(p *plan) bool {
	changed := false
	if p.from != nil && !p.beside {
		p.from.used = m.now
		if p.member {
			changed = m.confirm(p.from, p.entry.Proposer.Organization())
		}
	}
	switch {
	case p.beside:
		m.branchOff(p)
		changed = true
	case p.next != nil:
		changed = m.extend(p) || changed || !p.next.change.IsZero() || m.someLeft()
	case p.ends && m.off.has(ruleClose):
		m.closed = len(m.heads) == 1
		if !m.closed {
			m.heads = dropHead(m.heads, p.from)
		}
		changed = true
	case p.ends:
		p.from.closed = true // it stays for a while: its ancestors can be contested
		m.closed = !slices.ContainsFunc(m.heads, func(h *head) bool { return !h.closed })
		changed = true
	case p.from != nil:
		p.from.proposals++
		if p.public != nil {
			p.from.public = p.public
		}
	}
	changed = m.expireBranches() || changed
	if !changed {
		return false
	}
	spans, holders := m.updateSpans(m.seq), m.updateHolders()
	return spans || holders
}

// confirm notes that a member of an organization has processed all that led to head h: its node has brought a
// submission that needs the head's key, or a public handshake of one of its members. Whoever was added since
// a commit has not processed that commit; so an organization says nothing of commits before the last one
// that added somebody of it. It reports whether that confirmed a commit.
func (m *Machine) confirm(h *head, org wire.Domain) bool {
	if !includes(h.delivery, org) {
		return false
	}
	news := false
	for i := len(h.trail) - 1; i >= 0; i-- {
		a := &h.trail[i]
		if slices.ContainsFunc(a.change.Add, func(x wire.Address) bool { return x.Organization == org }) && !m.off.has(ruleFresh) {
			break
		}
		if m.off.has(ruleTwo) {
			a.by[0] = org + ".x" // one organization is enough
		}
		if !a.note(org) {
			continue
		}
		news = true
		for _, g := range m.heads {
			if j := g.find(a.seq); j >= 0 {
				g.decide(&g.trail[j], a)
			}
		}
	}
	if news {
		for _, g := range m.heads {
			g.trail = m.prune(g.trail)
		}
	}
	return news
}

// decide takes in that a commit is confirmed, where own is the step of this head from the same epoch: the same
// commit, or another one that has lost.
func (h *head) decide(own, confirmed *ancestor) {
	switch {
	case own.child == confirmed.child:
		own.by = confirmed.by
		if own.child == h.fork {
			h.branch.confirmed = true
		}
		if own.seq == h.lost {
			h.lost = 0
		}
	case !own.confirmed() && (h.lost == 0 || own.seq < h.lost):
		h.lost = own.seq
	}
}

// includes reports whether an organization has an address in a sorted list.
func includes(list []wire.Address, org wire.Domain) bool {
	_, found := slices.BinarySearchFunc(list, org, func(a wire.Address, org wire.Domain) int { return cmp.Compare(a.Organization, org) })
	return found
}

// prune drops from a trail what can no longer be contested: epochs whose commit is confirmed or older than
// HeadLife. The last one, which is the parent of the head, stays in any case. Over the bound, the first ones
// that nobody has confirmed stay, and the last ones: members are in one of those when a chain of commits that
// they cannot process is made, unless its maker has made as many that they could process before.
func (m *Machine) prune(trail []ancestor) []ancestor {
	drop := func(i int) bool { return trail[i].confirmed() || m.now-trail[i].at > HeadLife }
	if len(trail) == 0 {
		return nil
	}
	most := m.mostAncestors()
	if m.off.has(ruleTrail) {
		return trail[len(trail)-1:]
	}
	kept := 0
	for i := range trail {
		if i == len(trail)-1 || !drop(i) {
			kept++
		}
	}
	if kept == len(trail) && kept <= most {
		return trail
	}
	rest := make([]ancestor, 0, kept+1) // never in place: who reads the state has references to the old one
	for i := range trail {
		switch {
		case i == len(trail)-1 || !drop(i):
			rest = append(rest, trail[i])
		case len(rest) > 0:
			join(&rest[len(rest)-1], &trail[i])
		}
	}
	for len(rest) > most {
		i := 3 * most / 4
		if m.off.has(ruleFirst) {
			rest = rest[1:]
			continue
		}
		join(&rest[i-1], &rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return rest
}

func (m *Machine) mostAncestors() int {
	if m.policy.Handshakes == wire.HandshakesPublic {
		return MaxPublicAncestors
	}
	return MaxAncestors
}

// join makes a's step lead to where b's does, since b is dropped. Its evidence stays that of its own commit.
func join(a, b *ancestor) { a.change = composeChanges(a.change, b.change) }

// extend puts the epoch that a commit opens into the place of the one that it ends. It reports whether
// ancestors were dropped that had been kept.
func (m *Machine) extend(p *plan) bool {
	h, next := p.from, p.next
	next.seq, next.used = m.seq, m.now
	next.parent.winner = m.seq
	trail := append(h.trail, ancestor{
		point: next.parent, child: m.seq, at: m.now, change: next.change, by: [2]wire.Domain{p.entry.Proposer.Organization()},
	})
	next.trail, next.branch = m.prune(trail), h.branch
	m.replaceHead(h, next)
	return len(next.trail) != len(trail)
}

// branchOff opens a head beside others. It marks the heads that have left the contested epoch by another child.
func (m *Machine) branchOff(p *plan) {
	h, next := p.from, p.next
	next.seq, next.used = m.seq, m.now
	base := next.parent.seq
	lost := h.lost
	if base < lost {
		lost = 0
	}
	org := p.entry.Proposer.Organization()
	next.trail = append(slices.Clone(h.trail[:p.at]), ancestor{
		point: next.parent, child: m.seq, at: m.now, change: next.change, by: [2]wire.Domain{org},
	})
	next.branch = branch{base: base, fork: m.seq, since: m.now, by: org, contest: true, lost: lost}
	for _, g := range m.heads {
		g.branch = g.contested(base)
	}
	if p.evicted != nil {
		m.heads = dropHead(m.heads, p.evicted)
	}
	m.heads = append(m.heads, next)
	m.closed = false
}

// expireBranches drops heads that nobody needs any more, but never the open one that was used last.
func (m *Machine) expireBranches() bool {
	if len(m.heads) < 2 {
		return false
	}
	var last *head
	for _, h := range m.heads {
		if !h.closed && (last == nil || h.used > last.used) {
			last = h
		}
	}
	if last == nil {
		return false
	}
	before := len(m.heads)
	m.heads = slices.DeleteFunc(m.heads, func(h *head) bool {
		unused := m.now - h.used
		switch {
		case h == last:
			return false
		case h.closed:
			return unused > HeadLife
		case h.lost > 0:
			return m.now-h.since > HeadLife
		case h.branch.confirmed:
			return false
		}
		return unused > BranchLife
	})
	if len(m.heads) == 1 {
		m.heads[0].branch = branch{}
	}
	return len(m.heads) != before
}

// updateHolders finds the organizations that are to hold replicas beside those that take part: those that
// somebody's commit has removed and that could still contest it, because nobody else has confirmed the commit.
// A commit that removes all others would end the conversation for them otherwise. It reports a change.
func (m *Machine) updateHolders() bool {
	var list []wire.Domain
	if m.off.has(ruleHolders) {
		return false
	}
	for _, h := range m.heads {
		for i := range h.trail {
			if h.trail[i].confirmed() {
				continue
			}
			for _, a := range h.trail[i].change.Remove {
				list = append(list, a.Organization)
			}
		}
		if h.closed && !m.closed {
			list = append(list, Organizations(h.delivery)...)
		}
	}
	slices.Sort(list)
	list = slices.DeleteFunc(slices.Compact(list), func(org wire.Domain) bool {
		return slices.ContainsFunc(m.spans, func(s Span) bool { return s.Organization == org && s.Until == 0 })
	})
	moved := !slices.Equal(list, m.holders)
	m.holders = list
	return moved
}
