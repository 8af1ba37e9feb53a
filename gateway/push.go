package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

// window is what a session has pushed: how far each stream, and what is not acknowledged of it.
type window struct {
	size   int
	open   map[Stream][]uint64
	pushed map[Stream]uint64
}

func (w *window) push(name Stream, sequence uint64) {
	if w.open == nil {
		w.open, w.pushed = make(map[Stream][]uint64), make(map[Stream]uint64)
	}
	w.open[name] = append(w.open[name], sequence)
	w.pushed[name] = sequence
	w.size++
}

// ack takes what is acknowledged out of the window, and says how much that was.
func (w *window) ack(name Stream, sequence uint64) int {
	if at, ok := w.pushed[name]; ok && sequence > at {
		w.pushed[name] = sequence // of an earlier session: it is not pushed again
	}
	list, n := w.open[name], 0
	for n < len(list) && list[n] <= sequence {
		n++
	}
	if w.size -= n; n == len(list) {
		delete(w.open, name)
	} else {
		w.open[name] = list[n:]
	}
	return n
}

// pump gives a session the pushes of its feed. It is the writer's.
type pump struct {
	feed   Feed
	ready  <-chan struct{}
	queue  []Stream // with something to read, as far as is known; in turn
	queued map[Stream]bool
}

func newPump(feed Feed) *pump {
	p := &pump{feed: feed}
	if feed != nil {
		p.ready = feed.Ready()
	}
	return p
}

// look takes over which streams have news.
func (p *pump) look(ctx context.Context) {
	for _, name := range p.feed.Streams(ctx) {
		p.add(name)
	}
}

func (p *pump) add(name Stream) {
	if p.queued[name] {
		return
	}
	if p.queued == nil {
		p.queued = make(map[Stream]bool)
	}
	p.queued[name] = true
	p.queue = append(p.queue, name)
}

// goOn queues a stream that has given a page. It comes before others of the same conversation: they are of memberships
// that follow.
func (p *pump) goOn(name Stream) {
	at := slices.IndexFunc(p.queue, func(have Stream) bool { return have.Conversation == name.Conversation })
	p.add(name)
	if last := len(p.queue) - 1; at >= 0 && at < last && p.queue[last] == name {
		p.queue = slices.Insert(p.queue[:last], at, name)
	}
}

func (p *pump) next() (name Stream, ok bool) {
	if len(p.queue) == 0 {
		return name, false
	}
	name, p.queue = p.queue[0], p.queue[1:]
	if delete(p.queued, name); len(p.queue) == 0 {
		p.queue, p.queued = nil, nil // an idle session keeps nothing
	}
	return name, true
}

// write writes answers, pushes and pings until the session ends.
func (s *session) write(feed Feed) {
	clock, every := s.g.cfg.Clock, s.g.cfg.PingEvery
	p, tick := newPump(feed), clock.After(every)
	if feed != nil {
		p.look(s.ctx)
	}
	for s.ctx.Err() == nil {
		more, err := s.writeSome(p)
		if err != nil {
			s.endBy(err)
			return
		}
		if more {
			s.signal()
		}
		select {
		case <-s.ctx.Done():
		case <-s.wake:
		case <-p.ready:
			p.look(s.ctx)
		case <-tick:
			tick = clock.After(every)
			s.ping(clock.Now())
		}
	}
}

// writeSome writes the answers that wait and one page of pushes. It says whether there may be more.
func (s *session) writeSome(p *pump) (worked bool, err error) {
	if err := s.answerPing(); err != nil {
		return true, err
	}
	for {
		frame, ok := s.nextAnswer()
		if !ok {
			break
		}
		worked = true
		if err := s.send(frame); err != nil {
			return true, err
		}
		s.user.sent(s, len(frame))
	}
	s.mu.Lock()
	room := s.g.cfg.Window - s.window.size
	done := s.draining && len(s.under) == 0 && len(s.out) == 0
	s.mu.Unlock()
	if done {
		return false, closing(wire.CloseStopping, nil)
	}
	if room <= 0 {
		return worked, nil
	}
	name, ok := p.next()
	if !ok {
		return worked, nil
	}
	return true, s.writePage(p, name, room)
}

// answerPing answers the last ping. It is the writer who does it: a write that times out breaks TLS, so
// none may have less time than WriteWait.
func (s *session) answerPing() error {
	s.mu.Lock()
	pong := s.pong
	s.pong = nil
	s.mu.Unlock()
	if pong == nil {
		return nil
	}
	return s.conn.WriteControl(websocket.PongMessage, pong, time.Now().Add(s.g.cfg.WriteWait))
}

// nextAnswer takes a frame out of the queue. The id is free when the device can know that it is.
func (s *session) nextAnswer() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) == 0 {
		return nil, false
	}
	o := s.out[0]
	s.out[0] = outgoing{}
	if s.out = s.out[1:]; len(s.out) == 0 {
		s.out = nil
	}
	if o.id != 0 {
		s.held -= s.under[o.id]
		delete(s.under, o.id)
	}
	return o.frame, true
}

// writePage pushes the next page of a stream.
func (s *session) writePage(p *pump, name Stream, room int) error {
	s.mu.Lock()
	after := s.window.pushed[name]
	s.mu.Unlock()
	cfg := &s.g.cfg
	page, err := p.feed.Read(s.ctx, name, after, Limit{Items: min(room, cfg.PageItems), Bytes: cfg.PageBytes})
	switch wire.CodeOf(err) {
	case "":
	case wire.UnknownConversation: // the device has left
		s.forget(name)
		return nil
	default:
		return s.fault("read feed", err)
	}
	size := 0
	for i := range page.Pushes {
		size += len(page.Pushes[i].Payload)
	}
	discard(s.user.queue(s, size, 0))
	defer s.user.sent(s, size)
	for i := range page.Pushes {
		if err := s.push(name, &page.Pushes[i]); err != nil {
			return err
		}
	}
	if page.More && len(page.Pushes) > 0 {
		p.goOn(name)
	}
	return nil
}

// push writes one push. The window has it before the device can acknowledge it.
func (s *session) push(name Stream, push *wire.Push) error {
	push.Conversation, push.Token = nil, name.Token
	if name.Conversation != "" {
		push.Conversation = &name.Conversation
	}
	frame, err := frameOf(wire.FramePush, 0, push)
	if err != nil {
		return s.fault("encode push", err)
	}
	s.mu.Lock()
	s.window.push(name, push.Sequence)
	s.mu.Unlock()
	return s.send(frame)
}

func (s *session) forget(name Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window.size -= len(s.window.open[name])
	delete(s.window.open, name)
	delete(s.window.pushed, name)
}

// ping asks the device for a sign, and ends the session if there was none for long.
func (s *session) ping(now time.Time) {
	unresponsive := now.Sub(time.UnixMilli(s.heard.Load()))
	if unresponsive >= s.g.cfg.IdleWait {
		s.end(wire.CloseSlow, wire.Errorf(wire.Unavailable, "session", "no sign of the device for %v", unresponsive.Round(time.Second)))
		return
	}
	if err := s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(s.g.cfg.WriteWait)); err != nil {
		s.endBy(err)
	}
}
