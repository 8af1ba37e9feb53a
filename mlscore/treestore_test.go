package mlscore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// loadWhole loads a group, and also reads the parts that are loaded at first use: the index and the data of past
// epochs.
func loadWhole(c *Client, id []byte) (*Group, error) {
	g, err := c.LoadGroup(id)
	if err != nil {
		return nil, err
	}
	for at := range g.past {
		if _, err := g.openPast(at); err != nil {
			return nil, err
		}
	}
	return g, g.public().tree.indexed().err
}

// treeRecords gives access to the records of a stored tree, for tests that change them.
type treeRecords struct {
	store *MemoryStore
	group groupName
}

func (r *treeRecords) key(piece int) []byte {
	if piece < 0 {
		return groupKey(r.group, recordTree)
	}
	return groupKey(r.group, recordTree, uint32Bytes(uint32(piece)))
}

func (r *treeRecords) get(t testing.TB, piece int) []byte {
	t.Helper()
	v, ok, err := r.store.Get(r.key(piece))
	if err != nil || !ok {
		t.Fatalf("piece %d: %v, %v", piece, ok, err)
	}
	return v
}

// TestStoredTreePieces checks that a tree is stored in pieces of a bounded size, whose number is recorded. A commit
// writes no piece again. A missing, changed, exchanged or additional piece is detected.
func TestStoredTreePieces(t *testing.T) {
	g := newLargeGroup(t, 300)
	c := g.commit(CommitOptions{})
	g.merge(g.alice, c.Staged)
	store := g.stores[0].MemoryStore
	records := &treeRecords{store, groupName{id: []byte("large")}}
	record := must[*treeRecord](t)(parseTreeRecord(records.get(t, -1)))
	if record.pieces < 4 {
		t.Fatalf("%d pieces: too few for this test", record.pieces)
	}
	size := 0
	for i := range int(record.pieces) {
		n := len(records.get(t, i))
		if last := i == int(record.pieces)-1; n > treePiece || !last && n < treePiece {
			t.Errorf("piece %d has %d bytes", i, n)
		}
		size += n
	}
	if uint32(size) != record.size {
		t.Errorf("%d bytes in all, %d recorded", size, record.size)
	}
	flip := func(piece, at int) func(*Batch) {
		return func(b *Batch) {
			v := bytes.Clone(records.get(t, piece))
			v[(at+len(v))%len(v)] ^= 1
			b.put(records.key(piece), v)
		}
	}
	last := int(record.pieces) - 1
	for name, change := range map[string]func(*Batch){
		"no record":         func(b *Batch) { b.delete(records.key(-1)) },
		"no first piece":    func(b *Batch) { b.delete(records.key(0)) },
		"no piece between":  func(b *Batch) { b.delete(records.key(1)) },
		"no last piece":     func(b *Batch) { b.delete(records.key(last)) },
		"a piece too many":  func(b *Batch) { b.put(records.key(last+1), []byte("more")) },
		"an empty piece":    func(b *Batch) { b.put(records.key(last), []byte{}) },
		"a piece cut short": func(b *Batch) { b.put(records.key(1), bytes.Clone(records.get(t, 1)[1:])) },
		"pieces exchanged": func(b *Batch) {
			one, other := bytes.Clone(records.get(t, 1)), bytes.Clone(records.get(t, 2))
			b.put(records.key(1), other)
			b.put(records.key(2), one)
		},
		"a number of pieces that is wrong": func(b *Batch) {
			r := *record
			r.pieces--
			b.put(records.key(-1), r.marshal())
		},
		"a key that is too long":   func(b *Batch) { b.put(append(records.key(1), 0), []byte("x")) },
		"a record that goes on":    func(b *Batch) { b.put(records.key(-1), append(record.marshal(), 0)) },
		"a version to come":        func(b *Batch) { b.put(records.key(-1), append([]byte{treeVersion + 1}, record.marshal()[1:]...)) },
		"a size that is wrong":     flip(-1, 8),
		"a checksum that is wrong": flip(-1, -1),
		"the first byte changed":   flip(0, 0),
		"a leaf changed":           flip(1, 100),
		"a hash changed":           flip(last, -1),
	} {
		t.Run(name, func(t *testing.T) {
			var b Batch
			change(&b)
			client := *g.alice.Client
			changed := store.Clone()
			client.cfg.Store = changed
			if err := changed.Apply(b); err != nil {
				t.Fatal(err)
			}
			_, err := client.LoadGroup([]byte("large"))
			requireKind(t, err, ErrMalformed)
		})
	}
	if _, err := loadWhole(g.alice.Client, []byte("large")); err != nil {
		t.Errorf("as it is stored: %v", err)
	}
}

