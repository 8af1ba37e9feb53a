package mlscore

import (
	"errors"
	"slices"
	"strings"
)

// commitment is a commit in transit.
type commitment struct {
	by     *walker
	commit *Commit
	tree   []byte // for newcomers, if the Welcome does not hold the tree
	others []*walker
}

// commit makes a commit and checks that it contains or reports every waiting proposal.
func (w *walk) commit(m *walker, opts CommitOptions) *commitment {
	w.t.Helper()
	waiting := len(m.group.Public().Pending())
	inside := w.chance(2)
	opts.WelcomeInfo.Tree = inside
	opts.AuthenticatedData = []byte("delivery list")
	opts.GroupInfo = GroupInfoOptions{Tree: w.chance(2), External: true}
	c, err := m.group.Commit(opts)
	if err != nil {
		w.t.Fatalf("%s commits: %v", m.name, err)
	}
	taken := len(c.Staged.Effects().Proposals) - len(opts.Proposals)
	if !opts.OnlyThese && taken+len(c.Skipped) != waiting {
		w.t.Fatalf("of %d proposals that wait, %d are committed and %d skipped: %v", waiting, taken, len(c.Skipped), c.Skipped)
	}
	for _, err := range c.Skipped {
		w.note("skipped: %v", err)
	}
	out := &commitment{by: m, commit: c, others: w.others(m)}
	if !inside {
		out.tree, err = c.Staged.Public().Tree()
		w.must(err)
	}
	return out
}

// settle delivers the winning commit to all members, lets newcomers join, and compares all members.
func (w *walk) settle(c *commitment) {
	w.t.Helper()
	effects := c.commit.Staged.Effects()
	summary := summarize(effects)
	authenticator := c.commit.Staged.EpochAuthenticator()
	w.note("%s commits: %s", c.by.name, summary)
	if w.chance(4) {
		w.restart(c.by)
	}
	w.mergeOwn(c.by, c.commit.Message)
	w.follow(c.commit.Message)
	for _, m := range w.some(c.others, len(c.others)) {
		if w.chance(15) {
			l := w.write(c.by)
			l.to = w.others()
			_, err := m.group.Process(l.msg)
			w.refused("a letter from the next epoch", err, ErrFuture)
		}
		w.receiveCommit(m, c.commit.Message, summary, authenticator)
	}
	w.letIn(c, effects)
	w.endEpoch()
}

// mergeOwn merges an own commit when the commit comes back.
func (w *walk) mergeOwn(m *walker, msg []byte) {
	w.t.Helper()
	r, err := m.group.Process(msg)
	if err != nil {
		w.t.Fatalf("%s does not know its own commit: %v", m.name, err)
	}
	if pending, ok := m.group.Pending(); !ok || r.Commit != pending || !pending.Own() {
		w.t.Fatalf("%s takes its own commit for another", m.name)
	}
	w.must(m.group.Merge(r.Commit))
}

// receiveCommit makes a member process and merge a commit, after the proposals that arrived late.
func (w *walk) receiveCommit(m *walker, msg []byte, summary string, authenticator []byte) {
	w.t.Helper()
	r, err := m.group.Process(msg)
	var missing *MissingProposal
	if errors.As(err, &missing) && errors.Is(err, ErrMissing) && len(w.withheld[m]) > 0 {
		for _, p := range w.withheld[m] {
			if _, err := m.group.Process(p); err != nil {
				w.t.Fatalf("%s does not take a late proposal: %v", m.name, err)
			}
		}
		r, err = m.group.Process(msg)
	}
	if err != nil {
		w.t.Fatalf("%s cannot process a commit: %v", m.name, err)
	}
	if got := summarize(r.Commit.Effects()); got != summary {
		w.t.Fatalf("%s sees\n%s\nthe committer\n%s", m.name, got, summary)
	}
	staged := r.Commit
	if w.chance(20) { // the member restarts in between, and gets the commit again
		w.restart(m)
		r, err = m.group.Process(msg)
		w.must(err)
		w.refused("what was staged before a restart", m.group.Merge(staged), ErrStale)
		staged = r.Commit
	}
	out := staged.RemovesSelf()
	if !out && string(staged.EpochAuthenticator()) != string(authenticator) {
		w.t.Fatalf("%s would enter another epoch than the committer", m.name)
	}
	w.must(m.group.Merge(staged))
	if _, pending := m.group.Pending(); pending {
		w.t.Fatalf("%s still has a commit of its own pending", m.name)
	}
	if out {
		w.removed(m, msg)
	}
}

