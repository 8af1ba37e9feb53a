package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// plug is a transport that can be disconnected.
type plug struct {
	Transport
	in    atomic.Bool
	dials atomic.Int64
}

func (p *plug) Dial(ctx context.Context) (Conn, error) {
	p.dials.Add(1)
	if !p.in.Load() {
		return nil, errors.New("network is unreachable")
	}
	return p.Transport.Dial(ctx)
}

// TestReconnectEndsThePause checks that Reconnect ends a pause. Pauses are an hour long here, so only a call to
// Reconnect makes a device connect.
func TestReconnectEndsThePause(t *testing.T) {
	for name, reconnectAtOnce := range map[string]func(*testing.T, *Device){
		"by the app": func(_ *testing.T, d *Device) { d.Reconnect() },
		"by a message": func(t *testing.T, d *Device) {
			if _, err := d.SendText(t.Context(), "no conversation", "text"); err == nil {
				t.Error("it was taken")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a.example")
			p := &plug{Transport: &endpoint{w, "a.example"}}
			timing := quick()
			timing.RetryFirst, timing.RetryLast = time.Hour, time.Hour
			d, err := Open(Options{Store: mlscore.NewMemoryStore(), Transport: p, Timing: timing})
			if err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			w.orgs["a.example"].codes["code"] = "mimi://a.example/u/alice"
			w.mu.Unlock()
			check(t, d.Enrol(t.Context(), Enrolment{Device: "mimi://a.example/d/alice/phone", Code: "code"}))
			d.Reconnect() // while Run does not run: the call is forgotten, or it shortens the first pause
			ctx, cancel := context.WithCancel(t.Context())
			events := d.Subscribe(ctx)
			ended := make(chan error, 1)
			go func() { ended <- d.Run(ctx) }()
			next := func(want EventType) {
				t.Helper()
				for e := range events {
					if e.Type == want {
						return
					}
				}
				t.Fatalf("no %s", want)
			}
			next(EventOffline)
			if p.dials.Load() == 1 { // otherwise the call before Run did this already
				d.Reconnect()
				next(EventOffline)
			}
			before := p.dials.Load()
			for range 100 { // like a user who types fast
				d.Reconnect()
			}
			p.in.Store(true)
			if n := p.dials.Load(); n > before {
				t.Errorf("%d attempts at once", n-before)
			}
			eventually(t, func() error { // it ends a pause only once in a while
				reconnectAtOnce(t, d)
				if s, _ := d.link.get(); s == nil {
					return ErrOffline
				}
				return nil
			})
			d.Reconnect() // while connected: no effect
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
