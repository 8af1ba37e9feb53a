//go:build !js

package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// node serves an organization of the world over TLS and WebSockets, with a certificate under its own root.
func (w *world) node(t testing.TB, d wire.Domain) (invitation Invitation) {
	t.Helper()
	w.mu.Lock()
	o := w.orgs[d]
	w.mu.Unlock()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), DNSNames: []string{"n1." + string(d)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, o.root, public, o.key)
	check(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathEnrol, func(rw http.ResponseWriter, r *http.Request) { w.serveEnrol(rw, r, d) })
	mux.HandleFunc(pathSession, func(rw http.ResponseWriter, r *http.Request) { w.serveSocket(rw, r, d) })
	s := httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der, o.root.Raw}, PrivateKey: key}}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return Invitation{Host: strings.TrimPrefix(s.URL, "https://"), Domain: d, User: "alice", Root: sha256.Sum256(o.root.Raw)}
}

func (w *world) serveEnrol(rw http.ResponseWriter, r *http.Request, d wire.Domain) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	request := new(wire.EnrolRequest)
	if err == nil {
		err = wire.Decode(body, 1<<16, request)
	}
	var answer any
	if err == nil {
		answer, err = (&endpoint{w, d}).Enrol(r.Context(), request)
	}
	if err != nil {
		rw.WriteHeader(http.StatusForbidden)
		answer = wire.AsError("enrol", err)
	}
	b, err := wire.Encode(answer)
	if err != nil {
		return
	}
	_, _ = rw.Write(b)
}

func (w *world) serveSocket(rw http.ResponseWriter, r *http.Request, d wire.Domain) {
	up := websocket.Upgrader{Subprotocols: []string{wire.Subprotocol}}
	c, err := up.Upgrade(rw, r, nil)
	if err != nil {
		return
	}
	out, in := make(chan []byte, 256), make(chan []byte, 256)
	p, _ := newPipes()
	p.in, p.out = in, out
	w.wg.Go(func() { w.serve(d, p) })
	w.wg.Go(func() {
		for {
			select {
			case b := <-out:
				if c.WriteMessage(websocket.BinaryMessage, b) != nil {
					p.end(io.EOF)
				}
				continue
			case <-p.closed:
			}
			code, text := websocket.CloseGoingAway, ""
			if e := new(CloseError); errors.As(*p.why, &e) {
				code, text = int(e.Code), e.Text
			}
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
			_ = c.Close()
			return
		}
	})
	for {
		_, b, err := c.ReadMessage()
		if err != nil {
			p.end(io.EOF)
			return
		}
		select {
		case in <- b:
		case <-p.closed:
			return
		}
	}
}

// TestOverSocketsWithAFile checks the framing over a real socket, TLS with a pinned root, and a store in a file.
func TestOverSocketsWithAFile(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	b := w.peer(bobPhone).ready()
	invitation := w.node(t, "a.example")
	w.mu.Lock()
	w.orgs["a.example"].codes["CODE"] = alice
	w.mu.Unlock()
	folder := t.TempDir()
	key, err := KeyFile(folder + "/key")
	check(t, err)
	store, err := OpenStore(folder, key)
	check(t, err)
	open := func() (*Device, func() error) {
		d, err := Open(Options{Store: store, Transport: WebSocket(invitation, nil), Timing: quick(), Limits: Limits{KeyPackages: 6}})
		check(t, err)
		return d, func() error { return nil }
	}
	d, _ := open()
	err = d.Enrol(t.Context(), Enrolment{Device: alicePhone, Code: "WRONG", Root: invitation.Root})
	if wire.CodeOf(err) != wire.Denied {
		t.Fatalf("wrong code: %v", err)
	}
	check(t, d.Enrol(t.Context(), Enrolment{Device: alicePhone, Code: "CODE", Root: invitation.Root}))
	run := func(d *Device) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		return func() {
			cancel()
			check(t, <-done)
		}
	}
	stop := run(d)
	id, err := d.Create(t.Context(), CreateOptions{Name: "Sockets"})
	check(t, err)
	check(t, d.Add(t.Context(), id, bob))
	_, err = d.SendText(t.Context(), id, "Hello")
	check(t, err)
	hasTexts(t, b, id, "alice: Hello")
	w.disconnect(alicePhone)
	_, err = b.SendText(t.Context(), id, "Hello yourself")
	check(t, err)
	a := &peer{t: t, w: w, id: alicePhone, Device: d}
	hasTexts(t, a, id, "alice: Hello", "bob: Hello yourself")
	stop()

	check(t, store.Close())
	again, err := KeyFile(folder + "/key")
	check(t, err)
	store, err = OpenStore(folder, again)
	check(t, err)
	d, _ = open()
	a.Device = d
	hasTexts(t, a, id, "alice: Hello", "bob: Hello yourself")
	stop = run(d)
	_, err = d.SendText(t.Context(), id, "Still here")
	check(t, err)
	hasTexts(t, b, id, "alice: Hello", "bob: Hello yourself", "alice: Still here")
	w.mu.Lock()
	o := w.orgs["a.example"]
	w.mu.Unlock()
	stop()

	// A device that is refused does not try again.
	w.mu.Lock()
	delete(o.devices, alicePhone)
	w.mu.Unlock()
	var closed *CloseError
	if err := d.Run(t.Context()); !errors.As(err, &closed) || closed.Code != wire.CloseLogin {
		t.Errorf("a device that is not known runs: %v", err)
	}
	check(t, store.Close())
}

