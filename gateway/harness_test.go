package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) {
	if idleClients() {
		return // this process is the clients of another one's test
	}
	goleak.VerifyTestMain(m)
}

const (
	phone  = wire.DeviceID("mimi://a.example/d/alice/phone")
	laptop = wire.DeviceID("mimi://a.example/d/alice/laptop")
	inbox  = ""
)

// keyOf is a device's key.
func keyOf(d wire.DeviceID) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, d[len(d)-min(len(d), len(seed)):])
	return ed25519.NewKeyFromSeed(seed)
}

// registered is Devices of those that are enrolled in it.
type registered struct {
	mu      sync.Mutex
	keys    map[wire.DeviceID]ed25519.PublicKey
	codes   map[string]bool
	fail    error         // of Login, if set
	entered chan struct{} // receives when a login waits for go on; may be nil
	goOn    chan struct{}
}

func newRegistered(devices ...wire.DeviceID) *registered {
	r := &registered{keys: make(map[wire.DeviceID]ed25519.PublicKey), codes: map[string]bool{"code-1": true, "code-2": true}}
	for _, d := range devices {
		r.keys[d] = keyOf(d).Public().(ed25519.PublicKey)
	}
	return r
}

func (r *registered) Login(ctx context.Context, d wire.DeviceID, input, signature []byte) (wire.Time, error) {
	r.mu.Lock()
	key, fail, entered, goOn := r.keys[d], r.fail, r.entered, r.goOn
	r.mu.Unlock()
	if entered != nil {
		entered <- struct{}{}
		select {
		case <-goOn:
		case <-ctx.Done():
		}
	}
	switch {
	case fail != nil:
		return 0, fail
	case key == nil:
		return 0, wire.Errorf(wire.NotFound, "login", "no such device")
	case !ed25519.Verify(key, input, signature):
		return 0, wire.Errorf(wire.Denied, "login", "not by that key")
	}
	return 4_000_000_000_000, nil
}

func (r *registered) Enrol(_ context.Context, q *wire.EnrolRequest) (*wire.ChainAnswer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(q.Key) != ed25519.PublicKeySize || !ed25519.Verify(q.Key, wire.EnrolInput(q.Device, q.Key), q.Proof) {
		return nil, wire.Errorf(wire.Denied, "enrol", "the proof is not by that key")
	}
	if !r.codes[q.Code] {
		return nil, wire.Errorf(wire.Denied, "enrol", "the invitation is not known, or was used")
	}
	delete(r.codes, q.Code)
	r.keys[q.Device] = q.Key
	return &wire.ChainAnswer{Chain: [][]byte{[]byte("leaf of " + q.Device), []byte("root")}}, nil
}

// serving is a Service that is a function.
type serving func(ctx context.Context, r Request) (any, error)

func (f serving) Serve(ctx context.Context, r Request) (any, error) { return f(ctx, r) }

// letters implements Feeds in memory: streams that all devices read.
type letters struct {
	mu      sync.Mutex
	streams map[Stream]*letterStream
	feeds   map[*letterFeed]bool
	fail    error // of Read and Acknowledge, if set
	opened  int
	reads   int
	acks    chan wire.Ack // receives what was acknowledged; may be nil
}

type letterStream struct {
	items   []wire.Push
	removed uint64 // up to here items are gone
	cursors map[wire.DeviceID]uint64
}

func newLetters() *letters {
	return &letters{streams: make(map[Stream]*letterStream), feeds: make(map[*letterFeed]bool)}
}

func streamOf(id string) Stream { return Stream{Conversation: wire.ConversationID(id)} }

// put appends an item to a stream.
func (m *letters) put(id string, payload string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[streamOf(id)]
	if s == nil {
		s = &letterStream{cursors: make(map[wire.DeviceID]uint64)}
		m.streams[streamOf(id)] = s
	}
	n := uint64(len(s.items) + 1)
	s.items = append(s.items, wire.Push{Sequence: n, Kind: wire.ItemMessage, ID: wire.SubmissionID{byte(n)}, Time: 7, Payload: []byte(payload)})
	for f := range m.feeds {
		f.news[streamOf(id)] = true
		select {
		case f.ready <- struct{}{}:
		default:
		}
	}
}

// expire removes the items of a stream up to a sequence.
func (m *letters) expire(id string, to uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[streamOf(id)].removed = to
}

func (m *letters) drop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, streamOf(id))
}

func (m *letters) cursor(id string, d wire.DeviceID) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.streams[streamOf(id)].cursors[d]
}

func (m *letters) Open(_ context.Context, d wire.DeviceID) (Feed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &letterFeed{m: m, device: d, ready: make(chan struct{}, 1), news: make(map[Stream]bool)}
	for name := range m.streams {
		f.news[name] = true
	}
	m.feeds[f] = true
	m.opened++
	return f, nil
}

