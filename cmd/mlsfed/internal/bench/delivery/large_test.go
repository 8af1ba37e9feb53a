package delivery

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness/harnesstest"
)

// TestLongBenchLarge runs the benchmark in its short form, without MLSFED_LONG with even fewer members. It checks
// that every figure is there, with its floor if it has one.
func TestLongBenchLarge(t *testing.T) {
	binary := harnesstest.Build(t)
	args := append(strings.Fields("large --json --short --node"), binary)
	if os.Getenv("MLSFED_LONG") == "" {
		args = append(args, "--members", "40", "--late", "2")
	}
	var names []string
	for _, r := range harnesstest.Rows(t, LargeCommand, args) {
		names = append(names, r.Name)
		if r.Unit != "ms" || r.N < 40 || r.Value < 0 || r.Ratio > 0 && r.Against != "floor" {
			t.Errorf("%+v: want a size, a figure, and a ratio where there is a floor", r)
		}
	}
	want := []string{"large/add"}
	for _, name := range []string{"commit", "known", "text", "join", "late"} {
		want = append(want, "large/"+name+"-floor", "large/"+name)
		if harness.HasProcessorTime {
			want = append(want, "large/"+name+"-processor-floor", "large/"+name+"-processor")
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %v, want %v", names, want)
	}
	for _, args := range []string{"--members 9", "--members 120001", "--samples 0", "--late 0", "--only weather"} {
		harnesstest.Refuses(t, LargeCommand, strings.Fields("large "+args))
	}
}