func TestPinnedRootIsTheOnlyOne(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	right := w.node(t, "a.example")
	other := right
	other.Root[0]++
	elsewhere := right
	elsewhere.Domain = "b.example"
	unpinned := right
	unpinned.Root = wire.Hash{}
	for name, i := range map[string]Invitation{"another root": other, "another organization": elsewhere, "the system's roots": unpinned} {
		if c, err := WebSocket(i, nil).Dial(t.Context()); err == nil {
			t.Errorf("%s: connected", name)
			check(t, c.Close())
		}
	}
	c, err := WebSocket(right, nil).Dial(t.Context())
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = c.Read(ctx) // the challenge
	check(t, err)
	cancel()
	if _, err := c.Read(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the end of its context: %v", err)
	}
	check(t, c.Close())
}

func TestEnrolmentRefuses(t *testing.T) {
	w := newWorld(t, "a.example")
	d, err := Open(Options{Store: mlscore.NewMemoryStore(), Transport: &endpoint{w, "a.example"}, Timing: quick()})
	check(t, err)
	for _, c := range []struct {
		name string
		e    Enrolment
		want wire.Code
	}{
		{"wrong code", Enrolment{Device: alicePhone, Code: "x"}, wire.Denied},
		{"no code", Enrolment{Device: alicePhone}, wire.Malformed},
		{"two ways", Enrolment{Device: alicePhone, Code: "x", Token: "y"}, wire.Malformed},
		{"bad name", Enrolment{Device: "alice", Code: "x"}, wire.Malformed},
		{"another root", Enrolment{Device: alicePhone, Code: "good", Root: wire.Hash{1}}, wire.Denied},
	} {
		w.mu.Lock()
		w.orgs["a.example"].codes["good"] = alice
		w.mu.Unlock()
		if err := d.Enrol(t.Context(), c.e); wire.CodeOf(err) != c.want {
			t.Errorf("%s: %v, wanted %s", c.name, err, c.want)
		}
	}
	if _, err := d.ID(t.Context()); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("is %v", err)
	}
	if err := d.Run(t.Context()); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("runs: %v", err)
	}
	check(t, d.Enrol(t.Context(), Enrolment{Device: alicePhone, Code: "good"})) // as after a lost answer
	if err := d.Enrol(t.Context(), Enrolment{Device: alicePhone, Code: "good"}); wire.CodeOf(err) != wire.Exists {
		t.Errorf("enrols twice: %v", err)
	}
	if _, err := Open(Options{}); wire.CodeOf(err) != wire.Malformed {
		t.Errorf("opened without a store: %v", err)
	}
}

func TestKeyFileIsReadBack(t *testing.T) {
	path := t.TempDir() + "/sub/key"
	a, err := KeyFile(path)
	check(t, err)
	b, err := KeyFile(path)
	check(t, err)
	if !a.Equal(b) {
		t.Error("another key")
	}
	store, err := OpenStoreWithPassphrase(t.TempDir(), mlscore.NewSecret([]byte("a passphrase")))
	check(t, err)
	check(t, store.Close())
}
