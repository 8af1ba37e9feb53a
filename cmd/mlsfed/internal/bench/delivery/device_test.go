package delivery

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness/harnesstest"
)

// TestKeyChangesAreSpread checks a month of virtual time with members that all joined at once and come online at the
// same hour: few commits are in vain, and every member changes its key, also a member that is online for ten minutes
// a day.
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
				// The bound is one and a half periods, a twelfth of a period for each wait, and the days on which the
				// member is away.
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

// TestLongBenchDevice runs the workloads at their smallest, without MLSFED_LONG only the fast ones, and checks that
// every figure is there.
func TestLongBenchDevice(t *testing.T) {
	binary := harnesstest.Build(t)
	args := append(strings.Fields("device --json --short --conversations 3 --history 200 --samples 1 --node"), binary)
	want := strings.Fields(`conversations/start conversations/upkeep conversations/create conversations/list conversations/list-elapsed
		conversations/send conversations/send-elapsed conversations/incoming history/open history/written history/send`)
	keys := strings.Fields("keys/tried-for-each-won keys/tried-for-each-won")
	if os.Getenv("MLSFED_LONG") == "" {
		args = append(args, "--only", "conversations,history,keys")
		want = append(want, keys...)
	} else {
		want = slices.Concat(want, strings.Fields("devices/added devices/send devices/send-a-device away/item away/memory"), keys)
	}
	var names []string
	for _, r := range harnesstest.Rows(t, DeviceCommand, args) {
		names = append(names, r.Name)
		if r.Unit == "" || r.N < 2 {
			t.Errorf("%+v: want a size and a unit", r)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %v, want %v", names, want)
	}
	for _, args := range []string{"--conversations 0", "--devices 1", "--only weather", "--samples 0"} {
		harnesstest.Refuses(t, DeviceCommand, strings.Fields("device "+args))
	}
}
