package orderbench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNaiveGoesOnWithoutALeader checks that a group without a majority commits nothing, that the round counts the
// commits of the others, and that every replica of the naive design has the same state as ours would have.
func TestNaiveGoesOnWithoutALeader(t *testing.T) {
	s, err := newNaive(t.Context(), t.TempDir(), 2, false, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	s.patience = 100 * time.Millisecond
	for _, r := range s.groups[0][:2] {
		if err := r.raft.Shutdown().Error(); err != nil {
			t.Fatal(err)
		}
	}
	p, err := drive(t.Context(), s, 2, 300*time.Millisecond)
	if err != nil || p.rate <= 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	var most wire.SequenceNumber
	for _, r := range s.groups[1] {
		most = max(most, r.fsm.m.Sequence())
	}
	if most < 2 || most != s.talks[1].place.Parent {
		t.Fatalf("the machine is at %d, the client at %d", most, s.talks[1].place.Parent)
	}
}

// peerProgram returns a program that prints a pace: the table needs no second library.
func peerProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "peer")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho '{\"rate\": 1234.5, \"cpu\": 0.5}'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestPeerThatFails checks that the error names the program's last words, and that a line without a rate is refused.
func TestPeerThatFails(t *testing.T) {
	for script, want := range map[string]string{
		"echo first >&2; echo no leader >&2; exit 3": "no leader",
		"echo '{}'": "wanted an object",
	} {
		program := filepath.Join(t.TempDir(), "peer")
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := Run(t.Context(), Config{Dir: t.TempDir(), Only: []string{"peer"}, Peer: program, Busy: []int{1}, Rounds: 1}, func(Row) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// TestPartsAreNamed checks that an unknown part is refused before anything is measured.
func TestPartsAreNamed(t *testing.T) {
	if err := Run(t.Context(), Config{Dir: t.TempDir(), Only: []string{"latency", "weather"}}, nil); err == nil {
		t.Fatal("measured the weather")
	}
}

// TestProcessorOf checks that the processor time is read from the line of progress that reports it, with any text
// before it, and from no other line.
func TestProcessorOf(t *testing.T) {
	line := "   12.3s  " + fmt.Sprintf(progressFormat, 100, 1, 3, designEmpty, 1234.4, 0.427)
	got, ok := ProcessorOf(line)
	if want := (Row{Name: "commits/naive-empty/processor", N: 100, Value: 0.43, Unit: "ms"}); !ok || got != want {
		t.Errorf("%q: %+v, %v, want %+v", line, got, ok, want)
	}
	for _, line := range []string{"", "100 conversations, round 1 of 3: bolt", "one conversation: latency", line + " or so"} {
		if got, ok := ProcessorOf(line); ok {
			t.Errorf("%q: %+v, want nothing", line, got)
		}
	}
}

// TestLongRun measures a little of everything and checks that every row is shown with a valid figure.
func TestLongRun(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("measures for half a minute: set MLSFED_LONG to short or full")
	}
	var names []string
	err := Run(context.Background(), Config{
		Dir: t.TempDir(), Round: 500 * time.Millisecond, Rounds: 1, Busy: []int{3}, Sleepers: 5, Wakes: 3, Woken: 4, Peer: peerProgram(t), Progress: t.Logf, Processor: true,
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
	want := []string{"commits/naive", "commits/naive/processor", "commits/bolt", "commits/bolt/processor", "commits/pebble",
		"commits/pebble/processor", "commits/naive-empty", "commits/naive-empty/processor", "latency/bolt", "floor", "follower-lag", "latency/pebble",
		"asleep/cpu", "asleep/heap", "wake/p50", "wake/p99", "order/woken", "order/peer", "order/peer/dragonboat", "order/peer/processor"}
	if !slices.Equal(names, want) {
		t.Fatalf("rows %v, want %v", names, want)
	}
}
