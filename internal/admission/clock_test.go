package admission

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/internal/tokenbucket"
)

// TestClockGoesBack: what was taken while the clock was years ahead shuts nobody out afterwards.
func TestClockGoesBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	later := now.Add(10 * 365 * 24 * time.Hour)
	a := netip.MustParseAddr("192.0.2.1")
	d := New(Limits{Failures: tokenbucket.Rate{Burst: 1, Every: time.Second}, ShutFirst: time.Minute, ShutLast: time.Minute}, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	now, later = later, now
	fail := func() Reason {
		v, why := d.Open(a)
		v.Failed()
		return why
	}
	for range 2 {
		fail()
	}
	if fail() != Shut {
		t.Fatal("it is not shut out")
	}
	now = later
	if why := fail(); why != "" {
		t.Errorf("shut out for years: %s", why)
	}
	fail()
	fail()
	if fail() != Shut {
		t.Error("it is not shut out by the new time")
	}
}
