package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

// call makes an HTTP request of the gateway.
func (w *world) call(method, path string, body []byte, headers ...string) (*http.Response, []byte) {
	w.t.Helper()
	q, err := http.NewRequest(method, w.base+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots}, DisableKeepAlives: true}
	r, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(q)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, b
}

func enrolment(d wire.DeviceID, code string) *wire.EnrolRequest {
	key := keyOf(d)
	public := []byte(key.Public().(ed25519.PublicKey))
	return &wire.EnrolRequest{Device: d, Key: public, Proof: ed25519.Sign(key, wire.EnrolInput(d, public)), Code: code}
}

func encoded(t testing.TB, v any) []byte {
	t.Helper()
	b, err := wire.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnrol(t *testing.T) {
	const tablet = wire.DeviceID("mimi://a.example/d/alice/tablet")
	w := newWorld(t, nil)
	r, b := w.call("POST", "/v1/enrol", encoded(t, enrolment(tablet, "code-1")))
	var chain wire.ChainAnswer
	if err := wire.Decode(b, len(b), &chain); err != nil || r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/cbor" || len(chain.Chain) != 2 {
		t.Fatalf("answered %s with %v, %v", r.Status, chain, err)
	}
	w.login(tablet, true)
	forged := enrolment(tablet, "code-2")
	forged.Proof[0]++
	for name, c := range map[string]struct {
		body   []byte
		status int
		code   wire.Code
	}{
		"used code":    {encoded(t, enrolment(tablet, "code-1")), 403, wire.Denied},
		"wrong proof":  {encoded(t, forged), 403, wire.Denied},
		"no CBOR":      {[]byte(`{"device":"x"}`), 400, wire.Malformed},
		"nothing":      {nil, 400, wire.Malformed},
		"without code": {encoded(t, &wire.EnrolRequest{Device: tablet}), 400, wire.Malformed},
	} {
		r, b := w.call("POST", "/v1/enrol", c.body)
		e := new(wire.Error)
		if err := wire.Decode(b, wire.MaxError, e); err != nil || r.StatusCode != c.status || e.Code != c.code {
			t.Errorf("%s: %s with %v, %v", name, r.Status, e, err)
		}
	}
	if r, _ := w.call("GET", "/v1/enrol", nil); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET is answered by %s", r.Status)
	}
}

func TestLimitOfEnrolRate(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.EnrolRate = Rate{Burst: 2, Every: time.Hour} })
	var r *http.Response
	var b []byte
	for range 3 {
		r, b = w.call("POST", "/v1/enrol", nil)
	}
	e := new(wire.Error)
	if err := wire.Decode(b, wire.MaxError, e); err != nil || r.StatusCode != 429 || e.Code != wire.Busy || r.Header.Get("Retry-After") == "" {
		t.Errorf("answered %s with %v, %v", r.Status, e, err)
	}
	w.counted("refused_total", overEnrol, 1)
}

func TestLimitOfEnrol(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.MaxEnrol = 500 })
	for size, want := range map[int]int{500: 400, 501: 413} { // read, and nonsense; not read
		if r, b := w.call("POST", "/v1/enrol", make([]byte, size)); r.StatusCode != want {
			t.Errorf("%d bytes: %s, %x", size, r.Status, b)
		}
	}
	w.counted("refused_total", overEnrolBody, 1)
}

// TestLimitOfBodyWait: a request whose body does not come does not hold a connection.
func TestLimitOfBodyWait(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.FrameWait = 30 * time.Millisecond })
	c, err := tls.Dial("tcp", strings.TrimPrefix(w.base, "https://"), &tls.Config{RootCAs: w.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /v1/enrol HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nten bytes."); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
		t.Errorf("answered %q, %v", b, err)
	}
}

func TestOrganization(t *testing.T) {
	w := newWorld(t, nil)
	r, b := w.call("GET", "/v1/organization", nil)
	var o wire.Organization
	if err := wire.Decode(b, len(b), &o); err != nil || r.StatusCode != 200 || o.Domain != "a.example" || string(o.Root) != "root certificate" {
		t.Errorf("answered %s with %+v, %v", r.Status, o, err)
	}
}

