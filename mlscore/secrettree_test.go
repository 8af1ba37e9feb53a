package mlscore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveSecrets is a fully expanded secret tree (RFC 9420 §9), the reference for secretTree.
type naiveSecrets struct {
	s     *suite
	nodes [][]byte // in the order of appendix C
}

func expandAll(s *suite, leaves int, root []byte) *naiveSecrets {
	n := &naiveSecrets{s, make([][]byte, naiveWidth(leaves))}
	n.nodes[naiveRoot(leaves)] = root
	var down func(x int)
	down = func(x int) {
		if x%2 == 1 {
			l, r := naiveLeft(x), naiveRight(x)
			n.nodes[l] = s.expandWithLabel(n.nodes[x], "tree", []byte("left"), s.hashLen()).Bytes()
			n.nodes[r] = s.expandWithLabel(n.nodes[x], "tree", []byte("right"), s.hashLen()).Bytes()
			down(l)
			down(r)
		}
	}
	down(naiveRoot(leaves))
	return n
}

// ratchetSecret returns the secret of a generation: ratchet_secret_[N]_[j] of §9.1.
func (n *naiveSecrets) ratchetSecret(name ratchetName, generation uint32) []byte {
	label := "application"
	if name.handshake {
		label = "handshake"
	}
	secret := n.s.expandWithLabel(n.nodes[name.leaf.node()], label, nil, n.s.hashLen()).Bytes()
	for j := range generation {
		secret = n.s.deriveTreeSecret(secret, "secret", j, n.s.hashLen()).Bytes()
	}
	return secret
}

func (n *naiveSecrets) key(name ratchetName, generation uint32) (key, nonce []byte) {
	secret := n.ratchetSecret(name, generation)
	return n.s.deriveTreeSecret(secret, "key", generation, n.s.keyLen()).Bytes(),
		n.s.deriveTreeSecret(secret, "nonce", generation, n.s.nonceLen()).Bytes()
}

// keyring is the model of the message keys that must still exist.
type keyring struct {
	next    uint32
	skipped []uint32 // ascending
}

// secretMachine uses random keys and compares the tree with its expansion, the limits of §15.3, the deletion schedule
// of §9.2 and the stored records.
type secretMachine struct {
	naive  *naiveSecrets
	tree   *secretTree
	limits RatchetLimits
	model  map[ratchetName]*keyring
	store  *MemoryStore
	loader *loader
	height int
}

const machineEpoch = 7

func newSecretMachine(t *rapid.T) *secretMachine {
	s := suites[rapid.IntRange(0, len(suites)-1).Draw(t, "suite")]
	m := &secretMachine{
		height: rapid.IntRange(0, 4).Draw(t, "height"),
		limits: RatchetLimits{Ahead: rapid.Uint32Range(0, 12).Draw(t, "ahead"), Skipped: rapid.IntRange(0, 8).Draw(t, "skipped")},
		model:  map[ratchetName]*keyring{},
		store:  NewMemoryStore(),
	}
	root := bytes.Repeat([]byte{byte(s.id)}, s.hashLen())
	m.naive = expandAll(s, 1<<m.height, root)
	m.tree = newSecretTree(s, m.height, NewSecret(root))
	m.loader = &loader{client: &Client{Config{Store: m.store}}, name: groupName{id: []byte("id")}, g: &Group{suite: s}}
	var b Batch
	b.put(groupKey(m.loader.name, recordTreeKey, uint64Bytes(machineEpoch), uint32Bytes(uint32(rootOf(m.height)))), slices.Clone(root))
	m.write(t, b)
	return m
}

func (m *secretMachine) write(t *rapid.T, b Batch) {
	if err := m.store.Apply(b); err != nil {
		t.Fatal(err)
	}
}

