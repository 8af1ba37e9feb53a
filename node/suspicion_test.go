package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestSuspicions checks that a device that was away gets the last alarm about a conversation, for a day; if there are
// very many alarms, the oldest are dropped.
func TestSuspicions(t *testing.T) {
	s := newSuspicions()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	alarm := func(n int) wire.Alarm {
		return wire.Alarm{Conversation: wire.ConversationID(fmt.Sprintf("conversation %4d", n)), Reason: "divergence", Text: fmt.Sprint(n), Time: wire.TimeOf(now) + wire.Time(n)}
	}
	first := alarm(0)
	s.note(first)
	again := first
	again.Text = "again"
	s.note(again)
	if a, ok := s.about(first.Conversation, now); !ok || a.Text != "again" {
		t.Errorf("%+v, %v", a, ok)
	}
	if _, ok := s.about("another one", now); ok {
		t.Error("an alarm about a conversation without one")
	}
	if _, ok := s.about(first.Conversation, now.Add(suspicionLife)); !ok {
		t.Error("it has ended too soon")
	}
	for n := 1; n <= maxSuspicions; n++ {
		s.note(alarm(n))
	}
	if _, ok := s.about(first.Conversation, now); ok || len(s.of) != maxSuspicions {
		t.Errorf("%d are kept", len(s.of))
	}
	if _, ok := s.about(alarm(1).Conversation, now); !ok {
		t.Error("the second oldest is gone too")
	}
	if _, ok := s.about(alarm(1).Conversation, now.Add(suspicionLife+time.Second)); ok {
		t.Error("it has not ended after a day")
	}
}