// TestStoredTreeOfVersion1 checks that a tree that an earlier release stored, in one record, can be read and used.
func TestStoredTreeOfVersion1(t *testing.T) {
	g := newLargeGroup(t, 100)
	tree := must[[]byte](t)(g.alice.group.Public().Tree())
	c := g.commit(CommitOptions{})
	g.merge(g.alice, c.Staged)
	records := &treeRecords{g.stores[0].MemoryStore, groupName{id: []byte("large")}}
	var b Batch
	b.deleteAll(records.key(-1))
	b.put(records.key(-1), append([]byte{stateVersion}, tree...))
	if err := g.stores[0].Apply(b); err != nil {
		t.Fatal(err)
	}
	want := g.alice.group.public().tree.hash()
	g.alice.group = must[*Group](t)(loadWhole(g.alice.Client, []byte("large")))
	if !bytes.Equal(g.alice.group.public().tree.hash(), want) {
		t.Fatal("another tree")
	}
	g.merge(g.bob, g.bob.stage(t, c.Message))
	c = g.commit(CommitOptions{})
	g.merge(g.alice, c.Staged)
	g.merge(g.bob, g.bob.stage(t, c.Message))
	for _, p := range []*person{g.alice, g.bob} {
		if err := p.group.Erase(); err != nil {
			t.Fatal(err)
		}
	}
	err := g.stores[0].Scan(groupPrefix(records.group), func(key, _ []byte) error { return fmt.Errorf("record %q is left", key) })
	if err != nil {
		t.Error(err)
	}
}

// TestRestoredTree makes random changes to stored trees. It checks that the tree that is restored with the valid
// stored hashes equals the tree that is built from its nodes.
func TestRestoredTree(t *testing.T) {
	random := rand.New(rand.NewPCG(14, 7))
	for n := 1; n <= 400; n += 1 + random.IntN(40) {
		s := suites[0]
		tree := must[*ratchetTree](t)(buildTree(s, TrustBasic{}, fabricatedBodies(t, max(n, 2))))
		e := tree.edit()
		blanks := []leafChange{}
		for i := range max(n, 2) - 1 { // never the last one: smaller trees follow below
			if random.IntN(3) == 0 {
				blanks = append(blanks, leafChange{LeafIndex(i), ""})
			}
		}
		if err := e.replace(blanks); err != nil {
			t.Fatal(err)
		}
		tree = e.finish()
		data := must[[]byte](t)(tree.stored().marshal())
		for range 4 {
			stored := must[*storedTree](t)(parseStoredTree(string(data), s.hashLen()))
			var changed []nodeIndex
			set := func(at nodeIndex, body string) {
				if int(at) < len(stored.bodies) && stored.bodies[at] != body {
					stored.bodies[at] = body
					changed = append(changed, at)
				}
			}
			last := len(stored.bodies) - 1
			for range random.IntN(4) {
				i := LeafIndex(random.IntN(last/2 + 1))
				if body := stored.bodies[last]; random.IntN(2) == 0 {
					set(i.node(), body)
				} else if int(i.node()) < last {
					set(i.node(), "")
				}
				for level := 1; level <= heightFor(last/2+1); level++ {
					set(nodeAt(i, level), "")
				}
			}
			slices.Sort(changed)
			changed = slices.Compact(changed)
			want := buildBodies(t, s, slices.Clone(stored.bodies))
			got := must[*ratchetTree](t)(restoreTree(s, TrustBasic{}, stored, changed))
			if !slices.Equal(contentOf(got.root), contentOf(want)) {
				t.Fatalf("%d leaves, changed %v: another tree", n, changed)
			}
		}
	}
}

// contentOf returns a text of every field of the nodes of a tree except their places in memory.
func contentOf(n *treeNode) []string {
	if n == nil {
		return nil
	}
	list := append(contentOf(n.left), fmt.Sprintf("%d %d %v %x %x", n.level, n.occupied, n.frozen, n.hash, n.body))
	return append(list, contentOf(n.right)...)
}

// buildBodies builds a tree without an index.
func buildBodies(t testing.TB, s *suite, bodies []string) *treeNode {
	t.Helper()
	root, err := (&treeBuilder{bodies: bodies}).root(s)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// fabricatedBodies returns the nodes of a fabricated group of n members.
func fabricatedBodies(t testing.TB, n int) []string {
	t.Helper()
	bodies := allBodies(newLargeGroup(t, n).alice.group.public().tree)
	for len(bodies) > 0 && bodies[len(bodies)-1] == "" {
		bodies = bodies[:len(bodies)-1]
	}
	return bodies
}

// TestStoredTreeOfManyNodes checks that no memory is allocated for more nodes than the record can hold.
func TestStoredTreeOfManyNodes(t *testing.T) {
	for _, count := range []uint32{0, 2, 1<<31 - 1, 1<<32 - 1} {
		b := append(binary.BigEndian.AppendUint32(nil, count), make([]byte, 100)...)
		_, err := parseStoredTree(string(b), 32)
		requireKind(t, err, ErrMalformed)
	}
}
