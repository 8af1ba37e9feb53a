package mlscore

import (
	"errors"
	"fmt"
	"testing"
)

// life is the sequence of events in the crash tests.
type life struct {
	*hero
	alice, bob *person
	options    GroupOptions
	public     bool
}

const (
	mainGroup   = "main"
	secondGroup = "second"
	subGroup    = "sub"
	nextGroup   = "next"
)

// crashLife runs the life with one failing write, and returns the number of writes.
func crashLife(t *testing.T, public bool, at int, kind crashKind) int {
	l := &life{
		hero:    newHero(t, at, kind),
		alice:   newPerson(t, "alice", 1),
		bob:     newPerson(t, "bob", 1),
		options: GroupOptions{PublicHandshakes: public},
		public:  public,
	}
	for _, step := range []func(){
		l.found, l.talk, l.update, l.race, l.giveUp, l.rename,
		l.joinSecond, l.branch, l.resync, l.leaveSecond, l.reinit, l.tidy,
	} {
		step()
	}
	l.checkGenerations()
	if at > 0 && l.store.count < at {
		t.Fatalf("%d writes, none of which went wrong", l.store.count)
	}
	return l.store.count
}

func (l *life) group() *Group { return l.groups[mainGroup] }

func (l *life) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// agree checks that all are in the same epoch, and that hero's stored state is in that epoch too.
func (l *life) agree(people ...*person) {
	l.t.Helper()
	me := &person{group: l.group(), id: l.id}
	agree(l.t, append([]*person{me}, people...)...)
	g, err := l.client.LoadGroup([]byte(mainGroup))
	l.must(err)
	if describeGroup(g) != describeGroup(l.group()) {
		l.t.Fatal("what is stored differs from what is in memory")
	}
}

// take makes hero process and merge a commit. After a crash hero must know that the commit was merged.
func (l *life) take(id, what string, msg []byte) {
	l.t.Helper()
	epoch := l.groups[id].Epoch()
	l.do(what, func() error {
		r, err := l.groups[id].Process(msg)
		if err != nil {
			return err
		}
		return l.groups[id].Merge(r.Commit)
	}, func() bool {
		g := l.groups[id]
		_, err := g.Process(msg)
		if g.Epoch() != epoch+1 || !errors.Is(err, ErrStale) {
			l.t.Fatalf("%s: at epoch %d after the crash, and %v", what, g.Epoch(), err)
		}
		return true
	})
}

// hear makes hero process a proposal or an application message. After a crash the message is a replay.
func (l *life) hear(what string, msg []byte) {
	l.t.Helper()
	l.do(what, func() error {
		_, err := l.group().Process(msg)
		return err
	}, func() bool {
		if _, err := l.group().Process(msg); !errors.Is(err, ErrReplay) {
			l.t.Fatalf("%s, after the crash: %v", what, err)
		}
		return true
	})
}

// commit makes hero make a commit, which others process, and merge it. After a crash a commit without a Welcome is
// pending; a commit with a Welcome is made again, since the Welcome is lost.
func (l *life) commit(opts CommitOptions, others ...*person) *Commit {
	l.t.Helper()
	var c *Commit
	l.do("commit", func() (err error) {
		c, err = l.group().Commit(opts)
		return err
	}, func() bool {
		pending, ok := l.group().Pending()
		if !ok || string(pending.Message()) != string(l.store.last()) || !pending.Own() {
			l.t.Fatal("the commit is not pending after the crash")
		}
		if len(pending.Effects().Added) > 0 {
			l.must(l.group().Abandon())
			return false
		}
		c = &Commit{Message: pending.Message(), Staged: pending}
		return true
	})
	l.returned = append(l.returned, c.Message)
	for _, o := range others {
		o.receive(l.t, c.Message)
	}
	l.mergeOwn(c.Message)
	return c
}

// mergeOwn makes hero merge its own commit when the commit comes back.
func (l *life) mergeOwn(msg []byte) {
	l.t.Helper()
	l.take(mainGroup, "merge of an own commit", msg)
	if _, pending := l.group().Pending(); pending {
		l.t.Fatal("a commit is pending after it was merged")
	}
}

