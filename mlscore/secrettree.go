package mlscore

import (
	"fmt"
	"maps"
	"slices"
)

// messageKey is one key and nonce of a ratchet, for one message (RFC 9420 §9.1).
type messageKey struct {
	generation uint32
	key, nonce Secret
}

func (k messageKey) erase() { eraseAll(k.key, k.nonce) }

// ratchet is a sender's chain of keys for one content type (§9.1).
type ratchet struct {
	secret     Secret // of the next generation
	generation uint32 // the next one
	skipped    map[uint32]messageKey
}

// ratchetName names a ratchet: its sender and its content type.
type ratchetName struct {
	leaf      LeafIndex
	handshake bool
}

func ratchetFor(leaf LeafIndex, kind ContentType) ratchetName {
	return ratchetName{leaf, kind != ContentApplication}
}

// RatchetLimits bound the cost of out-of-order delivery (§15.3).
type RatchetLimits struct {
	Ahead   uint32 // generations that one message may skip
	Skipped int    // keys kept for messages that have not arrived, for each ratchet
}

// secretTree holds an epoch's message keys (§9). It starts as one secret at the root and is expanded towards a leaf
// when that leaf's first key is needed. Used secrets are erased.
//
// Taking a key has two parts, so that a message that fails changes nothing: peek computes the key and the step that
// consumes it, and apply makes the step.
type secretTree struct {
	suite    *suite
	height   int
	nodes    map[nodeIndex]Secret // secrets whose children have not been derived
	ratchets map[ratchetName]*ratchet
}

func newSecretTree(s *suite, height int, encryption Secret) *secretTree {
	return &secretTree{
		suite:    s,
		height:   height,
		nodes:    map[nodeIndex]Secret{rootOf(height): encryption},
		ratchets: map[ratchetName]*ratchet{},
	}
}

// treeStep is the change that the use of one key makes.
type treeStep struct {
	name ratchetName
	key  messageKey

	used     nodeIndex            // the expanded node, if expanded
	expanded map[nodeIndex]Secret // the secrets of the copath of the leaf
	opened   map[ratchetName]*ratchet

	fromSkipped bool
	secret      Secret // the ratchet's next secret otherwise
	generation  uint32
	skipped     []messageKey // newly skipped
	forgotten   []uint32     // skipped earlier, and now over the limit
}

// discard erases a step that is not applied.
func (st *treeStep) discard() {
	if !st.fromSkipped {
		st.key.erase()
	}
	for _, s := range st.expanded {
		s.Erase()
	}
	for _, r := range st.opened {
		r.secret.Erase()
	}
	st.secret.Erase()
	for _, k := range st.skipped {
		k.erase()
	}
}

// peek computes the key of a generation without consuming it.
func (t *secretTree) peek(name ratchetName, generation uint32, limits RatchetLimits) (*treeStep, error) {
	st := &treeStep{name: name}
	r := t.ratchets[name]
	if r == nil {
		if err := t.open(st); err != nil {
			return nil, err
		}
		r = st.opened[name]
	}
	if generation < r.generation {
		key, ok := r.skipped[generation]
		if !ok {
			st.discard()
			return nil, fail(ErrReplay, "§9.2", messageName(name.leaf, generation), "its key was used, or is no longer kept")
		}
		st.key, st.fromSkipped = key, true
		return st, nil
	}
	if generation-r.generation > limits.Ahead {
		st.discard()
		return nil, fail(ErrLimit, "§15.3", messageName(name.leaf, generation), "%d generations ahead, at most %d", generation-r.generation, limits.Ahead)
	}
	if generation == 1<<32-1 {
		st.discard()
		return nil, fail(ErrLimit, "§9.1", messageName(name.leaf, generation), "is the last that there is")
	}
	t.advance(st, r, generation, limits)
	return st, nil
}

// messageName names a message for errors.
func messageName(leaf LeafIndex, generation uint32) string {
	return fmt.Sprintf("message of %v, generation %d", leafName(leaf), generation)
}

