package test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// rawSession is a device that uses the protocol without MLS and without a store: its content is as opaque to servers
// as ciphertext. It measures only the servers.
type rawSession struct {
	conn   client.Conn
	device wire.DeviceID
	pushed func(*wire.Push) // on the reader's goroutine
	greedy bool             // the device acknowledges nothing

	write sync.Mutex // one frame at a time
	mu    sync.Mutex // guards what follows
	next  uint64
	wait  map[uint64]chan *wire.Frame
	ended chan struct{}
	err   error // why the session has ended; set before ended is closed
}

// rawDevice is dialRaw for the test's own goroutine.
func rawDevice(ctx context.Context, t testing.TB, c *cluster.Cluster, d wire.Domain, user string, pushed func(*wire.Push)) *rawSession {
	t.Helper()
	s, err := dialRaw(ctx, c, d, user, pushed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dialRaw enrols a device with a key of its own and opens a session.
func dialRaw(ctx context.Context, c *cluster.Cluster, d wire.Domain, user string, pushed func(*wire.Push)) (*rawSession, error) {
	link, err := c.Invite(ctx, d, user)
	if err != nil {
		return nil, err
	}
	id, err := link.DeviceID("raw")
	if err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	_, err = client.WebSocket(link, nil).Enrol(ctx, &wire.EnrolRequest{Device: id, Key: public, Code: link.Code, Proof: ed25519.Sign(private, wire.EnrolInput(id, public))})
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w", id, err)
	}
	return connectRaw(ctx, link, id, private, pushed, false)
}

// connectRaw opens a session for an enrolled device.
func connectRaw(ctx context.Context, link client.Invitation, id wire.DeviceID, private ed25519.PrivateKey, pushed func(*wire.Push), greedy bool) (*rawSession, error) {
	conn, err := client.WebSocket(link, nil).Dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &rawSession{conn: conn, device: id, pushed: pushed, greedy: greedy, wait: make(map[uint64]chan *wire.Frame), ended: make(chan struct{})}
	if err := s.login(ctx, private); err != nil {
		return nil, errors.Join(fmt.Errorf("log in %s: %w", id, err), conn.Close())
	}
	go s.read()
	return s, nil
}

func (s *rawSession) login(ctx context.Context, key ed25519.PrivateKey) error {
	var challenge wire.Challenge
	if err := s.expect(ctx, wire.FrameChallenge, &challenge); err != nil {
		return err
	}
	input, err := challenge.LoginInput(s.device)
	if err != nil {
		return err
	}
	if err := s.send(ctx, &wire.Frame{Type: wire.FrameLogin}, &wire.Login{Device: s.device, Signature: ed25519.Sign(key, input), Receive: true}); err != nil {
		return err
	}
	return s.expect(ctx, wire.FrameSession, new(wire.Session))
}

func (s *rawSession) expect(ctx context.Context, want wire.FrameType, body any) error {
	f, err := s.frame(ctx)
	if err != nil {
		return err
	}
	if f.Type != want {
		return fmt.Errorf("frame of type %d, wanted %d", f.Type, want)
	}
	return wire.Decode(f.Body, wire.MaxSessionFrame, body)
}

func (s *rawSession) frame(ctx context.Context) (*wire.Frame, error) {
	b, err := s.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	f := new(wire.Frame)
	return f, wire.Decode(b, wire.MaxSessionFrame, f)
}

func (s *rawSession) send(ctx context.Context, f *wire.Frame, body any) error {
	var err error
	if body != nil {
		if f.Body, err = wire.Encode(body); err != nil {
			return err
		}
	}
	b, err := wire.Encode(f)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	return s.conn.Write(ctx, b)
}

// read passes answers to the waiting callers, and acknowledges pushes.
func (s *rawSession) read() {
	defer close(s.ended)
	ctx := context.Background()
	for {
		f, err := s.frame(ctx)
		if err != nil {
			s.err = err
			return
		}
		switch f.Type {
		case wire.FramePush:
			p := new(wire.Push)
			if s.err = wire.Decode(f.Body, wire.MaxSessionFrame, p); s.err != nil {
				return
			}
			s.pushed(p)
			if s.greedy {
				continue
			}
			_ = s.send(ctx, &wire.Frame{Type: wire.FrameAck}, &wire.Ack{Conversation: p.Conversation, Token: p.Token, Sequence: p.Sequence})
		case wire.FrameAnswer, wire.FrameError:
			s.mu.Lock()
			ch := s.wait[f.ID]
			delete(s.wait, f.ID)
			s.mu.Unlock()
			if ch != nil {
				ch <- f
			}
		}
	}
}

// ask sends a request and fills answer, which may be nil.
func (s *rawSession) ask(ctx context.Context, method wire.Method, request, answer any) error {
	ch := make(chan *wire.Frame, 1)
	s.mu.Lock()
	s.next++
	id := s.next
	s.wait[id] = ch
	s.mu.Unlock()
	if err := s.send(ctx, &wire.Frame{Type: wire.FrameRequest, ID: id, Method: method}, request); err != nil {
		return err
	}
	select {
	case f := <-ch:
		if f.Type == wire.FrameError {
			e := new(wire.Error)
			if err := wire.Decode(f.Body, wire.MaxError, e); err != nil {
				return err
			}
			return e
		}
		if answer == nil {
			return nil
		}
		return wire.Decode(f.Body, wire.MaxSessionFrame, answer)
	case <-s.ended:
		return fmt.Errorf("the session has ended: %w", s.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *rawSession) close() {
	_ = s.conn.Close()
	<-s.ended
}