// removed checks that a removed member has no state of the group.
func (w *walk) removed(m *walker, msg []byte) {
	w.t.Helper()
	if m.group.Active() {
		w.t.Fatalf("%s was removed and is active", m.name)
	}
	_, err := m.group.Process(msg)
	w.refused("a message after the removal", err, ErrGroupEnded)
	_, err = m.group.Protect(nil, MessageOptions{})
	w.refused("sending after the removal", err, ErrGroupEnded)
	prefix := string(groupPrefix(groupName{id: m.group.GroupID()}))
	for key := range m.store.records {
		if strings.HasPrefix(key, prefix) {
			w.t.Fatalf("%s was removed and still stores %q", m.name, key)
		}
	}
	w.exit(m)
}

// letIn makes the newcomers of a commit join.
func (w *walk) letIn(c *commitment, effects *Effects) {
	w.t.Helper()
	if (len(effects.Added) > 0) != (c.commit.Welcome != nil) {
		w.t.Fatalf("%d are added, the Welcome has %d bytes", len(effects.Added), len(c.commit.Welcome))
	}
	for _, added := range effects.Added {
		at := slices.IndexFunc(w.outside, func(o *walker) bool { return o.name == string(added.Credential.Identity) })
		if at < 0 {
			w.t.Fatalf("%s was added and is not waiting outside", added.Credential.Identity)
		}
		m := w.outside[at]
		g, err := m.Join(c.commit.Welcome, JoinOptions{GroupOptions: w.options(), Tree: c.tree})
		if err != nil {
			w.t.Fatalf("%s cannot join: %v", m.name, err)
		}
		m.group = g
		if g.Self() != added.Leaf {
			w.t.Fatalf("%s is at leaf %d, the commit says %d", m.name, g.Self(), added.Leaf)
		}
		w.enter(m)
		w.checkKeyPackageUsed(m, effects)
	}
}

// checkKeyPackageUsed checks that a join consumes its KeyPackage, unless it is a last resort (§10).
func (w *walk) checkKeyPackageUsed(m *walker, effects *Effects) {
	w.t.Helper()
	for _, p := range effects.Proposals {
		if p.Type != ProposalAdd || string(p.Add.LeafNode.Credential.Identity) != m.name {
			continue
		}
		ref, err := p.Add.Ref()
		w.must(err)
		if _, kept := m.store.records[string(keyPackageKey(ref))]; kept != p.Add.LastResort() {
			w.t.Fatalf("%s has joined; its KeyPackage is kept: %v, a last resort: %v", m.name, kept, p.Add.LastResort())
		}
	}
}

// endEpoch drops the walk's state of the epoch that ended, and compares all members.
func (w *walk) endEpoch() {
	w.t.Helper()
	clear(w.withheld)
	w.adds, w.resumes = false, false
	for _, o := range append(slices.Clone(w.outside), w.members...) {
		o.invited = false
	}
	w.commits++
	w.check()
}

func (w *walk) commitWaiting() bool {
	w.settle(w.commit(w.pick(w.members), CommitOptions{}))
	return true
}

func (w *walk) commitNothing() bool {
	w.settle(w.commit(w.pick(w.members), CommitOptions{OnlyThese: true}))
	return true
}

func (w *walk) addMany() bool {
	room := w.goal() - len(w.members)
	if room <= 0 {
		return false
	}
	list := w.invite(1 + w.rng.IntN((room+1)/2))
	if len(list) == 0 {
		return false
	}
	w.settle(w.commit(w.pick(w.members), CommitOptions{Proposals: list, OmitPath: w.chance(2)}))
	return true
}

