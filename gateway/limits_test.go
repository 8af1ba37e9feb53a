package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/wire"
)

// from connects from another address of this machine.
func (w *world) from(ip string) (*device, error) {
	d := w.dialer()
	local := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 10 * time.Second}
	d.NetDialContext = local.DialContext
	conn, _, err := d.Dial(w.url, nil)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return &device{t: w.t, conn: conn}, nil
}

func TestLimitOfFrame(t *testing.T) {
	const limit = 4096
	w := newWorld(t, nil, func(c *Config) { c.MaxFrame = limit })
	// sized is a request whose frame has n bytes.
	sized := func(c *device, n int) wire.Frame {
		f := wire.Frame{Type: wire.FrameRequest, ID: 1, Method: wire.MethodUpload}
		f.Body = make([]byte, 2000)
		f.Body = make([]byte, 2000+n-len(c.encode(&f)))
		if got := len(c.encode(&f)); got != n {
			t.Fatalf("made a frame of %d bytes, wanted %d", got, n)
		}
		return f
	}
	c := w.login(phone, false)
	c.send(sized(c, limit))
	c.body(wire.FrameError, nil) // its body is nonsense, but it was read
	c.send(sized(c, limit+1))
	if why := c.wantClose(wire.CloseTooLarge); why == nil || why.Code != wire.TooLarge {
		t.Errorf("got %v", why)
	}
	w.counted("refused_total", overFrame, 1)
}

func TestLimitOfLogin(t *testing.T) {
	const limit = 300
	w := newWorld(t, nil, func(c *Config) { c.MaxLogin = limit })
	for _, n := range []int{limit, limit + 1} {
		c := w.connect()
		c.send(wire.Frame{Type: wire.FrameLogin, Body: make([]byte, n-len(c.encode(&wire.Frame{Type: wire.FrameLogin, Body: make([]byte, n-6)}))+n-6)})
		want := wire.CloseMalformed // it was read, and is nonsense
		if n > limit {
			want = wire.CloseTooLarge
		}
		c.wantClose(want)
	}
}

func TestLimitOfLoginWait(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.LoginWait = 20 * time.Millisecond })
	if why := w.connect().wantClose(wire.CloseLoginSlow); why == nil || why.Text != "no login came within 20ms" {
		t.Errorf("got %v", why)
	}
}

func TestLimitOfRequests(t *testing.T) {
	const most = 3
	goOn := make(chan struct{})
	w := newWorld(t, func(context.Context, Request) (any, error) { <-goOn; return nil, nil },
		func(c *Config) { c.Requests, c.MaxOverloads = most, 2 })
	c := w.login(phone, false)
	if c.session.Requests != most {
		t.Fatalf("announced %d requests", c.session.Requests)
	}
	for range most {
		c.ask(wire.MethodCount, nil)
	}
	over := c.ask(wire.MethodCount, nil)
	if f := c.body(wire.FrameError, nil); f.ID != over || wire.CodeOf(errorIn(f)) != wire.Busy {
		t.Errorf("request %d: %v, wanted busy for %d", f.ID, errorIn(f), over)
	}
	close(goOn)
	for range most {
		c.body(wire.FrameAnswer, nil)
	}
	c.do(wire.MethodCount, nil, nil)
	w.counted("refused_total", overRequests, 1)
}

// TestLimitOfHeld holds that large requests, and answers that the device does not read, are bounded together.
func TestLimitOfHeld(t *testing.T) {
	goOn := make(chan struct{})
	w := newWorld(t, func(context.Context, Request) (any, error) { <-goOn; return nil, nil },
		func(c *Config) { c.MaxHeld = 10 << 10 })
	c := w.login(phone, false)
	blob := &wire.PutBlobRequest{Conversation: "conversation-one", Data: make([]byte, 8<<10)}
	c.ask(wire.MethodPutBlob, blob)
	c.ask(wire.MethodPutBlob, blob) // begun within the limit
	over := c.ask(wire.MethodCount, nil)
	if f := c.body(wire.FrameError, nil); f.ID != over || wire.CodeOf(errorIn(f)) != wire.Busy {
		t.Errorf("request %d: %v, wanted busy for %d", f.ID, errorIn(f), over)
	}
	w.counted("refused_total", overHeld, 1)
	close(goOn)
	for range 2 {
		c.body(wire.FrameAnswer, nil)
	}
	if err := c.do(wire.MethodPutBlob, blob, nil); err != nil {
		t.Error(err)
	}
}

