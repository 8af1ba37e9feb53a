package mlscore

import (
	"slices"
	"testing"
)

// TestAppendixC_TreeMath compares the tree arithmetic with the code of appendix C for all trees of up
// to 70 leaves, filled up to a power of two, and all nodes in them.
func TestAppendixC_TreeMath(t *testing.T) {
	for leaves := 1; leaves <= 70; leaves++ {
		height := heightFor(leaves)
		full := 1 << height
		if full < leaves || height > 0 && full/2 >= leaves {
			t.Fatalf("%d leaves: height %d", leaves, height)
		}
		if got, want := int(rootOf(height)), naiveRoot(full); got != want {
			t.Fatalf("%d leaves: root %d, want %d", leaves, got, want)
		}
		for x := range naiveWidth(full) {
			checkNodeMath(t, nodeIndex(x), full)
		}
		for a := range leaves {
			for b := range leaves {
				want := naiveLevel(naiveCommonAncestor(2*a, 2*b, full))
				if got := commonLevel(LeafIndex(a), LeafIndex(b)); got != want {
					t.Fatalf("leaves %d and %d meet at level %d, want %d", a, b, got, want)
				}
			}
		}
	}
}

func checkNodeMath(t *testing.T, n nodeIndex, leaves int) {
	t.Helper()
	x := int(n)
	if n.level() != naiveLevel(x) {
		t.Fatalf("node %d: level %d, want %d", x, n.level(), naiveLevel(x))
	}
	if n.level() > 0 && (int(n.left()) != naiveLeft(x) || int(n.right()) != naiveRight(x)) {
		t.Fatalf("node %d: children %d and %d, want %d and %d", x, n.left(), n.right(), naiveLeft(x), naiveRight(x))
	}
	if x != naiveRoot(leaves) && (int(n.parent()) != naiveParent(x, leaves) || int(n.sibling()) != naiveSibling(x, leaves)) {
		t.Fatalf("node %d of %d leaves: parent %d and sibling %d, want %d and %d", x, leaves,
			n.parent(), n.sibling(), naiveParent(x, leaves), naiveSibling(x, leaves))
	}
	first := -1
	for i := range leaves {
		onPath := x == 2*i || slices.Contains(naiveDirectPath(2*i, leaves), x)
		if onPath && first < 0 {
			first = i
		}
		if n.covers(LeafIndex(i)) != onPath {
			t.Fatalf("node %d covers leaf %d: %v, want %v", x, i, !onPath, onPath)
		}
		if onPath && nodeAt(LeafIndex(i), n.level()) != n {
			t.Fatalf("nodeAt(%d, %d) is %d, want %d", i, n.level(), nodeAt(LeafIndex(i), n.level()), x)
		}
	}
	if int(n.firstLeaf()) != first {
		t.Fatalf("node %d: first leaf %d, want %d", x, n.firstLeaf(), first)
	}
}

// TestTreeMathLargest checks the largest tree that node indices allow.
func TestTreeMathLargest(t *testing.T) {
	const last = LeafIndex(maxLeaves - 1)
	height := heightFor(maxLeaves)
	if height != 30 || rootOf(height) != 1<<30-1 {
		t.Fatalf("height %d, root %d", height, rootOf(height))
	}
	if last.node() != 1<<31-2 || last.node().firstLeaf() != last || !rootOf(height).covers(last) {
		t.Fatalf("last leaf is node %d, first leaf %d", last.node(), last.node().firstLeaf())
	}
	n := last.node()
	for level := range height {
		if n.level() != level || n != nodeAt(last, level) || n.parent() != nodeAt(last, level+1) || n.sibling().parent() != n.parent() {
			t.Fatalf("level %d: node %d, parent %d, sibling %d", level, n, n.parent(), n.sibling())
		}
		n = n.parent()
	}
	if n != rootOf(height) {
		t.Fatalf("the path ends at %d, want %d", n, rootOf(height))
	}
}
