package federation

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness/harnesstest"
)

// TestLongBenchFederation runs the parts at their smallest, without MLSFED_LONG only the second part. It checks that
// every figure is there, and that nothing is missing at the end.
func TestLongBenchFederation(t *testing.T) {
	binary := harnesstest.Build(t)
	args := append(strings.Fields("federation --json --short --settle 0s --window 100ms --wait 1m --node"), binary)
	want := strings.Fields("hub/links hub/lacking hub/idle-processor hub/idle-traffic hub/memory hub/status")
	if os.Getenv("MLSFED_LONG") == "" {
		args = append(args, "--only", "hub")
	} else {
		want = slices.Concat(strings.Fields("mesh/links mesh/lacking mesh/idle-processor mesh/idle-traffic mesh/record"), want,
			strings.Fields(`dead/admit dead/start dead/live dead/idle-processor dead/idle-traffic dead/dials
				conversation/add conversation/voters conversation/replicas conversation/commit conversation/commit-sent
				conversation/settled-commit conversation/settled-commit-sent`))
	}
	var names []string
	for _, r := range harnesstest.Rows(t, Command, args) {
		if strings.Contains(r.Name, "commit-sent/") {
			continue // a row for each kind of frame that was sent
		}
		names = append(names, r.Name)
		if strings.HasSuffix(r.Name, "/lacking") && r.Value != 0 {
			t.Errorf("%s of %d: %v", r.Name, r.N, r.Value)
		}
		if r.Unit == "" || r.N < 2 {
			t.Errorf("%+v: want a size and a unit", r)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %v, want %v", names, want)
	}
}

// TestBenchFederationRefuses checks that sizes and durations that cannot be measured are refused before a node
// starts.
func TestBenchFederationRefuses(t *testing.T) {
	for _, args := range []string{"--mesh 1", "--mesh 501", "--hub 5001", "--dead 20001", "--conversation 257", "--window 0s", "--wait 0s", "--settle -1s", "--only room"} {
		harnesstest.Refuses(t, Command, strings.Fields("federation "+args))
	}
}
