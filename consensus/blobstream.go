package consensus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// blobIdle is the time for which a stream for blobs is kept without requests.
const blobIdle = time.Minute

// blobStreams holds at most one stream for blobs to each node. Requests for one node wait for each other.
type blobStreams struct {
	mu    sync.Mutex // guards the fields below
	by    map[wire.NodeID]*blobStream
	ended bool // no stream is kept any longer
}

// blobStream is the stream to one node. The holder of turn uses it.
type blobStream struct {
	turn chan struct{} // capacity one
	conn net.Conn      // nil while there is none
	used int           // requests that wait or are served; guarded by blobStreams.mu
	idle *time.Timer   // closes conn; nil while it is in use
}

// take waits for the turn on a node's stream. The caller returns the turn with give.
func (b *blobStreams) take(ctx context.Context, n wire.NodeID) (*blobStream, error) {
	b.mu.Lock()
	if b.by == nil {
		b.by = make(map[wire.NodeID]*blobStream)
	}
	s := b.by[n]
	if s == nil {
		s = &blobStream{turn: make(chan struct{}, 1)}
		b.by[n] = s
	}
	s.used++
	b.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		b.mu.Lock()
		b.leave(n, s)
		b.mu.Unlock()
		return nil, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.idle != nil {
		s.idle.Stop()
		s.idle = nil
	}
	return s, nil
}

// proposeEntry ends a turn. keep reports that the stream is at the start of a request.
func (b *blobStreams) give(n wire.NodeID, s *blobStream, keep bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.conn != nil && (!keep || b.ended) {
		s.conn.Close()
		s.conn = nil
	}
	<-s.turn
	b.leave(n, s)
}

// leave is called with mu held. If a node has no requests, only an open stream is remembered.
func (b *blobStreams) leave(n wire.NodeID, s *blobStream) {
	if s.used--; s.used > 0 {
		return
	}
	if s.conn == nil {
		delete(b.by, n)
		return
	}
	conn := s.conn
	s.idle = time.AfterFunc(blobIdle/2, func() { // well before the other node closes it
		b.mu.Lock()
		defer b.mu.Unlock()
		if s.used == 0 && s.conn == conn {
			s.conn.Close()
			s.conn = nil
			delete(b.by, n)
		}
	})
}

// close closes all streams when the Manager ends.
func (b *blobStreams) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	for n, s := range b.by {
		if s.idle != nil {
			s.idle.Stop()
		}
		if s.used == 0 && s.conn != nil {
			s.conn.Close()
			s.conn = nil
			delete(b.by, n)
		}
	}
}

// withBlobStream sends one request and passes the stream on after the first answer. then reads, or writes, all data
// of the request. withBlobStream gives up a node that does not answer within Timers.Call: the longer time of a
// transfer is only for the content.
func (m *Manager) withBlobStream(ctx context.Context, to wire.NodeID, req *blobRequest, then func(net.Conn, byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, transferTime(req.Ref.Size))
	defer cancel()
	s, err := m.blobs.take(ctx, to)
	if err != nil {
		return err
	}
	keep := false
	defer func() { m.blobs.give(to, s, keep) }()
	b, err := wire.Encode(req)
	if err != nil {
		return err
	}
	question := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	answer, err := m.askBlob(ctx, to, s, question)
	if err != nil {
		var refused *wire.Error
		keep = errors.As(err, &refused)
		return err
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(transferTime(req.Ref.Size))); err != nil {
		stop()
		return err
	}
	if then != nil {
		err = then(conn, answer)
	}
	keep = stop() && err == nil
	return err
}

// askBlob sends a question and reads the first answer. If the other node has closed an existing stream, askBlob opens
// a new one: a node of an older build closes it after each request.
func (m *Manager) askBlob(ctx context.Context, to wire.NodeID, s *blobStream, question []byte) (byte, error) {
	if s.conn != nil {
		answer, err := m.questionBlob(ctx, s.conn, question)
		var refused *wire.Error
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return answer, err
		}
		s.conn.Close()
		s.conn = nil
	}
	m.stats.blobStreams.Add(1)
	conn, err := m.mesh.open(ctx, to, streamBlob)
	if err != nil {
		return 0, err
	}
	s.conn = conn
	return m.questionBlob(ctx, conn, question)
}

func (m *Manager) questionBlob(ctx context.Context, conn net.Conn, question []byte) (byte, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(m.cfg.Timers.Call)); err != nil {
		return 0, err
	}
	if _, err := io.Copy(conn, bytes.NewReader(question)); err != nil {
		return 0, err
	}
	return readBlobAnswer(conn)
}
