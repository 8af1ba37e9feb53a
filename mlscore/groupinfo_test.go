package mlscore

import "testing"

// TestGroupInfoOnRequest checks that a commit signs a GroupInfo only if one is requested.
func TestGroupInfoOnRequest(t *testing.T) {
	alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	for _, c := range []struct {
		name string
		opts GroupInfoOptions
		want bool
	}{
		{"nothing", GroupInfoOptions{}, false},
		{"the tree", GroupInfoOptions{Tree: true}, true},
		{"an external key", GroupInfoOptions{External: true}, true},
		{"an empty list of extensions", GroupInfoOptions{Extensions: Extensions{}}, true},
	} {
		made := must[*Commit](t)(alice.group.Commit(CommitOptions{GroupInfo: c.opts}))
		checkRequested(t, c.name+", a commit", made.GroupInfo, c.want, made.Staged.Public())
		info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		carol := newPerson(t, "carol", 1)
		x := must[*ExternalCommit](t)(carol.ExternalJoin(carol.id, info, ExternalOptions{GroupInfo: c.opts}))
		checkRequested(t, c.name+", an external commit", x.GroupInfo, c.want, x.group.Public())
		f := must[*Founding](t)(alice.group.Branch([]byte("branch for "+c.name), FoundOptions{
			CreateOptions: CreateOptions{}, KeyPackages: []*KeyPackage{bob.keyPackage(t)}, GroupInfo: c.opts,
		}))
		checkRequested(t, c.name+", a founding", f.GroupInfo, c.want, f.Group.Public())
	}
}

func checkRequested(t *testing.T, what string, info []byte, want bool, of *PublicState) {
	t.Helper()
	if !want {
		if info != nil {
			t.Errorf("%s: a GroupInfo of %d bytes", what, len(info))
		}
		return
	}
	tree := must[[]byte](t)(of.Tree())
	p, err := NewPublicState(info, tree, PublicConfig{Auth: TrustBasic{}})
	if err != nil || p.Epoch() != of.Epoch() {
		t.Errorf("%s: %v", what, err)
	}
}