func TestHealth(t *testing.T) {
	var trouble error
	w := newWorld(t, nil, func(c *Config) {
		c.Ready = func() error { return trouble }
		c.Notes = func() []string { return []string{"for the operator alone"} }
		c.Version = map[string]string{"version": "1.2.3"}
	})
	for _, c := range []struct {
		path   string
		set    error
		status int
		body   string
	}{
		{"/healthz", nil, 200, "ok\n"},
		{"/readyz", nil, 200, "ok\n"},
		{"/readyz", errors.New("the disk is full"), 503, "not ready\n"},
		{"/healthz", errors.New("the disk is full"), 200, "ok\n"},
		{"/version", nil, 200, "{\"version\":\"1.2.3\"}\n"},
		{"/metrics", nil, 404, "404 page not found\n"},
		{"/debug/pprof/", nil, 404, "404 page not found\n"},
	} {
		trouble = c.set
		if r, b := w.call("GET", c.path, nil); r.StatusCode != c.status || string(b) != c.body {
			t.Errorf("%s with %v: %s %q", c.path, c.set, r.Status, b)
		}
	}
}

func TestReadyWhileStopping(t *testing.T) {
	entered, goOn := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(context.Context, Request) (any, error) { close(entered); <-goOn; return nil, nil },
		func(c *Config) { c.DrainWait = 20 * time.Second })
	w.login(phone, false).ask(wire.MethodCount, nil)
	<-entered
	go w.stop()
	eventually(t, "stopping", func() bool {
		r := new(recorder)
		q, _ := http.NewRequest("GET", "/readyz", nil)
		w.AdminHandler().ServeHTTP(r, q)
		return r.status == 503 && r.String() == "stopping\n"
	})
	close(goOn)
	w.stop()
}

// recorder is a response in memory.
type recorder struct {
	bytes.Buffer
	status int
	header http.Header
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}
func (r *recorder) WriteHeader(status int) { r.status = status }

func TestAdmin(t *testing.T) {
	var trouble error
	w := newWorld(t, nil, func(c *Config) {
		c.Ready = func() error { return trouble }
		c.Notes = func() []string { return []string{"needs recover: 2"} }
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.ServeAdmin(ctx, l) }()
	c := w.login(phone, false)
	if err := c.do(wire.MethodCount, nil, nil); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/metrics":      `mlsfed_gateway_requests_total{code="",method="count"} 1`,
		"/debug/pprof/": "goroutine",
		"/healthz":      "ok",
		"/readyz":       "ok\nneeds recover: 2\n",
		"/version":      "{}",
	} {
		r, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, %v, without %q", path, r.Status, err, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ServeAdmin: %v", err)
	}
	trouble = errors.New("the disk is full")
	r, q := new(recorder), &http.Request{Method: "GET", URL: &url.URL{Path: "/readyz"}}
	if w.AdminHandler().ServeHTTP(r, q); r.status != 503 || r.String() != "the disk is full\n" {
		t.Errorf("the operator gets %d %q", r.status, r.String())
	}
}

func TestWeb(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) {
		c.Web = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the app") })
	})
	if r, b := w.call("GET", "/", nil); r.StatusCode != 200 || string(b) != "the app" {
		t.Errorf("%s %q", r.Status, b)
	}
	if r, _ := w.call("GET", "/healthz", nil); r.StatusCode != 200 {
		t.Errorf("%s", r.Status)
	}
}

func TestOrigin(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.Origins = []string{"https://app.example"} })
	for origin, want := range map[string]bool{
		"":                     true,
		w.base:                 true,
		"https://app.example":  true,
		"https://evil.example": false,
		"https://127.0.0.1":    false, // another port
		"null":                 false,
	} {
		h := http.Header{}
		if origin != "" {
			h.Set("Origin", origin)
		}
		conn, r, err := w.dialer().Dial(w.url, h)
		if (err == nil) != want || !want && (r == nil || r.StatusCode != 403) {
			t.Errorf("a page of %q: %v, wanted %v", origin, err, want)
		}
		if err == nil {
			_ = conn.Close()
		}
		r, _ = w.call("GET", "/v1/organization", nil, "Origin", origin)
		if allowed := r.Header.Get("Access-Control-Allow-Origin"); (allowed == origin && origin != "") != (origin == "https://app.example") {
			t.Errorf("a page of %q may read for %q", origin, allowed)
		}
	}
	w.counted("refused_total", overOrigin, 3)
	if r, _ := w.call("POST", "/v1/enrol", nil, "Origin", "https://evil.example"); r.StatusCode != 403 {
		t.Errorf("an enrolment from a foreign page: %s", r.Status)
	}
	if r, _ := w.call("OPTIONS", "/v1/enrol", nil, "Origin", "https://app.example"); r.StatusCode != 204 || r.Header.Get("Access-Control-Allow-Headers") != "Content-Type" {
		t.Errorf("a preflight: %s", r.Status)
	}
}

