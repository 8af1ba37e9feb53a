package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// TestKeyChangesAreSpread: in a month of virtual time, members who all joined at once, and come online at the same hour, make
// few commits in vain, and every one of them gets to its own, also one that is online for ten minutes a day.
func TestKeyChangesAreSpread(t *testing.T) {
	const day = 24 * time.Hour
	s := client.KeySchedule{Age: 7 * day, Commits: 256}
	for name, habits := range map[string][]int{"always": {0}, "office": {1}, "mixed": {0, 1, 1, 2}, "evenings": {2}} {
		for _, members := range []int{2, 300, 5000} {
			t.Run(fmt.Sprintf("%s/%d", name, members), func(t *testing.T) {
				length := max(4*7*day, 4*s.Period(members))
				tried, won, longest := keyChanges(s, members, habits, length, uint64(members))
				ratio := float64(tried) / float64(won)
				t.Logf("%d tried, %d won: %.3f for each; the longest time between two is %.1f days, a period %.1f", tried, won, ratio, longest.Hours()/24, s.Period(members).Hours()/24)
				if ratio > 1.1 {
					t.Errorf("%.3f commits tried for each that wins, at most 1.1", ratio)
				}
				// One and a half periods, a twelfth of one for each wait, and the days on which it is away.
				if most := 2*s.Period(members) + 5*day; longest > most {
					t.Errorf("a member changed no keys for %v, at most %v", longest, most)
				}
				if perAge := float64(won) * float64(s.Age) / float64(length); perAge > 1.2*float64(s.Commits)+2 {
					t.Errorf("%.0f epochs within %v, wanted about %d", perAge, s.Age, s.Commits)
				}
			})
		}
	}
}
