package mlscore

import (
	"bytes"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// corpusBase is a valid commit by alice.
type corpusBase struct {
	name      string
	proposals func(l *lab) []Proposal
}

var corpusBases = []corpusBase{
	{"nothing", func(*lab) []Proposal { return nil }},
	{"an Add", func(l *lab) []Proposal { return both(AddProposal(l.person("frank").keyPackage(l))) }},
	{"two Adds", func(l *lab) []Proposal {
		return both(AddProposal(l.person("frank").keyPackage(l)), AddProposal(l.person("grace").keyPackage(l)))
	}},
	{"a Remove", func(*lab) []Proposal { return both(RemoveProposal(4)) }},
	{"a Remove and an Add", func(l *lab) []Proposal {
		return both(RemoveProposal(3), AddProposal(l.person("frank").keyPackage(l)))
	}},
	{"extensions", func(*lab) []Proposal {
		return both(Proposal{Type: ProposalGroupContextExtensions, Extensions: Extensions{RequiredCapabilities{Credentials: both(CredentialBasic)}.Extension()}})
	}},
	{"a PSK", func(l *lab) []Proposal { return both(pskProposal(l.psk("corpus", l.people...))) }},
	{"a resumption PSK", func(l *lab) []Proposal { return both(pskProposal(l.resumption(UsageApplication))) }},
}

// corpusChange is one change of a commit. accepted is the reason why nobody refuses the change, if it is not a fault.
type corpusChange struct {
	name     string
	change   func(l *lab, f *forgery)
	accepted string
	framing  string // public or private, for a change that exists only in that framing
}

// cut leaves out the last byte, grown appends a byte.
func cut(b []byte) []byte   { return bytes.Clone(b[:len(b)-1]) }
func grown(b []byte) []byte { return append(bytes.Clone(b), 0) }

// eachChangeOf returns the changes of a byte string in a commit.
func eachChangeOf(name string, set func(f *forgery, edit func([]byte) []byte)) (list []corpusChange) {
	for _, c := range []struct {
		name string
		edit func([]byte) []byte
	}{
		{"one bit", flip}, {"shorter", cut}, {"longer", grown}, {"empty", func([]byte) []byte { return nil }},
		{"zero", func(b []byte) []byte { return make([]byte, len(b)) }},
	} {
		list = append(list, corpusChange{name: name + ": " + c.name, change: func(_ *lab, f *forgery) { set(f, c.edit) }})
	}
	return list
}

// corpusChanges returns all changes.
func corpusChanges() []corpusChange {
	list := []corpusChange{
		{name: "nothing", change: func(*lab, *forgery) {}, accepted: "the commit as its sender makes it"},
		{name: "authenticated data", change: func(_ *lab, f *forgery) {
			f.content = func(c *framedContent) { c.authenticatedData = []byte("from an application") }
		}, accepted: "§6.1 leaves it to the sender's application"},
		{name: "padding", framing: "private", change: func(_ *lab, f *forgery) {
			f.plain = func(b []byte) []byte { return append(b, make([]byte, 40)...) }
		}, accepted: "§6.3.1 leaves its length to the sender"},
	}
	leaf := func(name string, change func(l *lab, leaf *LeafNode)) {
		list = append(list, corpusChange{name: "leaf, " + name, change: func(l *lab, f *forgery) {
			f.leaf = func(leaf *LeafNode) { change(l, leaf) }
		}})
	}
	other := func(l *lab) *LeafNode {
		return must[*LeafNode](l)(parseLeafNode(l.people[0].group.public().tree.leafBody(2)))
	}
	leaf("another member's encryption key", func(l *lab, leaf *LeafNode) { leaf.EncryptionKey = other(l).EncryptionKey })
	leaf("the encryption key of before", func(l *lab, leaf *LeafNode) {
		leaf.EncryptionKey = must[*LeafNode](l)(parseLeafNode(l.people[0].group.public().tree.leafBody(0))).EncryptionKey
	})
	leaf("another member's signature key", func(l *lab, leaf *LeafNode) { leaf.SignatureKey = other(l).SignatureKey })
	leaf("another member's credential", func(l *lab, leaf *LeafNode) { leaf.Credential = other(l).Credential })
	leaf("a stranger's credential", func(_ *lab, leaf *LeafNode) { leaf.Credential = BasicCredential([]byte("mallory")) })
	leaf("a refused credential", func(_ *lab, leaf *LeafNode) { leaf.Credential = BasicCredential([]byte("refused")) })
	leaf("no credentials announced", func(_ *lab, leaf *LeafNode) { leaf.Capabilities.Credentials = nil })
	leaf("an extension that is not announced", func(_ *lab, leaf *LeafNode) {
		leaf.Extensions = Extensions{{Type: 0xf0f0, Data: []byte("x")}}
		leaf.Capabilities.Extensions = nil
	})
	leaf("of a KeyPackage", func(_ *lab, leaf *LeafNode) {
		leaf.Source, leaf.Lifetime = SourceKeyPackage, Lifetime{NotAfter: 1 << 40}
	})
	leaf("of an Update", func(_ *lab, leaf *LeafNode) { leaf.Source = SourceUpdate })

	path := func(name string, change func(p *updatePath)) {
		list = append(list, corpusChange{name: "path, " + name, change: func(_ *lab, f *forgery) { f.path = change }})
	}
	path("without its lowest node", func(p *updatePath) { p.nodes = p.nodes[1:] })
	path("without its highest node", func(p *updatePath) { p.nodes = p.nodes[:len(p.nodes)-1] })
	path("a node twice", func(p *updatePath) { p.nodes = append(p.nodes, p.nodes[0]) })
	path("nodes in the other order", func(p *updatePath) { slices.Reverse(p.nodes) })
	path("a recipient too few", func(p *updatePath) { p.nodes[0].secrets = p.nodes[0].secrets[1:] })
	path("a recipient too many", func(p *updatePath) {
		p.nodes[0].secrets = append(slices.Clone(p.nodes[0].secrets), p.nodes[0].secrets[0])
	})
	path("the secrets of other nodes", func(p *updatePath) {
		first := p.nodes[0].secrets
		for k := range p.nodes[1:] {
			p.nodes[k].secrets = p.nodes[k+1].secrets
		}
		p.nodes[len(p.nodes)-1].secrets = first
	})
	list = append(list, corpusChange{name: "path, all secrets of another context", change: func(_ *lab, f *forgery) {
		f.provisional = func(c *GroupContext) { c.Epoch++ }
	}}, corpusChange{name: "path, all secrets of another tree", change: func(_ *lab, f *forgery) {
		f.provisional = func(c *GroupContext) { c.TreeHash = flip(c.TreeHash) }
	}}, corpusChange{name: "path, keys in the other order", change: func(_ *lab, f *forgery) {
		f.keys = func(keys [][]byte, _ *LeafNode) { copy(keys, append(slices.Clone(keys[1:]), keys[0])) }
	}}, corpusChange{name: "path, one key twice", change: func(_ *lab, f *forgery) {
		f.keys = func(keys [][]byte, _ *LeafNode) { keys[0] = keys[1] }
	}}, corpusChange{name: "path, the leaf's key in a parent", change: func(_ *lab, f *forgery) {
		f.keys = func(keys [][]byte, leaf *LeafNode) { keys[0] = leaf.EncryptionKey }
	}}, corpusChange{name: "no path, where one was made", change: func(_ *lab, f *forgery) {
		f.commit = func(c *commitContent) { c.path = nil }
	}})

	content := func(name string, change func(l *lab, c *framedContent)) {
		list = append(list, corpusChange{name: "content, " + name, change: func(l *lab, f *forgery) {
			f.content = func(c *framedContent) { change(l, c) }
		}})
	}
	content("of the epoch before", func(_ *lab, c *framedContent) { c.epoch-- })
	content("of the next epoch", func(_ *lab, c *framedContent) { c.epoch++ })
	content("of the last epoch there is", func(_ *lab, c *framedContent) { c.epoch = ^uint64(0) })
	content("of another group", func(_ *lab, c *framedContent) { c.groupID = flip(c.groupID) })
	content("of a longer group id", func(_ *lab, c *framedContent) { c.groupID = grown(c.groupID) })
	content("from another member", func(_ *lab, c *framedContent) { c.sender.Index = 2 })
	content("from a leaf outside of the tree", func(_ *lab, c *framedContent) { c.sender.Index = 99 })
	content("a reference to nothing", func(_ *lab, c *framedContent) {
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{ref: make([]byte, 32)})
	})
	content("the committer's Remove", func(_ *lab, c *framedContent) {
		p := RemoveProposal(0)
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p})
	})
	content("a Remove of nobody", func(_ *lab, c *framedContent) {
		p := RemoveProposal(77)
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p})
	})
	content("an Add of a member", func(l *lab, c *framedContent) {
		p := AddProposal(l.people[1].keyPackage(l))
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p})
	})
	content("a ReInit with others", func(_ *lab, c *framedContent) {
		p := ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite})
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p}, proposalOrRef{proposal: &p})
	})
	content("an ExternalInit", func(_ *lab, c *framedContent) {
		p := Proposal{Type: ProposalExternalInit, ExternalInit: make([]byte, 32)}
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p})
	})
	content("a PSK that nobody has", func(l *lab, c *framedContent) {
		p := must[Proposal](l)(PSKProposal(l.people[0].cfg.Rand, labSuite, PreSharedKeyID{Type: PSKExternal, ID: []byte("unknown")}))
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p})
	})
	content("the committer's Update", func(l *lab, c *framedContent) {
		p := l.update(l.people[0])
		c.commit.proposals = append(slices.Clone(c.commit.proposals), proposalOrRef{proposal: &p})
	})

	context := func(name string, change func(c *GroupContext)) {
		list = append(list, corpusChange{name: "signed for another " + name, change: func(_ *lab, f *forgery) { f.context = change }})
	}
	context("epoch", func(c *GroupContext) { c.Epoch++ })
	context("group", func(c *GroupContext) { c.GroupID = flip(c.GroupID) })
	context("tree", func(c *GroupContext) { c.TreeHash = flip(c.TreeHash) })
	context("history", func(c *GroupContext) { c.ConfirmedTranscriptHash = flip(c.ConfirmedTranscriptHash) })
	context("cipher suite", func(c *GroupContext) { c.CipherSuite = 3 })

	list = append(list, eachChangeOf("signature", func(f *forgery, edit func([]byte) []byte) {
		f.sign = func(ac *authenticatedContent) { ac.signature = edit(ac.signature) }
	})...)
	list = append(list, eachChangeOf("confirmation tag", func(f *forgery, edit func([]byte) []byte) {
		f.tag = func(ac *authenticatedContent) { ac.confirmationTag = edit(ac.confirmationTag) }
	})...)
	list = append(list, eachChangeOf("leaf signature", func(f *forgery, edit func([]byte) []byte) {
		f.signed = func(leaf *LeafNode) { leaf.Signature = edit(leaf.Signature) }
	})...)
	list = append(list, eachChangeOf("leaf parent hash", func(f *forgery, edit func([]byte) []byte) {
		f.leaf = func(leaf *LeafNode) { leaf.ParentHash = edit(leaf.ParentHash) }
	})...)
	list = append(list, eachChangeOf("path secret", func(f *forgery, edit func([]byte) []byte) {
		f.secrets = func(_ int, s []byte) []byte { return edit(s) }
	})...)
	list = append(list, eachChangeOf("path ciphertext", func(f *forgery, edit func([]byte) []byte) {
		f.path = eachSecret(func(c *hpkeCiphertext) { c.ciphertext = edit(c.ciphertext) })
	})...)
	list = append(list, eachChangeOf("path KEM output", func(f *forgery, edit func([]byte) []byte) {
		f.path = eachSecret(func(c *hpkeCiphertext) { c.kemOutput = edit(c.kemOutput) })
	})...)
	framed := func(framing string, changes []corpusChange) {
		for _, c := range changes {
			c.framing = framing
			list = append(list, c)
		}
	}
	framed("public", eachChangeOf("membership tag", func(f *forgery, edit func([]byte) []byte) {
		f.public = func(m *publicMessage) { m.membershipTag = edit(m.membershipTag) }
	}))
	framed("private", eachChangeOf("sender data", func(f *forgery, edit func([]byte) []byte) { f.data = edit }))
	framed("private", eachChangeOf("ciphertext", func(f *forgery, edit func([]byte) []byte) {
		f.private = func(m *privateMessage) { m.ciphertext = edit(m.ciphertext) }
	}))
	framed("private", []corpusChange{
		{name: "padding that is not zero", change: func(_ *lab, f *forgery) { f.plain = func(b []byte) []byte { return append(b, 0, 1) } }},
		{name: "content that ends early", change: func(_ *lab, f *forgery) { f.plain = cut }},
		{name: "sender data of another member", change: func(_ *lab, f *forgery) { f.sender = func(d *senderData) { d.leaf = 2 } }},
		{name: "sender data of another generation", change: func(_ *lab, f *forgery) { f.sender = func(d *senderData) { d.generation++ } }},
		{name: "authenticated data that is not what was signed", change: func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.authenticatedData = []byte("x") }
		}},
		{name: "another content type outside", change: func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.kind = ContentApplication }
		}},
	})
	return list
}

