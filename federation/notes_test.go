package federation

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestLines holds that a kind of line which floods the log is cut down, that this is said, and that other
// kinds are not cut down with it.
func TestLines(t *testing.T) {
	clock, log := newClock(), new(journal)
	l := newLines(slog.New(slog.NewTextHandler(log, nil)), clock)
	for range lineBurst + 7 {
		l.warn("flood")
	}
	l.warn("other")
	if n := strings.Count(log.text.String(), "flood"); n != lineBurst || !log.has("other") {
		t.Errorf("%d lines", n)
	}
	clock.advance(time.Second)
	l.warn("flood")
	if !log.has("flood", "left_out_before=7") {
		t.Error("it is not said what was left out")
	}
}
