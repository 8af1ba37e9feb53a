package node

import (
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of the alarms that are repeated to devices which connect later: of how many conversations, and for how long.
const (
	maxSuspicions = 1024
	suspicionLife = 24 * time.Hour
)

// suspicions are the last alarms about conversations that go on: another node contradicts this one. Devices that were
// away hear of them when they connect. A start of the node forgets them.
type suspicions struct {
	mu sync.Mutex // guards of
	of map[wire.ConversationID]wire.Alarm
}

func (s *suspicions) note(a wire.Alarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = make(map[wire.ConversationID]wire.Alarm)
	}
	if _, known := s.of[a.Conversation]; !known && len(s.of) >= maxSuspicions {
		oldest := a
		for _, b := range s.of {
			if b.Time < oldest.Time || oldest.Conversation == a.Conversation {
				oldest = b
			}
		}
		delete(s.of, oldest.Conversation)
	}
	s.of[a.Conversation] = a
}

// about is the last alarm about a conversation that has not ended.
func (s *suspicions) about(id wire.ConversationID, now time.Time) (wire.Alarm, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.of[id]
	if ok && a.Time < wire.TimeOf(now.Add(-suspicionLife)) {
		delete(s.of, id)
		return a, false
	}
	return a, ok
}
