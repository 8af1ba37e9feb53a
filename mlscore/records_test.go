package mlscore

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// TestStoredRecordsAreChecked changes records of a stored group: a record that cannot be used must be refused when
// the group is loaded.
func TestStoredRecordsAreChecked(t *testing.T) {
	alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
	all := []*person{alice, bob}
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	bob.commit(t, CommitOptions{}, all)
	var msg []byte
	for range 2 {
		msg = must[[]byte](t)(bob.group.Protect([]byte("hello"), MessageOptions{}))
	}
	alice.receive(t, msg) // the first message is skipped
	must[*Commit](t)(alice.group.Commit(CommitOptions{}))
	id := alice.group.GroupID()
	record := func(kind byte) (key, value []byte) {
		t.Helper()
		_ = alice.store.Scan(groupKey(groupName{id: id}, kind), func(k, v []byte) error {
			key, value = k, v
			return nil
		})
		if key == nil {
			t.Fatalf("no record %q", kind)
		}
		return key, value
	}
	past := func(change func(*pastRecord)) func([]byte) []byte {
		return func(b []byte) []byte {
			p := must[*pastRecord](t)(parsePastRecord(b))
			change(p)
			return p.marshal()
		}
	}
	head := func(change func(*headRecord)) func([]byte) []byte {
		return func(b []byte) []byte {
			h := must[*headRecord](t)(parseHead(b))
			change(h)
			return h.marshal()
		}
	}
	pending := func(change func(*pendingRecord)) func([]byte) []byte {
		return func(b []byte) []byte {
			p := must[*pendingRecord](t)(parsePendingRecord(b))
			change(p)
			return must[[]byte](t)(p.marshal())
		}
	}
	short := NewSecret([]byte("short"))
	for _, c := range []struct {
		name   string
		kind   byte
		change func([]byte) []byte
	}{
		{"a version to come", recordHead, func(b []byte) []byte { b[0]++; return b }},
		{"a tree of another height", recordHead, head(func(h *headRecord) { h.height++ })},
		{"a tree of no height", recordHead, head(func(h *headRecord) { h.height = 0 })},
		{"an init secret cut short", recordHead, head(func(h *headRecord) { h.state.secrets.init = short })},
		{"a padding of no kind", recordHead, head(func(h *headRecord) { h.options.Padding = Padding{mode: padPadme + 1} })},
		{"a padding to multiples of 1", recordHead, head(func(h *headRecord) { h.options.Padding = Padding{mode: padMultiple, multiple: 1} })},
		{"no tree", recordTree, func([]byte) []byte { return []byte{stateVersion} }},
		{"an empty tree", recordTree, func([]byte) []byte { return []byte{} }},
		{"a tree of a version to come", recordTree, func(b []byte) []byte { b[0]++; return b }},
		{"a tree with another signature in a leaf", recordNode, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"a secret tree cut short", recordTreeKey, func(b []byte) []byte { return b[1:] }},
		{"a ratchet cut short", recordRatchet, func(b []byte) []byte { return b[:len(b)-1] }},
		{"a ratchet without a secret", recordRatchet, func([]byte) []byte { return marshalRatchet(Secret{}, 1) }},
		{"a message key cut short", recordSkipped, func(b []byte) []byte { return b[:len(b)-1] }},
		{"a message key without a nonce", recordSkipped, messageKeyOf(16, 0)},
		{"a message key with a nonce too short", recordSkipped, messageKeyOf(16, 11)},
		{"a message key of another AEAD", recordSkipped, messageKeyOf(32, 12)},
		{"a past epoch without sender data", recordPast, past(func(p *pastRecord) { p.senderData = Secret{} })},
		{"a past epoch with sender data cut short", recordPast, past(func(p *pastRecord) { p.senderData = short })},
		{"a past epoch that ended at no time", recordPast, func(b []byte) []byte {
			return binary.BigEndian.AppendUint64(b[:len(b)-8], uint64(time.Time{}.Unix()))
		}},
		{"a commit without a secret tree", recordPending, pending(func(p *pendingRecord) { p.encryption = Secret{} })},
		{"a commit with another tag", recordPending, pending(func(p *pendingRecord) { p.content[len(p.content)-1] ^= 1 })},
		{"a commit to another height", recordPending, pending(func(p *pendingRecord) { p.head = head(func(h *headRecord) { h.height++ })(p.head) })},
		{"a commit by another", recordPending, pending(func(p *pendingRecord) { p.head = head(func(h *headRecord) { h.state.self++ })(p.head) })},
		{"a commit without an init secret", recordPending, pending(func(p *pendingRecord) {
			p.head = head(func(h *headRecord) { h.state.secrets.init = Secret{} })(p.head)
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, value := record(c.kind)
			var b Batch
			b.put(key, c.change(bytes.Clone(value)))
			client := *alice.Client
			store := alice.store.Clone()
			client.cfg.Store = store
			if err := store.Apply(b); err != nil {
				t.Fatal(err)
			}
			_, err := loadWhole(&client, id)
			requireKind(t, err, ErrMalformed)
		})
	}
	for name, change := range map[string]func(*Batch){
		"no tree at all": func(b *Batch) { b.delete(groupKey(groupName{id: id}, recordTree)) },
		"a node whose number is too long": func(b *Batch) {
			key, value := record(recordNode)
			b.put(append(bytes.Clone(key), 0), bytes.Clone(value))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b Batch
			change(&b)
			client := *alice.Client
			store := alice.store.Clone()
			client.cfg.Store = store
			if err := store.Apply(b); err != nil {
				t.Fatal(err)
			}
			_, err := loadWhole(&client, id)
			requireKind(t, err, ErrMalformed)
		})
	}
	if _, err := alice.LoadGroup(id); err != nil {
		t.Errorf("as it is stored: %v", err)
	}
}

// TestStoredKeyPackage checks that a record with more than one KeyPackage is refused.
func TestStoredKeyPackage(t *testing.T) {
	alice := newPerson(t, "alice", 1)
	kp := alice.keyPackage(t)
	ref := must[[]byte](t)(kp.Ref())
	v, _, err := alice.store.Get(keyPackageKey(ref))
	if err != nil {
		t.Fatal(err)
	}
	k := must[*keyPackageRecord](t)(parseKeyPackageRecord(v))
	if !bytes.Equal(k.marshal(), v) {
		t.Error("encodes to something else")
	}
	one := must[[]byte](t)(kp.marshal())
	twice := bytes.Replace(v, one, append(bytes.Clone(one), one...), 1)
	n := len(one)
	twice[1], twice[2] = 0x40|byte(2*n>>8), byte(2*n)
	_, err = parseKeyPackageRecord(twice)
	requireKind(t, err, ErrMalformed)
}

// messageKeyOf replaces a stored message key by one of other lengths.
func messageKeyOf(key, nonce int) func([]byte) []byte {
	return func([]byte) []byte {
		return messageKey{key: NewSecret(make([]byte, key)), nonce: NewSecret(make([]byte, nonce))}.marshal()
	}
}