// entered records a group that hero is in now, unless there is an error.
func (l *life) entered(id string, g *Group, err error) error {
	l.t.Helper()
	if (g == nil) != (err != nil) {
		l.t.Fatalf("a group with an error, or neither: %v", err)
	}
	if err == nil {
		l.groups[id] = g
	}
	return err
}

func (l *life) found() {
	l.do("create", func() error {
		g, err := l.client.CreateGroup(l.id, []byte(mainGroup), CreateOptions{GroupOptions: l.options})
		return l.entered(mainGroup, g, err)
	}, func() bool { return l.group() != nil && l.group().Epoch() == 0 })
	l.do("psk", func() error { return l.client.StorePSK([]byte("psk"), NewSecret([]byte("secret"))) }, again)
	l.must(l.alice.StorePSK([]byte("psk"), NewSecret([]byte("secret"))))
	l.must(l.bob.StorePSK([]byte("psk"), NewSecret([]byte("secret"))))
	c := l.commit(CommitOptions{
		Proposals:   []Proposal{AddProposal(l.alice.keyPackage(l.t)), AddProposal(l.bob.keyPackage(l.t))},
		WelcomeInfo: GroupInfoOptions{Tree: true},
	})
	for _, p := range []*person{l.alice, l.bob} {
		var err error
		p.group, err = p.Join(c.Welcome, JoinOptions{GroupOptions: l.options})
		l.must(err)
	}
	l.agree(l.alice, l.bob)
}

// say makes a member send a message to the group.
func (l *life) say(p *person, text string) []byte {
	l.t.Helper()
	msg, err := p.group.Protect([]byte(text), MessageOptions{DespiteProposals: true})
	l.must(err)
	return msg
}

// write makes hero send a message to the group, and the others read it.
func (l *life) write(text string, to ...*person) {
	l.t.Helper()
	msg := l.message("message", func() ([]byte, error) {
		return l.group().Protect([]byte(text), MessageOptions{DespiteProposals: true})
	})
	for _, p := range to {
		if got := p.receive(l.t, msg).Application; string(got.Data) != text {
			l.t.Fatalf("%q arrives as %q", text, got.Data)
		}
	}
}

// talk sends messages that are skipped, out of order, and late.
func (l *life) talk() {
	var letters [][]byte
	for n := range 4 {
		letters = append(letters, l.say(l.alice, fmt.Sprint("letter ", n)))
	}
	l.hear("a message that skips two", letters[2])
	l.hear("a skipped message", letters[0])
	l.write("one", l.alice, l.bob)
	l.write("two", l.bob, l.alice)
	commit := l.alice.commit(l.t, CommitOptions{}, []*person{l.bob})
	l.take(mainGroup, "merge", commit.Message)
	l.hear("a late message", letters[3])
	l.hear("a late message that was skipped", letters[1])
	l.agree(l.alice, l.bob)
}

// update makes another member commit hero's Update with another signature key.
func (l *life) update() {
	key, _, err := GenerateSignatureKey(nil, 1)
	l.must(err)
	id := l.id
	id.SignatureKey = key
	msg := l.message("update", func() ([]byte, error) {
		return l.group().ProposeUpdate(LeafUpdate{Identity: &id}, ProposeOptions{})
	})
	l.alice.receive(l.t, msg)
	l.bob.receive(l.t, msg)
	l.take(mainGroup, "merge of an own update", l.bob.commit(l.t, CommitOptions{}, []*person{l.alice}).Message)
	pub, err := suites[0].signaturePublicKey(key.Bytes())
	l.must(err)
	if me, ok := l.group().Public().Member(l.group().Self()); !ok || string(me.SignatureKey) != string(pub) {
		l.t.Fatal("the update has not been made")
	}
	l.id = id
	l.write("with the new key", l.alice, l.bob)
	l.agree(l.alice, l.bob)
}

