package orderbench

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"
)

// TestLongRun measures a little of everything: every row comes, and every figure is one.
func TestLongRun(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("measures for half a minute: set MLSFED_LONG to short or full")
	}
	var names []string
	err := Run(context.Background(), Config{
		Dir: t.TempDir(), Round: 500 * time.Millisecond, Rounds: 1, Busy: []int{3}, Sleepers: 5, Wakes: 3, Progress: t.Logf,
	}, func(r Row) {
		t.Logf("%+v", r)
		if r.Value < 0 || r.Value == 0 && r.Name != "asleep/cpu" && r.Name != "asleep/heap" {
			t.Errorf("%s: value %v", r.Name, r.Value)
		}
		names = append(names, r.Name)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"commits/naive", "commits/naive-empty", "commits/bolt", "commits/pebble", "latency/bolt", "floor", "follower-lag", "latency/pebble",
		"asleep/cpu", "asleep/heap", "wake/p50", "wake/p99"}
	if !slices.Equal(names, want) {
		t.Fatalf("rows %v, want %v", names, want)
	}
}