// TestLongForgedCorpus makes each valid commit with each change, signed, hashed and tagged like valid content, with
// public and with private handshakes. All members must refuse a faulty commit and not change; all must accept the few
// changes that no clause forbids. A server, and a member that the commit removes, may accept a change that only a
// holder of keys can detect.
func TestLongForgedCorpus(t *testing.T) {
	every := map[string]int{"": 7, "short": 2, "full": 1}[longRun(t)]
	refused, accepted, at := 0, map[string]int{}, 0
	for _, public := range []bool{false, true} {
		framing := map[bool]string{false: "private", true: "public"}[public]
		var l *lab
		for _, base := range corpusBases {
			for _, c := range corpusChanges() {
				at++
				if c.framing != "" && c.framing != framing || at%every != 0 && c.accepted == "" {
					continue
				}
				if l == nil {
					l = newLab(t, public, labOptions{names: fiveNames})
				}
				what := fmt.Sprintf("%s commit with %s, changed: %s", framing, base.name, c.name)
				if c.accepted == "" {
					l.refuseForgery(what, base, c)
					refused++
					continue
				}
				f := (&forgery{by: l.people[0]}).value(base.proposals(l)...)
				c.change(l, f)
				l.takeForgery(what, f)
				accepted[c.name+": "+c.accepted]++
				l = nil
			}
		}
	}
	t.Logf("%d refused; accepted: %v", refused, accepted)
	if most := 1400 / every; refused < most*9/10 {
		t.Errorf("%d forgeries, want some %d", refused, most)
	}
}