func TestLimitOfOverloads(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, _ Request) (any, error) { <-ctx.Done(); return nil, ctx.Err() },
		func(c *Config) { c.Requests, c.MaxOverloads = 1, 3 })
	c := w.login(phone, false)
	for range 4 {
		c.ask(wire.MethodCount, nil)
	}
	for range 2 {
		if f := c.body(wire.FrameError, nil); wire.CodeOf(errorIn(f)) != wire.Busy {
			t.Errorf("got %v", errorIn(f))
		}
	}
	c.wantClose(wire.CloseFlood)
}

// TestLimitOfPage holds what the feed is asked for: as much as the window has room for, and the page.
func TestLimitOfPage(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.Window, c.PageItems, c.PageBytes = 5, 3, 77 })
	asked := make(chan Limit, 100)
	w.cfg.Feeds = &askedFeeds{letters: w.feeds, asked: asked}
	for range 9 {
		w.feeds.put("conversation-one", "x")
	}
	c := w.login(phone, true)
	for range 5 {
		c.push()
	}
	if a, b := <-asked, <-asked; a != (Limit{3, 77}) || b != (Limit{2, 77}) {
		t.Errorf("asked for %+v and %+v", a, b)
	}
}

// askedFeeds records the limits that a feed is read with.
type askedFeeds struct {
	*letters
	asked chan Limit
}

type askedFeed struct {
	Feed
	asked chan Limit
}

func (m *askedFeeds) Open(ctx context.Context, d wire.DeviceID) (Feed, error) {
	f, err := m.letters.Open(ctx, d)
	return &askedFeed{f, m.asked}, err
}

func (f *askedFeed) Read(ctx context.Context, name Stream, after uint64, limit Limit) (Page, error) {
	f.asked <- limit
	return f.Feed.Read(ctx, name, after, limit)
}

func TestLimitOfWriteWait(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.WriteWait, c.Window = 50*time.Millisecond, 1<<20 })
	big := strings.Repeat("x", 1<<20)
	for range 24 {
		w.feeds.put("conversation-one", big)
	}
	w.login(phone, true) // and does not read
	w.counted("closes_total", "4004", 1)
	eventually(t, "sessions", func() bool { return w.Sessions() == 0 })
}

// TestLimitOfIdleSocket: a socket whose other side is gone without a word answers no ping.
func TestLimitOfIdleSocket(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.PingEvery, c.IdleWait = 10*time.Millisecond, 60*time.Millisecond })
	gone := w.login(phone, true)
	gone.conn.SetPingHandler(func(string) error { return nil })
	here := w.login(laptop, true)
	pings := 0
	handle := here.conn.PingHandler()
	here.conn.SetPingHandler(func(s string) error { pings++; return handle(s) })
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		_, _, _ = here.conn.ReadMessage() // answers pings
	}()
	w.counted("closes_total", "4004", 1) // not read by gone meanwhile
	gone.wantClose(wire.CloseSlow)
	if w.Sessions() != 1 {
		t.Errorf("%d sessions, wanted the one that answers", w.Sessions())
	}
	w.stop()
	<-reading
	if pings == 0 {
		t.Error("no ping came")
	}
}

func TestLimitOfFrameWait(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.FrameWait = 20 * time.Millisecond })
	c := w.login(phone, true)
	if _, err := c.conn.NetConn().Write([]byte{0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5}); err != nil { // 5 of 4,096 bytes
		t.Fatal(err)
	}
	c.wantClose(wire.CloseSlow)
}

