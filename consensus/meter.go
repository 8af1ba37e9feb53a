package consensus

import (
	"errors"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// rule is one promise that holds against a hostile replica. A test switches one off (Config.without) to show
// that it notices.
type rule uint8

const (
	ruleRoles          rule = iota + 1 // role.go: requests of a leader come from voters
	ruleApplied                        // continuity.go: what was applied stays
	ruleTerms                          // terms.go: terms grow by bounded jumps
	ruleAside                          // aside.go: nothing is deleted on one node's word
	ruleCompare                        // compare.go: replicas compare what they applied
	ruleConfigurations                 // judge.go: followers judge changes of replicas
	ruleVouching                       // vouch.go: a majority of the known voters vouches
)

func (m *Manager) holds(r rule) bool { return !m.cfg.without[r] }

// meter holds token buckets (GCRA) for what peers may cause.
type meter struct {
	mu sync.Mutex // guards full
	// full is when a bucket is full again.
	full map[meterKey]time.Time
}

type meterKey struct {
	peer wire.NodeID
	id   wire.ConversationID
	what byte
}

// What is metered.
const (
	meterWake     = 'w' // wakes of one conversation by one peer
	meterAsk      = 'a' // questions to others that one peer causes
	meterUnrest   = 'u' // leaders that a peer without a vote makes step down
	meterAlarm    = 'l' // alarms that one peer causes in one conversation
	meterCompare  = 'c' // differences of one peer in one conversation that are looked into
	meterSuspect  = 's' // campaigns against one leader of one conversation
	meterComplain = 'x' // complaints of one organization about one leader
	meterInvite   = 'v' // replicas of one conversation that one organization brings
	meterReturn   = 'r' // questions whether the generation before lives
	meterDoubt    = 'd' // comparisons of one conversation with one organization because of what it brought
	meterDisowned = 'i' // invitations of one member that holds another conversation of the id
	meterPoll     = 'p' // contradictions by one peer in one conversation that are looked into
)

// maxMetered bounds the buckets that are not full.
const maxMetered = 65536

// take takes one token of a bucket that holds burst and gains one per refill.
func (s *meter) take(k meterKey, burst int, refill time.Duration) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full == nil {
		s.full = make(map[meterKey]time.Time)
	}
	at := s.full[k]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(refill); at.Sub(now) > time.Duration(burst)*refill {
		return false
	}
	if len(s.full) >= maxMetered {
		for k, at := range s.full {
			if at.Before(now) {
				delete(s.full, k)
			}
		}
		if len(s.full) >= maxMetered {
			return false
		}
	}
	s.full[k] = at
	return true
}

// voterWakes is how many times as often a voter may wake: it leads, and wakes the others for submissions.
const voterWakes = 16

// mayWake takes a token for a wake that a peer asks for.
func (m *Manager) mayWake(from wire.NodeID, c *conversation) error {
	burst, refill := m.cfg.Limits.Wakes, m.cfg.Timers.Wake
	if got, err := m.roleOf(from, c); err == nil && got == roleVoter {
		burst, refill = burst*voterWakes, refill/voterWakes
	}
	if m.meter.take(meterKey{from, c.id, meterWake}, burst, refill) {
		return nil
	}
	return m.refuse(from, c.id, RefusedRate, wire.Errorf(wire.Busy, "wake",
		"node %s wakes %v too often: %d at once and one each %v are served", from, c.id, burst, refill))
}

// distrust takes a conversation out of service because of what a peer sent: it contradicts what is here.
func (m *Manager) distrust(c *conversation, reason Reason, why Refusal, from wire.NodeID, err error) error {
	_ = m.refuse(from, c.id, why, err)
	m.quarantine(c, reason, err)
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	return wire.Errorf(wire.Invalid, "raft", "%v", err)
}

// forget fills a bucket.
func (s *meter) forget(k meterKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.full, k)
}
