package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Refusal is the reason for the refusal of another node's message. The names are labels in metrics.
type Refusal string

// The reasons.
const (
	RefusedSnapshot      Refusal = "snapshot"      // a state that is invalid, or not proven
	RefusedRole          Refusal = "role"          // the sender's role does not permit it
	RefusedRate          Refusal = "rate"          // too often
	RefusedRewrite       Refusal = "rewrite"       // would replace applied entries
	RefusedDivergence    Refusal = "divergence"    // does not continue the applied entries
	RefusedTerm          Refusal = "term"          // a term too far ahead
	RefusedGeneration    Refusal = "generation"    // a recovery that others contradict
	RefusedFarewell      Refusal = "farewell"      // a dismissal that nobody confirms
	RefusedConfiguration Refusal = "configuration" // a change of replicas that breaks a rule
	RefusedClaim         Refusal = "claim"         // an invitation that conflicts with another claim
	RefusedUnordered     Refusal = "silence"       // a leader that does not order submissions which others have seen
	RefusedEntry         Refusal = "entry"         // an entry that no leader produces
	RefusedTime          Refusal = "time"          // a time ahead of this node's clock
	RefusedNode          Refusal = "node"          // a node that no admitted organization has
)

var allRefusals = [...]Refusal{RefusedSnapshot, RefusedEntry, RefusedTime, RefusedNode,
	RefusedRole, RefusedRate, RefusedRewrite, RefusedDivergence, RefusedTerm, RefusedGeneration, RefusedFarewell, RefusedConfiguration, RefusedClaim, RefusedUnordered}

// refusals counts refusals and logs each reason once per conversation in an interval.
type refusals struct {
	counts [len(allRefusals)]atomic.Int64

	mu     sync.Mutex // guards logged
	logged map[refusedAt]time.Time
}

type refusedAt struct {
	id  wire.ConversationID
	why Refusal
}

// refusalPause is the interval in which a reason is logged once per conversation.
const refusalPause = time.Minute

// maxLogged limits the number of remembered log messages.
const maxLogged = 4096

// refuse counts a refusal, logs it, and returns the error to answer with.
func (m *Manager) refuse(from wire.NodeID, id wire.ConversationID, why Refusal, err error) error {
	for i := range allRefusals {
		if allRefusals[i] == why {
			m.refused.counts[i].Add(1)
		}
	}
	if m.refused.first(refusedAt{id, why}, time.Now()) {
		m.log.Warn("refused", "conversation", id, "peer", from, "reason", string(why), "error", err)
	}
	return err
}

// first reports whether at was not logged in the last interval.
func (r *refusals) first(at refusedAt, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.logged[at]; ok && now.Sub(last) < refusalPause {
		return false
	}
	if len(r.logged) >= maxLogged || r.logged == nil {
		r.logged = make(map[refusedAt]time.Time)
	}
	r.logged[at] = now
	return true
}

// Refusals returns the number of refusals to other nodes since the Manager was created, by reason.
func (m *Manager) Refusals() map[Refusal]int64 {
	n := make(map[Refusal]int64, len(allRefusals))
	for i, why := range allRefusals {
		n[why] = m.refused.counts[i].Load()
	}
	return n
}
