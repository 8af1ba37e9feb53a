package federation

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mlsfed/mlsfed/wire"
)

// budget bounds the resources that one organization may make this node spend.
type budget struct {
	calls   *rate.Limiter
	bytes   *rate.Limiter
	frames  *rate.Limiter // of HTTP/2, with little in them
	raw     *rate.Limiter // bytes of connections of calls
	packets *rate.Limiter
	gossip  *rate.Limiter // bytes
	answers *rate.Limiter // bytes of records that are sent, and of requests for them
	working chan struct{} // a place for each call being served
	streams chan struct{} // a place for each exchange of state
}

// budgets are the budgets of admitted organizations, made when they are first needed.
type budgets struct {
	limits Limits

	mu sync.Mutex // guards by
	by map[wire.Domain]*budget
}

func (s *budgets) of(d wire.Domain) *budget {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.by[d]
	if b == nil {
		l := s.limits
		b = &budget{
			calls:   rate.NewLimiter(rate.Limit(l.Calls), l.CallBurst),
			bytes:   rate.NewLimiter(rate.Limit(l.Bytes), l.ByteBurst),
			packets: rate.NewLimiter(rate.Limit(l.GossipPackets), l.GossipBurst),
			gossip:  rate.NewLimiter(rate.Limit(l.GossipBytes), 4*int(l.GossipBytes)),
			answers: rate.NewLimiter(rate.Limit(l.Answers), l.AnswersBurst),
			working: make(chan struct{}, l.UnderWay),
			streams: make(chan struct{}, l.GossipStreams),
		}
		b.frames, b.raw = meterLimits(l)
		s.by[d] = b
	}
	return b
}

// keep drops those of organizations that are not listed any more.
func (s *budgets) keep(listed func(wire.Domain) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.by {
		if !listed(d) {
			delete(s.by, d)
		}
	}
}

// call charges a call of size bytes, or refuses it with wire.Busy.
func (b *budget) call(now time.Time, size int, from wire.NodeID) error {
	if !b.calls.AllowN(now, 1) {
		return wire.Errorf(wire.Busy, "call", "%s calls too often: slow down", from.Organization())
	}
	if !b.bytes.AllowN(now, size) {
		return wire.Errorf(wire.Busy, "call", "%s sends too much: slow down", from.Organization())
	}
	return nil
}

// packet reports whether a packet of gossip of size bytes is within the budget, and charges it.
func (b *budget) packet(now time.Time, size int) bool {
	return b.packets.AllowN(now, 1) && b.gossip.AllowN(now, size)
}
