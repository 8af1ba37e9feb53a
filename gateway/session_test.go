package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

func TestSessionAnnouncesItsBounds(t *testing.T) {
	w := newWorld(t, nil)
	c := w.login(phone, true)
	want := wire.Session{Node: "n1.a.example", Time: c.session.Time, CertificateEnds: 4_000_000_000_000,
		MaxFrame: wire.MaxSessionFrame, Window: 256, Requests: 32}
	if c.session != want {
		t.Errorf("session %+v, wanted %+v", c.session, want)
	}
	if c.challenge.Domain != "a.example" || c.challenge.Nonce == (wire.Hash{}) || c.challenge.Time == 0 {
		t.Errorf("challenge %+v", c.challenge)
	}
	if again := w.login(laptop, false); again.challenge.Nonce == c.challenge.Nonce {
		t.Error("two connections have one nonce")
	}
	if w.Sessions() != 2 || w.value("sessions", "") != 2 {
		t.Errorf("%d sessions, %v counted, wanted 2", w.Sessions(), w.value("sessions", ""))
	}
}

func TestLoginRefused(t *testing.T) {
	w := newWorld(t, nil)
	other := w.connect() // whose challenge is another
	for name, answer := range map[string]func(c *device) wire.Login{
		"another key": func(c *device) wire.Login {
			input, _ := c.challenge.LoginInput(phone)
			return wire.Login{Device: phone, Signature: ed25519.Sign(keyOf(laptop), input)}
		},
		"another connection": func(c *device) wire.Login {
			input, _ := other.challenge.LoginInput(phone)
			return wire.Login{Device: phone, Signature: ed25519.Sign(keyOf(phone), input)}
		},
		"another domain": func(c *device) wire.Login {
			changed := c.challenge
			changed.Domain = "b.example"
			input, _ := changed.LoginInput(phone)
			return wire.Login{Device: phone, Signature: ed25519.Sign(keyOf(phone), input)}
		},
		"unknown device": func(c *device) wire.Login {
			const d = wire.DeviceID("mimi://a.example/d/mallory/phone")
			input, _ := c.challenge.LoginInput(d)
			return wire.Login{Device: d, Signature: ed25519.Sign(keyOf(d), input)}
		},
	} {
		c := w.connect()
		l := answer(c)
		c.send(wire.Frame{Type: wire.FrameLogin, Body: c.encode(&l)})
		why := c.wantClose(wire.CloseLogin)
		if why == nil || why.Code != wire.Denied || why.Text != "the device is not known here, was revoked, its certificate has ended, or the signature is not by its key" {
			t.Errorf("%s: got %v", name, why)
		}
	}
	w.counted("logins_total", "refused", 4)
	w.counted("closes_total", "4001", 4)
}

func TestLoginFault(t *testing.T) {
	w := newWorld(t, nil)
	w.devices.fail = errors.New("the disk is gone")
	c := w.connect()
	c.sign(phone, true)
	if why := c.wantClose(wire.CloseInternal); why == nil || why.Code != wire.Internal || why.Text != "the node failed; its log says more" {
		t.Errorf("got %v", why)
	}
}

func TestFrameOutOfPlace(t *testing.T) {
	w := newWorld(t, nil)
	before := map[string]wire.Frame{
		"request before login":   {Type: wire.FrameRequest, ID: 1, Method: wire.MethodCount},
		"login without a body":   {Type: wire.FrameLogin},
		"login with another one": {Type: wire.FrameLogin, Body: []byte{0xa0}},
	}
	for name, f := range before {
		c := w.connect()
		c.send(f)
		if why := c.wantClose(wire.CloseMalformed); why == nil || why.Code != wire.Malformed {
			t.Errorf("%s: got %v", name, why)
		}
	}
	after := map[string]wire.Frame{
		"second login":   {Type: wire.FrameLogin, Body: []byte{0xa0}},
		"answer":         {Type: wire.FrameAnswer, ID: 1},
		"push":           {Type: wire.FramePush},
		"ack of nothing": {Type: wire.FrameAck, Body: []byte{0xa0}},
	}
	for name, f := range after {
		c := w.login(phone, true)
		c.send(f)
		if why := c.wantClose(wire.CloseMalformed); why == nil || why.Code != wire.Malformed {
			t.Errorf("%s: got %v", name, why)
		}
	}
	c := w.login(phone, false)
	c.ack(inbox, 1)
	c.wantClose(wire.CloseMalformed)
}

