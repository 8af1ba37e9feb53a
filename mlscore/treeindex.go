package mlscore

import (
	"sync"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// treeIndex is the index of all nodes of a tree. An edit passes it on to the new tree, with the edit's changes. A
// tree from a store has no index until the first use, which decodes every leaf.
type treeIndex struct {
	once   sync.Once
	keys   keyIndex    // encryption keys of leaves and parents → nodeIndex
	people memberIndex // the maps are shared: an edit copies them
	err    error       // the Authenticator gave no identity for a member
}

// unindexed returns an index that is computed at the first use.
func unindexed(s *suite, auth Authenticator) *treeIndex {
	return &treeIndex{people: memberIndex{suite: s, auth: auth}}
}

// indexed returns a complete index.
func indexed(keys keyIndex, people memberIndex) *treeIndex {
	x := &treeIndex{keys: keys, people: people}
	x.people.owned = false
	x.once.Do(func() {})
	return x
}

// indexed returns the tree's index, and computes it at the first use. An index with an error lacks members.
func (t *ratchetTree) indexed() *treeIndex {
	t.index.once.Do(func() {
		x := t.index
		b := newIndexBuilder(x.people.suite, x.people.auth, 2*t.members())
		var leaf LeafNode
		var r codec.Reader
		t.root.eachContent(0, func(n nodeIndex, body string) {
			b.keys = append(b.keys, b.index.keys.entry(firstVector(body), uint32(n)))
			if n.level() > 0 {
				return
			}
			r.Reset([]byte(body), codec.DefaultLimits)
			if leaf.decode(&r); r.Finish() != nil {
				b.fail(within(leafName(n.firstLeaf()), ErrMalformed, malformed("leaf node", r.Err())))
				return
			}
			b.enter(n.firstLeaf(), &leaf)
		})
		b.finish()
		x.keys, x.people, x.err = b.index.keys, b.index.people, b.err
		x.people.owned = false
	})
	return t.index
}

// identity asks the Authenticator for the identity of a leaf.
func (t *ratchetTree) identity(l *LeafNode) (string, error) { return t.index.people.identity(l) }

// identify decodes a leaf and asks the Authenticator for its identity.
func (t *ratchetTree) identify(body string) (*LeafNode, string, error) {
	return t.index.people.identify(body)
}

// indexBuilder makes an index of many nodes at once.
type indexBuilder struct {
	index                        treeIndex
	keys, signatures, identities []uint64
	err                          error
}

// newIndexBuilder reserves memory for a number of nodes; there may be more.
func newIndexBuilder(s *suite, auth Authenticator, nodes int) *indexBuilder {
	leaves := (nodes + 1) / 2
	return &indexBuilder{
		index:      treeIndex{keys: newKeyIndex(), people: newMemberIndex(s, auth)},
		keys:       make([]uint64, 0, nodes),
		signatures: make([]uint64, 0, leaves),
		identities: make([]uint64, 0, leaves),
	}
}

// enter adds a leaf to the index. It retains no reference to the leaf.
func (b *indexBuilder) enter(i LeafIndex, leaf *LeafNode) {
	x := &b.index.people
	id, err := x.identityBytes(leaf)
	if err != nil {
		b.fail(within(leafName(i), ErrPolicy, err))
		return
	}
	b.signatures = append(b.signatures, x.signatures.entry(x.suite.canonicalKey(string(leaf.SignatureKey)), uint32(i)))
	b.identities = append(b.identities, x.identities.entry(string(id), uint32(i)))
	x.count(leaf, 1)
}

// finish sorts the entries.
func (b *indexBuilder) finish() {
	x := &b.index
	x.keys = x.keys.fill(b.keys)
	x.people.signatures = x.people.signatures.fill(b.signatures)
	x.people.identities = x.people.identities.fill(b.identities)
}

func (b *indexBuilder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}
