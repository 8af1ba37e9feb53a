package test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// watch handles the events of a device's process, and lets the device connect. Alarms are failures.
func (s *soak) watch(k *soaker) {
	d, l := k.device, k.life
	next := d.Subscribe(l.ended)
	l.watch()
	s.watches.Go(func() {
		for e := range next {
			switch e.Type {
			case client.EventWon:
				s.count.commits.Add(1)
			case client.EventLost:
				s.count.lost.Add(1)
			case client.EventJoined:
				s.count.joins.Add(1)
			case client.EventFailed:
				s.count.givenUp.Add(1)
			case client.EventUndelivered:
				s.count.refused.Add(1)
				if m := s.room(e.Conversation); m != nil && slices.Contains(m.core, k.index) {
					s.t.Errorf("%v, who never left %v: a message was refused: %v", k, e.Conversation, e.Err)
				}
			case client.EventGap:
				m := s.room(e.Conversation)
				if !errors.Is(e.Err, client.ErrLate) || m != nil && slices.Contains(m.core, k.index) { // others are removed
					s.t.Errorf("%v in %v: %v in epoch %d by %q: %v", k, e.Conversation, e.Type, e.Epoch, e.By, e.Err)
				}
			case client.EventDivergence, client.EventBroken, client.EventPoison, client.EventTrust, client.EventUnreadable, client.EventMissed:
				s.t.Errorf("%v in %v: %v in epoch %d by %q: %v", k, e.Conversation, e.Type, e.Epoch, e.By, e.Err)
			}
		}
	})
}

func (s *soak) room(id wire.ConversationID) *room {
	for _, m := range s.rooms {
		if m.id == id {
			return m
		}
	}
	return nil
}

// soakPace is how long a device waits between two acts: up to twice this.
const soakPace = 1500 * time.Millisecond

// soakPatience is how long a device waits for a change. A change that takes longer continues.
const soakPatience = 15 * time.Second

// live runs the acts of one device.
func (s *soak) live(ctx context.Context, k *soaker) {
	r := s.random(100 + uint64(k.index))
	for pause(ctx, time.Duration(r.Int64N(int64(2*soakPace)))) {
		var mine []*room
		for _, m := range s.rooms {
			if slices.Contains(m.core, k.index) || slices.Contains(m.guests, k.index) {
				mine = append(mine, m)
			}
		}
		if len(mine) == 0 {
			return
		}
		m := mine[r.IntN(len(mine))]
		k.mu.RLock()
		s.act(ctx, r, k, m)
		k.mu.RUnlock()
	}
}

func (s *soak) act(ctx context.Context, r *rand.Rand, k *soaker, m *room) {
	state, err := k.device.Conversation(ctx, m.id)
	if err != nil || state.State != client.StateActive || state.Outgoing > 16 {
		return // not a member now, or the network is slow
	}
	short, cancel := context.WithTimeout(ctx, soakPatience)
	defer cancel()
	guest := len(m.guests) > 0 && slices.Contains(m.guests, k.index)
	switch n := r.IntN(100); {
	case n < 70:
		s.speak(ctx, k, m)
	case n < 76:
		s.tried("new keys", k.device.UpdateKeys(short, m.id), nil)
	case guest && n < 90:
		s.tried("leave", k.device.Leave(short, m.id), &s.count.leaves)
	case len(m.guests) > 0 && !guest:
		s.entertain(short, r, k, m)
	}
}

// tried counts the result of a change. A change that timed out continues.
func (s *soak) tried(what string, err error, done *atomic.Int64) {
	if err == nil && done != nil {
		done.Add(1)
	}
	outcome := "done"
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		outcome = "goes on"
	case err != nil && wire.CodeOf(err) != "" && wire.CodeOf(err) != wire.Internal:
		outcome = string(wire.CodeOf(err))
	case err != nil:
		outcome = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[what+": "+outcome]++
}

func (s *soak) speak(ctx context.Context, k *soaker, m *room) {
	if k.doubt != nil {
		return // its process is dead, and not cleaned up yet
	}
	text := numbered(k.index, int(m.sent[k.index].Load()))
	_, err := k.device.SendText(context.WithoutCancel(ctx), m.id, text)
	switch {
	case err == nil:
		m.sent[k.index].Add(1)
		s.count.messages.Add(1)
	case errors.Is(err, errKilled):
		k.doubt = m
	}
}

// entertain adds a guest, removes one, or does both with one commit.
func (s *soak) entertain(ctx context.Context, r *rand.Rand, k *soaker, m *room) {
	g := s.devices[m.guests[r.IntN(len(m.guests))]]
	in, err := k.device.Members(ctx, m.id)
	if err != nil {
		return
	}
	present := slices.ContainsFunc(in, func(v client.Member) bool { return v.User == g.id() })
	switch {
	case !present:
		m.invited[g.index].Add(1)
		s.tried("add", k.device.Add(ctx, m.id, g.id()), nil)
	case r.IntN(4) == 0:
		m.invited[g.index].Add(1)
		s.tried("restore", k.device.Restore(ctx, m.id, g.deviceID()), &s.count.restores)
	default:
		s.tried("remove", k.device.Remove(ctx, m.id, g.id()), &s.count.removals)
	}
}

// race lets several members of a conversation commit at the same moment.
func (s *soak) race(ctx context.Context, stream uint64) {
	r := s.random(20 + stream)
	for pause(ctx, time.Duration(r.IntN(3000))*time.Millisecond) {
		m := s.rooms[r.IntN(len(s.rooms))]
		var all sync.WaitGroup
		start := make(chan struct{})
		for _, at := range r.Perm(len(m.core))[:2+r.IntN(2)] {
			k := s.devices[m.core[at]]
			all.Go(func() {
				<-start
				k.mu.RLock()
				defer k.mu.RUnlock()
				short, cancel := context.WithTimeout(ctx, soakPatience)
				defer cancel()
				s.tried("race", k.device.UpdateKeys(short, m.id), nil)
			})
		}
		close(start)
		all.Wait()
		s.count.races.Add(1)
	}
}
