package mlscore

import (
	"errors"
	"maps"
	"slices"
	"testing"
)

// entries lists the places that an index holds, ascending.
func (x keyIndex) entries() []uint32 {
	var list []uint32
	var walk func(n *indexNode)
	walk = func(n *indexNode) {
		if n == nil {
			return
		}
		for _, e := range n.entries {
			list = append(list, uint32(e))
		}
		if n.kids != nil {
			for _, k := range n.kids {
				walk(k)
			}
		}
	}
	walk(x.root)
	slices.Sort(list)
	return list
}

// checkIndex compares a tree's indices with its nodes: each key must be found at its place, and there may be no other
// entries.
func checkIndex(t testing.TB, tree *ratchetTree, bodies []string) {
	t.Helper()
	var nodes, leaves []uint32
	classes, credentials := map[string]int{}, map[CredentialType]int{}
	for at, body := range bodies {
		if body == "" {
			continue
		}
		nodes = append(nodes, uint32(at))
		checkHolds(t, tree.indexed().keys, firstVector(body), uint32(at))
		if at%2 == 1 {
			continue
		}
		i := uint32(at / 2)
		leaves = append(leaves, i)
		leaf, id, err := tree.identify(body)
		if err != nil {
			t.Fatal(err)
		}
		checkHolds(t, tree.indexed().people.signatures, string(leaf.SignatureKey), i)
		checkHolds(t, tree.indexed().people.identities, id, i)
		if got, ok := tree.memberByIdentity(id); !ok || uint32(got) != i {
			t.Fatalf("identity %q is found at leaf %d, %v, want leaf %d", id, got, ok, i)
		}
		classes[string(appendClass(nil, leaf.Capabilities))]++
		credentials[leaf.Credential.Type]++
	}
	for name, x := range map[string]struct {
		index keyIndex
		want  []uint32
	}{
		"encryption keys": {tree.indexed().keys, nodes},
		"signature keys":  {tree.indexed().people.signatures, leaves},
		"identities":      {tree.indexed().people.identities, leaves},
	} {
		if got := x.index.entries(); !slices.Equal(got, x.want) {
			t.Fatalf("index of %s holds %v, want %v", name, got, x.want)
		}
	}
	if got := countClasses(&tree.indexed().people); !maps.Equal(got, classes) {
		t.Fatalf("%d capability classes, want %d: %v, %v", len(got), len(classes), got, classes)
	}
	if !maps.Equal(tree.indexed().people.credentials, credentials) {
		t.Fatalf("credentials %v, want %v", tree.indexed().people.credentials, credentials)
	}
}

func checkHolds(t testing.TB, x keyIndex, key string, place uint32) {
	t.Helper()
	if !x.find(key, func(have uint32) bool { return have == place }) {
		t.Fatalf("index does not hold %x at %d", key, place)
	}
}

func countClasses(x *memberIndex) map[string]int {
	count := map[string]int{}
	for key, c := range x.classes {
		if string(appendClass(nil, c.capabilities)) != key {
			panic("a class holds other capabilities than its name says")
		}
		count[key] = c.members
	}
	return count
}

// sameIndices compares indices that edits have updated with those of a tree that was built at once.
func sameIndices(t testing.TB, edited, built *ratchetTree) {
	t.Helper()
	if !slices.Equal(edited.indexed().keys.entries(), built.indexed().keys.entries()) ||
		!slices.Equal(edited.indexed().people.signatures.entries(), built.indexed().people.signatures.entries()) ||
		!slices.Equal(edited.indexed().people.identities.entries(), built.indexed().people.identities.entries()) {
		t.Fatal("key indices differ from those of a tree that is built again")
	}
	if !maps.Equal(countClasses(&edited.indexed().people), countClasses(&built.indexed().people)) ||
		!maps.Equal(edited.indexed().people.credentials, built.indexed().people.credentials) {
		t.Fatal("capability classes differ from those of a tree that is built again")
	}
}

// namelessAuth accepts all credentials, but has no identity for the credential "nobody".
type namelessAuth struct{ labAuth }

func (a namelessAuth) Identity(c Credential, key []byte) ([]byte, error) {
	if string(c.Identity) == "nobody" {
		return nil, errors.New("whose is this?")
	}
	return a.labAuth.Identity(c, key)
}

// TestNoIdentity checks that a client with a valid credential without an identity cannot get into a group, and that
// no client joins a group with such a member.
func TestNoIdentity(t *testing.T) {
	withoutNames := func(c *Config) { c.Auth = namelessAuth{} }
	refused := want{kind: ErrPolicy, clause: "§5.3", say: "has no identity"}
	l := newLab(t, false, labOptions{config: func(name string, c *Config) {
		if name != "nobody" {
			withoutNames(c)
		}
	}})
	alice := l.people[0]
	_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(l.person("nobody").keyPackage(t))}})
	refused.match(t, err)
	l.goesOn()

	l = newLab(t, false, labOptions{names: []string{"alice", "nobody"}})
	dave := newPerson(t, "dave", labSuite, withoutNames)
	f := statement{by: l.people[0], added: dave.keyPackage(t)}
	msg, info, _ := f.messages(t)
	l.refuseJoin(dave, msg, JoinOptions{}, refused)
	_, err = NewPublicState(info, nil, PublicConfig{Auth: namelessAuth{}})
	refused.match(t, err)
}
