package mlscore

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// decoderSeeds returns encodings for all decoders, by the names of the decoders: those of a group of real members,
// and the official vectors if present.
func decoderSeeds(t testing.TB) map[string][][]byte {
	t.Helper()
	seedsMade.Do(func() {
		c := &seedCollector{t, map[string][][]byte{}}
		c.groups()
		vectorSeeds(t, c.seeds)
		seedsOfAll = c.seeds
	})
	return seedsOfAll
}

var (
	seedsMade  sync.Once
	seedsOfAll map[string][][]byte
)

// seedCollector collects the parts of messages and stores.
type seedCollector struct {
	testing.TB
	seeds map[string][][]byte
}

// mostSeeds is the maximum number of seeds of a kind: more seeds do not help a fuzzer.
const mostSeeds = 24

func (c *seedCollector) add(name string, b []byte) {
	list := c.seeds[name]
	if len(list) < mostSeeds && !slices.ContainsFunc(list, func(have []byte) bool { return bytes.Equal(have, b) }) {
		c.seeds[name] = append(list, bytes.Clone(b))
	}
}

func (c *seedCollector) encode(name string, encode func(*codec.Writer)) {
	c.Helper()
	var w codec.Writer
	encode(&w)
	b, err := w.Finish()
	if err != nil {
		c.Fatal(err)
	}
	c.add(name, b)
}

// message collects a message and its parts.
func (c *seedCollector) message(b []byte) {
	c.Helper()
	if b == nil {
		return
	}
	c.add("message", b)
	m, err := parseMessage(b, codec.DefaultLimits)
	if err != nil {
		c.Fatal(err)
	}
	switch {
	case m.public != nil:
		c.encode("public message", m.public.encode)
		c.content(m.public.content)
	case m.private != nil:
		c.encode("private message", m.private.encode)
	case m.welcome != nil:
		c.encode("welcome", m.welcome.encode)
	case m.groupInfo != nil:
		c.encode("group info", m.groupInfo.encode)
		c.encode("group context", m.groupInfo.context.encode)
		c.extensions(m.groupInfo.extensions)
		c.extensions(m.groupInfo.context.Extensions)
	case m.keyPackage != nil:
		c.keyPackage(m.keyPackage)
	}
}

func (c *seedCollector) content(f *framedContent) {
	c.encode("sender", f.sender.encode)
	switch f.kind {
	case ContentProposal:
		c.proposal(f.proposal)
	case ContentCommit:
		c.encode("commit", f.commit.encode)
		for _, p := range f.commit.proposals {
			if p.proposal != nil {
				c.proposal(p.proposal)
			}
		}
		if f.commit.path != nil {
			c.encode("update path", f.commit.path.encode)
			c.leaf(f.commit.path.leaf)
		}
	}
}

func (c *seedCollector) proposal(p *Proposal) {
	c.encode("proposal", p.encode)
	switch {
	case p.Add != nil:
		c.keyPackage(p.Add)
	case p.Update != nil:
		c.leaf(p.Update)
	case p.PSK != nil:
		c.encode("psk id", p.PSK.encode)
	}
	c.extensions(p.Extensions)
}

func (c *seedCollector) keyPackage(k *KeyPackage) {
	c.encode("key package", k.encode)
	c.extensions(k.Extensions)
	c.leaf(k.LeafNode)
}

func (c *seedCollector) leaf(l *LeafNode) {
	c.encode("leaf node", l.encode)
	c.encode("stored leaf", l.encode)
	c.encode("credential", l.Credential.encode)
	c.extensions(l.Extensions)
}

func (c *seedCollector) extensions(x Extensions) {
	c.encode("extensions", x.encode)
	for _, e := range x {
		switch e.Type {
		case ExtensionRatchetTree:
			c.add("tree", e.Data)
		case ExtensionRequiredCapabilities:
			c.add("required_capabilities", e.Data)
		case ExtensionExternalPub:
			c.add("external_pub", e.Data)
		case ExtensionExternalSenders:
			c.add("external_senders", e.Data)
		}
	}
}

// store collects all records of a store.
func (c *seedCollector) store(m *MemoryStore) {
	c.Helper()
	names := map[byte]string{
		recordHead: "head", recordPast: "past", recordRatchet: "ratchet", recordSkipped: "message key",
		recordProposal: "cached proposal", recordUpdate: "update", recordPending: "pending",
	}
	err := m.Scan(nil, func(key, value []byte) error {
		switch {
		case key[0] == 'k':
			c.add("key package record", value)
		case key[0] == 'g':
			kind := key[len(groupPrefix(groupName{id: key[5 : 5+int(key[4])]}))]
			if name := names[kind]; name != "" {
				c.add(name, value)
			}
			if kind == recordPast { // in its form before it had a time
				c.add("past", append([]byte{1}, value[1:len(value)-8]...))
			}
			if kind == recordTree && key[len(key)-1] == recordTree {
				c.add("tree record", value)
			} else if kind == recordTree { // a small tree has one piece
				c.add("stored tree", value)
			}
		}
		return nil
	})
	if err != nil {
		c.Fatal(err)
	}
}

