package delivery

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
)

// keyGroups are the sizes of the groups whose key changes are measured.
var keyGroups = []int{300, 5000}

// keyChangesOfWeeks measures key changes in virtual time, of members that all joined at once: some are always online,
// some in office hours, some for ten minutes a day.
func (b *deviceBench) keyChangesOfWeeks(context.Context) error {
	s := client.KeySchedule{Age: 7 * 24 * time.Hour, Commits: 256}
	for _, members := range keyGroups {
		b.Table.Progress("keys: a group of %d", members)
		tried, won, _ := keyChanges(s, members, []int{0, 1, 1, 2}, 4*s.Period(members), 1)
		if err := b.Table.Add(harness.Row{Name: "keys/tried-for-each-won", N: members, Value: float64(tried) / float64(won), Unit: "commits"}); err != nil {
			return err
		}
	}
	return nil
}

// simulated is a member in virtual time.
type simulated struct {
	due      time.Duration
	deferred int
	last     time.Duration // of its last key change
	longest  time.Duration // between two
	habit    int           // when it is online
	phase    time.Duration
}

// online reports whether a member is online at a time, and when that changes next.
func (m *simulated) online(at time.Duration) (bool, time.Duration) {
	const day = 24 * time.Hour
	of := (at + m.phase) % day
	start := at - of
	from, to := time.Duration(0), day
	switch m.habit {
	case 1: // office hours, which begin within a quarter of an hour
		from, to = 9*time.Hour, 17*time.Hour
	case 2: // ten minutes a day
		from, to = 20*time.Hour, 20*time.Hour+10*time.Minute
	}
	switch {
	case of < from:
		return false, start + from
	case of < to:
		return true, start + to
	}
	return false, start + day + from
}

type simEvent struct {
	at     time.Duration
	member int
}

type simQueue []simEvent

func (q simQueue) Len() int           { return len(q) }
func (q simQueue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q simQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)        { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// keyChanges runs the schedule of a group whose members all joined at the same moment. A commit reaches all members
// after a second: two commits within a second are a race, which the first wins.
func keyChanges(s client.KeySchedule, members int, habits []int, length time.Duration, seed uint64) (tried, won int, longest time.Duration) {
	const flight = time.Second
	const look = 10 * time.Minute
	r := rand.New(rand.NewPCG(seed, 1))
	jitter := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(max(d, 1)))) }
	list := make([]simulated, members)
	q := make(simQueue, 0, members)
	for i := range list {
		m := &list[i]
		m.habit = habits[i%len(habits)]
		m.phase = jitter(15 * time.Minute)
		m.due = s.First(members, jitter)
		q = append(q, simEvent{jitter(look), i})
	}
	heap.Init(&q)
	ordered := -flight
	for q[0].at < length {
		e := heap.Pop(&q).(simEvent)
		m := &list[e.member]
		on, opens := m.online(e.at)
		switch {
		case !on:
			heap.Push(&q, simEvent{opens, e.member})
			continue
		case e.at < m.due:
		case s.Defers(e.at-m.due, m.deferred):
			m.due, m.deferred = e.at+s.Again(members, jitter), m.deferred+1
		default:
			tried++
			if e.at-ordered < flight { // lost
				m.deferred = m.deferred + 1
				m.due = e.at + s.Again(members, jitter)
				break
			}
			ordered = e.at
			won++
			m.longest, m.last, m.deferred = max(m.longest, e.at-m.last), e.at, 0
			m.due = e.at + s.First(members, jitter)
		}
		heap.Push(&q, simEvent{m.due + jitter(look), e.member}) // the next round of upkeep, if it is online
	}
	for i := range list {
		longest = max(longest, list[i].longest, length-list[i].last)
	}
	return tried, won, longest
}
