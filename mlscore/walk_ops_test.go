package mlscore

import (
	"fmt"
	"slices"
)

// operation is a step of a walk; do reports whether the step was possible.
type operation struct {
	name   string
	weight int
	do     func() bool
}

func (w *walk) operations() []operation {
	return []operation{
		{"talk", 3, w.talk},
		{"deliver letters", 3, w.deliverLetters},
		{"tamper", 1, w.tamper},
		{"restart", 2, w.restartSome},
		{"propose update", 2, w.proposeUpdate},
		{"propose add", 1, w.proposeAdd},
		{"propose remove", 1, w.proposeRemove},
		{"propose psk", 1, w.proposePSK},
		{"propose extensions", 1, w.proposeExtensions},
		{"propose custom", 1, w.proposeCustom},
		{"leave", 1, w.leave},
		{"external proposal", 1, w.externalProposal},
		{"new member proposal", 1, w.newMemberProposal},
		{"commit what waits", 2, w.commitWaiting},
		{"commit nothing", 1, w.commitNothing},
		{"add many", 2, w.addMany},
		{"remove many", 2, w.removeMany},
		{"commit without path", 1, w.commitWithoutPath},
		{"commit of all kinds", 1, w.commitAllKinds},
		{"rotate", 1, w.rotateSignatureKey},
		{"race", 2, w.race},
		{"abandon", 1, w.abandon},
		{"external join", 1, w.externalJoin},
		{"resync", 1, w.resync},
		{"misuse", 1, w.misuse},
	}
}

// newcomer makes a new walker.
func (w *walk) newcomer() *walker {
	n := &walker{name: fmt.Sprintf("walker %d", w.names), rich: !w.chance(6), past: []int{3, 3, 1, -1}[w.rng.IntN(4)]}
	w.names++
	n.person = newPerson(w.t, n.name, w.suite, func(c *Config) {
		c.Rand = w.keys
		c.Limits.PastEpochs = n.past
		c.Extensions, c.Proposals = []ExtensionType{walkExtension}, []ProposalType{walkProposal}
		c.PathlessProposals = c.Proposals
		if n.rich {
			c.Extensions, c.Proposals = append(c.Extensions, walkRichExtension), append(c.Proposals, walkRichProposal)
		}
	})
	n.past = max(n.past, 0)
	for i := range walkPSKs {
		w.must(n.StorePSK(pskName(i), NewSecret(fmt.Appendf(nil, "secret %d", i))))
	}
	return n
}

func pskName(i int) []byte { return fmt.Appendf(nil, "psk %d", i) }

// guest picks a walker to be added: a new one, or a former member. Once the group has an extension that only rich
// walkers support, only they can be added.
func (w *walk) guest() (*walker, bool) {
	need := w.needsRich()
	for range 8 {
		var g *walker
		if len(w.outside) > 0 && w.chance(2) {
			g = w.pick(w.outside)
		} else {
			g = w.newcomer()
			w.outside = append(w.outside, g)
		}
		if !g.invited && (g.rich || !need) {
			g.invited = true
			return g, true
		}
	}
	return nil, false
}

func (w *walk) needsRich() bool {
	_, need := w.members[0].group.public().context.Extensions.Find(walkRichExtension)
	return need
}

func (w *walk) allRich() bool {
	return !slices.ContainsFunc(w.members, func(m *walker) bool { return !m.rich })
}

// invite makes Add proposals.
func (w *walk) invite(n int) []Proposal {
	var list []Proposal
	for range n {
		if w.resumes {
			break
		}
		g, ok := w.guest()
		if !ok {
			break
		}
		kp, err := g.NewKeyPackage(g.id, KeyPackageOptions{LastResort: w.chance(4)})
		w.must(err)
		w.adds = true
		list = append(list, AddProposal(kp))
	}
	return list
}

// enter records that a walker is in the group.
func (w *walk) enter(m *walker) {
	m.since = m.group.Epoch()
	w.members = append(w.members, m)
	w.most = max(w.most, len(w.members))
	w.outside = slices.DeleteFunc(w.outside, func(o *walker) bool { return o == m })
}

// exit records that a walker has left the group.
func (w *walk) exit(m *walker) {
	w.members = slices.DeleteFunc(w.members, func(o *walker) bool { return o == m })
	w.outside = append(w.outside, m)
}

// publish sends a proposal to all members except its sender, to some of them late.
func (w *walk) publish(from *walker, msg []byte) {
	w.t.Helper()
	for _, m := range w.others(from) {
		if w.chance(12) {
			w.withheld[m] = append(w.withheld[m], msg)
			continue
		}
		r, err := m.group.Process(msg)
		if err != nil {
			w.t.Fatalf("%s does not take a proposal: %v", m.name, err)
		}
		if r.Proposal == nil || r.Proposal.Kind != ContentProposal {
			w.t.Fatalf("%s made %+v of a proposal", m.name, r)
		}
		if w.chance(10) {
			_, err := m.group.Process(msg)
			w.refused("a proposal again", err, ErrReplay)
		}
	}
	if from != nil && w.chance(3) {
		_, err := from.group.Process(msg)
		w.refused("one's own proposal", err, ErrOwnMessage)
	}
	w.follow(msg)
}

