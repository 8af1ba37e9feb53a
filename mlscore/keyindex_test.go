package mlscore

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// indexVersion is an index with its expected content. The content is a multiset: an index holds a key at a place at
// most once, but may hold different keys at the same place.
type indexVersion struct {
	root *indexNode
	want []uint64
}

func (v indexVersion) check(t *rapid.T) {
	var got []uint64
	var walk func(n *indexNode, depth int)
	walk = func(n *indexNode, depth int) {
		switch {
		case n == nil:
		case n.kids != nil:
			for _, k := range n.kids {
				walk(k, depth+1)
			}
		case len(n.entries) == 0:
			t.Fatal("an empty bucket was kept")
		case len(n.entries) > indexBucket && depth < indexDepth:
			t.Fatalf("%d entries in a bucket at depth %d", len(n.entries), depth)
		default:
			got = append(got, n.entries...)
		}
	}
	walk(v.root, 0)
	slices.Sort(got)
	want := slices.Sorted(slices.Values(v.want))
	if !slices.Equal(got, want) {
		t.Fatalf("the index holds %x, want %x", got, want)
	}
}

// TestKeyIndexVersions adds and removes random keys, each time from any earlier version, and compares all versions
// with lists. The hashes collide completely, in their first digits, and not at all.
func TestKeyIndexVersions(t *testing.T) {
	prefixes := []uint64{0, 0xffffffff, 0x12345678, 0x12345679, 0x12345670, 0x12300000, 0x80000000}
	hash := rapid.OneOf(rapid.SampledFrom(prefixes), rapid.Uint64Range(0, 1<<32-1))
	rapid.Check(t, func(t *rapid.T) {
		versions := []indexVersion{{}}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			from := versions[rapid.IntRange(max(0, len(versions)-3), len(versions)-1).Draw(t, "from")]
			if len(from.want) > 0 && rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
				e := from.want[rapid.IntRange(0, len(from.want)-1).Draw(t, "which")]
				at := slices.Index(from.want, e)
				rest := slices.Delete(slices.Clone(from.want), at, at+1)
				versions = append(versions, indexVersion{from.root.remove(e, 0), rest})
				continue
			}
			e := hash.Draw(t, "hash")<<32 | uint64(rapid.Uint32Range(0, 40).Draw(t, "place"))
			versions = append(versions, indexVersion{from.root.add(e, 0), append(slices.Clone(from.want), e)})
		}
		last := versions[len(versions)-1]
		absent := uint64(0x0badc0de)<<32 | 7
		if !slices.Contains(last.want, absent) && last.root.remove(absent, 0) != last.root {
			t.Fatal("removing what is not there made a new index")
		}
		versions = append(versions, indexVersion{buildIndex(slices.Sorted(slices.Values(last.want)), 0), last.want})
		for _, v := range versions {
			v.check(t)
		}
	})
}

// TestKeyIndexFinds compares find with a map from keys to places.
func TestKeyIndexFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newKeyIndex()
		model := map[string]map[uint32]bool{}
		key := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("key ", rapid.IntRange(0, 60).Draw(t, "key")) })
		if rapid.Bool().Draw(t, "filled") {
			var entries []uint64
			for place := range rapid.Uint32Range(1, 200).Draw(t, "size") {
				k := key.Draw(t, "key")
				entries = append(entries, x.entry(k, place))
				model[k] = with(model[k], place)
			}
			x = x.fill(entries)
		}
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			k, place := key.Draw(t, "key"), rapid.Uint32Range(0, 5).Draw(t, "place")
			if model[k][place] {
				x = x.remove(k, place)
				delete(model[k], place)
			} else {
				x = x.add(k, place)
				model[k] = with(model[k], place)
			}
		}
		for n := range 62 {
			k := fmt.Sprint("key ", n)
			found := map[uint32]bool{}
			if x.find(k, func(place uint32) bool { found[place] = true; return false }) {
				t.Fatal("found what match refused")
			}
			for place := range model[k] {
				if !found[place] {
					t.Fatalf("%s is not found at %d", k, place)
				}
			}
		}
	})
}

func with(set map[uint32]bool, place uint32) map[uint32]bool {
	if set == nil {
		set = map[uint32]bool{}
	}
	set[place] = true
	return set
}