// race makes proposals from two sides, and a commit by hero that loses.
func (l *life) race() {
	psk, err := l.group().ExternalPSK([]byte("psk"))
	l.must(err)
	mine := l.message("proposal", func() ([]byte, error) { return l.group().Propose(psk, ProposeOptions{}) })
	l.alice.receive(l.t, mine)
	l.bob.receive(l.t, mine)
	theirs, err := l.alice.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	l.must(err)
	l.bob.receive(l.t, theirs)
	l.hear("a proposal", theirs)
	if n := len(l.group().Public().Pending()); n != 2 {
		l.t.Fatalf("%d proposals wait, want 2", n)
	}
	loser := l.message("commit that loses", func() ([]byte, error) {
		c, err := l.group().Commit(CommitOptions{})
		if err != nil {
			return nil, err
		}
		return c.Message, nil
	})
	l.take(mainGroup, "merge of the commit that wins", l.bob.commit(l.t, CommitOptions{}, []*person{l.alice}).Message)
	if _, err := l.alice.group.Process(loser); !errors.Is(err, ErrStale) {
		l.t.Fatalf("the commit that lost: %v", err)
	}
	l.agree(l.alice, l.bob)
	l.commit(CommitOptions{}, l.alice, l.bob)
	l.agree(l.alice, l.bob)
}

// giveUp makes a commit that the delivery service refuses.
func (l *life) giveUp() {
	l.message("commit to be given up", func() ([]byte, error) {
		c, err := l.group().Commit(CommitOptions{OmitPath: true})
		if err != nil {
			return nil, err
		}
		return c.Message, nil
	})
	l.do("give up", func() error { return l.group().Abandon() }, func() bool {
		_, pending := l.group().Pending()
		return !pending
	})
	l.write("in the old epoch still", l.alice, l.bob)
	l.agree(l.alice, l.bob)
}

// rename makes hero change its leaf by a commit, and send a message in the next epoch.
func (l *life) rename() {
	key, _, err := GenerateSignatureKey(nil, 1)
	l.must(err)
	l.id.SignatureKey = key
	id := l.id
	l.commit(CommitOptions{Leaf: LeafUpdate{Identity: &id}}, l.alice, l.bob)
	l.write("again", l.alice, l.bob)
	l.agree(l.alice, l.bob)
}

// joinSecond makes hero join another group by a Welcome, with a PSK.
func (l *life) joinSecond() {
	var kp *KeyPackage
	l.do("key package", func() (err error) {
		kp, err = l.client.NewKeyPackage(l.id, KeyPackageOptions{})
		return err
	}, again)
	founder := &person{Client: l.alice.Client, id: l.alice.id, store: l.alice.store}
	g, err := founder.CreateGroup(founder.id, []byte(secondGroup), CreateOptions{GroupOptions: l.options})
	l.must(err)
	psk, err := g.ExternalPSK([]byte("psk"))
	l.must(err)
	c, err := g.Commit(CommitOptions{Proposals: []Proposal{psk, AddProposal(kp)}, WelcomeInfo: GroupInfoOptions{Tree: true}})
	l.must(err)
	l.must(g.Merge(c.Staged))
	l.do("join", func() error {
		g, err := l.client.Join(c.Welcome, JoinOptions{GroupOptions: l.options})
		return l.entered(secondGroup, g, err)
	}, func() bool {
		_, err := l.client.Join(c.Welcome, JoinOptions{})
		if !errors.Is(err, ErrNotForUs) {
			l.t.Fatalf("the Welcome after the crash: %v", err)
		}
		return l.groups[secondGroup] != nil
	})
	l.sameEpoch(secondGroup, g)
}

func (l *life) sameEpoch(id string, other *Group) {
	l.t.Helper()
	if mine := l.groups[id]; string(mine.EpochAuthenticator()) != string(other.EpochAuthenticator()) {
		l.t.Fatalf("group %s: hero is at epoch %d and the others, at %d, have another", id, mine.Epoch(), other.Epoch())
	}
}

// derived makes hero found a group from the main one, which alice and bob join.
func (l *life) derived(what, id string, found func(FoundOptions) (*Founding, error), members ...*person) {
	l.t.Helper()
	var welcome []byte
	l.do(what, func() error {
		opts := FoundOptions{CreateOptions: CreateOptions{GroupOptions: l.options}, WelcomeInfo: GroupInfoOptions{Tree: true}}
		for _, p := range members {
			opts.KeyPackages = append(opts.KeyPackages, p.keyPackage(l.t))
		}
		f, err := found(opts)
		if err == nil {
			l.groups[id], welcome = f.Group, f.Welcome
		}
		return err
	}, func() bool {
		welcome = l.store.last()
		return l.groups[id] != nil
	})
	if string(welcome) != string(l.store.last()) {
		l.t.Fatalf("%s: the store was not given the Welcome", what)
	}
	l.store.sent = l.store.sent[:len(l.store.sent)-1] // the remaining entries are messages of groups
	if l.groups[id].Epoch() != 1 {
		l.t.Fatalf("%s: the new group is at epoch %d", what, l.groups[id].Epoch())
	}
	for _, p := range members {
		g, err := p.Join(welcome, JoinOptions{GroupOptions: l.options})
		l.must(err)
		l.sameEpoch(id, g)
	}
}

