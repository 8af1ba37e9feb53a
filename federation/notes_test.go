package federation

import (
	"log/slog"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
)

// TestLines holds that a kind of line which floods the log is cut down, that this is said, and that other
// kinds are not cut down with it.
func TestLines(t *testing.T) {
	clock, log := federationtest.NewClock(), new(federationtest.Journal)
	l := newLines(slog.New(slog.NewTextHandler(log, nil)), clock)
	for range lineBurst + 7 {
		l.warn("flood")
	}
	l.warn("other")
	if n := log.Count("flood"); n != lineBurst || !log.Has("other") {
		t.Errorf("%d lines", n)
	}
	clock.Advance(time.Second)
	l.warn("flood")
	if !log.Has("flood", "left_out_before=7") {
		t.Error("it is not said what was left out")
	}
}
