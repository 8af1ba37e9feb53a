//go:build !js

package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

// Paths of a node.
const (
	pathSession = "/v1/ws"
	pathEnrol   = "/v1/enrol"
	pathIssuer  = "/v1/issuer"
	pathFlow    = "/v1/flow"
	pathPoll    = "/v1/flow/poll"
)

// pingEvery is the interval of pings, so that a lost connection is noticed.
const pingEvery = 30 * time.Second

// webSocket is the Transport for sockets.
type webSocket struct {
	host   string
	dialer websocket.Dialer
	http   *http.Client
}

// WebSocket returns a Transport to the node that an invitation names, over TLS 1.3. With a pinned root, the node's
// chain must end in that root, which the node sends along; otherwise it must end in a root of base, or of the system.
// base may be nil; base.Time is the clock for the validity of certificates.
func WebSocket(i Invitation, base *tls.Config) Transport {
	config := &tls.Config{}
	if base != nil {
		config = base.Clone()
	}
	config.MinVersion = tls.VersionTLS13
	if i.Pinned() {
		pin(config, i)
	}
	return &webSocket{
		host:   i.Host,
		dialer: websocket.Dialer{TLSClientConfig: config, Subprotocols: []string{wire.Subprotocol}, Proxy: http.ProxyFromEnvironment},
		http:   &http.Client{Transport: &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}},
	}
}

// pin replaces the system's roots by the root with a given hash, and the check of the host's name by a check for any
// node of the organization: people reach nodes by addresses that no certificate names.
func pin(config *tls.Config, i Invitation) {
	now := config.Time
	if now == nil {
		now = time.Now
	}
	config.InsecureSkipVerify = true // VerifyConnection verifies the chain
	config.VerifyConnection = func(s tls.ConnectionState) error {
		return verifyPinned(s.PeerCertificates, i, now())
	}
}

func verifyPinned(chain []*x509.Certificate, i Invitation, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[min(1, len(chain)):] {
		if sha256.Sum256(c.Raw) == i.Root {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if !found {
		return fmt.Errorf("the node's certificates do not include the root with SHA-256 %v that the invitation names", i.Root)
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now}
	if _, err := chain[0].Verify(opts); err != nil {
		return err
	}
	for _, name := range chain[0].DNSNames {
		if n, err := wire.ParseNodeID(name); err == nil && n.Organization() == i.Domain || name == string(i.Domain) {
			return nil
		}
	}
	return fmt.Errorf("the certificate is for %v, which is no node of %s", chain[0].DNSNames, i.Domain)
}

// Dial implements Transport.
func (w *webSocket) Dial(ctx context.Context) (Conn, error) {
	c, response, err := w.dialer.DialContext(ctx, "wss://"+w.host+pathSession, nil)
	if err != nil {
		if response != nil {
			return nil, fmt.Errorf("connect to %s: %w (%s)", w.host, err, response.Status)
		}
		return nil, fmt.Errorf("connect to %s: %w", w.host, err)
	}
	if c.Subprotocol() != wire.Subprotocol {
		return nil, errors.Join(fmt.Errorf("%s does not speak %s", w.host, wire.Subprotocol), c.Close())
	}
	return newWebSocketConn(c), nil
}

// Enrol implements Transport.
func (w *webSocket) Enrol(ctx context.Context, r *wire.EnrolRequest) (*wire.ChainAnswer, error) {
	chain := new(wire.ChainAnswer)
	return chain, w.ask(ctx, http.MethodPost, pathEnrol, "enrol", r, chain)
}

var _ LoginTransport = (*webSocket)(nil)

// Issuer implements LoginTransport.
func (w *webSocket) Issuer(ctx context.Context) (*wire.Issuer, error) {
	i := new(wire.Issuer)
	return i, w.ask(ctx, http.MethodGet, pathIssuer, "issuer", nil, i)
}

// BeginFlow implements LoginTransport.
func (w *webSocket) BeginFlow(ctx context.Context, r *wire.FlowRequest) (*wire.FlowAnswer, error) {
	a := new(wire.FlowAnswer)
	return a, w.ask(ctx, http.MethodPost, pathFlow, "log in", r, a)
}

// PollFlow implements LoginTransport.
func (w *webSocket) PollFlow(ctx context.Context, r *wire.FlowPoll) (*wire.FlowState, error) {
	s := new(wire.FlowState)
	return s, w.ask(ctx, http.MethodPost, pathPoll, "log in", r, s)
}

// ask sends a request without a session. A refusal is a *Error.
func (w *webSocket) ask(ctx context.Context, method, path, op string, q, answer any) error {
	var body io.Reader = http.NoBody
	if q != nil {
		raw, err := wire.Encode(q)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+w.host+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/cbor")
	response, err := w.http.Do(request)
	if err != nil {
		return fmt.Errorf("%s at %s: %w", op, w.host, err)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, wire.MaxError+1))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return fmt.Errorf("%s at %s: %w", op, w.host, err)
	}
	if response.StatusCode != http.StatusOK {
		refused := new(Error)
		if err := wire.Decode(raw, wire.MaxError, refused); err != nil {
			return fmt.Errorf("%s at %s: %s", op, w.host, response.Status)
		}
		return refused
	}
	return wire.Decode(raw, wire.MaxError, answer)
}

// webSocketConn is the Conn of a socket.
type webSocketConn struct {
	c    *websocket.Conn
	stop chan struct{} // closed by Close
	done chan struct{} // closed when the pinging has ended
}

func newWebSocketConn(c *websocket.Conn) *webSocketConn {
	w := &webSocketConn{c: c, stop: make(chan struct{}), done: make(chan struct{})}
	c.SetReadLimit(wire.MaxSessionFrame)
	c.SetPongHandler(func(string) error { return c.SetReadDeadline(time.Now().Add(3 * pingEvery)) })
	go w.ping()
	return w
}

// ping keeps the connection alive, and makes Read fail if the connection is lost.
func (w *webSocketConn) ping() {
	defer close(w.done)
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			if w.c.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingEvery)) != nil {
				return
			}
		}
	}
}

// Read implements Conn.
func (w *webSocketConn) Read(ctx context.Context) ([]byte, error) {
	if err := w.c.SetReadDeadline(time.Now().Add(3 * pingEvery)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.c.NetConn().SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	kind, b, err := w.c.ReadMessage()
	var closed *websocket.CloseError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &closed):
		return nil, &CloseError{Code: wire.CloseCode(closed.Code), Text: closed.Text}
	case err != nil:
		return nil, err
	case kind != websocket.BinaryMessage:
		return nil, wire.Errorf(wire.Malformed, "session", "a text message from the node")
	}
	return b, nil
}

// Write implements Conn.
func (w *webSocketConn) Write(ctx context.Context, frame []byte) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(pingEvery)
	}
	if err := w.c.SetWriteDeadline(deadline); err != nil {
		return err
	}
	return w.c.WriteMessage(websocket.BinaryMessage, frame)
}

// Close implements Conn. It first sends a close message, if that takes no time.
func (w *webSocketConn) Close() error {
	close(w.stop)
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = w.c.WriteControl(websocket.CloseMessage, bye, time.Now().Add(100*time.Millisecond)) // a courtesy
	err := w.c.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	<-w.done
	return err
}
