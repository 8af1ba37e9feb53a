package machine

import (
	"cmp"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// Limits of contested conversations from level 2 of the rules on.
const (
	// MaxBranches is the largest number of heads.
	MaxBranches = 8
	// MaxBranchesOfOrganization limits the branches whose first commit the nodes of one organization have brought,
	// and that have not lost against another branch. It applies if members of another organization can contest as
	// well.
	MaxBranchesOfOrganization = 4
	// MaxAncestors and MaxPublicAncestors are the numbers of ended epochs of one head that can be contested.
	// MaxPublicAncestors applies with public handshakes, where each of these epochs keeps the state of the group.
	MaxAncestors       = 256
	MaxPublicAncestors = 16
	// BranchLife is the time for which a head may stay unused while there is another one, in milliseconds: longer
	// than clients take to renew their keys. A head that has lost against a confirmed one stays for HeadLife.
	BranchLife wire.Time = 30 * 24 * 3600_000
)

// ancestor is an ended epoch that can be contested, with the step from it towards a head: the commit that ended it
// there.
type ancestor struct {
	*point
	child  wire.SequenceNumber // the entry of the commit
	at     wire.Time           // of that entry
	change wire.DeliveryChange // of the delivery list, up to the next kept ancestor or the head
	// by holds the first two organizations whose nodes showed that a member there can process the commit: the
	// organization that brought the commit, and one that brought a submission made after it. Empty means none.
	by [2]wire.Domain
}

// confirmed reports whether members of two organizations have processed the commit.
func (a *ancestor) confirmed() bool { return a.by[1] != "" }

// note adds an organization, and reports whether the organization made the commit confirmed.
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

// branch holds the properties of a head that is one of several. The zero value is for a head that is not contested.
type branch struct {
	base      wire.SequenceNumber // the entry that opened the contested epoch
	fork      wire.SequenceNumber // the first entry that this head does not share: a child of base
	since     wire.Time           // of fork
	by        wire.Domain         // the organization that brought fork
	contest   bool                // fork bears the contest mark
	confirmed bool                // fork is confirmed
	// lost is an entry that opened an epoch in which this head lost: another commit of that epoch is confirmed, and
	// this head's commit is not. 0 means none.
	lost wire.SequenceNumber
}

// rules is the set of rules that a test switches off, to show that a fault is found without each of them.
type rules uint16

const (
	ruleTrail   rules = 1 << iota // more ancestors than the parent can be contested
	ruleTwo                       // two organizations confirm
	ruleFresh                     // an added member confirms no commit before its addition
	ruleFirst                     // a full trail keeps its first ancestors
	ruleRoom                      // a branch that a contest has opened does not give way while undecided
	ruleShare                     // a share of the branches for each organization
	ruleClose                     // a closed head can still be contested
	ruleHolders                   // organizations that were removed unconfirmed keep their replicas
	rulePast                      // a contest does not keep an old key alive
)

func (r rules) has(one rules) bool { return r&one != 0 }

// raise converts the state of the rules before level 2 into a state of level 2.
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

// ancestorAt finds an ended epoch that can be contested by the entry that opened it. It returns a head that descends
// from the epoch, and the epoch's index in that head's trail, or nil if there is none.
func (m *Machine) ancestorAt(seq wire.SequenceNumber) (*head, int) {
	for _, h := range m.heads {
		if i := h.find(seq); i >= 0 {
			return h, i
		}
	}
	return nil, 0
}

// find returns the index of an epoch in the head's trail, or -1 if it is not there.
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
	p.addsHead, p.at = true, i
	return h, nil
}

// makeRoom refuses a contest of ancestor i of h if there is no room for another head, or chooses the head that gives
// way.
//
// A head may only give way if no honest member can be in it. Members take the first child that they can process, in
// the order of the log. So two kinds of heads may give way: a head that has lost against a confirmed one; and a
// branch that began with a commit without the contest mark, since the contesting member could not process that
// commit, or an earlier one. The newest of the latter stays: this contest may be about it. A branch that a contest
// has opened never gives way before another branch is confirmed. A member that floods the conversation with branches
// is refused instead: by the limit for each organization, and, if all members are of one organization, by its own
// node, which knows its users.
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

// contested returns the branch of h after a contest has opened another child of the epoch that entry base opened.
func (h *head) contested(base wire.SequenceNumber) branch {
	j := h.find(base)
	if j < 0 || h.trail[j].child <= h.fork {
		return h.branch
	}
	a := &h.trail[j]
	return branch{base: base, fork: a.child, since: a.at, by: a.by[0], confirmed: a.confirmed(), lost: h.lost}
}