// refuseForgery checks that all members and the server refuse a forged commit.
func (l *lab) refuseForgery(what string, base corpusBase, c corpusChange) {
	l.Helper()
	f := (&forgery{by: l.people[0]}).value(base.proposals(l)...)
	c.change(l, f)
	msg := f.message(l)
	for _, p := range l.others(l.people[0]) {
		before := p.snapshot(l)
		r, err := p.group.Process(msg)
		if err == nil && r.Commit.RemovesSelf() && keyedChange(c.name) {
			continue // §12.4.2: no key of the next epoch is for a member who is removed
		}
		var e *Error
		if !errors.As(err, &e) {
			l.Errorf("%s: %s has error %v", what, p.id.Credential.Identity, err)
			continue
		}
		before.requireSame(l, p)
	}
	if l.server == nil {
		return
	}
	context := string(l.server.encoded)
	if _, _, err := l.server.Process(msg); err == nil && !keyedChange(c.name) {
		l.Errorf("%s: the server accepts it", what)
	}
	if string(l.server.encoded) != context {
		l.Fatalf("%s: the server's state changed", what)
	}
}

// keyedChange reports whether only a holder of the group's keys can detect a change: tags and path secrets. A commit
// that needs no path, and whose path was removed, has another confirmation tag.
func keyedChange(name string) bool {
	for _, keyed := range []string{"confirmation tag", "membership tag", "path secret", "path ciphertext", "path KEM output",
		"path, all secrets", "path, the secrets of other nodes", "no path, where one was made", "path, keys in the other order", "content, a PSK that nobody has"} {
		if len(name) >= len(keyed) && name[:len(keyed)] == keyed {
			return true
		}
	}
	return false
}

