package mlscore

import (
	"crypto/rand"
	"errors"
	"testing"
)

// olderCopy returns p with the present contents of its Store, for the time after p has gone on.
func (p *person) olderCopy(t *testing.T) *person {
	t.Helper()
	old := newPerson(t, string(p.id.Credential.Identity), p.id.CipherSuite)
	var b Batch
	if err := p.store.Scan(nil, func(key, value []byte) error {
		b.put(append([]byte{}, key...), append([]byte{}, value...))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := old.store.Apply(b); err != nil {
		t.Fatal(err)
	}
	old.id = p.id
	old.group = must[*Group](t)(old.LoadGroup(p.group.GroupID()))
	return old
}

// TestOlderCopyOfTheStore checks that a member whose Store was replaced by an older copy reads the messages that it had
// sent since, does not use their keys again, and does not take its own commit for a bad one.
func TestOlderCopyOfTheStore(t *testing.T) {
	for _, public := range []bool{false, true} {
		alice, bob := newPerson(t, "alice", MLS128X25519AES128Ed25519), newPerson(t, "bob", MLS128X25519AES128Ed25519)
		alice.create(t, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: public}})
		alice.commit(t, CommitOptions{}, nil, bob)
		known := must[[]byte](t)(alice.group.Protect([]byte("known"), MessageOptions{}))
		old := alice.olderCopy(t)
		lost := must[[]byte](t)(alice.group.Protect([]byte("lost"), MessageOptions{}))
		if _, err := old.group.Process(known); !errors.Is(err, ErrOwnMessage) {
			t.Errorf("a message from before the copy: %v", err)
		}
		got := old.receive(t, lost).Application
		if string(got.Data) != "lost" || got.Sender.Leaf != old.group.Self() {
			t.Errorf("a message from after the copy: %q of %v", got.Data, got.Sender.Leaf)
		}
		if err := old.group.UseOwn(got); err != nil {
			t.Fatal(err)
		}
		if _, err := old.group.Process(lost); !errors.Is(err, ErrOwnMessage) {
			t.Errorf("the same message again: %v", err)
		}
		for _, msg := range [][]byte{known, lost, must[[]byte](t)(old.group.Protect([]byte("next"), MessageOptions{}))} {
			bob.receive(t, msg)
		}
		forged := append([]byte{}, must[[]byte](t)(alice.group.Protect([]byte("forged"), MessageOptions{}))...)
		forged[len(forged)-1] ^= 1
		if _, err := old.group.Process(forged); !errors.Is(err, ErrForged) && !errors.Is(err, ErrOwnMessage) {
			t.Errorf("a changed message: %v", err)
		}
		c := must[*Commit](t)(alice.group.Commit(CommitOptions{}))
		if _, err := old.group.Process(c.Message); !errors.Is(err, ErrOwnUnknown) {
			t.Errorf("public %v: the own commit: %v", public, err)
		}
		if r, err := alice.group.Process(c.Message); err != nil || r.Commit == nil {
			t.Errorf("public %v: the pending commit: %v", public, err)
		}
	}
}

// again encrypts the content of another member's message a second time, as any member can: under the key of a later
// generation of the sender.
func (p *person) again(t *testing.T, msg []byte, generation uint32) []byte {
	t.Helper()
	m := must[*message](t)(parseMessage(msg, p.group.client.cfg.Limits.Codec))
	st := p.group.state
	r := reading{
		suite: p.group.suite, tree: st.public.tree, context: st.public.encoded, senderData: st.secrets.senderData,
		messages: st.messages, self: st.self, limits: p.group.client.cfg.Limits,
	}
	ac, step, err := r.open(m.private)
	if err != nil {
		t.Fatal(err)
	}
	step.discard()
	step = must[*treeStep](t)(st.messages.peek(ratchetFor(LeafIndex(ac.content.sender.Index), ac.content.kind), generation, r.limits.Ratchet))
	return must[[]byte](t)(p.group.suite.protectPrivate(rand.Reader, ac, st.secrets.senderData, step.key, Padding{}))
}

// TestOwnContentUnderAnotherKey checks that a member who encrypts messages of another one again, under keys that their
// sender has not used, cannot use up the sender's keys, nor make the sender refuse its own commit.
func TestOwnContentUnderAnotherKey(t *testing.T) {
	alice, bob, carol := newPerson(t, "alice", MLS128X25519AES128Ed25519), newPerson(t, "bob", MLS128X25519AES128Ed25519), newPerson(t, "carol", MLS128X25519AES128Ed25519)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob, carol)
	said := must[[]byte](t)(alice.group.Protect([]byte("said"), MessageOptions{}))
	for _, generation := range []uint32{1, 900, 1000} { // the limit is 1000 ahead
		if got := alice.receive(t, bob.again(t, said, generation)).Application; string(got.Data) != "said" {
			t.Errorf("generation %d: %q", generation, got.Data)
		}
	}
	carol.receive(t, said)
	if got := carol.receive(t, must[[]byte](t)(alice.group.Protect([]byte("next"), MessageOptions{}))).Application; got.Generation != 1 {
		t.Errorf("the next message has generation %d: keys were used up", got.Generation)
	}
	c := must[*Commit](t)(alice.group.Commit(CommitOptions{}))
	r, err := alice.group.Process(bob.again(t, c.Message, 1))
	if err != nil || r.Commit != c.Staged {
		t.Errorf("the pending commit under another key: %v", err)
	}
}