// moveBranches does the work of moveHeads from level 2 on.
func (m *Machine) moveBranches(p *plan) bool {
	changed := false
	if p.from != nil && !p.addsHead {
		p.from.used = m.now
		if p.member {
			changed = m.confirm(p.from, p.entry.Proposer.Organization())
		}
	}
	switch {
	case p.addsHead:
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
		p.from.closed = true // the head stays for a while: its ancestors can be contested
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

// confirm records that a member of an organization has processed all commits that led to head h: the organization's
// node has brought a submission that needs the head's key, or a public handshake of one of its members. A member that
// was added since a commit has not processed that commit, so an organization confirms no commits before the last one
// that added one of its members. confirm reports whether a commit became confirmed.
func (m *Machine) confirm(h *head, org wire.Domain) bool {
	if !includes(h.delivery, org) {
		return false
	}
	news := false
	for i := len(h.trail) - 1; i >= 0; i-- {
		a := &h.trail[i]
		if len(a.change.Add) > 0 && includes(a.change.Add, org) && !m.off.has(ruleFresh) {
			break
		}
		if m.off.has(ruleTwo) {
			a.by[0] = org + ".x" // in this mode one organization is enough
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
			g.trail, _ = m.prune(g.trail)
		}
	}
	return news
}

// decide records that a commit is confirmed. own is the step of this head from the same epoch: the same commit, or
// another one that has lost.
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

// prune drops epochs from a trail that can no longer be contested: their commit is confirmed or older than HeadLife.
// The last epoch, which is the parent of the head, stays in any case. If the trail exceeds the limit, the first
// epochs that are not confirmed stay, and the last ones. After a chain of commits that members cannot process, the
// members are in one of those epochs, unless the maker of the chain has made as many commits that they could process
// before.
//
// prune changes the trail in place: a full trail loses an epoch with each commit, and a copy of it would be the most
// expensive part of the commit. Each trail therefore belongs to one head, and readers get copies. prune reports
// whether a dropped epoch had changed the delivery list.
func (m *Machine) prune(trail []ancestor) (rest []ancestor, changed bool) {
	if len(trail) == 0 {
		return nil, false
	}
	last := len(trail) - 1
	if m.off.has(ruleTrail) {
		return slices.Clone(trail[last:]), last > 0
	}
	rest = trail[:0]
	for i := range trail {
		a := &trail[i]
		switch keep := i == last || !a.confirmed() && m.now-a.at <= HeadLife; {
		case keep && len(rest) == i:
			rest = trail[:i+1] // nothing has been dropped so far
		case keep:
			rest = append(rest, *a)
		default:
			changed = changed || !a.change.IsZero()
			if len(rest) > 0 {
				join(&rest[len(rest)-1], a)
			}
		}
	}
	clear(trail[len(rest):])
	for most := m.mostAncestors(); len(rest) > most; {
		i := 3 * most / 4
		if m.off.has(ruleFirst) {
			i = 0
		}
		changed = changed || !rest[i].change.IsZero()
		if i > 0 {
			join(&rest[i-1], &rest[i])
		}
		rest = slices.Delete(rest, i, i+1)
	}
	return rest, changed
}

func (m *Machine) mostAncestors() int {
	if m.policy.Handshakes == wire.HandshakesPublic {
		return MaxPublicAncestors
	}
	return MaxAncestors
}

// join makes a's step lead to where b's step leads, since b is dropped. a keeps the evidence of its own commit only.
func join(a, b *ancestor) {
	if !b.change.IsZero() {
		a.change = composeChanges(a.change, b.change)
	}
}

// extend replaces the ended epoch by the epoch that a commit opens. It reports whether ancestors were dropped that
// had changed the delivery list: without such a change, the same organizations take part and hold replicas.
func (m *Machine) extend(p *plan) bool {
	h, next := p.from, p.next
	next.seq, next.used = m.seq, m.now
	next.parent.winner = m.seq
	org := p.entry.Proposer.Organization()
	if n := len(h.trail); n > 0 && h.trail[n-1].by[0] == org {
		org = h.trail[n-1].by[0] // the same bytes: one copy in memory, and a fast comparison in confirm
	}
	trail := append(h.trail, ancestor{
		point: next.parent, child: m.seq, at: m.now, change: next.change, by: [2]wire.Domain{org},
	})
	var changed bool
	next.trail, changed = m.prune(trail)
	next.branch = h.branch
	m.replaceHead(h, next)
	return changed
}

// branchOff opens an additional head. It marks the heads that have left the contested epoch by another child.
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

// expireBranches drops heads that are no longer needed, but never the open head that was used last.
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

// updateHolders finds the organizations that are to hold replicas although they no longer take part. A commit of
// another organization has removed them, and they could still contest it, because no other organization has confirmed
// the commit. Otherwise a commit that removes all others would end the conversation for them. updateHolders reports
// whether the list has changed.
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