func TestLimitOfFrameRate(t *testing.T) {
	few := func(c *Config) { c.FrameRate = Rate{Burst: 10, Every: time.Hour} }
	t.Run("requests", func(t *testing.T) {
		w := newWorld(t, nil, few)
		c := w.login(phone, false)
		for range 10 {
			if err := c.do(wire.MethodCount, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		c.ask(wire.MethodCount, nil)
		c.wantClose(wire.CloseFlood)
		w.counted("refused_total", overFrames, 1)
	})
	t.Run("pings", func(t *testing.T) {
		w := newWorld(t, nil, few)
		c := w.login(phone, false)
		for range 11 {
			if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		c.wantClose(wire.CloseFlood)
	})
	t.Run("acks", func(t *testing.T) {
		w := newWorld(t, nil, few)
		for range 30 {
			w.feeds.put("conversation-one", "x")
		}
		c := w.login(phone, true)
		for range 30 { // each makes room, and so is free
			c.ack("conversation-one", c.push().Sequence)
		}
		for range 11 {
			c.ack("conversation-one", 1)
		}
		c.wantClose(wire.CloseFlood)
	})
}

// slowClock notes what is waited for, and waits for none of it.
type slowClock struct {
	clock.System
	mu    sync.Mutex
	asked []time.Duration
}

func (c *slowClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	c.asked = append(c.asked, d)
	c.mu.Unlock()
	if d == Defaults().PingEvery {
		return nil
	}
	return time.After(0)
}

func (c *slowClock) waited(holds func(time.Duration) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.asked {
		if holds(d) {
			return true
		}
	}
	return false
}

// TestLimitOfByteRate holds that who sends too much is slowed, and served all the same.
func TestLimitOfByteRate(t *testing.T) {
	clock := new(slowClock)
	w := newWorld(t, nil, func(c *Config) { c.ByteRate, c.Clock = Rate{Burst: 10, Every: time.Hour}, clock })
	c := w.login(phone, false)
	for range 3 {
		if err := c.do(wire.MethodPutBlob, &wire.PutBlobRequest{Conversation: "conversation-one", Data: make([]byte, 8<<10)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.counted("refused_total", overBytes, 2)
	if !clock.waited(func(d time.Duration) bool { return d > 17*time.Hour && d <= 18*time.Hour }) { // 28 KiB, of which 10 are free
		t.Errorf("waited %v", clock.asked)
	}
}

// TestLimitOfLoginDelay holds that a login that failed is answered after a delay, known device or not.
func TestLimitOfLoginDelay(t *testing.T) {
	clock := new(slowClock)
	w := newWorld(t, nil, func(c *Config) { c.LoginDelay, c.Clock = 7*time.Hour, clock })
	c := w.connect()
	c.sign("mimi://a.example/d/mallory/phone", true)
	c.wantClose(wire.CloseLogin)
	if !clock.waited(func(d time.Duration) bool { return d == 7*time.Hour }) {
		t.Errorf("waited %v", clock.asked)
	}
}

// fail logs in with a wrong signature.
func (c *device) fail(d wire.DeviceID) wire.CloseCode {
	c.t.Helper()
	c.body(wire.FrameChallenge, &c.challenge)
	c.challenge.Nonce[0]++
	c.sign(d, true)
	_, code := c.closes()
	return code
}

func TestLimitOfLoginRate(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.LoginRate = Rate{Burst: 3, Every: time.Hour} })
	at := func(ip string) *device {
		t.Helper()
		c, err := w.from(ip)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 3 {
		if code := at("127.0.0.2").fail(phone); code != wire.CloseLogin {
			t.Fatalf("closed with %d", code)
		}
	}
	// The address has failed too often, whatever it tries next.
	c := at("127.0.0.2")
	c.body(wire.FrameChallenge, &c.challenge)
	c.sign(laptop, true)
	if why := c.wantClose(wire.CloseFlood); why == nil || why.Code != wire.Busy {
		t.Errorf("got %v", why)
	}
	w.counted("refused_total", overLoginsAddress, 1)
	// The device was failed for too often: another address has one try, and its owner is let in.
	if code := at("127.0.0.3").fail(phone); code != wire.CloseLogin {
		t.Errorf("the first try of another address closed with %d", code)
	}
	if code := at("127.0.0.3").fail(phone); code != wire.CloseFlood {
		t.Errorf("its second one closed with %d", code)
	}
	w.counted("refused_total", overLoginsDevice, 1)
	w.login(phone, true)
}

func TestLimitOfSessions(t *testing.T) {
	for limit, change := range map[string]func(*Config){
		overSessions:  func(c *Config) { c.MaxSessions = 2 },
		overOfAddress: func(c *Config) { c.MaxOfAddress = 2 },
	} {
		w := newWorld(t, nil, change)
		first := w.login(phone, true)
		w.connect()
		if why := w.socket().wantClose(wire.CloseTooMany); why == nil || why.Code != wire.Busy {
			t.Errorf("%s: got %v", limit, why)
		}
		w.counted("refused_total", limit, 1)
		if limit == overOfAddress {
			c, err := w.from("127.0.0.2")
			if err != nil {
				t.Fatal(err)
			}
			c.body(wire.FrameChallenge, nil)
		}
		closeNormally(first)
		w.counted("closes_total", "1000", 1)
		w.connect() // there is room again
	}
}

func TestLimitOfDevice(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.MaxOfDevice = 2 })
	w.login(phone, false)
	older := w.login(phone, true)
	w.login(phone, true) // takes the place of the older one
	older.wantClose(wire.CloseReplaced)
	c := w.connect()
	c.sign(phone, false)
	c.wantClose(wire.CloseTooMany)
	w.counted("refused_total", overOfDevice, 1)
	w.login(laptop, true)
}

func TestLimitOfSockets(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.MaxSockets = 2 })
	w.login(phone, true)
	other := w.login(laptop, true)
	if _, err := w.from("127.0.0.2"); err == nil {
		t.Error("a third connection is served")
	}
	w.counted("refused_total", overSockets, 1)
	closeNormally(other)
	eventually(t, "a place", func() bool { return w.sockets.Load() == 1 })
	w.login(laptop, true)
}

func TestLimitOfConnectRate(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.ConnectRate = Rate{Burst: 2, Every: time.Hour} })
	w.connect()
	w.connect()
	if _, _, err := w.dialer().Dial(w.url, nil); err == nil {
		t.Error("a third connection is served")
	}
	w.counted("refused_total", overConnects, 1)
	if _, err := w.from("127.0.0.2"); err != nil {
		t.Errorf("another address: %v", err)
	}
}

