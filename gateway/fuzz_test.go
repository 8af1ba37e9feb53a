package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/wire"
)

// FuzzSessionFrames sends a device's socket what it will, before and after the login. For any input the session ends
// with a code of ours or goes on, and another session is served.
func FuzzSessionFrames(f *testing.F) {
	for _, frame := range sampleFrames(f) {
		f.Add(true, encoded(f, &frame))
		f.Add(false, encoded(f, &frame))
	}
	w := newWorld(f, nil, func(c *Config) {
		c.ConnectRate, c.LoginRate = Rate{Burst: 1 << 40, Every: 1}, Rate{Burst: 1 << 40, Every: 1}
		c.Admission.Failures, c.Admission.Slowed = Rate{Burst: 1 << 40, Every: 1}, Rate{Burst: 1 << 40, Every: 1}
		c.LoginDelay = 1
	})
	w.feeds.put(inbox, "notice")
	f.Fuzz(func(t *testing.T, login bool, b []byte) {
		w := &world{Gateway: w.Gateway, t: t, url: w.url, roots: w.roots}
		var c *device
		if login {
			c = w.login(phone, true)
		} else {
			c = w.connect()
		}
		defer c.conn.Close()
		if err := c.conn.WriteMessage(websocket.BinaryMessage, b); err != nil {
			t.Fatal(err)
		}
		// Then what is no frame at all: it ends the session, if that was still there.
		_ = c.conn.WriteMessage(websocket.BinaryMessage, []byte{0})
		if _, code := c.closes(); code < wire.CloseMalformed || code > wire.CloseSubprotocol {
			t.Fatalf("closed with %d", code)
		}
	})
}

// sampleFrames are some that a device sends.
func sampleFrames(t testing.TB) []wire.Frame {
	return []wire.Frame{
		{Type: wire.FrameRequest, ID: 1, Method: wire.MethodCount},
		{Type: wire.FrameRequest, ID: 2, Method: wire.MethodKeyMaterial, Body: encoded(t, &wire.KeyMaterialRequest{ID: wire.SubmissionID{1}, User: "mimi://a.example/u/alice", Suite: 1})},
		{Type: wire.FrameRequest, ID: 3, Method: wire.MethodSubmit, Body: encoded(t, &wire.Message{Version: 1, Conversation: "conversation-one", ID: wire.SubmissionID{1}, Content: []byte("x"), Signature: make([]byte, 64)})},
		{Type: wire.FrameAck, Body: encoded(t, &wire.Ack{Sequence: 1})},
		{Type: wire.FrameLogin, Body: encoded(t, &wire.Login{Device: phone, Signature: []byte{1}})},
	}
}

// FuzzHandle hands frames to a session that is logged in, without a socket between.
func FuzzHandle(f *testing.F) {
	for _, frame := range sampleFrames(f) {
		f.Add(encoded(f, &frame))
	}
	feeds := newLetters()
	feeds.put(inbox, "notice")
	g, err := New(Config{Node: "n1.a.example", Organization: wire.Organization{Domain: "a.example"},
		Devices: newRegistered(), Service: serving(echo), Feeds: feeds})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame := new(wire.Frame)
		if wire.Decode(b, wire.MaxSessionFrame, frame) != nil {
			return
		}
		s := &session{g: g, device: phone, receive: true, wake: make(chan struct{}, 1)}
		s.user = g.backlogs.join(s, 1<<30)
		s.ctx, s.cancel = context.WithCancel(context.Background())
		defer s.cancel()
		s.acked = sync.NewCond(&s.mu)
		s.window.push(Stream{}, 1)
		err := s.handle(frame)
		s.work.Wait()
		var e *ended
		switch {
		case err != nil && (!errors.As(err, &e) || e.code != wire.CloseMalformed):
			t.Fatalf("ends with %v", err)
		case err == nil && frame.Type == wire.FrameRequest && (len(s.out) != 1 || s.out[0].id != frame.ID):
			t.Fatalf("%d answers", len(s.out))
		}
	})
}

// FuzzEnrol posts what it will.
func FuzzEnrol(f *testing.F) {
	f.Add(encoded(f, enrolment(phone, "code-1")))
	f.Add([]byte{})
	g, err := New(Config{Node: "n1.a.example", Organization: wire.Organization{Domain: "a.example"},
		Devices: newRegistered(), Service: serving(echo), Feeds: newLetters(),
		EnrolRate: Rate{Burst: 1 << 40, Every: 1}, HTTPRate: Rate{Burst: 1 << 40, Every: 1}})
	if err != nil {
		f.Fatal(err)
	}
	h := g.Handler()
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := http.NewRequestWithContext(context.Background(), "POST", "/v1/enrol", bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		q.RemoteAddr, q.TLS = "192.0.2.1:5", &tls.ConnectionState{}
		r := new(recorder)
		h.ServeHTTP(r, q)
		switch {
		case r.status == 200:
			if err := wire.Decode(r.Bytes(), r.Len(), new(wire.ChainAnswer)); err != nil {
				t.Fatal(err)
			}
		case wire.Decode(r.Bytes(), wire.MaxError, new(wire.Error)) != nil:
			t.Fatalf("status %d with %x", r.status, r.Bytes())
		}
	})
}

// FuzzClientAddress reads forwarded addresses: an address that no trusted proxy named is never taken.
func FuzzClientAddress(f *testing.F) {
	f.Add("10.0.0.1:5", "192.0.2.1, 10.0.0.2")
	f.Add("[2001:db8::1]:5", "x")
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, remote, forwarded string) {
		q := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {forwarded}}}
		got := clientOf(q, proxies)
		if direct := parseAddress(remote); !trusted(proxies, direct) && got != admission.Network(direct) {
			t.Fatalf("%s for %q counts as %s", remote, forwarded, got)
		}
	})
}
