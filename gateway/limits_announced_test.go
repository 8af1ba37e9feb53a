package gateway

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestLimitsAreAnnounced: the answer has what the operator has set, and keeping to it is enough.
func TestLimitsAreAnnounced(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) {
		c.FrameRate, c.ByteRate = Rate{Burst: 30, Every: 2500 * time.Microsecond}, Rate{Burst: 1 << 10, Every: time.Second / 512}
		c.Fragments, c.MaxHeld, c.MaxOverloads, c.MaxOfDevice = 7, 1<<20, 5, 3
		c.RequestWait, c.PingEvery, c.IdleWait = 9*time.Second, time.Hour, 2*time.Hour
	})
	c := w.login(phone, false)
	var got wire.LimitsAnswer
	if err := c.do(wire.MethodLimits, nil, &got); err != nil {
		t.Fatal(err)
	}
	want := wire.LimitsAnswer{FrameBurst: 30, FrameMicros: 2500, ByteBurst: 1 << 20, ByteRate: 512 << 10, Fragments: 7, Held: 1 << 20, Overloads: 5, Sessions: 3,
		Request: 9000, Ping: 3_600_000, Idle: 7_200_000, Content: wire.MaxMessage}
	if got != want {
		t.Fatalf("got %+v, wanted %+v", got, want)
	}
	for range got.FrameBurst - 1 { // one was the question
		if err := c.do(wire.MethodCount, nil, nil); err != nil {
			t.Fatalf("within the burst: %v", err)
		}
	}
}