func (w *walk) removeMany() bool {
	over := len(w.members) - w.goal()
	n := 1
	if over > 1 {
		n = 1 + w.rng.IntN(over)
	}
	if len(w.members)-n < 2 {
		return false
	}
	m := w.pick(w.members)
	others := w.some(w.others(m), len(w.members))
	if w.chance(2) { // from the right, so that the tree shrinks
		slices.SortFunc(others, func(a, b *walker) int { return int(b.group.Self()) - int(a.group.Self()) })
	}
	var list []Proposal
	for _, o := range others[:n] {
		list = append(list, RemoveProposal(o.group.Self()))
	}
	w.settle(w.commit(m, CommitOptions{Proposals: list, OnlyThese: w.chance(2)}))
	return true
}

// commitWithoutPath commits proposals that need no path: PSKs, Adds, custom proposals.
func (w *walk) commitWithoutPath() bool {
	m := w.pick(w.members)
	list := []Proposal{w.psk(m), CustomProposal(walkProposal, nil)}
	if len(w.members) < w.goal() {
		list = append(list, w.invite(1)...)
	}
	c := w.commit(m, CommitOptions{Proposals: list, OnlyThese: true, OmitPath: true})
	before := m.group.Public().tree.leafBody(m.group.Self())
	if c.commit.Staged.Public().tree.leafBody(m.group.Self()) != before {
		w.t.Fatal("a commit without a path changed the committer's leaf")
	}
	w.settle(c)
	return true
}

// commitAllKinds puts as many kinds of proposals into one commit as are allowed together.
func (w *walk) commitAllKinds() bool {
	if len(w.members) < 3 {
		return false
	}
	two := w.some(w.members, 2)
	list := []Proposal{w.psk(two[0]), RemoveProposal(two[1].group.Self()), CustomProposal(walkProposal, []byte("x"))}
	list = append(list, w.invite(1)...)
	list = append(list, ExtensionsProposal(w.members[0].group.Public().Context().Extensions))
	w.rng.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
	w.settle(w.commit(two[0], CommitOptions{Proposals: list}))
	return true
}

// rotateSignatureKey commits with another signature key.
func (w *walk) rotateSignatureKey() bool {
	m := w.pick(w.members)
	c := w.commit(m, CommitOptions{Leaf: w.newKey(m), OmitPath: true})
	pub, err := m.group.suite.signaturePublicKey(m.id.SignatureKey.Bytes())
	w.must(err)
	w.settle(c)
	if me, ok := m.group.Public().Member(m.group.Self()); !ok || string(me.SignatureKey) != string(pub) {
		w.t.Fatalf("%s has not got the signature key that it asked for", m.name)
	}
	return true
}

// race makes several members commit in one epoch. One of them wins, and the others' commits are void.
func (w *walk) race() bool {
	if len(w.members) < 3 {
		return false
	}
	var all []*commitment
	for _, m := range w.some(w.members, 2+w.rng.IntN(3)) {
		opts := CommitOptions{OmitPath: w.chance(3)}
		if w.chance(2) && len(w.members) < w.goal() {
			opts.Proposals = w.invite(1)
		}
		all = append(all, w.commit(m, opts))
	}
	winner := all[w.rng.IntN(len(all))]
	losers := slices.DeleteFunc(slices.Clone(all), func(c *commitment) bool { return c == winner })
	for _, l := range losers {
		// One member receives the losing commit first; the loser itself restarts or tries again.
		if o := w.pick(w.others(l.by)); o != winner.by {
			_, err := o.group.Process(l.commit.Message)
			if len(w.withheld[o]) == 0 {
				w.must(err)
			}
		}
		switch w.rng.IntN(3) {
		case 0:
			w.restart(l.by)
		case 1:
			l.commit = w.commit(l.by, CommitOptions{OnlyThese: true}).commit
		}
	}
	w.settle(winner)
	for _, l := range losers {
		if !slices.Contains(w.members, l.by) {
			continue // the winner removed this member
		}
		w.refused("to merge a commit that lost", l.by.group.Merge(l.commit.Staged), ErrStale)
		_, err := w.pick(w.members).group.Process(l.commit.Message)
		w.refused("a commit that lost", err, ErrStale)
	}
	return true
}