// TestLimitOfHeaderWait: neither a handshake nor a request that does not come holds a connection.
func TestLimitOfHeaderWait(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.HeaderWait = 30 * time.Millisecond })
	address := strings.TrimPrefix(w.base, "https://")
	unresponsive, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer unresponsive.Close()
	half, err := tls.Dial("tcp", address, &tls.Config{RootCAs: w.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := io.WriteString(half, "GET /healthz HTTP/1.1\r\nHost: "); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{unresponsive, half} {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("still open: %v", err)
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestLimitOfHeader(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.MaxHeader = 1024 })
	c, err := tls.Dial("tcp", strings.TrimPrefix(w.base, "https://"), &tls.Config{RootCAs: w.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 8<<10)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(line, "431") {
		t.Errorf("answered %q, %v", line, err)
	}
}

func TestLimitOfKeepAlive(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.KeepAliveWait = 20 * time.Millisecond })
	c, err := tls.Dial("tcp", strings.TrimPrefix(w.base, "https://"), &tls.Config{RootCAs: w.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "ok\n") {
		t.Errorf("answered %q, %v", b, err)
	}
}

// TestLimitOfCloseWait: the gateway does not wait for a device that does not close when asked to.
func TestLimitOfCloseWait(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.CloseWait = 20 * time.Millisecond })
	w.login(phone, true) // does not read
	w.Disconnect(phone)
	w.counted("closes_total", "4007", 1)
}

// TestMembershipsComeInTheirOrder: a stream that goes on comes before later ones of its conversation, and behind
// others.
func TestMembershipsComeInTheirOrder(t *testing.T) {
	first, second := Stream{Conversation: "conversation one", Token: wire.Token{2}}, Stream{Conversation: "conversation one", Token: wire.Token{1}}
	other, third := Stream{Conversation: "another conversation"}, Stream{Conversation: "conversation one", Token: wire.Token{3}}
	p := newPump(nil)
	for _, s := range []Stream{first, second, other, third} {
		p.add(s)
	}
	pages := map[Stream]int{first: 3, second: 2, other: 2, third: 1}
	var order []Stream
	for {
		s, ok := p.next()
		if !ok {
			break
		}
		order = append(order, s)
		if pages[s]--; pages[s] > 0 {
			p.goOn(s)
		}
	}
	want := []Stream{first, first, first, second, other, second, third, other}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, wanted %v", order, want)
	}
	p.goOn(first)
	p.goOn(first)
	if s, ok := p.next(); !ok || s != first || len(p.queue) > 0 {
		t.Error("a stream is queued twice")
	}
}