// takeForgery checks that all members and the server accept a commit and then agree.
func (l *lab) takeForgery(what string, f *forgery) {
	l.Helper()
	msg := f.message(l)
	for _, p := range l.others(l.people[0]) {
		r, err := p.group.Process(msg)
		if err == nil {
			err = p.group.Merge(r.Commit)
		}
		if err != nil {
			l.Fatalf("%s: %s refuses it: %v", what, p.id.Credential.Identity, err)
		}
	}
	members := l.others(l.people[0])
	agree(l, members...)
	if l.server != nil {
		next, _, err := l.server.Process(msg)
		if err != nil {
			l.Fatalf("%s: the server refuses it: %v", what, err)
		}
		if !bytes.Equal(next.encoded, members[0].group.public().encoded) {
			l.Fatalf("%s: the server has another context", what)
		}
	}
}

// flipTarget is an object whose bits are flipped. take returns an error if a receiver refuses the object; explained
// returns the reason why a receiver may accept it with a flipped bit at a place.
type flipTarget struct {
	name      string
	bytes     []byte
	take      func(t *testing.T, b []byte) error
	explained func(at int) string
}

// flipTargets returns one of each kind of object that peers send.
func flipTargets(t *testing.T) (list []flipTarget) {
	none := func(int) string { return "" }
	for _, public := range []bool{false, true} {
		l := newLab(t, public, labOptions{names: fiveNames})
		alice, bob, frank, grace := l.people[0], l.people[1], l.person("frank"), l.person("grace")
		framing := map[bool]string{false: "private ", true: "public "}[public]
		process := func(_ *testing.T, b []byte) error {
			g, err := withStore(bob.Client, bob.store.Clone()).LoadGroup(bob.group.GroupID())
			if err == nil {
				_, err = g.Process(b)
			}
			return err
		}
		list = append(list,
			flipTarget{framing + "proposal", (&forgery{by: alice}).proposal(t, RemoveProposal(3)), process, none},
			flipTarget{framing + "application message", (&forgery{by: alice}).application(t, "text"), process, none})
		packages := [2]*KeyPackage{frank.keyPackage(t), grace.keyPackage(t)}
		c := must[*Commit](t)(alice.group.Commit(CommitOptions{
			Proposals: both(AddProposal(packages[0]), AddProposal(packages[1])),
			GroupInfo: GroupInfoOptions{Tree: true, External: true},
		}))
		list = append(list, flipTarget{framing + "commit", c.Message, process, none})
		if !public {
			continue
		}
		tail := len(c.Message) - 2*(1+32) // confirmation tag and membership tag
		list = append(list, flipTarget{"public commit, at a server", c.Message, func(_ *testing.T, b []byte) error {
			_, _, err := l.server.Process(b)
			return err
		}, func(at int) string {
			if at >= tail {
				return "§6.1, §6.2: a server has no key of the confirmation tag and the membership tag"
			}
			return ""
		}})
		info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		list = append(list, flipTarget{"GroupInfo", info, func(_ *testing.T, b []byte) error {
			_, err := withStore(frank.Client, frank.store.Clone()).ExternalJoin(frank.id, b, ExternalOptions{})
			return err
		}, none})
		message := must[[]byte](t)(packages[0].Message())
		list = append(list, flipTarget{"KeyPackage", message, func(_ *testing.T, b []byte) error {
			kp, err := ParseKeyPackage(b)
			if err == nil {
				err = kp.Verify(KeyPackageRules{Auth: labAuth{}, Now: testTime})
			}
			return err
		}, none})
		if err := alice.group.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		tree := must[[]byte](t)(alice.group.Public().Tree())
		join := func(welcome, tree []byte) error {
			_, err := withStore(frank.Client, frank.store.Clone()).Join(welcome, JoinOptions{Tree: tree})
			return err
		}
		list = append(list,
			flipTarget{"Welcome", c.Welcome, func(_ *testing.T, b []byte) error { return join(b, tree) }, othersSecrets(t, c.Welcome, packages[1])},
			flipTarget{"ratchet tree", tree, func(_ *testing.T, b []byte) error { return join(c.Welcome, b) }, none})
		x := must[*ExternalCommit](t)(frank.ExternalJoin(frank.id, info, ExternalOptions{GroupOptions: alice.group.options}))
		list = append(list, flipTarget{"external commit", x.Message, process, none})
	}
	return list
}

