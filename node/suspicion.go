package node

import (
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of the alarms for devices that connect later: the number of conversations, and the duration.
const (
	maxSuspicions = 1024
	suspicionLife = 24 * time.Hour
)

// suspicions holds the last alarms about conversations that go on although another node contradicts this node.
// Devices that were away get them when they connect. A start of the node forgets them.
type suspicions struct {
	mu sync.Mutex // guards of
	of map[wire.ConversationID]wire.Alarm
}

func newSuspicions() *suspicions { return &suspicions{of: make(map[wire.ConversationID]wire.Alarm)} }

func (s *suspicions) note(a wire.Alarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// about returns the last alarm about a conversation if the alarm has not expired.
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