// abandon abandons a commit, as after a refusal by the delivery service.
func (w *walk) abandon() bool {
	m := w.pick(w.members)
	before := describeGroup(m.group)
	c := w.commit(m, CommitOptions{})
	if w.chance(2) {
		w.restart(m)
	}
	w.must(m.group.Abandon())
	if _, pending := m.group.Pending(); pending {
		w.t.Fatal("a commit that was given up is still pending")
	}
	if m.group.options.PublicHandshakes && describeGroup(m.group) != before {
		w.t.Fatal("a commit that was given up left something behind")
	}
	w.refused("to merge a commit that was given up", m.group.Merge(c.commit.Staged))
	w.restart(m)
	return true
}

// externalJoin makes a client join by an external commit (§12.4.3.2).
func (w *walk) externalJoin() bool {
	if len(w.members) >= w.goal() {
		return false
	}
	g, ok := w.guest()
	if !ok {
		return false
	}
	w.joinExternally(g, ExternalOptions{})
	return true
}

// resync makes a member who lost its state come back.
func (w *walk) resync() bool {
	m := w.pick(w.members)
	old := m.group
	w.joinExternally(m, ExternalOptions{Resync: true})
	w.refused("the earlier state of who came back", old.Merge(&StagedCommit{base: nil}), ErrStale)
	return true
}

func (w *walk) joinExternally(m *walker, opts ExternalOptions) {
	w.t.Helper()
	helper := w.pick(w.members)
	if opts.Resync && w.chance(2) {
		key, _, err := GenerateSignatureKey(w.keys, w.suite)
		w.must(err)
		m.id.SignatureKey = key
	}
	inside := w.chance(2)
	info, err := helper.group.GroupInfo(GroupInfoOptions{Tree: inside, External: true})
	w.must(err)
	if !inside {
		opts.Tree, err = helper.group.Public().Tree()
		w.must(err)
	}
	if w.chance(2) {
		opts.PSKs = []PreSharedKeyID{{Type: PSKExternal, ID: pskName(w.rng.IntN(walkPSKs))}}
	}
	opts.GroupOptions = w.options()
	x, err := m.ExternalJoin(m.id, info, opts)
	if err != nil {
		w.t.Fatalf("%s joins by itself: %v", m.name, err)
	}
	summary := summarize(x.Effects)
	w.note("%s: %s", m.name, summary)
	w.follow(x.Message)
	for _, o := range w.others(m) {
		w.receiveCommit(o, x.Message, summary, x.group.EpochAuthenticator())
	}
	if opts.Resync {
		w.exit(m)
	}
	m.group, err = x.Complete()
	w.must(err)
	_, err = x.Complete()
	w.refused("to enter a group twice", err, ErrMisuse)
	w.enter(m)
	w.endEpoch()
}

// misuse tries operations that no member may make.
func (w *walk) misuse() bool {
	m, other := w.pick(w.members), w.pick(w.members)
	before := describeGroup(m.group)
	kp, err := other.NewKeyPackage(other.id, KeyPackageOptions{})
	w.must(err)
	for what, p := range map[string]Proposal{
		"to add a member":              AddProposal(kp),
		"to remove oneself":            RemoveProposal(m.group.Self()),
		"to remove nobody":             RemoveProposal(1 << 20),
		"an extension that few have":   ExtensionsProposal(Extensions{{0xff77, nil}}),
		"a proposal that few know":     CustomProposal(0xff77, nil),
		"a PSK that nobody has":        {Type: ProposalPSK, PSK: &PreSharedKeyID{Type: PSKExternal, ID: []byte("none"), Nonce: make([]byte, m.group.suite.hashLen())}},
		"a GroupContext with a tree":   ExtensionsProposal(Extensions{{ExtensionRatchetTree, nil}}),
		"a proposal without a content": {Type: ProposalAdd},
	} {
		_, err := m.group.Commit(CommitOptions{Proposals: []Proposal{p}, OnlyThese: true})
		w.refused(what, err, ErrInvalid, ErrMissing, ErrMisuse)
	}
	if describeGroup(m.group) != before {
		w.t.Fatalf("a commit that was refused changed %s", m.name)
	}
	return true
}
