package bench

import (
	"slices"
	"testing"
)

// TestOrderOfAnOlderBuild checks that a build without --processor-time is compared by its lines of progress.
func TestOrderOfAnOlderBuild(t *testing.T) {
	cmp := orderBuilds(true)("this", "other", []string{"bench", "order", "--json", "--processor-time=true", "--rounds=2"})
	if want := []string{"other", "bench", "order", "--json", "--rounds=2"}; !slices.Equal(cmp.Other, want) || cmp.Extra == nil {
		t.Errorf("order: %q, want %q, and the processor time from the progress", cmp.Other, want)
	}
}
