package runner

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestAssignments checks that all ways of giving the roles to the peers are tried if there are few, and never one
// twice.
func TestAssignments(t *testing.T) {
	for _, c := range []struct{ peers, actors, most, want int }{
		{1, 5, 16, 1},
		{2, 1, 16, 2},
		{2, 8, 256, 256},
		{2, 8, 255, 255},
		{2, 8, 16, 16},
		{4, 4, 256, 256},
		{3, 40, 100, 100},
		{5, 3, 1, 1},
		{3, 0, 9, 1},
		{0, 3, 9, 0},
		{3, 3, 0, 0},
	} {
		list := Assignments(c.peers, c.actors, c.most, rand.New(rand.NewPCG(1, 2)))
		seen := map[string]bool{}
		for _, one := range list {
			if len(one) != c.actors || slices.ContainsFunc(one, func(p int) bool { return p < 0 || p >= c.peers }) {
				t.Errorf("%+v: %v", c, one)
			}
			seen[fmt.Sprint(one)] = true
		}
		if len(list) != c.want || len(seen) != c.want {
			t.Errorf("%+v: %d assignments, %d different", c, len(list), len(seen))
		}
		if c.most >= c.peers {
			for i := range c.actors {
				for p := range c.peers {
					if !slices.ContainsFunc(list, func(one []int) bool { return one[i] == p }) {
						t.Errorf("%+v: peer %d never plays actor %d", c, p, i)
					}
				}
			}
		}
	}
}
