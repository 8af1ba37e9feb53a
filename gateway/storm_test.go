package gateway

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestStorm has many devices come, ask, read, break off and be disconnected at once, and the gateway stop in
// the middle: nothing is left of them, and nobody waits.
func TestStorm(t *testing.T) {
	const devices, rounds = 12, 8
	w := newWorld(t, func(ctx context.Context, r Request) (any, error) {
		select {
		case <-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond):
		case <-ctx.Done():
		}
		return echo(ctx, r)
	}, func(c *Config) {
		c.Window, c.PingEvery, c.ConnectRate = 8, 5*time.Millisecond, Rate{Burst: 10_000, Every: 1}
	})
	name := func(i int) wire.DeviceID { return wire.DeviceID(fmt.Sprintf("mimi://a.example/d/user%d/phone", i)) }
	for i := range devices {
		anyDevice{w.devices}.key(name(i))
	}
	var all sync.WaitGroup
	for i := range devices {
		all.Go(func() {
			for range rounds {
				live(w, name(i), 1+rand.IntN(10))
			}
		})
	}
	for i := range 20 {
		w.feeds.put(fmt.Sprintf("conversation-%d", i%3), "x")
		w.Disconnect(name(rand.IntN(devices)))
	}
	all.Wait()
	for i := range devices {
		all.Go(func() { live(w, name(i), 1000) })
	}
	eventually(t, "sessions", func() bool { return w.Sessions() > 0 })
	w.stop()
	all.Wait()
	if w.Sessions() != 0 || len(w.feeds.feeds) != 0 || w.sockets.Load() != 0 || len(w.Gateway.registry.of) != 0 || w.Gateway.registry.places != 0 {
		t.Errorf("left: %d sessions, %d feeds, %d sockets, %d names, %d places",
			w.Sessions(), len(w.feeds.feeds), w.sockets.Load(), len(w.Gateway.registry.of), w.Gateway.registry.places)
	}
}

// live is a device that does this and that, until steps are done or the node ends it.
func live(w *world, d wire.DeviceID, steps int) {
	conn, _, err := w.dialer().Dial(w.url, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	var f wire.Frame
	var c wire.Challenge
	if readFrame(conn, &f, &c) != nil {
		return
	}
	input, err := c.LoginInput(d)
	if err != nil {
		return
	}
	if writeFrame(conn, wire.FrameLogin, &wire.Login{Device: d, Signature: ed25519.Sign(keyOf(d), input), Receive: true}) != nil {
		return
	}
	for i := range steps {
		frame, err := wire.Encode(&wire.Frame{Type: wire.FrameRequest, ID: uint64(i + 1), Method: wire.MethodCount})
		if err != nil || conn.WriteMessage(2, frame) != nil {
			return
		}
		for { // until an answer comes, in whatever order
			_, b, err := conn.ReadMessage()
			if err != nil || wire.Decode(b, wire.MaxSessionFrame, &f) != nil {
				return
			}
			var p wire.Push
			if f.Type == wire.FramePush && wire.Decode(f.Body, wire.MaxSessionFrame, &p) == nil {
				_ = writeFrame(conn, wire.FrameAck, &wire.Ack{Conversation: p.Conversation, Token: p.Token, Sequence: p.Sequence})
			}
			if done := f.Type == wire.FrameAnswer || f.Type == wire.FrameError; done {
				break
			}
			f = wire.Frame{}
		}
		f = wire.Frame{}
	}
}