// moved collects the encodings of a group that moves to another store.
func (c *seedCollector) moved() {
	c.Helper()
	bob, next := newPerson(c, "bob", labSuite), newPerson(c, "bob", labSuite)
	bob.create(c, CreateOptions{})
	m := &movedRecords{id: bob.group.GroupID()}
	if err := m.collect(bob.store); err != nil {
		c.Fatal(err)
	}
	c.add("moved records", must[[]byte](c)(m.marshal()))
	offer := must[[]byte](c)(next.OfferImport(labSuite))
	c.add("import offer", offer)
	for _, v := range next.store.records {
		c.add("stored import offer", v.Bytes())
	}
	c.add("moved group", must[[]byte](c)(bob.group.MoveOut(offer)))
}

// groups runs groups of several kinds and collects their encodings.
func (c *seedCollector) groups() {
	for _, cs := range []CipherSuite{MLS128X25519AES128Ed25519, MLS128P256AES128P256} {
		publicLife(c, cs, func(p *PublicState, _ PublicConfig) {
			b, err := p.MarshalBinary()
			if err != nil {
				c.Fatal(err)
			}
			c.add("public state", b)
			c.encode("group context", p.context.encode)
			c.extensions(p.context.Extensions)
			for i := range p.proposals {
				c.proposal(&p.proposals[i].Proposal)
				c.add("cached proposal", p.proposals[i].content)
			}
			tree, err := p.Tree()
			if err != nil {
				c.Fatal(err)
			}
			c.add("tree", tree)
		})
		c.group(cs, true)
		c.group(cs, false)
	}
	c.moved()
	ca := newCA(c, "root", nil)
	alice := x509Person(c, "alice", MLS128X25519AES128Ed25519, ca)
	c.keyPackage(alice.keyPackage(c))
	secret := NewSecret(make([]byte, 32))
	for _, g := range []*groupSecrets{
		{joiner: secret},
		{joiner: secret, pathSecret: &secret},
		{joiner: secret, psks: []PreSharedKeyID{
			{Type: PSKExternal, ID: []byte("psk"), Nonce: make([]byte, 32)},
			{Type: PSKResumption, Usage: UsageBranch, GroupID: []byte("g"), Epoch: 3, Nonce: make([]byte, 32)},
		}},
	} {
		c.add("group secrets", g.marshal())
		for _, id := range g.psks {
			c.encode("psk id", id.encode)
		}
	}
}

// group runs one group.
func (c *seedCollector) group(cs CipherSuite, public bool) {
	alice, bob, carol := newPerson(c, "alice", cs), newPerson(c, "bob", cs), newPerson(c, "carol", cs)
	all := []*person{alice, bob, carol}
	required := RequiredCapabilities{Credentials: []CredentialType{CredentialBasic}}.Extension()
	alice.create(c, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: public, Padding: Padme()}, Extensions: Extensions{required}})
	for _, p := range all {
		b, err := p.keyPackage(c).Message()
		if err != nil {
			c.Fatal(err)
		}
		c.message(b)
		c.store(p.store)
	}
	commit := func(p *person, opts CommitOptions, newcomers ...*person) {
		opts.GroupInfo = GroupInfoOptions{Tree: true, External: true}
		made := p.commit(c, opts, all, newcomers...)
		c.message(made.Message)
		c.message(made.Welcome)
		c.message(made.GroupInfo)
		for _, p := range all {
			c.store(p.store)
		}
	}
	commit(alice, CommitOptions{}, bob, carol)
	psk := NewSecret([]byte("shared"))
	for _, p := range all {
		if err := p.StorePSK([]byte("psk"), psk); err != nil {
			c.Fatal(err)
		}
	}
	inject := must[Proposal](c)(bob.group.ExternalPSK([]byte("psk")))
	commit(bob, CommitOptions{Proposals: []Proposal{inject}})
	var late []byte
	for range 3 {
		late = must[[]byte](c)(alice.group.Protect([]byte("hello"), MessageOptions{AuthenticatedData: []byte("ad")}))
	}
	c.message(late)
	bob.receive(c, late) // the messages before are skipped
	commit(carol, CommitOptions{})
	update := must[[]byte](c)(carol.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{}))
	c.message(update)
	alice.receive(c, update)
	c.message(must[[]byte](c)(bob.group.ProposeLeave(ProposeOptions{})))
	pending := must[*Commit](c)(alice.group.Commit(CommitOptions{}))
	c.message(pending.Message)
	for _, p := range all {
		c.store(p.store)
	}
}
