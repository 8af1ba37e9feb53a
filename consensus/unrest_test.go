package consensus

import (
	"testing"
	"time"
)

// TestTermsOfAVoter checks the limits of the terms that one voter begins at their edges: so many at once, then one after
// each interval. Another voter, and another conversation, are not affected, and a voter that this leader has asked to
// campaign begins again with the whole burst.
func TestTermsOfAVoter(t *testing.T) {
	m := &Manager{cfg: Config{Limits: Limits{Upsets: 2, Terms: 3}, Timers: Timers{Upset: time.Minute, Term: 10 * time.Second}}}
	at := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		upset bool
		burst int
		every time.Duration
	}{"leaderships that the voter ends": {true, 2, time.Minute}, "terms without a leader": {false, 3, 10 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			c, now := &conversation{m: m}, at
			for i := range test.burst {
				if !c.takeTerm("n1.b.example", test.upset, now) {
					t.Errorf("term %d of %d at once is refused", i+1, test.burst)
				}
			}
			over := func() {
				t.Helper()
				if c.takeTerm("n1.b.example", test.upset, now) {
					t.Error("a term over the limit is accepted")
				}
			}
			over()
			if !c.takeTerm("n1.c.example", test.upset, now) || !(&conversation{m: m}).takeTerm("n1.b.example", test.upset, now) {
				t.Error("the limit of one voter in one conversation refuses another one")
			}
			now = now.Add(test.every - time.Millisecond)
			over()
			now = now.Add(time.Millisecond)
			if !c.takeTerm("n1.b.example", test.upset, now) {
				t.Errorf("a term after %v is refused", test.every)
			}
			over()
			c.pardon("n1.b.example")
			if !c.takeTerm("n1.b.example", test.upset, now) {
				t.Error("a term that this leader has asked for is refused")
			}
		})
	}
}