// propose makes a member send a proposal.
func (w *walk) propose(m *walker, p Proposal) bool {
	w.t.Helper()
	msg, err := m.group.Propose(p, w.distinct())
	if err != nil {
		w.t.Fatalf("%s proposes %v: %v", m.name, p.Type, err)
	}
	w.publish(m, msg)
	return true
}

// distinct makes a proposal different from earlier ones, since an equal one would be a replay.
func (w *walk) distinct() ProposeOptions {
	return ProposeOptions{AuthenticatedData: fmt.Appendf(nil, "%d", w.rng.Uint32())}
}

func (w *walk) proposeUpdate() bool {
	for _, m := range w.some(w.members, 1+w.rng.IntN(3)) {
		var u LeafUpdate
		if w.chance(3) {
			u = w.newKey(m)
		}
		msg, err := m.group.ProposeUpdate(u, ProposeOptions{})
		w.must(err)
		w.publish(m, msg)
	}
	return true
}

// newKey makes a LeafUpdate with another signature key for a member.
func (w *walk) newKey(m *walker) LeafUpdate {
	key, _, err := GenerateSignatureKey(w.keys, w.suite)
	w.must(err)
	m.id.SignatureKey = key
	id := m.id
	u := LeafUpdate{Identity: &id}
	if w.chance(2) {
		u.Extensions = &Extensions{{walkExtension, []byte{byte(w.rng.IntN(256))}}}
	}
	return u
}

func (w *walk) proposeAdd() bool {
	if len(w.members) >= w.goal() {
		return false
	}
	list := w.invite(1)
	return len(list) > 0 && w.propose(w.pick(w.members), list[0])
}

func (w *walk) proposeRemove() bool {
	if len(w.members) < 4 {
		return false
	}
	two := w.some(w.members, 2)
	return w.propose(two[0], RemoveProposal(two[1].group.Self()))
}

func (w *walk) proposePSK() bool {
	m := w.pick(w.members)
	return w.propose(m, w.psk(m))
}

// psk makes a proposal of an external PSK or, if all members have one, a resumption PSK.
func (w *walk) psk(m *walker) Proposal {
	if w.adds || w.chance(2) {
		p, err := m.group.ExternalPSK(pskName(w.rng.IntN(walkPSKs)))
		w.must(err)
		return p
	}
	w.resumes = true
	first := uint64(0)
	for _, other := range w.members {
		first = max(first, other.since)
	}
	now := w.epoch()
	back := min(now-first, 7)
	p, err := m.group.ResumptionPSK(m.group.GroupID(), now-w.rng.Uint64N(back+1))
	w.must(err)
	return p
}

// extensions makes a list of extensions for the group that all members support.
func (w *walk) extensions() Extensions {
	x := w.members[0].group.Public().Context().Extensions.Without(walkRichExtension)
	x = x.With(Extension{walkExtension, []byte{byte(w.rng.IntN(256))}})
	if w.chance(2) {
		x = x.With(RequiredCapabilities{Extensions: []ExtensionType{walkExtension}, Proposals: []ProposalType{walkProposal}}.Extension())
	} else {
		x = x.Without(ExtensionRequiredCapabilities)
	}
	if w.allRich() && w.chance(2) {
		x = x.With(Extension{walkRichExtension, []byte("rich")})
	}
	return x
}

func (w *walk) proposeExtensions() bool {
	return w.propose(w.pick(w.members), ExtensionsProposal(w.extensions()))
}

func (w *walk) proposeCustom() bool {
	t := walkProposal
	if w.allRich() {
		t = walkRichProposal
	}
	return w.propose(w.pick(w.members), CustomProposal(t, []byte("custom")))
}

func (w *walk) leave() bool {
	if len(w.members) < 4 {
		return false
	}
	m := w.pick(w.members)
	msg, err := m.group.ProposeLeave(w.distinct())
	w.must(err)
	w.publish(m, msg)
	return true
}

// externalProposal makes a proposal by the group's external sender (RFC 9420 §12.1.8.1).
func (w *walk) externalProposal() bool {
	server := w.pick(w.members) // any member: only its Client and its public state are used
	context := server.group.Public().Context()
	p := ExtensionsProposal(w.extensions())
	switch w.rng.IntN(3) {
	case 0:
		if list := w.invite(1); len(list) > 0 && len(w.members) < w.goal() {
			p = list[0]
		}
	case 1:
		leaf := w.pick(w.members).group.Self()
		known := slices.ContainsFunc(server.group.Public().Pending(), func(p WaitingProposal) bool {
			return p.Type == ProposalRemove && p.Remove == leaf
		})
		if len(w.members) > 3 && !known && len(w.withheld) == 0 {
			p = RemoveProposal(leaf)
		}
	}
	msg, err := ProposeExternally(0, w.sender, context, p)
	w.must(err)
	w.publish(nil, msg)
	return true
}

