package backoff

import (
	"testing"
	"time"
)

// TestPause checks the bounds of a pause, and that many failures do not overflow it.
func TestPause(t *testing.T) {
	for _, c := range []struct {
		failures int
		jitter   float64
		want     time.Duration
	}{
		{failures: 0, jitter: 0, want: 50 * time.Millisecond},
		{failures: 0, jitter: 1, want: 100 * time.Millisecond},
		{failures: 3, jitter: 1, want: 800 * time.Millisecond},
		{failures: 4, jitter: 1, want: time.Second},
		{failures: 1000, jitter: 1, want: time.Second},
		{failures: 1000, jitter: 0, want: 500 * time.Millisecond},
	} {
		if got := Pause(c.failures, 100*time.Millisecond, time.Second, c.jitter); got != c.want {
			t.Errorf("%d failures, jitter %v: %v, wanted %v", c.failures, c.jitter, got, c.want)
		}
	}
	if got := Pause(0, 0, 0, 0); got <= 0 {
		t.Errorf("without bounds: %v, wanted a pause that is positive", got)
	}
	if got := Pause(2, 3*time.Second, time.Second, 1); got != time.Second {
		t.Errorf("a first pause over the longest one: %v", got)
	}
}
