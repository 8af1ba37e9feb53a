// Package federationtest has helpers for the tests of the packages of federation.
package federationtest

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Patience bounds each wait of a test. A test measures nothing by it.
const Patience = 20 * time.Second

// Eventually waits until a condition holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	Within(t, Patience, what, holds)
}

// Within waits longer than Eventually, for work that takes long where processors are few.
func Within(t testing.TB, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Clock is a clock.Source that only the test moves.
type Clock struct {
	mu    sync.Mutex // guards what follows
	now   time.Time
	waits map[chan time.Time]time.Time
}

// NewClock returns a clock that shows the beginning of 2030.
func NewClock() *Clock {
	return &Clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), waits: make(map[chan time.Time]time.Time)}
}

// Now implements clock.Source.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After implements clock.Source.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.waits[ch] = c.now.Add(d)
	return ch
}

// Advance moves the clock, which may end waits.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.waits {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.waits, ch)
		}
	}
}

// Journal is a log that a test searches. With MLSFED_LOG in the environment it is printed too.
type Journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (j *Journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if os.Getenv("MLSFED_LOG") != "" {
		os.Stderr.Write(b)
	}
	return j.text.Write(b)
}

// Has reports whether one line has all the parts.
func (j *Journal) Has(parts ...string) bool { return j.Count(parts...) > 0 }

// Count returns the number of lines that have all the parts.
func (j *Journal) Count(parts ...string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
lines:
	for line := range strings.Lines(j.text.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		n++
	}
	return n
}

// Metric returns the sum of the counters and gauges with a name and these labels: pairs of name and value.
func Metric(t testing.TB, r *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	metrics:
		for _, m := range family.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
