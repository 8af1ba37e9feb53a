package consensus

import (
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// rule is one promise that holds against a hostile replica. A test switches a rule off (Config.without) to show that
// the test notices its absence.
type rule uint8

const (
	ruleRoles          rule = iota + 1 // role.go: requests of a leader come from voters
	ruleApplied                        // continuity.go: applied entries stay
	ruleTerms                          // terms.go: terms grow by bounded jumps
	ruleAside                          // aside.go: nothing is deleted on one node's word
	ruleCompare                        // compare.go: replicas compare their applied entries
	ruleConfigurations                 // validate.go: followers validate changes of replicas
	ruleVouching                       // vouch.go: a majority of the known voters vouches
	ruleUnrest                         // unrest.go: a voter seldom ends the leadership of another one
)

func (m *Manager) holds(r rule) bool { return !m.cfg.without[r] }

// meter holds token buckets that limit the work which peers may cause.
type meter struct{ buckets tokenbucket.Rates[meterKey] }

type meterKey struct {
	peer wire.NodeID
	id   wire.ConversationID
	what byte
}

// The metered actions.
const (
	meterWake     = 'w' // wakes of one conversation by one peer
	meterAsk      = 'a' // questions to others that one peer causes
	meterUnrest   = 'u' // step-downs of leaders that a peer without a vote causes
	meterAlarm    = 'l' // alarms that one peer causes in one conversation
	meterCompare  = 'c' // differences of one peer in one conversation that are investigated
	meterSuspect  = 's' // campaigns against one leader of one conversation
	meterComplain = 'x' // complaints of one organization about one leader
	meterInvite   = 'v' // replicas of one conversation that one organization brings
	meterReturn   = 'r' // questions whether the previous generation is alive
	meterDoubt    = 'd' // comparisons of one conversation with one organization because of data that it brought
	meterDisowned = 'i' // invitations of one member that holds another conversation of the id
	meterPoll     = 'p' // contradictions by one peer in one conversation that are investigated
)

// maxMetered limits the number of buckets that are not full.
const maxMetered = 65536

func newMeter() meter {
	return meter{tokenbucket.Rates[meterKey]{Most: maxMetered, Strict: true}}
}

// take takes one token of a bucket that holds burst and gains one per refill.
func (s *meter) take(k meterKey, burst int, refill time.Duration) bool {
	return s.buckets.TakeAt(k, tokenbucket.Rate{Burst: burst, Every: refill}, time.Now())
}

// voterWakes is the factor by which a voter may wake more often: a voter leads, and wakes the others for submissions.
const voterWakes = 16

// mayWake takes a token for a wake that a peer requests.
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

// distrust takes a conversation out of service because a peer sent data that contradicts this replica.
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
func (s *meter) forget(k meterKey) { s.buckets.Forget(k) }
