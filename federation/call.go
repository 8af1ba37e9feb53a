package federation

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// callIdle is how long a connection without calls stays open. Each costs a PING in Timers.KeepAlive: a node with rare
// calls to many others must not keep connections to all of them.
const callIdle = 5 * time.Minute

// callClient makes calls to other nodes: one HTTP/2 connection to each node that was called recently.
type callClient struct {
	f    *Federation
	http *http.Transport
}

func newCallClient(f *Federation) *callClient {
	c := &callClient{f: f}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // over TLS of this package, which a meter covers
	t := f.cfg.Timers
	c.http = &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			s, err := f.dial(ctx, wire.NodeID(host), protoCalls)
			if err != nil {
				return nil, err
			}
			return newMeter(f, s, true), nil
		},
		MaxResponseHeaderBytes: 8 << 10,
		IdleConnTimeout:        callIdle,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:  t.KeepAlive,
			PingTimeout:      2 * t.KeepAlive,
			WriteByteTimeout: t.Stall,
		},
	}
	return c
}

// Call calls one node. request is encoded as the body, nil as an empty one; the answer is decoded into response, a
// pointer, unless that is nil. An error of the other node is returned as its *wire.Error. A node that cannot be
// reached, or does not answer within Timers.Call, is wire.Unavailable; a node of an organization that is not admitted
// here, or suspended, is wire.NotAdmitted. If ctx ends, its error is returned.
func (f *Federation) Call(ctx context.Context, to wire.NodeID, method wire.Method, request, response any) error {
	body, err := encodeRequest(request)
	if err != nil {
		return err
	}
	return f.callEncoded(ctx, to, method, body, response)
}

func encodeRequest(request any) ([]byte, error) {
	if request == nil {
		return nil, nil
	}
	return wire.Encode(request)
}

func (f *Federation) callEncoded(ctx context.Context, to wire.NodeID, method wire.Method, body []byte, response any) error {
	err := f.caller.call(ctx, to, method, body, response)
	f.metrics.called.WithLabelValues(string(method), code(err)).Inc()
	return err
}

func (c *callClient) call(ctx context.Context, to wire.NodeID, method wire.Method, body []byte, response any) error {
	f := c.f
	if err := to.Check(); err != nil {
		return wire.Errorf(wire.Malformed, string(method), "%v", err)
	}
	if len(body) > f.cfg.Limits.Request {
		return wire.Errorf(wire.TooLarge, string(method), "a body of %d bytes, at most %d", len(body), f.cfg.Limits.Request)
	}
	if _, err := f.verifier.Root(to.Organization()); err != nil {
		return wire.Errorf(wire.NotAdmitted, string(method), "%s: %v", to, err)
	}
	inner, cancel := context.WithTimeout(ctx, f.cfg.Timers.Call)
	defer cancel()
	r, err := http.NewRequestWithContext(inner, http.MethodPost, "https://"+string(to)+callPath+string(method), bytes.NewReader(body))
	if err != nil {
		return wire.Errorf(wire.Malformed, string(method), "%v", err)
	}
	r.Header.Set("Content-Type", contentType)
	answer, isError, err := c.exchange(r)
	if err != nil {
		return c.failure(ctx, to, method, err)
	}
	f.heard(to)
	if isError {
		e := new(wire.Error)
		if err := wire.Decode(answer, wire.MaxError, e); err != nil {
			return wire.Errorf(wire.Unavailable, string(method), "%s answers an error that cannot be read: %v", to, err)
		}
		e.Text = wire.Printable(e.Text)
		return e
	}
	if response == nil {
		return nil
	}
	if err := wire.Decode(answer, f.cfg.Limits.Answer, response); err != nil {
		return fmt.Errorf("answer of %s to %s: %w", to, method, err)
	}
	return nil
}

// exchange sends the request and reads the answer.
func (c *callClient) exchange(r *http.Request) (answer []byte, isError bool, err error) {
	response, err := c.http.RoundTrip(r)
	if err != nil {
		return nil, false, err
	}
	defer response.Body.Close()
	kind := response.Header.Get("Content-Type")
	isError = kind == errorType
	if !isError && (response.StatusCode != http.StatusOK || kind != contentType) {
		return nil, false, fmt.Errorf("answer %d of type %.40q", response.StatusCode, kind)
	}
	limit := int64(c.f.cfg.Limits.Answer)
	if response.ContentLength > limit {
		return nil, false, fmt.Errorf("an answer of %d bytes, at most %d", response.ContentLength, limit)
	}
	if n := response.ContentLength; n >= 0 {
		answer = make([]byte, n)
		_, err = io.ReadFull(response.Body, answer)
		return answer, isError, err
	}
	answer, err = io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err == nil && int64(len(answer)) > limit {
		err = fmt.Errorf("an answer of more than %d bytes", limit)
	}
	return answer, isError, err
}