// othersSecrets explains flips in a Welcome's secrets for another recipient.
func othersSecrets(t *testing.T, welcome []byte, other *KeyPackage) func(int) string {
	t.Helper()
	ref := must[[]byte](t)(other.Ref())
	from := bytes.Index(welcome, ref) - 1 // its length
	m := must[*message](t)(parseMessage(welcome, codec.DefaultLimits))
	to := -1
	for _, s := range m.welcome.secrets {
		if bytes.Equal(s.newMember, ref) {
			to = bytes.Index(welcome, s.secrets.ciphertext) + len(s.secrets.ciphertext)
		}
	}
	if from < 0 || to < from {
		t.Fatalf("the other's secrets are at %d to %d", from, to)
	}
	return func(at int) string {
		if at >= from && at < to {
			return "§12.4.3.1: a newcomer has no key of what is for another one"
		}
		return ""
	}
}

// TestLongFlippedBits flips a bit of each kind of object at random places. The receiver must refuse the object,
// unless it cannot detect the change.
func TestLongFlippedBits(t *testing.T) {
	runs := map[string]int{"": 1500, "short": 5000, "full": 30_000}[longRun(t)]
	random := mathrand.New(mathrand.NewPCG(seedOf(t, 9420), 14))
	targets := flipTargets(t)
	for _, target := range targets {
		if err := target.take(t, target.bytes); err != nil {
			t.Fatalf("%s as it is: %v", target.name, err)
		}
	}
	accepted := map[string]int{}
	for n := range runs {
		target := targets[n%len(targets)]
		at := random.IntN(len(target.bytes))
		b := bytes.Clone(target.bytes)
		b[at] ^= 1 << random.IntN(8)
		err := target.take(t, b)
		var e *Error
		switch why := target.explained(at); {
		case err == nil && why == "":
			t.Errorf("%s with byte %d of %d changed from %#x to %#x is accepted", target.name, at, len(b), target.bytes[at], b[at])
		case err == nil:
			accepted[target.name+": "+why]++
		case !errors.As(err, &e):
			t.Errorf("%s with byte %d changed: an error of no kind: %v", target.name, at, err)
		}
	}
	t.Logf("%d flips; accepted: %v", runs, accepted)
	if len(accepted) != 2 {
		t.Errorf("%d kinds of explained flips, want 2", len(accepted))
	}
}
