package mlscore

import (
	"bytes"
	"errors"
	"testing"
)

// reopened marshals a state, parses it again, and checks that nothing has changed.
func reopened(t testing.TB, p *PublicState, cfg PublicConfig) *PublicState {
	t.Helper()
	b, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	mine := bytes.Clone(b)
	q, err := ParsePublicState(mine, cfg)
	if err != nil {
		t.Fatal(err)
	}
	clear(mine) // the state must not share memory with the bytes
	again, err := q.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, again) {
		t.Fatalf("%x was opened, and encodes to %x", b, again)
	}
	switch {
	case !bytes.Equal(p.encoded, q.encoded) || !bytes.Equal(q.encoded, q.context.marshal()):
		t.Fatal("another GroupContext")
	case !bytes.Equal(p.interim, q.interim):
		t.Fatal("another interim transcript hash")
	case !bytes.Equal(p.tree.hash(), q.tree.hash()) || p.tree.height() != q.tree.height() || p.Size() != q.Size():
		t.Fatal("another tree")
	case len(p.proposals) != len(q.proposals):
		t.Fatalf("%d proposals of %d", len(q.proposals), len(p.proposals))
	case (p.reinit == nil) != (q.reinit == nil):
		t.Fatal("closed or not")
	}
	for i := range p.proposals {
		if !bytes.Equal(p.proposals[i].ref, q.proposals[i].ref) || p.proposals[i].sender != q.proposals[i].sender {
			t.Fatalf("proposal %d is another", i)
		}
	}
	return q
}

// publicLife follows a group with every kind of content of a PublicState, and parses the marshalled state again
// before every message. each is called with every state.
func publicLife(t testing.TB, cs CipherSuite, each func(*PublicState, PublicConfig)) {
	cfg := PublicConfig{Auth: TrustBasic{}}
	open := GroupOptions{PublicHandshakes: true}
	people := map[string]*person{}
	for _, name := range []string{"alice", "bob", "carol", "dave", "erin"} {
		people[name] = newPerson(t, name, cs)
	}
	alice, bob, carol, dave, erin := people["alice"], people["bob"], people["carol"], people["dave"], people["erin"]
	serverKey, serverPub := signatureKeyOf(t, cs)
	senders, err := ExternalSendersExtension([]ExternalSender{{serverPub, BasicCredential([]byte("server"))}})
	if err != nil {
		t.Fatal(err)
	}
	alice.create(t, CreateOptions{GroupOptions: open, Extensions: Extensions{senders}})
	info := func() []byte {
		b, err := alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	server, err := NewPublicState(info(), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	follow := func(msg []byte) {
		t.Helper()
		each(server, cfg)
		q := reopened(t, server, cfg)
		next, _, err := server.Process(msg)
		if err != nil {
			t.Fatal(err)
		}
		after, _, err := q.Process(msg)
		if err != nil {
			t.Fatalf("refused by a state that was opened: %v", err)
		}
		if !bytes.Equal(next.encoded, after.encoded) {
			t.Fatal("a state that was opened leads elsewhere")
		}
		server = after
		each(server, cfg)
	}
	all := []*person{alice, bob, carol, dave}
	follow(alice.commit(t, CommitOptions{}, nil, bob, carol, dave).Message)
	follow(bob.commit(t, CommitOptions{}, all).Message)
	propose := func(from *person, msg []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if p != from {
				p.receive(t, msg)
			}
		}
		follow(msg)
	}
	update, err := carol.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{AuthenticatedData: []byte("ad")})
	propose(carol, update, err)
	leave, err := dave.group.ProposeLeave(ProposeOptions{})
	propose(dave, leave, err)
	byServer, err := ProposeExternally(0, serverKey, server.Context(), ExtensionsProposal(Extensions{senders}))
	propose(nil, byServer, err)
	join, kp, err := erin.ProposeSelf(erin.id, server.Context(), KeyPackageOptions{})
	propose(nil, join, err)
	if n := len(server.Pending()); n != 4 {
		t.Fatalf("%d proposals wait, want 4", n)
	}
	c := alice.commit(t, CommitOptions{}, all)
	follow(c.Message)
	if server.Size() != 4 || kp == nil {
		t.Fatalf("%d members, skipped %v", server.Size(), c.Skipped)
	}
	all = all[:3]
	x, err := dave.ExternalJoin(dave.id, info(), ExternalOptions{GroupOptions: open})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		p.receive(t, x.Message)
	}
	follow(x.Message)
	follow(bob.commit(t, CommitOptions{Proposals: []Proposal{RemoveProposal(carol.group.Self())}}, []*person{alice, carol}).Message)
	reinit := ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: cs, Extensions: Extensions{senders}})
	follow(alice.commit(t, CommitOptions{Proposals: []Proposal{reinit}}, []*person{bob}).Message)
	server = reopened(t, server, cfg)
	if _, _, err := server.Process(update); !errors.Is(err, ErrStale) || server.reinit == nil {
		t.Fatalf("a closed group: %v", err)
	}
}

