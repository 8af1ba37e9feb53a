package gateway

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// answerRoom bounds the bytes that a frame needs in addition to the body of an answer.
const answerRoom = 64

// A task is a request under way.
type task struct {
	id     uint64
	method wire.Method
	label  string // of the metrics
	came   time.Time
	body   any
	err    error // of decoding: then it is not served
}

// request takes a request and serves it in a goroutine of its own, or in that of its conversation.
func (s *session) request(f *wire.Frame) error {
	t := &task{id: f.ID, method: f.Method, label: labelOf(f.Method), came: s.g.cfg.Clock.Now()}
	refuse, err := s.begin(t.id, len(f.Body))
	switch {
	case err != nil:
		return err
	case refuse != nil:
		s.answer(t, nil, refuse, false)
		return nil
	}
	t.body, t.err = f.Method.DecodeRequest(f.Body)
	if id := orderedIn(t.body); t.err == nil && id != "" {
		s.serveInOrder(id, t)
		return nil
	}
	s.work.Go(func() { s.serve(t) })
	return nil
}

// labelOf returns the metrics' label of a method: unknown methods share one, so that the number of labels is bounded.
func labelOf(m wire.Method) string {
	if !m.Known() {
		return "unknown"
	}
	return string(m)
}

// begin registers a request as under way, or returns why the gateway refuses it.
func (s *session) begin(id uint64, size int) (refuse *wire.Error, err error) {
	cfg, ofUser := &s.g.cfg, false
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.under[id]; used {
		return nil, malformed(wire.Errorf(wire.Malformed, "request", "id %d is in use", id))
	}
	switch {
	case s.draining:
		return wire.Errorf(wire.Unavailable, "request", "the node stops: connect again"), nil
	case len(s.under) < cfg.Requests && s.held < cfg.MaxHeld && s.user.begin(s, size):
		if s.under == nil {
			s.under = make(map[uint64]int)
		}
		s.under[id] = size
		s.held += size
		s.overloads = 0
		return nil, nil
	case s.held >= cfg.MaxHeld:
		s.g.metrics.over(overHeld)
	case len(s.under) >= cfg.Requests:
		s.g.metrics.over(overRequests)
	default:
		s.g.metrics.over(overHeldOfUser)
		ofUser = true
	}
	if s.overloads++; s.overloads >= cfg.MaxOverloads {
		return nil, closing(wire.CloseFlood, wire.Errorf(wire.Busy, "request", "%d requests in a row were more than may be under way", s.overloads))
	}
	if ofUser {
		return wire.Errorf(wire.Busy, "request", "%d bytes are under way for the devices of %s: wait until they read", cfg.MaxHeldOfUser, s.user.user), nil
	}
	return wire.Errorf(wire.Busy, "request", "%d requests with %d bytes are under way: wait for one", len(s.under), s.held), nil
}

// serveInOrder queues a request behind those of its conversation.
func (s *session) serveInOrder(id wire.ConversationID, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, atWork := s.ordered[id]
	if atWork {
		s.ordered[id] = append(waiting, t)
		return
	}
	if s.ordered == nil {
		s.ordered = make(map[wire.ConversationID][]*task)
	}
	s.ordered[id] = nil
	s.work.Go(func() {
		for t := t; t != nil; t = s.nextInOrder(id) {
			s.serve(t)
		}
	})
}

// nextInOrder returns the next request of a conversation. It removes an empty queue and returns nil.
func (s *session) nextInOrder(id wire.ConversationID) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.ordered[id]
	if len(waiting) == 0 {
		delete(s.ordered, id)
		return nil
	}
	s.ordered[id] = waiting[1:]
	return waiting[0]
}

// serve has the service answer a request, and queues the answer.
func (s *session) serve(t *task) {
	if t.err != nil {
		s.answer(t, nil, t.err, true)
		return
	}
	if q, ok := t.body.(*wire.FeaturesRequest); ok {
		s.features.Store(&q.Features)
		s.answer(t, &wire.FeaturesAnswer{Features: s.g.cfg.Features}, nil, true)
		s.openAlarms()
		return
	}
	if t.method == wire.MethodLimits {
		s.answer(t, s.g.cfg.sessionLimits(), nil, true)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestWait)
	defer cancel()
	answer, err := s.ask(ctx, t)
	if err != nil && ctx.Err() != nil && !isWire(err) {
		err = wire.Errorf(wire.Unavailable, string(t.method), "not done within %v: ask again with the same id", s.g.cfg.RequestWait)
	}
	s.answer(t, answer, err, true)
}

// ask calls the service. A panic of the service fails the request alone: other devices go on.
func (s *session) ask(ctx context.Context, t *task) (answer any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.g.metrics.panics.Inc()
			answer, err = nil, fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return s.g.cfg.Service.Serve(ctx, Request{
		Device: s.device, Method: t.method, Body: t.body, Room: s.g.cfg.MaxFrame - answerRoom, Features: s.announced(),
	})
}

func isWire(err error) bool {
	var e *wire.Error
	var c wire.Code
	return errors.As(err, &e) || errors.As(err, &c)
}

// answer queues an answer for the writer. counted is false for a request that was refused before it was under way.
func (s *session) answer(t *task, body any, failure error, counted bool) {
	if failure != nil && !isWire(failure) {
		s.g.cfg.Log.Error("a request failed", "method", t.label, "device", s.device, "error", failure)
	}
	frame, err := answerFrame(t, body, failure)
	if err == nil && len(frame) > s.g.cfg.MaxFrame {
		failure = wire.Errorf(wire.TooLarge, string(t.method), "the answer has %d bytes, a frame at most %d: ask for less", len(frame), s.g.cfg.MaxFrame)
		frame, err = frameOf(wire.FrameError, t.id, failure)
	}
	if err != nil {
		s.endBy(s.fault("encode answer", err))
		return
	}
	s.g.metrics.request(t.label, failure, s.g.cfg.Clock.Now().Sub(t.came))
	o := outgoing{frame: frame}
	if counted {
		o.id = t.id
	}
	size := 0 // of the request
	s.mu.Lock()
	if counted {
		size = s.under[t.id]
		s.held += len(frame) - size
		s.under[t.id] = len(frame)
	}
	slow := s.user.queue(s, len(frame), size)
	if !s.discarded {
		s.out = append(s.out, o)
	}
	s.mu.Unlock()
	discard(slow)
	s.signal()
}

func answerFrame(t *task, body any, failure error) ([]byte, error) {
	if failure != nil {
		return frameOf(wire.FrameError, t.id, wire.AsError(string(t.method), failure))
	}
	return frameOf(wire.FrameAnswer, t.id, body)
}

// announced returns what the device has announced in this session, nil for nothing.
func (s *session) announced() wire.Features {
	if f := s.features.Load(); f != nil {
		return *f
	}
	return nil
}