// use uses the key of a generation, or only peeks at it.
func (m *secretMachine) use(t *rapid.T) {
	name := ratchetName{LeafIndex(rapid.IntRange(0, 1<<m.height-1).Draw(t, "leaf")), rapid.Bool().Draw(t, "handshake")}
	ring := m.model[name]
	if ring == nil {
		ring = &keyring{}
	}
	generation := rapid.Uint32Range(0, ring.next+m.limits.Ahead+2).Draw(t, "generation")
	before := m.describe(m.tree)
	step, err := m.tree.peek(name, generation, m.limits)
	if m.describe(m.tree) != before {
		t.Fatal("peek changed the tree")
	}
	switch known := slices.Contains(ring.skipped, generation); {
	case generation < ring.next && !known:
		if !errors.Is(err, ErrReplay) {
			t.Fatalf("%v, generation %d was used or given up: %v", name, generation, err)
		}
		return
	case generation > ring.next+m.limits.Ahead:
		if !errors.Is(err, ErrLimit) {
			t.Fatalf("%v, generation %d is %d ahead: %v", name, generation, generation-ring.next, err)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	if key, nonce := m.naive.key(name, generation); !bytes.Equal(step.key.key.Bytes(), key) || !bytes.Equal(step.key.nonce.Bytes(), nonce) {
		t.Fatalf("%v, generation %d: wrong key or nonce", name, generation)
	}
	if rapid.IntRange(0, 3).Draw(t, "discard") == 0 {
		step.discard()
		if m.describe(m.tree) != before {
			t.Fatal("a step that was discarded changed the tree")
		}
		return
	}
	var b Batch
	m.tree.writeStep(&b, m.loader.name, machineEpoch, step)
	m.write(t, b)
	m.tree.apply(step)
	step.key.erase()
	m.used(name, generation)
}

// used records the use of a key in the model.
func (m *secretMachine) used(name ratchetName, generation uint32) {
	for _, handshake := range []bool{false, true} {
		if n := (ratchetName{name.leaf, handshake}); m.model[n] == nil {
			m.model[n] = &keyring{}
		}
	}
	ring := m.model[name]
	if generation < ring.next {
		ring.skipped = slices.DeleteFunc(ring.skipped, func(g uint32) bool { return g == generation })
		return
	}
	for g := ring.next; g < generation; g++ {
		ring.skipped = append(ring.skipped, g)
	}
	if over := len(ring.skipped) - m.limits.Skipped; over > 0 {
		ring.skipped = ring.skipped[over:]
	}
	ring.next = generation + 1
}

// describe returns a text of every secret of a tree.
func (m *secretMachine) describe(tree *secretTree) string {
	var lines []string
	for n, secret := range tree.nodes {
		lines = append(lines, fmt.Sprintf("node %d %x", n, secret.Bytes()))
	}
	for name, r := range tree.ratchets {
		lines = append(lines, fmt.Sprintf("ratchet %v %d %x", name, r.generation, r.secret.Bytes()))
		for g, k := range r.skipped {
			lines = append(lines, fmt.Sprintf("key %v %d %d %x %x", name, g, k.generation, k.key.Bytes(), k.nonce.Bytes()))
		}
	}
	slices.Sort(lines)
	return fmt.Sprint(lines)
}

// expected returns the tree that the deletion schedule of §9.2 leaves: all secrets except those from which a used key
// could be derived.
func (m *secretMachine) expected() *secretTree {
	out := newSecretTree(m.naive.s, m.height, Secret{})
	clear(out.nodes)
	opened := func(x int) bool {
		for name := range m.model {
			if nodeIndex(x).covers(name.leaf) {
				return true
			}
		}
		return false
	}
	leaves := 1 << m.height
	for x, secret := range m.naive.nodes {
		if !opened(x) && (x == naiveRoot(leaves) || opened(naiveParent(x, leaves))) {
			out.nodes[nodeIndex(x)] = NewSecret(secret)
		}
	}
	for name, ring := range m.model {
		r := &ratchet{secret: NewSecret(m.naive.ratchetSecret(name, ring.next)), generation: ring.next, skipped: map[uint32]messageKey{}}
		for _, g := range ring.skipped {
			key, nonce := m.naive.key(name, g)
			r.skipped[g] = messageKey{g, NewSecret(key), NewSecret(nonce)}
		}
		out.ratchets[name] = r
	}
	return out
}

func (m *secretMachine) check(t *rapid.T) {
	want := m.describe(m.expected())
	if got := m.describe(m.tree); got != want {
		t.Fatalf("the tree holds\n%s\nand must hold\n%s", got, want)
	}
	stored, err := m.loader.client.storedMessages(m.loader.g.suite, m.loader.name, machineEpoch, m.height)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.describe(stored); got != want {
		t.Fatalf("the store holds\n%s\nand must hold\n%s", got, want)
	}
	for name, ring := range m.model {
		if m.tree.next(name) != ring.next {
			t.Fatalf("%v goes on with generation %d, want %d", name, m.tree.next(name), ring.next)
		}
	}
}

// TestSection9_SecretTree uses message keys in any order.
func TestSection9_SecretTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newSecretMachine(t)
		for range rapid.IntRange(1, 25).Draw(t, "uses") {
			m.use(t)
			m.check(t)
		}
		m.tree.erase()
		if len(m.tree.nodes)+len(m.tree.ratchets) > 0 {
			t.Fatal("erase left something")
		}
	})
}

