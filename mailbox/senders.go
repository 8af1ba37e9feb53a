package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// What one sender has in all streams together is bounded too. It is not counted down as items are removed, which is one
// deleted range for many items of several senders. It is counted from the records when the mailbox starts, and up with
// each item; when a sender comes to the bound, the records are counted again. So the number is never too small, and too
// large for a moment only.

// recountPause is how long the records are not counted again.
const recountPause = time.Minute

// senders is what each sender has, by its tag, in bytes.
type senders struct {
	kick chan struct{} // holds one: a sender has come to the bound

	mu      sync.Mutex        // guards what follows
	counted map[uint64]uint64 // by the last count
	during  map[uint64]uint64 // brought before a count that is under way
	since   map[uint64]uint64 // brought since the last count has begun
}

func newSenders() *senders {
	return &senders{kick: make(chan struct{}, 1), since: make(map[uint64]uint64)}
}

func (s *senders) add(sender, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since[sender] += bytes
}

func (s *senders) of(sender uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted[sender] + s.during[sender] + s.since[sender]
}

// begin begins a count. What is brought from here on may be in it, too.
func (s *senders) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.during, s.since = s.since, make(map[uint64]uint64)
}

// end takes the result of a count; nil for one that failed.
func (s *senders) end(counted map[uint64]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if counted != nil {
		s.counted = counted
	} else {
		for sender, n := range s.during {
			s.since[sender] += n
		}
	}
	s.during = nil
}

// mayBring refuses an item with which its sender would have too much.
func (b *commit) mayBring(p *Put) error {
	m := b.m
	if p.Sender == "" {
		return nil
	}
	have := m.senders.of(senderTag(p.Sender))
	if have+uint64(len(p.Payload)) <= m.cfg.MaxSender {
		return nil
	}
	select {
	case m.senders.kick <- struct{}{}:
	default:
	}
	m.cfg.Count(OverSender, 1)
	return wire.Errorf(wire.Quota, "put", "%s has %d bytes in all streams together that a device has not acknowledged, at most %d: try again when they are read", p.Sender, have, m.cfg.MaxSender)
}

// countSenders counts when the mailbox starts, and when a sender has come to the bound.
func (m *Mailbox) countSenders(ctx context.Context) error {
	for ctx.Err() == nil {
		m.senders.begin()
		counted, err := m.countRecords(ctx)
		m.senders.end(counted)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("count what senders have: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.cfg.Clock.After(recountPause):
		}
		select {
		case <-ctx.Done():
		case <-m.senders.kick:
		}
	}
	return nil
}

// countRecords reads the records of who brought what.
func (m *Mailbox) countRecords(ctx context.Context) (counted map[uint64]uint64, err error) {
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: m.keys.of(keySent), UpperBound: m.keys.of(keySent + 1)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	counted = make(map[uint64]uint64)
	for it.First(); it.Valid(); it.Next() {
		var sender, bytes uint64
		if err := decodeNumbers("sender", it.Key(), it.Value(), &sender, &bytes); err != nil {
			return nil, err
		}
		counted[sender] += bytes
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return counted, it.Error()
}
