package mlscore

import (
	"bytes"
	"testing"
)

// TestSection12_4_3_2_OnlyMemberResyncs checks that the only member of a group can come back by an external commit
// that removes its earlier leaf. Between the two steps the tree has no member; a server that follows the group
// truncates the tree in the same way as the joiner (§7.7).
func TestSection12_4_3_2_OnlyMemberResyncs(t *testing.T) {
	alice, bob, carol := newPerson(t, "alice", 1), newPerson(t, "bob", 1), newPerson(t, "carol", 1)
	alice.create(t, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: true}})
	alice.commit(t, CommitOptions{}, nil, bob, carol)
	info := func() []byte {
		b, err := carol.group.GroupInfo(GroupInfoOptions{Tree: true, External: true})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	follower, err := NewPublicState(info(), nil, PublicConfig{Auth: TrustBasic{}})
	if err != nil {
		t.Fatal(err)
	}
	follow := func(msg []byte) {
		t.Helper()
		next, _, err := follower.Process(msg)
		if err != nil {
			t.Fatal(err)
		}
		follower = next
	}
	follow(carol.commit(t, CommitOptions{Proposals: []Proposal{RemoveProposal(0), RemoveProposal(1)}}, []*person{alice, bob}).Message)
	x, err := carol.ExternalJoin(carol.id, info(), ExternalOptions{Resync: true, GroupOptions: GroupOptions{PublicHandshakes: true}})
	if err != nil {
		t.Fatal(err)
	}
	follow(x.Message)
	if carol.group, err = x.Complete(); err != nil {
		t.Fatal(err)
	}
	if carol.group.Self() != 0 || carol.group.public().tree.height() != 0 {
		t.Fatalf("carol is at leaf %d of a tree of height %d", carol.group.Self(), carol.group.public().tree.height())
	}
	if !bytes.Equal(follower.encoded, carol.group.public().encoded) {
		t.Fatal("a server that followed the group has another GroupContext than its member")
	}
	follow(carol.commit(t, CommitOptions{}, nil, alice).Message)
	agree(t, alice, carol)
	if !bytes.Equal(follower.encoded, alice.group.public().encoded) {
		t.Fatal("a server that followed the group has another GroupContext than its members")
	}
}