func (m *letters) Acknowledge(_ context.Context, list []Acknowledgement) []error {
	errs := make([]error, len(list))
	for i, a := range list {
		errs[i] = m.acknowledge(a.Device, a.Ack)
	}
	return errs
}

func (m *letters) acknowledge(d wire.DeviceID, a wire.Ack) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	name := Stream{Token: a.Token}
	if a.Conversation != nil {
		name.Conversation = *a.Conversation
	}
	s := m.streams[name]
	if s == nil {
		return wire.Errorf(wire.UnknownConversation, "acknowledge", "not read")
	}
	if a.Sequence > uint64(len(s.items)) {
		return wire.Errorf(wire.Invalid, "acknowledge", "beyond the end")
	}
	s.cursors[d] = max(s.cursors[d], a.Sequence)
	if m.acks != nil {
		m.acks <- a
	}
	return nil
}

type letterFeed struct {
	m      *letters
	device wire.DeviceID
	ready  chan struct{}
	news   map[Stream]bool // guarded by m.mu
}

func (f *letterFeed) Ready() <-chan struct{} { return f.ready }

func (f *letterFeed) Streams(context.Context) []Stream {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	var names []Stream
	for name := range f.news {
		names = append(names, name)
	}
	clear(f.news)
	return names
}

func (f *letterFeed) Read(_ context.Context, name Stream, after uint64, limit Limit) (Page, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.reads++
	if f.m.fail != nil {
		return Page{}, f.m.fail
	}
	s := f.m.streams[name]
	if s == nil {
		return Page{}, wire.Errorf(wire.UnknownConversation, "read", "not read")
	}
	if after == 0 {
		after = s.cursors[f.device]
	}
	var p Page
	if s.removed > after {
		p.Pushes = append(p.Pushes, wire.Push{Sequence: s.removed, GapFrom: after + 1})
		after = s.removed
	}
	rest := s.items[after:]
	n := max(0, min(len(rest), limit.Items-len(p.Pushes)))
	p.Pushes, p.More = append(p.Pushes, slices.Clone(rest[:n])...), n < len(rest)
	return p, nil
}

func (f *letterFeed) Close() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	delete(f.m.feeds, f)
}

// world is a gateway that runs, and what it works with.
type world struct {
	*Gateway
	t        testing.TB
	devices  *registered
	feeds    *letters
	registry *prometheus.Registry
	url      string // of a session
	base     string // of HTTP
	roots    *x509.CertPool
	rootPEM  []byte
	stop     func() // stops it and waits; may be called again
	stopped  chan error
}

// echo serves count by an answer, and everything else by nothing.
func echo(_ context.Context, r Request) (any, error) {
	if r.Method == wire.MethodCount {
		return &wire.CountAnswer{Counts: []wire.KeyPackageCount{{Suite: 1, Left: 3}}}, nil
	}
	return nil, nil
}