func TestSubprotocol(t *testing.T) {
	w := newWorld(t, nil)
	for _, offered := range [][]string{nil, {"mlsfed.v0"}} {
		d := w.dialer()
		d.Subprotocols = offered
		conn, _, err := d.Dial(w.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &device{t: t, conn: conn}
		if why := c.wantClose(wire.CloseSubprotocol); why == nil || why.Code != wire.Version {
			t.Errorf("%v: got %v", offered, why)
		}
		_ = conn.Close()
	}
	d := w.dialer()
	d.Subprotocols = []string{"mlsfed.v2", wire.Subprotocol}
	conn, r, err := d.Dial(w.url, nil)
	if err != nil || conn.Subprotocol() != wire.Subprotocol || r.Header.Get("Sec-Websocket-Extensions") != "" {
		t.Fatalf("%v, chose %q", err, conn.Subprotocol())
	}
	_ = conn.Close()
}

// TestNotWebSocket: what breaks RFC 6455 itself is closed as it says, a text message as a breach of ours.
func TestNotWebSocket(t *testing.T) {
	w := newWorld(t, nil)
	if r, _ := w.call("GET", "/v1/ws", nil); r.StatusCode != 400 {
		t.Errorf("a plain GET: %s", r.Status)
	}
	c := w.login(phone, false)
	if err := c.conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	c.wantClose(wire.CloseMalformed)
	c = w.login(phone, false)
	if _, err := c.conn.NetConn().Write([]byte{0x82, 0x01, 0x00}); err != nil { // not masked
		t.Fatal(err)
	}
	c.wantClose(websocket.CloseProtocolError)
	w.counted("closes_total", "4000", 2)
	c = w.login(phone, false)
	if err := c.conn.WriteMessage(websocket.BinaryMessage, []byte{0xa1}); err != nil {
		t.Fatal(err)
	}
	c.wantClose(wire.CloseMalformed)
}

// TestHandlerAlone: without Serve a session lives in its request.
func TestHandlerAlone(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: w.Handler()}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	w.url = "ws://" + l.Addr().String() + "/v1/ws"
	c := w.login(phone, false)
	if err := c.do(wire.MethodCount, nil, nil); err != nil {
		t.Error(err)
	}
	closeNormally(c)
	w.counted("closes_total", "1000", 1)
	_ = server.Close()
	<-done
}

func TestServeFails(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := w.Serve(context.Background(), l, nil); err == nil {
		t.Error("serving on a closed listener is no error")
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Node: "n1.a.example", Organization: wire.Organization{Domain: "a.example"},
		Devices: newRegistered(), Service: serving(echo), Feeds: newLetters()}
	for name, change := range map[string]func(*Config){
		"no node":         func(c *Config) { c.Node = "" },
		"no organization": func(c *Config) { c.Organization.Domain = "" },
		"no devices":      func(c *Config) { c.Devices = nil },
		"no service":      func(c *Config) { c.Service = nil },
		"no feeds":        func(c *Config) { c.Feeds = nil },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestClientAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.7:55", "", "192.0.2.7"},
		{"192.0.2.7:55", "198.51.100.1", "192.0.2.7"}, // not by a proxy: not believed
		{"10.1.1.1:55", "198.51.100.1", "198.51.100.1"},
		{"10.1.1.1:55", "203.0.113.9, 198.51.100.1, 10.2.2.2", "198.51.100.1"}, // the first was sent by the client
		{"10.1.1.1:55", "", "10.1.1.1"},
		{"10.1.1.1:55", "rubbish", "10.1.1.1"},
		{"[2001:db8:1:2:3:4:5:6]:55", "", "2001:db8:1:2::"},
		{"[::ffff:192.0.2.7]:55", "", "192.0.2.7"},
		{"[fd00::1]:55", "2001:db8:1:2:9::", "2001:db8:1:2::"},
		{"unix", "", "invalid IP"},
	} {
		q := &http.Request{RemoteAddr: c.remote, Header: http.Header{}}
		if c.forwarded != "" {
			q.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := clientOf(q, proxies).String(); got != c.want {
			t.Errorf("%s for %q: %s, wanted %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
