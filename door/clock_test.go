package door

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// TestClockGoesBack: what was taken while the clock was years ahead shuts nobody out afterwards.
func TestClockGoesBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	later := now.Add(10 * 365 * 24 * time.Hour)
	rates := Rates[int]{Rate: Rate{Burst: 2, Every: time.Second}, Most: 10}
	for range 3 {
		rates.Take(1, later)
	}
	for i := range 3 {
		if got := rates.Take(1, now); got != (i < 2) {
			t.Errorf("take %d: %v", i, got)
		}
	}

	a := netip.MustParseAddr("192.0.2.1")
	d := New(Limits{Failures: Rate{Burst: 1, Every: time.Second}, ShutFirst: time.Minute, ShutLast: time.Minute}, func() time.Time { return now }, slog.New(slog.DiscardHandler))
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