// advance runs the ratchet up to a generation.
func (t *secretTree) advance(st *treeStep, r *ratchet, generation uint32, limits RatchetLimits) {
	secret := r.secret.Clone()
	for g := r.generation; ; g++ {
		var key messageKey
		if g == generation || uint64(generation-g) <= uint64(limits.Skipped) {
			key = t.suite.ratchetKey(secret, g)
		}
		next := t.suite.deriveTreeSecret(secret.Bytes(), "secret", g, t.suite.hashLen())
		secret.Erase()
		secret = next
		if g == generation {
			st.key = key
			break
		}
		if key.key.Len() > 0 {
			st.skipped = append(st.skipped, key)
		}
	}
	st.secret, st.generation = secret, generation+1
	if over := len(r.skipped) + len(st.skipped) - limits.Skipped; over > 0 {
		oldest := slices.Sorted(maps.Keys(r.skipped))
		st.forgotten = oldest[:min(over, len(oldest))]
	}
}

// ratchetKey derives a generation's key and nonce (§9.1).
func (s *suite) ratchetKey(secret Secret, generation uint32) messageKey {
	return messageKey{
		generation: generation,
		key:        s.deriveTreeSecret(secret.Bytes(), "key", generation, s.keyLen()),
		nonce:      s.deriveTreeSecret(secret.Bytes(), "nonce", generation, s.nonceLen()),
	}
}

// open derives the secrets from the nearest known node above a leaf down to the leaf's two ratchets.
func (t *secretTree) open(st *treeStep) error {
	leaf := st.name.leaf
	level := 0
	for level <= t.height {
		if _, ok := t.nodes[nodeAt(leaf, level)]; ok {
			break
		}
		level++
	}
	if level > t.height || uint64(leaf) >= 1<<t.height {
		return fail(ErrReplay, "§9.2", leafName(leaf), "its message keys are not in this epoch's secret tree")
	}
	s := t.suite
	st.used = nodeAt(leaf, level)
	st.expanded = map[nodeIndex]Secret{}
	secret := t.nodes[st.used].Clone()
	for ; level > 0; level-- {
		n := nodeAt(leaf, level)
		left := s.expandWithLabel(secret.Bytes(), "tree", []byte("left"), s.hashLen())
		right := s.expandWithLabel(secret.Bytes(), "tree", []byte("right"), s.hashLen())
		secret.Erase()
		if n.left().covers(leaf) {
			secret, st.expanded[n.right()] = left, right
		} else {
			secret, st.expanded[n.left()] = right, left
		}
	}
	st.opened = map[ratchetName]*ratchet{
		{leaf, true}:  {secret: s.expandWithLabel(secret.Bytes(), "handshake", nil, s.hashLen()), skipped: map[uint32]messageKey{}},
		{leaf, false}: {secret: s.expandWithLabel(secret.Bytes(), "application", nil, s.hashLen()), skipped: map[uint32]messageKey{}},
	}
	secret.Erase()
	return nil
}

// apply consumes the key: the tree then holds nothing from which the key could be computed again. The caller must
// erase the key itself.
func (t *secretTree) apply(st *treeStep) {
	if st.opened != nil {
		t.nodes[st.used].Erase()
		delete(t.nodes, st.used)
		maps.Copy(t.nodes, st.expanded)
		maps.Copy(t.ratchets, st.opened)
	}
	r := t.ratchets[st.name]
	if st.fromSkipped {
		delete(r.skipped, st.key.generation)
		return
	}
	r.secret.Erase()
	r.secret, r.generation = st.secret, st.generation
	for _, g := range st.forgotten {
		r.skipped[g].erase()
		delete(r.skipped, g)
	}
	for _, k := range st.skipped {
		r.skipped[k.generation] = k
	}
}

// next returns the generation of the next message that the owner of a ratchet sends.
func (t *secretTree) next(name ratchetName) uint32 {
	if r := t.ratchets[name]; r != nil {
		return r.generation
	}
	return 0
}

// erase erases all keys.
func (t *secretTree) erase() {
	for _, s := range t.nodes {
		s.Erase()
	}
	for _, r := range t.ratchets {
		r.secret.Erase()
		for _, k := range r.skipped {
			k.erase()
		}
	}
	t.nodes, t.ratchets = map[nodeIndex]Secret{}, map[ratchetName]*ratchet{}
}
