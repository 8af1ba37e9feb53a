package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

const bob = wire.DeviceID("mimi://a.example/d/bob/phone")

// heldOf returns the bytes that the sessions of a device's user hold.
func (g *Gateway) heldOf(d wire.DeviceID) int {
	g.backlogs.mu.Lock()
	defer g.backlogs.mu.Unlock()
	u := g.backlogs.of[d.User()]
	if u == nil {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests + u.unsent
}

// deaf logs in with a socket that takes little, and from which nothing more is read.
func (w *world) deaf(d wire.DeviceID, receive bool) *device {
	w.t.Helper()
	dialer := w.dialer()
	dialer.NetDialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return c, err
	}
	conn, _, err := dialer.Dial(w.url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	c := &device{t: w.t, conn: conn}
	c.body(wire.FrameChallenge, &c.challenge)
	c.sign(d, receive)
	c.body(wire.FrameSession, &c.session)
	return c
}

// TestLimitOfUser checks that the answers which the devices of one user do not read have a bound in all sessions
// together: sessions that do not read are closed, and later ones of the same user are served.
func TestLimitOfUser(t *testing.T) {
	const most, size, answers, sessions = 3 << 20, 1 << 20, 20, 6
	var w *world
	w = newWorld(t, func(context.Context, Request) (any, error) {
		if held := w.heldOf(phone); held > most+sessions*answers*100 { // the requests have fewer than 100 bytes
			t.Errorf("the sessions of the user hold %d bytes, at most %d", held, most)
		}
		return &wire.PutBlobRequest{Conversation: "conversation-one", Data: make([]byte, size)}, nil
	}, func(c *Config) { c.MaxHeld, c.MaxHeldOfUser = 1<<30, most })
	for i := range sessions {
		c := w.deaf([]wire.DeviceID{phone, laptop}[i%2], false)
		for range answers { // the socket takes less than all but three of them
			c.id++
			f := wire.Frame{Type: wire.FrameRequest, ID: c.id, Method: wire.MethodCount}
			if c.conn.WriteMessage(websocket.BinaryMessage, c.encode(&f)) != nil {
				break // closed
			}
		}
	}
	w.counted("closes_total", "4004", sessions)
	w.counted("refused_total", overUnsentOfUser, sessions)
	eventually(t, "no bytes held", func() bool { return w.heldOf(phone) == 0 })
	c := w.login(phone, false)
	for range answers {
		var got wire.PutBlobRequest
		if err := c.do(wire.MethodCount, nil, &got); err != nil || !bytes.Equal(got.Data, make([]byte, size)) {
			t.Fatalf("an answer of %d bytes: %v", len(got.Data), err)
		}
	}
}

// TestLimitOfUserWithPushes checks that the same bound counts the pushes that devices do not read.
func TestLimitOfUserWithPushes(t *testing.T) {
	const most = 3 << 20
	w := newWorld(t, nil, func(c *Config) { c.MaxHeldOfUser, c.PageItems = most, 2 })
	big := strings.Repeat("x", 1<<20)
	for range 24 {
		w.feeds.put("conversation-one", big)
	}
	for _, d := range []wire.DeviceID{phone, laptop} { // a page of two pushes for each
		w.deaf(d, true)
	}
	w.counted("closes_total", "4004", 1)
	if n := w.Sessions(); n != 1 {
		t.Errorf("%d sessions are left", n)
	}
	if n := w.value("refused_total", overUnsentOfUser); n != 1 {
		t.Errorf("%v sessions were closed", n)
	}
}

// TestLimitOfUserWithRequests checks that requests of one user are refused at the bound, whichever session has reached
// it, and that another user is served.
func TestLimitOfUserWithRequests(t *testing.T) {
	goOn := make(chan struct{})
	w := newWorld(t, func(context.Context, Request) (any, error) { <-goOn; return nil, nil },
		func(c *Config) { c.MaxHeldOfUser = 16 << 10 })
	w.devices.mu.Lock()
	w.devices.keys[bob] = keyOf(bob).Public().(ed25519.PublicKey)
	w.devices.mu.Unlock()
	a, b, other := w.login(phone, false), w.login(laptop, false), w.login(bob, false)
	blob := &wire.PutBlobRequest{Conversation: "conversation-one", Data: make([]byte, 8<<10)}
	a.ask(wire.MethodPutBlob, blob)
	a.ask(wire.MethodPutBlob, blob)
	eventually(t, "two requests under way", func() bool { return w.heldOf(phone) >= 16<<10 })
	b.ask(wire.MethodCount, nil)
	if f := b.body(wire.FrameError, nil); wire.CodeOf(errorIn(f)) != wire.Busy {
		t.Errorf("a request over the bound: %v", errorIn(f))
	}
	w.counted("refused_total", overHeldOfUser, 1)
	close(goOn)
	if err := other.do(wire.MethodCount, nil, nil); err != nil {
		t.Errorf("another user: %v", err)
	}
	for range 2 {
		a.body(wire.FrameAnswer, nil)
	}
	eventually(t, "no bytes held", func() bool { return w.heldOf(phone) == 0 })
	if err := b.do(wire.MethodPutBlob, blob, nil); err != nil {
		t.Error(err)
	}
}

// TestBacklogAtItsEdge checks which sessions are closed: none at the bound; above it, first the session whose write in
// progress began first, then the one with the most bytes.
func TestBacklogAtItsEdge(t *testing.T) {
	var all backlogs
	join := func() *session {
		s := &session{device: phone}
		s.user = all.join(s, 100)
		return s
	}
	slow, fast, small, large := join(), join(), join(), join()
	u := slow.user
	if !u.begin(slow, 10) || len(u.queue(slow, 20, 10)) > 0 {
		t.Error("refused below the bound")
	}
	u.writing(fast)
	u.writing(slow)
	u.wrote(fast)
	u.writing(fast)
	if len(u.queue(fast, 30, 0)) > 0 || len(u.queue(small, 20, 0)) > 0 || len(u.queue(large, 29, 0)) > 0 {
		t.Error("a session is closed below the bound")
	}
	if !u.begin(small, 50) || u.begin(small, 1) || len(u.queue(large, 1, 0)) > 0 {
		t.Error("the bound for requests, or that for answers, is another one")
	}
	if got := u.queue(small, 1, 50); !slices.Equal(got, []*session{slow}) || u.unsent != 81 || u.requests != 0 {
		t.Errorf("%d sessions are closed, not the slowest one; %d bytes are left", len(got), u.unsent)
	}
	u.sent(slow, 20) // counts no longer
	if len(u.queue(slow, 1000, 0)) > 0 || u.unsent != 81 {
		t.Errorf("the bytes of a closed session count: %d", u.unsent)
	}
	if got := u.queue(small, 60, 0); !slices.Equal(got, []*session{fast, small}) || u.unsent != 30 {
		t.Errorf("%d sessions are closed, not the writing one and the largest; %d bytes are left", len(got), u.unsent)
	}
	for _, s := range []*session{slow, fast, small, large} {
		all.leave(s)
	}
	if len(all.of) > 0 || u.unsent != 0 || u.requests != 0 {
		t.Errorf("%d users and %d bytes are left", len(all.of), u.unsent)
	}
	if len(u.queue(small, 1000, 0)) > 0 || u.unsent != 0 {
		t.Error("an alarm for a session that has left counts")
	}
}