// TestSection9_1_OrderDoesNotMatter checks that the order in which keys are used changes neither the keys nor the
// secrets that are left in the end.
func TestSection9_1_OrderDoesNotMatter(t *testing.T) {
	const messages = 20
	s := suites[0]
	limits := RatchetLimits{Ahead: messages, Skipped: messages}
	name := ratchetName{5, false}
	run := func(order []uint32) (keys map[uint32]string, rest string) {
		tree := newSecretTree(s, 3, NewSecret(make([]byte, s.hashLen())))
		keys = map[uint32]string{}
		for _, g := range order {
			step, err := tree.peek(name, g, limits)
			if err != nil {
				t.Fatal(err)
			}
			keys[g] = fmt.Sprintf("%x %x", step.key.key.Bytes(), step.key.nonce.Bytes())
			tree.apply(step)
			step.key.erase()
		}
		return keys, (&secretMachine{}).describe(tree)
	}
	var inOrder []uint32
	for g := range uint32(messages) {
		inOrder = append(inOrder, g)
	}
	wantKeys, wantRest := run(inOrder)
	rapid.Check(t, func(t *rapid.T) {
		keys, rest := run(rapid.Permutation(inOrder).Draw(t, "order"))
		if !maps.Equal(keys, wantKeys) || rest != wantRest {
			t.Fatal("another order gives other keys, or leaves others")
		}
	})
	if len(wantKeys) != messages || len(slices.Compact(slices.Sorted(maps.Values(wantKeys)))) != messages {
		t.Fatal("two generations have the same key")
	}
}

// TestSection9_1_LastGeneration checks that the generation counter does not wrap around.
func TestSection9_1_LastGeneration(t *testing.T) {
	s := suites[0]
	tree := newSecretTree(s, 0, NewSecret(make([]byte, s.hashLen())))
	name := ratchetName{0, false}
	limits := RatchetLimits{Ahead: 10, Skipped: 10}
	step, err := tree.peek(name, 0, limits)
	if err != nil {
		t.Fatal(err)
	}
	tree.apply(step)
	tree.ratchets[name].generation = 1<<32 - 2
	if step, err = tree.peek(name, 1<<32-2, limits); err != nil {
		t.Fatal(err)
	}
	tree.apply(step)
	if _, err := tree.peek(name, 1<<32-1, limits); !errors.Is(err, ErrLimit) {
		t.Fatalf("the last generation: %v", err)
	}
	if _, err := tree.peek(name, 0, limits); !errors.Is(err, ErrReplay) {
		t.Fatalf("generation 0 again: %v", err)
	}
}
