package client

import (
	"testing"
	"time"
)

// TestKeySchedule checks that the period grows with the group from Commits members on, and that the first changes of
// the members are spread over one period.
func TestKeySchedule(t *testing.T) {
	s := KeySchedule{Age: 7 * 24 * time.Hour, Commits: 100}
	least := func(time.Duration) time.Duration { return 0 }
	most := func(d time.Duration) time.Duration { return d }
	for members, period := range map[int]time.Duration{1: s.Age, 100: s.Age, 200: 2 * s.Age, 100_000: 1000 * s.Age} {
		if got := s.Period(members); got != period {
			t.Errorf("%d members: period %v, wanted %v", members, got, period)
		}
		if from, to := s.First(members, least), s.First(members, most); from != period/2 || to != period/2+period {
			t.Errorf("%d members: the first change after %v to %v", members, from, to)
		}
	}
	if got := s.Again(2, most); got != 2*latePerMember {
		t.Errorf("two members wait up to %v", got)
	}
	if s.Defers(lateAfter, 0) || !s.Defers(lateAfter+1, maxDeferred-1) || s.Defers(lateAfter+1, maxDeferred) {
		t.Error("the edges of what is put off")
	}
}

// TestLostKeyChangeWaits checks that a key change that loses against another commit waits in proportion to the group
// instead of racing, and that a commit of waiting proposals is not repeated if another member has committed them.
func TestLostKeyChangeWaits(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.mu.Lock()
	w.faults.mute = nil
	w.mu.Unlock()
	check(t, b.turn(t.Context(), func(u *unit) error {
		t, err := b.findConversation(u, id)
		if err != nil {
			return err
		}
		if _, err = t.nextKeys(); err != nil { // draws the time
			return err
		}
		n, err := t.enqueue(&operationRecord{Kind: opCommit, Own: true, Reason: reasonKeys})
		if err != nil {
			return err
		}
		op := new(operationRecord)
		if _, err := u.getRecord(operationKey(id, n), op); err != nil {
			return err
		}
		if err := t.start(n, op); err != nil {
			return err
		}
		return t.overtaken()
	}))
	check(t, b.turn(t.Context(), func(u *unit) error {
		k := new(keysRecord)
		if ok, err := u.getRecord(keysKey(id), k); err != nil || !ok || k.Deferred != 1 || k.Due <= b.now()-1000 {
			t.Errorf("%+v, %v, %v", k, ok, err)
		}
		busy, err := b.busy(u)
		if busy[id] {
			t.Error("the lost commit waits to be made again")
		}
		return err
	}))
	agree(t, id, a, b, c)
}
