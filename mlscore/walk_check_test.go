package mlscore

import (
	"bytes"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// follow makes the observer of the group process a handshake (RFC 9420 §12.1, §12.4).
func (w *walk) follow(msg []byte) {
	w.t.Helper()
	if w.follower == nil {
		return
	}
	next, effects, err := w.follower.Process(msg)
	if err != nil {
		w.t.Fatalf("who follows the group does not take a message: %v", err)
	}
	if (effects.Kind == ContentCommit) != (next.Epoch() == w.follower.Epoch()+1) {
		w.t.Fatalf("a %v led from epoch %d to %d", effects.Kind, w.follower.Epoch(), next.Epoch())
	}
	w.follower = next
	if w.chance(5) { // the observer restarts
		b, err := next.MarshalBinary()
		w.must(err)
		w.follower, err = ParsePublicState(b, w.publicConfig())
		w.must(err)
	}
}

// publicConfig returns the rules of the members.
func (w *walk) publicConfig() PublicConfig {
	return PublicConfig{Auth: TrustBasic{}}
}

// observer returns a new PublicState of the group.
func (w *walk) observer() *PublicState {
	w.t.Helper()
	m := w.pick(w.members)
	info, err := m.group.GroupInfo(GroupInfoOptions{Tree: true})
	w.must(err)
	p, err := NewPublicState(info, nil, w.publicConfig())
	if err != nil {
		w.t.Fatalf("the GroupInfo of %s is refused: %v", m.name, err)
	}
	return p
}

// check compares all members with each other, and each one's private keys with the tree.
func (w *walk) check() {
	w.t.Helper()
	ref := w.members[0]
	context := fmt.Sprintf("epoch %d", w.epoch())
	want := w.export(ref, context)
	for _, m := range w.members {
		if m.group.Epoch() != ref.group.Epoch() || !bytes.Equal(m.group.EpochAuthenticator(), ref.group.EpochAuthenticator()) {
			w.t.Fatalf("%s is at epoch %d, %x; %s at %d, %x", ref.name, ref.group.Epoch(), ref.group.EpochAuthenticator(),
				m.name, m.group.Epoch(), m.group.EpochAuthenticator())
		}
		if got := w.export(m, context); !bytes.Equal(got, want) {
			w.t.Fatalf("%s exports %x, %s %x", ref.name, want, m.name, got)
		}
		w.samePublic(m.name, m.group.public(), ref.group.public())
		w.checkKeys(m)
		w.checkSelf(m)
	}
	if ref.group.Public().Size() != len(w.members) {
		w.t.Fatalf("the group has %d members, %d walk along", ref.group.Public().Size(), len(w.members))
	}
	if w.follower != nil {
		w.samePublic("who follows the group", w.follower, ref.group.public())
	}
	w.checkTree(w.pick(w.members))
}

func (w *walk) export(m *walker, context string) []byte {
	w.t.Helper()
	s, err := m.group.Export("walk", []byte(context), 32)
	w.must(err)
	return s.Bytes()
}

// samePublic compares two public states of the group. The context holds the tree hash and the transcript.
func (w *walk) samePublic(name string, a, b *PublicState) {
	w.t.Helper()
	switch {
	case !bytes.Equal(a.tree.hash(), b.tree.hash()):
		w.t.Fatalf("%s has another tree", name)
	case !bytes.Equal(a.encoded, b.encoded) || !bytes.Equal(a.encoded, a.context.marshal()):
		w.t.Fatalf("%s has another GroupContext", name)
	case !bytes.Equal(a.interim, b.interim):
		w.t.Fatalf("%s has another interim transcript hash", name)
	case len(a.proposals)+len(b.proposals) > 0:
		w.t.Fatalf("proposals outlived their epoch: %d at %s, %d elsewhere", len(a.proposals), name, len(b.proposals))
	}
}

// checkSelf checks that a member finds its own leaf.
func (w *walk) checkSelf(m *walker) {
	w.t.Helper()
	i, found := m.group.ByIdentity([]byte(m.name))
	if !found || i != m.group.Self() || m.group.Public().Context().Epoch != m.group.Epoch() {
		w.t.Fatalf("%s is at leaf %d and is found at %d, %v", m.name, m.group.Self(), i, found)
	}
}

// checkKeys checks that a member holds the private keys of its leaf and of every non-blank parent above it, except
// those in which it is unmerged (RFC 9420 §4.2), and no others.
func (w *walk) checkKeys(m *walker) {
	w.t.Helper()
	t, self := m.group.public().tree, m.group.Self()
	for level := range max(t.height()+1, len(m.group.state.keys)) {
		n := t.nodeAbove(self, level)
		key := m.group.state.keys.at(level)
		should := n != nil && !n.blank() && !containsLeaf(n.unmerged(), self)
		if should != (key.Len() > 0) {
			w.t.Fatalf("%s, at leaf %d: private key of level %d: %v, should be %v", m.name, self, level, key.Len() > 0, should)
		}
		if !should {
			continue
		}
		pub := n.encryptionKey()
		if known, ok := w.verified[pub]; ok {
			if known != string(key.Bytes()) {
				w.t.Fatalf("%s has another private key of level %d than others", m.name, level)
			}
			continue
		}
		got, err := m.group.suite.publicKeyOf(key.Bytes())
		w.must(err)
		if string(got) != pub {
			w.t.Fatalf("%s, at leaf %d: private key of level %d is not that of the tree", m.name, self, level)
		}
		w.verified[pub] = string(key.Bytes())
	}
	pub, err := m.group.suite.signaturePublicKey(m.group.state.signer.Bytes())
	w.must(err)
	if string(pub) != t.signatureKey(self) {
		w.t.Fatalf("%s signs with another key than the one in its leaf", m.name)
	}
}

// checkTree checks one member's tree, sometimes in full, as a joiner does.
func (w *walk) checkTree(m *walker) {
	w.t.Helper()
	t := m.group.public().tree
	w.must(t.verifyParentHashes())
	w.must(t.checkUnmerged(t.root, 0, nil))
	checkIndex(w.t, t, allBodies(t))
	if t.height() > 0 && t.root.right.occupied == 0 {
		w.t.Fatal("the right half of the tree is blank")
	}
	encoded, err := t.marshal()
	w.must(err)
	again, err := parseTree(m.group.suite, TrustBasic{}, encoded, codec.DefaultLimits)
	w.must(err)
	if !bytes.Equal(again.hash(), t.hash()) {
		w.t.Fatal("the tree that was encoded and parsed has another hash")
	}
	sameIndices(w.t, t, again)
	if w.commits%(1+len(w.members)/20) == 0 {
		w.samePublic("who opens the GroupInfo", w.observer(), m.group.public())
	}
}
