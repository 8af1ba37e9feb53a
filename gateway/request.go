package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// answerRoom is what a frame needs beside the body of an answer, in bytes: no more than this.
const answerRoom = 64

// task is a request under way.
type task struct {
	id     uint64
	method wire.Method
	label  string // of the metrics
	came   time.Time
	body   any
	err    error // of decoding: then it is not served
}

// request takes a request: it is served in a goroutine of its own, or in the one of its lane.
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
	t.body, t.err = decodeBody(f.Method, f.Body)
	if lane := laneOf(t.body); t.err == nil && lane != "" {
		s.inLane(lane, t)
		return nil
	}
	s.work.Go(func() { s.serve(t) })
	return nil
}

// labelOf is a method as the metrics have it: of those that are known there is a bounded number.
func labelOf(m wire.Method) string {
	if _, known := bodyOf(m); !known {
		return "unknown"
	}
	return string(m)
}

// begin notes a request as under way, or says why it is refused.
func (s *session) begin(id uint64, size int) (refuse *wire.Error, err error) {
	cfg := &s.g.cfg
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.under[id]; used {
		return nil, malformed(wire.Errorf(wire.Malformed, "request", "id %d is in use", id))
	}
	switch {
	case s.draining:
		return wire.Errorf(wire.Unavailable, "request", "the node stops: connect again"), nil
	case len(s.under) < cfg.Requests && s.held < cfg.MaxHeld:
		if s.under == nil {
			s.under = make(map[uint64]int)
		}
		s.under[id] = size
		s.held += size
		s.overloads = 0
		return nil, nil
	case s.held >= cfg.MaxHeld:
		s.g.metrics.over(overHeld)
	default:
		s.g.metrics.over(overRequests)
	}
	if s.overloads++; s.overloads >= cfg.MaxOverloads {
		return nil, closing(wire.CloseFlood, wire.Errorf(wire.Busy, "request", "%d requests in a row were more than may be under way", s.overloads))
	}
	return wire.Errorf(wire.Busy, "request", "%d requests with %d bytes are under way: wait for one", len(s.under), s.held), nil
}

// inLane puts a request behind those of its conversation.
func (s *session) inLane(lane wire.ConversationID, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, atWork := s.lanes[lane]
	if atWork {
		s.lanes[lane] = append(waiting, t)
		return
	}
	if s.lanes == nil {
		s.lanes = make(map[wire.ConversationID][]*task)
	}
	s.lanes[lane] = nil
	s.work.Go(func() {
		for t := t; t != nil; t = s.nextInLane(lane) {
			s.serve(t)
		}
	})
}

// nextInLane is the lane's next request; without one the lane is gone.
func (s *session) nextInLane(lane wire.ConversationID) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.lanes[lane]
	if len(waiting) == 0 {
		delete(s.lanes, lane)
		return nil
	}
	s.lanes[lane] = waiting[1:]
	return waiting[0]
}

// serve has a request served, and answers it.
func (s *session) serve(t *task) {
	if t.err != nil {
		s.answer(t, nil, t.err, true)
		return
	}
	if q, ok := t.body.(*wire.FeaturesRequest); ok {
		s.features.Store(&q.Features)
		s.answer(t, &wire.FeaturesAnswer{Features: s.g.cfg.Features}, nil, true)
		s.standingAlarms()
		return
	}
	if t.method == wire.MethodLimits {
		s.answer(t, s.g.cfg.sessionLimits(), nil, true)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestWait)
	defer cancel()
	answer, err := s.g.cfg.Service.Serve(ctx, Request{
		Device: s.device, Method: t.method, Body: t.body, Room: s.g.cfg.MaxFrame - answerRoom, Features: s.announced(),
	})
	if err != nil && ctx.Err() != nil && !isWire(err) {
		err = wire.Errorf(wire.Unavailable, string(t.method), "not done within %v: ask again with the same id", s.g.cfg.RequestWait)
	}
	s.answer(t, answer, err, true)
}

func isWire(err error) bool {
	var e *wire.Error
	var c wire.Code
	return errors.As(err, &e) || errors.As(err, &c)
}

// answer hands an answer to the writer. counted is false for a request that was never under way.
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
	s.mu.Lock()
	if counted {
		s.held += len(frame) - s.under[t.id]
		s.under[t.id] = len(frame)
	}
	s.out = append(s.out, o)
	s.mu.Unlock()
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
