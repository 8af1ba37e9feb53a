package mlscore

import (
	"hash/maphash"
	"slices"
)

// keyIndex finds the place of a key in the tree without a pass over the tree. It is a persistent trie over a hash of
// the key: a change copies one bucket and the nodes above it, so that every epoch can hold its own index and share
// the rest.
//
// An entry is 8 bytes: half a hash and the place of the key. find may report places of other keys: the caller must
// compare the key at the place.
type keyIndex struct {
	seed maphash.Seed
	root *indexNode
}

// indexNode is a bucket, or sixteen nodes for the next four bits of the hash.
type indexNode struct {
	kids    *[16]*indexNode
	entries []uint64
}

const (
	indexBucket = 64 // entries before a bucket splits
	indexDepth  = 8  // levels that the 32 bits of hash in an entry allow
)

func newKeyIndex() keyIndex { return keyIndex{seed: maphash.MakeSeed()} }

func (x keyIndex) entry(key string, place uint32) uint64 {
	return maphash.String(x.seed, key)&^0xffffffff | uint64(place)
}

// slot returns the four bits of the hash that select the child at level depth of the trie.
func slot(entry uint64, depth int) int { return int(entry >> (60 - 4*depth) & 15) }

// find calls match with each possible place of key until match returns true.
func (x keyIndex) find(key string, match func(place uint32) bool) bool {
	e := x.entry(key, 0)
	n := x.root
	for depth := 0; n != nil; depth++ {
		if n.kids == nil {
			for _, have := range n.entries {
				if have>>32 == e>>32 && match(uint32(have)) {
					return true
				}
			}
			return false
		}
		n = n.kids[slot(e, depth)]
	}
	return false
}

// add returns an index that also holds key at place.
func (x keyIndex) add(key string, place uint32) keyIndex {
	x.root = x.root.add(x.entry(key, place), 0)
	return x
}

// remove returns an index without key at place.
func (x keyIndex) remove(key string, place uint32) keyIndex {
	x.root = x.root.remove(x.entry(key, place), 0)
	return x
}

// fill returns an index of entries. It sorts entries and takes ownership of them.
func (x keyIndex) fill(entries []uint64) keyIndex {
	slices.Sort(entries)
	x.root = buildIndex(entries, 0)
	return x
}

// addAll returns an index that also holds entries. It sorts entries.
func (x keyIndex) addAll(entries []uint64) keyIndex {
	slices.Sort(entries)
	x.root = x.root.addAll(entries, 0)
	return x
}

func (n *indexNode) addAll(entries []uint64, depth int) *indexNode {
	switch {
	case len(entries) == 0:
		return n
	case n == nil:
		return buildIndex(entries, depth)
	case n.kids == nil:
		all := slices.Concat(n.entries, entries)
		slices.Sort(all)
		return buildIndex(all, depth)
	}
	kids := *n.kids
	for i := range kids {
		end := slotEnd(entries, depth, i)
		kids[i] = kids[i].addAll(entries[:end], depth+1)
		entries = entries[end:]
	}
	return &indexNode{kids: &kids}
}

// slotEnd returns how many of the sorted entries have number as their slot at depth. entries must not begin with
// entries of a lower slot.
func slotEnd(entries []uint64, depth, number int) int {
	end := 0
	for end < len(entries) && slot(entries[end], depth) == number {
		end++
	}
	return end
}

func buildIndex(entries []uint64, depth int) *indexNode {
	if len(entries) == 0 {
		return nil
	}
	if len(entries) <= indexBucket || depth == indexDepth {
		return &indexNode{entries: entries[:len(entries):len(entries)]}
	}
	kids := new([16]*indexNode)
	for i := range kids {
		end := slotEnd(entries, depth, i)
		kids[i] = buildIndex(entries[:end], depth+1)
		entries = entries[end:]
	}
	return &indexNode{kids: kids}
}

func (n *indexNode) add(e uint64, depth int) *indexNode {
	switch {
	case n == nil:
		return &indexNode{entries: []uint64{e}}
	case n.kids != nil:
		kids := *n.kids
		kids[slot(e, depth)] = kids[slot(e, depth)].add(e, depth+1)
		return &indexNode{kids: &kids}
	}
	return n.addAll([]uint64{e}, depth)
}

func (n *indexNode) remove(e uint64, depth int) *indexNode {
	if n == nil {
		return nil
	}
	if n.kids != nil {
		i := slot(e, depth)
		kid := n.kids[i].remove(e, depth+1)
		if kid == n.kids[i] {
			return n
		}
		kids := *n.kids
		kids[i] = kid
		if kids == ([16]*indexNode{}) {
			return nil
		}
		return &indexNode{kids: &kids}
	}
	i := slices.Index(n.entries, e)
	if i < 0 {
		return n
	}
	if len(n.entries) == 1 {
		return nil
	}
	entries := make([]uint64, 0, len(n.entries)-1)
	return &indexNode{entries: append(append(entries, n.entries[:i]...), n.entries[i+1:]...)}
}

// twice reports whether two places have keys with the same hash for which same returns true.
func (x keyIndex) twice(same func(a, b uint32) bool) bool { return x.root.twice(same) }

func (n *indexNode) twice(same func(a, b uint32) bool) bool {
	if n == nil {
		return false
	}
	if n.kids != nil {
		return slices.ContainsFunc(n.kids[:], func(kid *indexNode) bool { return kid.twice(same) })
	}
	for i, a := range n.entries {
		for _, b := range n.entries[i+1:] {
			if a>>32 == b>>32 && same(uint32(a), uint32(b)) {
				return true
			}
		}
	}
	return false
}