func TestPublicStateIsStored(t *testing.T) {
	forAllSuites(t, func(t *testing.T, cs CipherSuite) {
		publicLife(t, cs, func(*PublicState, PublicConfig) {})
	})
}

// TestStoredPublicStateDamage checks that a prefix of a state is refused, and so is a state whose tree or hashes do
// not match its context.
func TestStoredPublicStateDamage(t *testing.T) {
	var states [][]byte
	var last *PublicState
	publicLife(t, 1, func(p *PublicState, _ PublicConfig) {
		b, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if last == nil || len(p.proposals) > 3 || p.reinit != nil {
			states, last = append(states, b), p
		}
	})
	cfg := PublicConfig{Auth: TrustBasic{}}
	for _, b := range states {
		for n := range b {
			if _, err := ParsePublicState(b[:n], cfg); !errors.Is(err, ErrMalformed) {
				t.Fatalf("the first %d bytes of %d: %v", n, len(b), err)
			}
		}
		for n := range b {
			bad := bytes.Clone(b)
			bad[n] ^= 0x40
			if q, err := ParsePublicState(bad, cfg); err == nil {
				again, err := q.MarshalBinary()
				if err != nil || !bytes.Equal(again, bad) {
					t.Fatalf("byte %d changed: opens, and encodes to something else: %v", n, err)
				}
			}
		}
	}
	change := func(f func(p *PublicState)) []byte {
		p := *last
		f(&p)
		b, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		kind error
	}{
		"another tree hash":   {change(func(p *PublicState) { p.context.TreeHash = make([]byte, 32) }), ErrMalformed},
		"a short interim":     {change(func(p *PublicState) { p.interim = p.interim[1:] }), ErrMalformed},
		"an unknown suite":    {change(func(p *PublicState) { p.context.CipherSuite = 0x0a0a }), ErrUnsupported},
		"an unknown version":  {change(func(p *PublicState) { p.context.Version = 2 }), ErrUnsupported},
		"a later format":      {append([]byte{publicVersion + 1}, states[0][1:]...), ErrUnsupported},
		"bytes at the end":    {append(bytes.Clone(states[0]), 0), ErrMalformed},
		"nothing":             {nil, ErrMalformed},
		"a proposal twice":    {change(func(p *PublicState) { p.proposals = waitingTwice(t, states, cfg) }), ErrMalformed},
		"an empty proposal":   {change(func(p *PublicState) { p.proposals = []cachedProposal{{content: []byte{}}} }), ErrMalformed},
		"a commit's contents": {change(func(p *PublicState) { p.proposals = []cachedProposal{{content: commitContentBytes(t)}} }), ErrMalformed},
	} {
		if _, err := ParsePublicState(c.b, cfg); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
	if _, err := ParsePublicState(states[0], PublicConfig{}); !errors.Is(err, ErrMisuse) {
		t.Errorf("no Auth: %v", err)
	}
}

// waitingTwice finds a state with waiting proposals and returns the first proposal twice.
func waitingTwice(t testing.TB, states [][]byte, cfg PublicConfig) []cachedProposal {
	t.Helper()
	for _, b := range states {
		p, err := ParsePublicState(b, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.proposals) > 0 {
			return []cachedProposal{p.proposals[0], p.proposals[0]}
		}
	}
	t.Fatal("no proposals wait in any state")
	return nil
}

// commitContentBytes returns the AuthenticatedContent of a commit.
func commitContentBytes(t testing.TB) []byte {
	t.Helper()
	alice := newPerson(t, "alice", 1)
	alice.create(t, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: true}})
	c, err := alice.group.Commit(CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMessage(c.Message, alice.cfg.Limits.Codec)
	if err != nil {
		t.Fatal(err)
	}
	return m.public.marshal()
}