func TestRequestAnswered(t *testing.T) {
	seen := make(chan Request, 1)
	w := newWorld(t, func(_ context.Context, r Request) (any, error) {
		seen <- r
		return &wire.ChainAnswer{Chain: [][]byte{[]byte("leaf")}}, nil
	})
	c := w.login(phone, false)
	var chain wire.ChainAnswer
	if err := c.do(wire.MethodRenew, nil, &chain); err != nil || len(chain.Chain) != 1 {
		t.Fatalf("%v, %v", chain, err)
	}
	if r := <-seen; r.Device != phone || r.Method != wire.MethodRenew || r.Body != nil || r.Room <= 0 {
		t.Errorf("served %+v", r)
	}
	if err := c.do(wire.MethodKeyMaterial, &wire.KeyMaterialRequest{ID: wire.SubmissionID{1}, User: "mimi://b.example/u/bob", Suite: 1}, &chain); err != nil {
		t.Fatal(err)
	}
	if body, ok := (<-seen).Body.(*wire.KeyMaterialRequest); !ok || body.User != "mimi://b.example/u/bob" {
		t.Errorf("served %+v", body)
	}
	w.counted("request_seconds", "renew", 1)
}

// TestRequestRefused holds the errors that answer requests which are not served; the session goes on.
func TestRequestRefused(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, r Request) (any, error) {
		switch r.Method {
		case wire.MethodCount:
			return nil, errors.New("the path /var/lib/secret is gone")
		case wire.MethodRenew:
			return nil, fmt.Errorf("renew: %w", wire.Errorf(wire.Quota, "renew", "no more"))
		case wire.MethodDevices:
			<-ctx.Done()
			return nil, ctx.Err()
		case wire.MethodConversations:
			return &wire.RevocationsAnswer{List: make([]byte, wire.MaxSessionFrame)}, nil
		case wire.MethodDiscard:
			panic("a fault of the node")
		}
		return nil, nil
	}, func(c *Config) { c.RequestWait = 50 * time.Millisecond })
	c := w.login(phone, false)
	for _, q := range []struct {
		method wire.Method
		body   any
		want   wire.Code
		text   string
	}{
		{"novel", nil, wire.Version, `method "novel" is unknown to this node`},
		{wire.MethodCount, &wire.CountAnswer{}, wire.Malformed, ""},
		{wire.MethodUpload, nil, wire.Malformed, ""},
		{wire.MethodSubmit, &wire.Message{Conversation: "conversation-one"}, wire.Version, ""},
		{wire.MethodCount, nil, wire.Internal, "the node failed; its log says more"},
		{wire.MethodRenew, nil, wire.Quota, "no more"},
		{wire.MethodDevices, nil, wire.Unavailable, "not done within 50ms: ask again with the same id"},
		{wire.MethodConversations, nil, wire.TooLarge, ""},
		{wire.MethodDiscard, nil, wire.Internal, "the node failed; its log says more"},
		{wire.MethodInvite, &wire.InviteRequest{}, "", ""},
	} {
		err := c.do(q.method, q.body, nil)
		var e *wire.Error
		if wire.CodeOf(err) != q.want || q.text != "" && (!errors.As(err, &e) || e.Text != q.text) {
			t.Errorf("%s: %v, wanted %q %s", q.method, err, q.want, q.text)
		}
	}
	w.counted("requests_total", "unknown", 1)
	w.counted("panics_total", "", 1)
}

// TestRequestOrder holds that what submits to one conversation is served in the order in which it came,
// one at a time, while everything else goes on.
func TestRequestOrder(t *testing.T) {
	const n = 30
	type served struct {
		conversation wire.ConversationID
		id           byte
	}
	var mu sync.Mutex
	var order []served
	busy := make(map[wire.ConversationID]bool)
	gate := make(chan struct{})
	w := newWorld(t, func(ctx context.Context, r Request) (any, error) {
		m, ok := r.Body.(*wire.Message)
		if !ok {
			return echo(ctx, r)
		}
		mu.Lock()
		if busy[m.Conversation] {
			t.Errorf("two at once in %s", m.Conversation)
		}
		busy[m.Conversation] = true
		mu.Unlock()
		<-gate
		mu.Lock()
		busy[m.Conversation] = false
		order = append(order, served{m.Conversation, m.ID[0]})
		mu.Unlock()
		return &wire.Accepted{Time: 1}, nil
	})
	c := w.login(phone, false)
	for i := range n {
		id := wire.ConversationID([]string{"conversation-one", "conversation-two"}[i%2])
		c.ask(wire.MethodSubmit, &wire.Message{Version: 1, Conversation: id, ID: wire.SubmissionID{byte(i + 1)}, Content: []byte("x"), Signature: make([]byte, 64)})
	}
	if err := c.do(wire.MethodCount, nil, nil); err != nil { // not behind them
		t.Fatal(err)
	}
	close(gate)
	for range n {
		c.body(wire.FrameAnswer, &wire.Accepted{})
	}
	last := make(map[wire.ConversationID]byte)
	for _, s := range order {
		if s.id <= last[s.conversation] {
			t.Errorf("%d in %s after %d", s.id, s.conversation, last[s.conversation])
		}
		last[s.conversation] = s.id
	}
	if len(order) != n {
		t.Errorf("served %d, wanted %d", len(order), n)
	}
}

