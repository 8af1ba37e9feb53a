package mlscore

import (
	"bytes"
	"testing"
)

// countingStore counts the records that a Scan reads.
type countingStore struct {
	*MemoryStore
	read int
}

func (c *countingStore) Scan(prefix []byte, visit func(key, value []byte) error) error {
	return c.MemoryStore.Scan(prefix, func(key, value []byte) error {
		c.read += len(value)
		return visit(key, value)
	})
}

// TestGroups checks that every group is listed until it ends, and that listing reads no record of the groups
// themselves.
func TestGroups(t *testing.T) {
	counting := &countingStore{MemoryStore: NewMemoryStore()}
	alice := newPerson(t, "alice", MLS128X25519AES128Ed25519, func(c *Config) { c.Store = counting })
	bob := newPerson(t, "bob", MLS128X25519AES128Ed25519)
	ids := [][]byte{[]byte("a"), {}, []byte("c"), bytes.Repeat([]byte{0xff}, 100)}
	groups := map[string]*Group{}
	for _, id := range ids {
		g, err := alice.CreateGroup(alice.id, id, CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		groups[string(g.GroupID())] = g
	}
	listed := func() {
		t.Helper()
		counting.read = 0
		have, err := alice.Groups()
		if err != nil || len(have) != len(groups) {
			t.Fatalf("%d groups are listed, want %d: %v", len(have), len(groups), err)
		}
		for _, id := range have {
			if groups[string(id)] == nil {
				t.Errorf("group %x is listed", id)
			}
		}
		if counting.read > len(have) {
			t.Errorf("listing %d groups read %d bytes", len(have), counting.read)
		}
	}
	listed()
	if err := groups["c"].Erase(); err != nil {
		t.Fatal(err)
	}
	delete(groups, "c")
	listed()
	// Bob joins one group and removes alice from it.
	alice.group = groups["a"]
	alice.commit(t, CommitOptions{}, nil, bob)
	c := bob.commit(t, CommitOptions{Proposals: []Proposal{RemoveProposal(alice.group.Self())}}, nil)
	alice.receive(t, c.Message)
	delete(groups, "a")
	listed()
	if have, err := bob.Groups(); err != nil || len(have) != 1 || string(have[0]) != "a" {
		t.Errorf("bob's groups: %q, %v", have, err)
	}
}
