package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/node"
)

// TestKeptReplicasAreListedAndFound checks that 'status' lists the kept replicas with the time until which they are
// kept, and that 'drop' finds a replica only by the beginning of its id and its number.
func TestKeptReplicasAreListedAndFound(t *testing.T) {
	since := time.Date(2026, 11, 30, 12, 0, 0, 0, time.Local)
	s := &node.Status{Node: "n1.a.example", Kept: []node.Kept{
		{Conversation: "5f2c9a1000000000aa", Number: 3, Entries: 12, Bytes: 4096, Why: "generation 1 began", Since: since, Waits: true},
		{Conversation: "5f2c9a1000000000aa", Number: 4, Entries: 2, Bytes: 300, Why: "no device here reads it", Since: since, Ends: since.AddDate(0, 0, 30)},
		{Conversation: "77aa", Number: 4, Why: "evil \x1b[2J", Since: since},
	}}
	var out strings.Builder
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"KEPT ASIDE", "proved", "2026-12-30", "dropped", "generation 1 began"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("ESCAPES")
	}
	for _, c := range []struct {
		prefix string
		number uint32
		want   string // in the error
		kept   *node.Kept
	}{
		{"5f2c", 4, "", &s.Kept[1]}, {"77", 4, "", &s.Kept[2]}, {"5f2c", 5, "under number 5", nil},
		{"88", 4, "a conversation whose id begins", nil}, {"", 4, "a conversation whose id begins", nil},
	} {
		got, err := keptOf(s, c.prefix, c.number)
		if got != c.kept || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q under %d: %+v, %v", c.prefix, c.number, got, err)
		}
	}
}
