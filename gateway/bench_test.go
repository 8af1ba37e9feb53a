package gateway

import (
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// wide lifts the limits that are in the way of measuring.
func wide(c *Config) {
	c.ConnectRate, c.FrameRate = Rate{Burst: 1 << 40, Every: 1}, Rate{Burst: 1 << 40, Every: 1}
	c.ByteRate = Rate{Burst: 1 << 40, Every: 1}
}

// BenchmarkLogin connects with TLS 1.3, logs in and closes: both sides on this machine.
func BenchmarkLogin(b *testing.B) {
	w := newWorld(b, nil, wide)
	for b.Loop() {
		closeNormally(w.login(phone, false))
	}
}

// BenchmarkRequest is one round trip of a session with a request that costs nothing to serve.
func BenchmarkRequest(b *testing.B) {
	w := newWorld(b, nil, wide)
	c := w.login(phone, false)
	for b.Loop() {
		if err := c.do(wire.MethodCount, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRequestsAtOnce keeps 32 requests under way.
func BenchmarkRequestsAtOnce(b *testing.B) {
	w := newWorld(b, nil, wide)
	c := w.login(phone, false)
	under := 0
	for b.Loop() {
		if under == 32 {
			c.body(wire.FrameAnswer, nil)
			under--
		}
		c.ask(wire.MethodCount, nil)
		under++
	}
	for ; under > 0; under-- {
		c.body(wire.FrameAnswer, nil)
	}
}

// BenchmarkPushes has a device read a stream of messages of 1 KiB, which acknowledges every 64.
func BenchmarkPushes(b *testing.B) {
	w := newWorld(b, nil, wide)
	payload := strings.Repeat("x", 1024)
	b.SetBytes(int64(len(payload)))
	c := w.login(phone, true)
	put, read := 0, 0
	for b.Loop() {
		if read == put {
			b.StopTimer()
			for range 4096 {
				w.feeds.put("conversation-one", payload)
				put++
			}
			b.StartTimer()
		}
		p := c.push()
		if read++; read%64 == 0 {
			c.ack("conversation-one", p.Sequence)
		}
	}
}