// failure returns the error of a call without an answer. It opens the breaker of the node only if the connection is at
// fault: one slow method must not stop the others.
func (c *callClient) failure(ctx context.Context, to wire.NodeID, method wire.Method, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var e *wire.Error
	if errors.As(err, &e) {
		return e // of dial
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.Errorf(wire.Unavailable, string(method), "%s did not answer within %v", to, c.f.cfg.Timers.Call)
	}
	unreachable := c.f.unreachable(to, err)
	c.f.breakers.trip(to, unreachable, c.f.cfg)
	return unreachable
}

// CallOrganization calls the organization's nodes in turn, first the one that last answered, until one answers. Nodes
// that only order are not called, because they have no devices. An answer of a node is final, except wire.Unavailable
// and wire.Busy.
func (f *Federation) CallOrganization(ctx context.Context, org wire.Domain, method wire.Method, request, response any) error {
	body, err := encodeRequest(request)
	if err != nil {
		return err
	}
	return f.callAnyOf(ctx, org, method, body, response)
}

func (f *Federation) callAnyOf(ctx context.Context, org wire.Domain, method wire.Method, body []byte, response any) error {
	nodes := f.byPreference(org)
	if len(nodes) == 0 {
		if _, err := f.verifier.Root(org); err != nil {
			return wire.Errorf(wire.NotAdmitted, string(method), "%v", err)
		}
		return wire.Errorf(wire.Unavailable, string(method), "no node of %s is known: its bundle names no seed, and no record came", org)
	}
	var err error
	for _, n := range nodes {
		err = f.callEncoded(ctx, n, method, body, response)
		if err == nil {
			f.prefer(org, n)
			return nil
		}
		if ctx.Err() != nil || !errors.Is(err, wire.Unavailable) && !errors.Is(err, wire.Busy) {
			return err
		}
	}
	return err
}

// byPreference returns an organization's nodes: first the one that last answered, then those with a link, then the
// others.
func (f *Federation) byPreference(org wire.Domain) []wire.NodeID {
	f.mu.Lock()
	last := f.answered[org]
	f.mu.Unlock()
	var first, linked, others []wire.NodeID
	for _, n := range f.Nodes(org) {
		switch {
		case n == f.cfg.Identity.Node || f.OrdersOnly(n):
		case n == last:
			first = append(first, n)
		case f.links.get(n) != nil:
			linked = append(linked, n)
		default:
			others = append(others, n)
		}
	}
	return append(append(first, linked...), others...)
}

func (f *Federation) prefer(org wire.Domain, n wire.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verifier.Admits(org) {
		f.answered[org] = n
	}
}

// Notify implements outbox.Link: it hands over application messages with CallNotify. Payloads are encoded wire.Messages
// of the conversation. They are sent without being decoded: the other side checks them.
func (f *Federation) Notify(ctx context.Context, org wire.Domain, conversation wire.ConversationID, payloads [][]byte) ([]error, error) {
	results := make([]error, len(payloads))
	var messages [][]byte
	var at []int // the index of each message in results
	for i, p := range payloads {
		if err := cbor.Wellformed(p); err != nil {
			results[i] = wire.Errorf(wire.Malformed, "notify", "%v", err)
			continue
		}
		messages, at = append(messages, p), append(at, i)
	}
	if len(at) == 0 {
		return results, nil
	}
	var answer wire.NotifyAnswer
	if err := f.callAnyOf(ctx, org, wire.CallNotify, notifyRequest(messages), &answer); err != nil {
		return nil, err
	}
	if len(answer.Results) != len(at) {
		return nil, wire.Errorf(wire.Unavailable, "notify", "%s answered %d results for %d messages of %s", org, len(answer.Results), len(at), conversation)
	}
	for i, e := range answer.Results {
		if e != nil { // a nil *wire.Error must not become an error
			results[at[i]] = e
		}
	}
	return results, nil
}

// notifyRequest encodes a wire.NotifyRequest from encoded messages without decoding them: a map with the key 1, and an
// array.
func notifyRequest(messages [][]byte) []byte {
	size := 7
	for _, m := range messages {
		size += len(m)
	}
	b := append(make([]byte, 0, size), 0xa1, 0x01)
	switch n := len(messages); {
	case n < 24:
		b = append(b, 0x80|byte(n))
	case n < 1<<8:
		b = append(b, 0x98, byte(n))
	case n < 1<<16:
		b = append(b, 0x99, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0x9a), uint32(n))
	}
	for _, m := range messages {
		b = append(b, m...)
	}
	return b
}
