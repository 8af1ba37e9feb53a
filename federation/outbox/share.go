package outbox

import (
	"time"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
)

// The quota of an organization is for all users together. A user with changed code could use up the queue for an
// organization that is away, so that nobody's messages for it are accepted. So each user has a share of a queue that is
// more than half full: one of Config.Shares. A user can queue the share at once, and again each Config.ShareFor; what a
// user queued before the queue was half full counts too. The counts are in memory: after a restart each user has a whole
// share. With one share there is no such limit.

// maxSenders is the number of users at which those with a whole share are forgotten.
const maxSenders = 4096

// sender counts what one user has queued of late. Both numbers decrease to 0 within Config.ShareFor.
type sender struct {
	items, bytes float64
	at           time.Time
}

// share returns a user's part of the quota.
func (c *Config) share() (items, bytes float64) {
	return max(1, float64(c.MaxItems)/float64(c.Shares)), max(1, float64(c.MaxBytes)/float64(c.Shares))
}

// age applies the time since the last count.
func (s *sender) age(c *Config, now time.Time) {
	items, bytes := c.share()
	part := max(0, float64(now.Sub(s.at))/float64(c.ShareFor))
	s.items, s.bytes, s.at = max(0, s.items-part*items), max(0, s.bytes-part*bytes), now
}

// maySend counts an item for its sender, or reports that the sender has used up the share of a queue that is more than
// half full. The caller holds Outbox.mu.
func (to *destination) maySend(c *Config, q *lanestore.Queued) bool {
	if q.Sender == "" || c.Shares == 1 {
		return true
	}
	now := c.Clock.Now()
	if to.senders == nil {
		to.senders = make(map[string]sender)
	}
	if len(to.senders) >= maxSenders {
		for name, s := range to.senders {
			if s.age(c, now); s.items == 0 && s.bytes == 0 {
				delete(to.senders, name)
			}
		}
	}
	s := to.senders[string(q.Sender)]
	s.age(c, now)
	items, bytes := c.share()
	halfFull := 2*(to.items+1) > c.MaxItems || 2*(to.bytes+q.Bytes) > c.MaxBytes
	if halfFull && (s.items+1 > items || s.bytes+float64(q.Bytes) > bytes) {
		return false
	}
	s.items, s.bytes = min(s.items+1, items), min(s.bytes+float64(q.Bytes), bytes)
	to.senders[string(q.Sender)] = s
	return true
}