// newWorld runs a gateway with TLS on loopback until the test ends.
func newWorld(t testing.TB, service serving, change ...func(*Config)) *world {
	t.Helper()
	if service == nil {
		service = echo
	}
	w := &world{t: t, devices: newRegistered(phone, laptop), feeds: newLetters(), registry: prometheus.NewRegistry(), stopped: make(chan error, 1)}
	pair, roots, pem := certificate(t)
	w.roots, w.rootPEM = roots, pem
	cfg := Config{
		Node: "n1.a.example", Organization: wire.Organization{Domain: "a.example", Root: []byte("root certificate")},
		Devices: w.devices, Service: service, Feeds: w.feeds,
		Registerer: w.registry, Gatherer: w.registry, LoginDelay: time.Millisecond, CloseWait: 200 * time.Millisecond,
	}
	for _, c := range change {
		c(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Gateway = g
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url, w.base = "wss://"+l.Addr().String()+"/v1/ws", "https://"+l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { w.stopped <- g.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{pair}}) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-w.stopped; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// certificate makes a self-signed one for 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool, []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool, pemOf("CERTIFICATE", der)
}

// device is the client of a test.
type device struct {
	t         testing.TB
	conn      *websocket.Conn
	challenge wire.Challenge
	session   wire.Session
	id        uint64
}

func (w *world) dialer() *websocket.Dialer {
	return &websocket.Dialer{
		TLSClientConfig: &tls.Config{RootCAs: w.roots}, Subprotocols: []string{wire.Subprotocol}, HandshakeTimeout: 10 * time.Second,
	}
}

// connect opens a socket and takes the challenge.
func (w *world) connect() *device {
	w.t.Helper()
	c := w.socket()
	c.body(wire.FrameChallenge, &c.challenge)
	return c
}

// socket opens a socket.
func (w *world) socket() *device {
	w.t.Helper()
	conn, _, err := w.dialer().Dial(w.url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return &device{t: w.t, conn: conn}
}

// login connects and logs in.
func (w *world) login(d wire.DeviceID, receive bool) *device {
	w.t.Helper()
	c := w.connect()
	c.sign(d, receive)
	c.body(wire.FrameSession, &c.session)
	return c
}

func (c *device) sign(d wire.DeviceID, receive bool) {
	c.t.Helper()
	input, err := c.challenge.LoginInput(d)
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(wire.Frame{Type: wire.FrameLogin, Body: c.encode(&wire.Login{Device: d, Signature: ed25519.Sign(keyOf(d), input), Receive: receive})})
}

func (c *device) encode(v any) []byte {
	c.t.Helper()
	b, err := wire.Encode(v)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *device) send(f wire.Frame) {
	c.t.Helper()
	if err := c.conn.WriteMessage(websocket.BinaryMessage, c.encode(&f)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// next reads a frame, or the code with which the node has closed.
func (c *device) next() (f wire.Frame, code wire.CloseCode) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, b, err := c.conn.ReadMessage()
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		return f, wire.CloseCode(closed.Code)
	}
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	if err := wire.Decode(b, wire.MaxSessionFrame, &f); err != nil {
		c.t.Fatal(err)
	}
	return f, 0
}

// body reads a frame of a type and what it carries.
func (c *device) body(t wire.FrameType, v any) wire.Frame {
	c.t.Helper()
	f, code := c.next()
	if code != 0 || f.Type != t {
		c.t.Fatalf("got a frame of type %d (%v), closed with %d; wanted type %d", f.Type, errorIn(f), code, t)
	}
	if v != nil {
		if err := wire.Decode(f.Body, wire.MaxSessionFrame, v); err != nil {
			c.t.Fatal(err)
		}
	}
	return f
}

func errorIn(f wire.Frame) error {
	e := new(wire.Error)
	if f.Type != wire.FrameError || wire.Decode(f.Body, wire.MaxError, e) != nil {
		return nil
	}
	return e
}

// closes reads until the node closes, and returns the error that it gave and the code.
func (c *device) closes() (*wire.Error, wire.CloseCode) {
	c.t.Helper()
	var why *wire.Error
	for {
		f, code := c.next()
		if code != 0 {
			return why, code
		}
		if f.Type == wire.FrameError && f.ID == 0 {
			why = errorIn(f).(*wire.Error)
		}
	}
}

// wantClose reads until the node closes, with that code.
func (c *device) wantClose(code wire.CloseCode) *wire.Error {
	c.t.Helper()
	why, got := c.closes()
	if got != code {
		c.t.Fatalf("closed with %d (%v), wanted %d", got, why, code)
	}
	return why
}

// ask sends a request and returns its id.
func (c *device) ask(m wire.Method, body any) uint64 {
	c.t.Helper()
	c.id++
	f := wire.Frame{Type: wire.FrameRequest, ID: c.id, Method: m}
	if body != nil {
		f.Body = c.encode(body)
	}
	c.send(f)
	return c.id
}

// do sends a request and waits for its answer, with nothing else under way.
func (c *device) do(m wire.Method, body, answer any) error {
	c.t.Helper()
	id := c.ask(m, body)
	f, code := c.next()
	if code != 0 || f.ID != id {
		c.t.Fatalf("got a frame of type %d for %d, closed with %d; wanted an answer to %d", f.Type, f.ID, code, id)
	}
	if f.Type == wire.FrameError {
		return errorIn(f)
	}
	if answer != nil {
		if err := wire.Decode(f.Body, wire.MaxSessionFrame, answer); err != nil {
			c.t.Fatal(err)
		}
	}
	return nil
}

// push reads a push.
func (c *device) push() wire.Push {
	c.t.Helper()
	var p wire.Push
	c.body(wire.FramePush, &p)
	return p
}

func (c *device) ack(id string, sequence uint64) {
	c.t.Helper()
	a := wire.Ack{Sequence: sequence}
	if id != inbox {
		conversation := wire.ConversationID(id)
		a.Conversation = &conversation
	}
	c.send(wire.Frame{Type: wire.FrameAck, Body: c.encode(&a)})
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// value is that of a counter of the gateway, with the value of its only label.
func (w *world) value(name, label string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "mlsfed_gateway_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := label == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == label
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// counted waits until a counter has reached a value.
func (w *world) counted(name, label string, least float64) {
	w.t.Helper()
	eventually(w.t, name+" "+label, func() bool { return w.value(name, label) >= least })
}

// closeNormally closes as RFC 6455 §7.1.1 wants it.
func closeNormally(c *device) {
	c.t.Helper()
	_ = c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	for {
		if _, _, err := c.conn.ReadMessage(); err != nil {
			break
		}
	}
	_ = c.conn.Close()
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