// branch makes hero found a subgroup with alice (RFC 9420 §11.3).
func (l *life) branch() {
	l.derived("branch", subGroup, func(opts FoundOptions) (*Founding, error) {
		return l.group().Branch([]byte(subGroup), opts)
	}, l.alice)
}

// resync makes hero come back by an external commit. If hero crashes before it has entered the group, the commit's
// secrets are lost, and hero comes back once more.
func (l *life) resync() {
	l.do("external commit", func() error {
		info, err := l.alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true})
		l.must(err)
		x, err := l.client.ExternalJoin(l.id, info, ExternalOptions{Resync: true, GroupOptions: l.options, PSKs: []PreSharedKeyID{{Type: PSKExternal, ID: []byte("psk")}}})
		l.must(err)
		l.alice.receive(l.t, x.Message)
		l.bob.receive(l.t, x.Message)
		g, err := x.Complete()
		if err != nil && l.store.kind == writeRefused {
			l.store.at = 0        // the caller got the error
			g, err = x.Complete() // nothing has changed: the same commit can still be completed
		}
		return l.entered(mainGroup, g, err)
	}, func() bool { return l.group().Epoch() == l.alice.group.Epoch() })
	l.agree(l.alice, l.bob)
	l.write("back", l.alice, l.bob)
}

// leaveSecond removes hero from the second group.
func (l *life) leaveSecond() {
	g, err := l.alice.LoadGroup([]byte(secondGroup))
	l.must(err)
	c, err := g.Commit(CommitOptions{Proposals: []Proposal{RemoveProposal(l.groups[secondGroup].Self())}})
	l.must(err)
	l.do("removal", func() error {
		r, err := l.groups[secondGroup].Process(c.Message)
		if err != nil {
			return err
		}
		return l.groups[secondGroup].Merge(r.Commit)
	}, func() bool { return l.groups[secondGroup] == nil })
	delete(l.groups, secondGroup)
	if _, err := l.client.LoadGroup([]byte(secondGroup)); !errors.Is(err, ErrMissing) {
		l.t.Fatalf("hero was removed, and the group is stored: %v", err)
	}
}

// reinit closes the main group, and hero founds its successor (§11.2).
func (l *life) reinit() {
	p := ReInitProposal(ReInit{GroupID: []byte(nextGroup), Version: MLS10, CipherSuite: 1})
	c := l.alice.commit(l.t, CommitOptions{Proposals: []Proposal{p}}, []*person{l.bob})
	l.take(mainGroup, "merge of the ReInit", c.Message)
	if _, closed := l.group().ReInit(); !closed || l.group().Active() {
		l.t.Fatal("the group is not closed")
	}
	l.derived("successor", nextGroup, func(opts FoundOptions) (*Founding, error) {
		return l.group().Successor(opts)
	}, l.alice, l.bob)
}

// tidy makes hero delete the records that it no longer needs.
func (l *life) tidy() {
	l.do("erase", func() error {
		if err := l.groups[mainGroup].Erase(); err != nil {
			return err
		}
		delete(l.groups, mainGroup)
		return nil
	}, func() bool { return l.groups[mainGroup] == nil })
	l.do("delete psk", func() error { return l.client.DeletePSK([]byte("psk")) }, again)
	var kp *KeyPackage
	l.do("key package", func() (err error) {
		kp, err = l.client.NewKeyPackage(l.id, KeyPackageOptions{})
		return err
	}, again)
	ref, err := kp.Ref()
	l.must(err)
	l.do("delete key package", func() error { return l.client.DeleteKeyPackage(ref) }, again)
	if len(l.groups) != 2 {
		l.t.Fatalf("%d groups are left, want 2", len(l.groups))
	}
}