// newMemberProposal makes a proposal by a client to add itself (§12.1.8).
func (w *walk) newMemberProposal() bool {
	if w.resumes || len(w.members) >= w.goal() {
		return false
	}
	g, ok := w.guest()
	if !ok {
		return false
	}
	msg, _, err := g.ProposeSelf(g.id, w.members[0].group.Public().Context(), KeyPackageOptions{})
	w.must(err)
	w.adds = true
	w.publish(nil, msg)
	return true
}

// talk sends application messages, which arrive at a random later time.
func (w *walk) talk() bool {
	m := w.pick(w.members)
	if len(m.group.Public().Pending()) > 0 {
		_, err := m.group.Protect(nil, MessageOptions{})
		w.refused("talking while proposals wait", err, ErrMisuse)
	}
	for range 1 + w.rng.IntN(5) {
		w.write(m)
	}
	return true
}

func (w *walk) write(m *walker) *letter {
	w.t.Helper()
	l := &letter{epoch: m.group.Epoch(), from: m, data: fmt.Sprintf("%s, epoch %d: %d", m.name, m.group.Epoch(), w.rng.Uint32())}
	var err error
	l.msg, err = m.group.Protect([]byte(l.data), MessageOptions{DespiteProposals: true, AuthenticatedData: []byte("seen by all")})
	w.must(err)
	l.to = w.some(w.members, 12)
	w.letters = append(w.letters, l)
	return l
}

// deliverLetters delivers some of the letters in transit, in random order.
func (w *walk) deliverLetters() bool {
	if len(w.letters) == 0 {
		return false
	}
	for range 1 + w.rng.IntN(10) {
		l := w.letters[w.rng.IntN(len(w.letters))]
		if len(l.had) > 0 && (len(l.to) == 0 || w.chance(8)) {
			w.deliver(l, w.pick(l.had))
			continue
		}
		if len(l.to) > 0 {
			at := w.rng.IntN(len(l.to))
			m := l.to[at]
			l.to = slices.Delete(l.to, at, at+1)
			w.deliver(l, m)
			l.had = append(l.had, m)
		}
	}
	w.letters = slices.DeleteFunc(w.letters, func(l *letter) bool { return l.epoch+6 < w.epoch() })
	return true
}

// deliver delivers a letter to a walker and checks the result: every walker reads it once, within the number of past
// epochs that the walker keeps (§15.3).
func (w *walk) deliver(l *letter, m *walker) {
	w.t.Helper()
	if !slices.Contains(w.members, m) {
		return
	}
	r, err := m.group.Process(l.msg)
	switch age := m.group.Epoch() - l.epoch; {
	case m.since > l.epoch, age > uint64(m.past):
		w.refused("a letter from before", err, ErrStale)
	case m == l.from:
		w.refused("one's own letter", err, ErrOwnMessage)
	case slices.Contains(l.had, m):
		w.refused("a letter again", err, ErrReplay)
	case err != nil:
		w.t.Fatalf("%s, at epoch %d, cannot read a letter of %s from epoch %d: %v", m.name, m.group.Epoch(), l.from.name, l.epoch, err)
	default:
		a := r.Application
		if a == nil || string(a.Data) != l.data || a.Epoch != l.epoch || string(a.Sender.Credential.Identity) != l.from.name {
			w.t.Fatalf("%s reads %+v in %q", m.name, a, l.data)
		}
	}
}

// tamper flips a bit of a letter and of a handshake, and checks that every member refuses them and does not change.
func (w *walk) tamper() bool {
	if len(w.members) < 2 {
		return false
	}
	two := w.some(w.members, 2)
	from, to := two[0], two[1]
	l := w.write(from)
	c, err := from.group.Commit(CommitOptions{OnlyThese: true, OmitPath: w.chance(2)})
	w.must(err)
	for _, msg := range [][]byte{l.msg, c.Message} {
		before := describeGroup(to.group)
		for range 3 {
			bad := slices.Clone(msg)
			bad[w.rng.IntN(len(bad))] ^= 1 << w.rng.IntN(8)
			_, err := to.group.Process(bad)
			w.refused("a message with a flipped bit", err)
			if after := describeGroup(to.group); after != before {
				w.t.Fatalf("a bad message changed %s: from\n%s\nto\n%s", to.name, before, after)
			}
		}
	}
	w.must(from.group.Abandon())
	return true
}

func (w *walk) restartSome() bool {
	for _, m := range w.some(w.members, 1+w.rng.IntN(4)) {
		w.restart(m)
	}
	return true
}

// restart loads a member's group from its store, and compares it with the one in memory.
func (w *walk) restart(m *walker) {
	w.t.Helper()
	g, err := m.LoadGroup(m.group.GroupID())
	if err != nil {
		w.t.Fatalf("%s restarts: %v", m.name, err)
	}
	if before, after := describeGroup(m.group), describeGroup(g); before != after {
		w.t.Fatalf("%s is another after a restart:\n%s\nbefore, and after:\n%s", m.name, before, after)
	}
	m.group = g
}