func TestRequestIDInUse(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, _ Request) (any, error) { <-ctx.Done(); return nil, ctx.Err() })
	c := w.login(phone, false)
	c.send(wire.Frame{Type: wire.FrameRequest, ID: 5, Method: wire.MethodCount})
	c.send(wire.Frame{Type: wire.FrameRequest, ID: 5, Method: wire.MethodDevices})
	if why := c.wantClose(wire.CloseMalformed); why == nil || why.Text != "id 5 is in use" {
		t.Errorf("got %v", why)
	}
}

func TestPushesInOrder(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.PageItems = 3 })
	for i := range 10 {
		w.feeds.put("conversation-one", fmt.Sprint(i))
	}
	w.feeds.put(inbox, "notice")
	c := w.login(phone, true)
	next := make(map[string]uint64)
	take := func(n int) {
		t.Helper()
		for range n {
			p := c.push()
			id := inbox
			if p.Conversation != nil {
				id = string(*p.Conversation)
			}
			if next[id]++; p.Sequence != next[id] {
				t.Fatalf("item %d of %q, wanted %d", p.Sequence, id, next[id])
			}
		}
	}
	take(11)
	w.feeds.put("conversation-one", "new")
	w.feeds.put("conversation-two", "new stream")
	take(2)
}

func TestWindow(t *testing.T) {
	const window = 4
	w := newWorld(t, nil, func(c *Config) { c.Window = window })
	for i := range 11 {
		w.feeds.put("conversation-one", fmt.Sprint(i))
	}
	c := w.login(phone, true)
	if c.session.Window != window {
		t.Fatalf("announced a window of %d", c.session.Window)
	}
	take := func(from, to uint64) {
		t.Helper()
		for n := from; n <= to; n++ {
			if p := c.push(); p.Sequence != n {
				t.Fatalf("item %d, wanted %d", p.Sequence, n)
			}
		}
		// The next frame is the answer, not a push: the window is full, or the stream at its end.
		if err := c.do(wire.MethodCount, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	take(1, 4)
	c.ack("conversation-one", 1) // room for one
	take(5, 5)
	c.ack("conversation-one", 1) // which is no news
	c.ack("conversation-two", 9) // of a stream that it does not read
	take(1, 0)
	c.ack("conversation-one", 5)
	take(6, 9)
	c.ack("conversation-one", 9)
	take(10, 11)
	eventually(t, "cursor", func() bool { return w.feeds.cursor("conversation-one", phone) == 9 })
}

// TestResume holds that a session begins where the device has acknowledged, not where the last one ended.
func TestResume(t *testing.T) {
	w := newWorld(t, nil)
	w.feeds.acks = make(chan wire.Ack, 1)
	for i := range 5 {
		w.feeds.put("conversation-one", fmt.Sprint(i))
	}
	c := w.login(phone, true)
	for range 5 {
		c.push()
	}
	c.ack("conversation-one", 2)
	<-w.feeds.acks
	_ = c.conn.Close()
	w.counted("closes_total", "1006", 1)
	c = w.login(phone, true)
	if p := c.push(); p.Sequence != 3 || string(p.Payload) != "2" {
		t.Errorf("resumed with item %d %q, wanted 3", p.Sequence, p.Payload)
	}
	if other := w.login(laptop, true).push(); other.Sequence != 1 {
		t.Errorf("another device begins with item %d", other.Sequence)
	}
}

func TestGapIsReported(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 6 {
		w.feeds.put("conversation-one", fmt.Sprint(i))
	}
	w.feeds.expire("conversation-one", 4)
	c := w.login(phone, true)
	if p := c.push(); p.GapFrom != 1 || p.Sequence != 4 || p.Kind != 0 {
		t.Errorf("got %+v, wanted a gap from 1 to 4", p)
	}
	if p := c.push(); p.Sequence != 5 || p.GapFrom != 0 {
		t.Errorf("got %+v, wanted item 5", p)
	}
}

// TestStreamLeft holds that a stream which the device has left disturbs nothing else.
func TestStreamLeft(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.Window = 1 })
	w.feeds.put("conversation-one", "a")
	c := w.login(phone, true)
	c.push() // the window is full
	w.feeds.drop("conversation-one")
	w.feeds.put("conversation-two", "b")
	c.ack("conversation-one", 1) // passed over
	if p := c.push(); *p.Conversation != "conversation-two" {
		t.Errorf("got %+v", p)
	}
}

func TestAckBeyondEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.feeds.put("conversation-one", "a")
	c := w.login(phone, true)
	c.push()
	c.ack("conversation-one", 2)
	if why := c.wantClose(wire.CloseMalformed); why == nil || why.Code != wire.Invalid {
		t.Errorf("got %v", why)
	}
}

func TestFeedFault(t *testing.T) {
	for name, want := range map[string]struct {
		err  error
		code wire.CloseCode
	}{
		"fault":    {errors.New("corrupt"), wire.CloseInternal},
		"stopping": {wire.Errorf(wire.Unavailable, "read", "the mailbox has stopped"), wire.CloseStopping},
	} {
		w := newWorld(t, nil)
		w.feeds.put("conversation-one", "a")
		w.feeds.fail = want.err
		if why := w.login(phone, true).wantClose(want.code); why == nil || why.Code == "" {
			t.Errorf("%s: got %v", name, why)
		}
	}
}

func TestNewerSessionReplaces(t *testing.T) {
	w := newWorld(t, nil)
	requests := w.login(phone, false)
	older := w.login(phone, true)
	newer := w.login(phone, true)
	older.wantClose(wire.CloseReplaced)
	w.feeds.put(inbox, "notice")
	if p := newer.push(); p.Sequence != 1 {
		t.Errorf("got %+v", p)
	}
	if err := requests.do(wire.MethodCount, nil, nil); err != nil {
		t.Errorf("a session that does not receive: %v", err)
	}
	eventually(t, "sessions", func() bool { return w.Sessions() == 2 })
}

func TestDisconnect(t *testing.T) {
	w := newWorld(t, nil)
	a, b, other := w.login(phone, true), w.login(phone, false), w.login(laptop, true)
	w.Disconnect(phone)
	a.wantClose(wire.CloseRevoked)
	b.wantClose(wire.CloseRevoked)
	if err := other.do(wire.MethodCount, nil, nil); err != nil {
		t.Errorf("another device: %v", err)
	}
}

// TestDisconnectDuringLogin holds that a device which is revoked while its login is checked does not stay.
func TestDisconnectDuringLogin(t *testing.T) {
	w := newWorld(t, nil)
	w.devices.entered, w.devices.goOn = make(chan struct{}), make(chan struct{})
	c := w.connect()
	c.sign(phone, true)
	<-w.devices.entered
	w.Disconnect(phone)
	c.wantClose(wire.CloseRevoked)
	close(w.devices.goOn)
	eventually(t, "sessions", func() bool { return w.Sessions() == 0 })
}

// TestDrain holds that what is under way when the gateway stops is answered before the session ends.
func TestDrain(t *testing.T) {
	entered, goOn := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(ctx context.Context, r Request) (any, error) {
		if r.Method == wire.MethodRenew {
			entered <- struct{}{}
			<-goOn
			return &wire.ChainAnswer{Chain: [][]byte{[]byte("leaf")}}, nil
		}
		return echo(ctx, r)
	}, func(c *Config) { c.DrainWait = 20 * time.Second })
	idle, waiting, busy := w.login(laptop, true), w.connect(), w.login(phone, false)
	busy.ask(wire.MethodRenew, nil)
	<-entered
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	idle.wantClose(wire.CloseStopping)
	waiting.wantClose(wire.CloseStopping)
	busy.ask(wire.MethodCount, nil)
	if f := busy.body(wire.FrameError, nil); wire.CodeOf(errorIn(f)) != wire.Unavailable {
		t.Errorf("a request while it stops: %v", errorIn(f))
	}
	close(goOn)
	busy.body(wire.FrameAnswer, &wire.ChainAnswer{})
	busy.wantClose(wire.CloseStopping)
	<-stopped
}

// TestDrainEnds holds that a request which is not done in time does not hold the gateway up.
func TestDrainEnds(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, _ Request) (any, error) { <-ctx.Done(); return nil, ctx.Err() },
		func(c *Config) { c.DrainWait = 20 * time.Millisecond })
	c := w.login(phone, false)
	c.ask(wire.MethodCount, nil)
	go w.stop()
	c.wantClose(wire.CloseStopping)
	w.stop()
}

func TestDeviceCloses(t *testing.T) {
	w := newWorld(t, nil)
	c := w.login(phone, true)
	closeNormally(c)
	w.counted("closes_total", "1000", 1)
	if w.Sessions() != 0 || len(w.feeds.feeds) != 0 {
		t.Errorf("%d sessions and %d feeds are left", w.Sessions(), len(w.feeds.feeds))
	}
}
