package streams

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestHighestCursorIsKnown: whatever readers come, go and acknowledge.
func TestHighestCursorIsKnown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p positions
		var list []uint64
		for range rapid.IntRange(0, 60).Draw(t, "acts") {
			switch i := len(list) - 1; {
			case i < 0 || rapid.Bool().Draw(t, "joins"):
				at := rapid.Uint64Range(0, 20).Draw(t, "at")
				p.add(at)
				list = append(list, at)
			default:
				i = rapid.IntRange(0, i).Draw(t, "who")
				if to := rapid.Uint64Range(list[i], 20).Draw(t, "to"); rapid.Bool().Draw(t, "moves") {
					p.move(list[i], to, 20)
					list[i] = to
				} else {
					p.remove(list[i], 20)
					list = slices.Delete(list, i, i+1)
				}
			}
			want := uint64(0)
			for _, at := range list {
				want = max(want, at)
			}
			if rapid.Bool().Draw(t, "asks") && p.highest() != want {
				t.Fatalf("highest %d of %v", p.highest(), list)
			}
		}
	})
}
