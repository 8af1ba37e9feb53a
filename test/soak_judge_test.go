package test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// judge waits until nothing is pending, makes every core device send a last message, and checks what all devices
// have.
func (s *soak) judge() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 4*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i, m := range s.rooms {
		all.Go(func() {
			start := time.Now()
			last := "it was not looked at to the end"
			for {
				why := s.fault(ctx, m)
				if why == "" {
					break
				}
				if !pause(ctx, 500*time.Millisecond) {
					s.t.Errorf("room %d, %v: %s", i, m.id, last)
					return
				}
				last = why
			}
			if took := time.Since(start); took > 15*time.Second {
				s.t.Logf("room %d is right after %v; last: %s", i, took.Round(time.Second), last)
			}
		})
	}
	all.Wait()
}

// conclude makes the core devices send a last message in an epoch in which all agree. A pending change can end that
// epoch, and a device that it adds does not get earlier messages: then the message is sent again.
func (s *soak) conclude(ctx context.Context, m *room, epoch wire.Epoch) (why string) {
	if m.concluded == epoch {
		return ""
	}
	if m.concluded > 0 {
		s.t.Logf("%v: a change after the last words of epoch %d: they are said again in epoch %d", m.id, m.concluded, epoch)
	}
	m.concluded = epoch
	for _, k := range m.core {
		s.speak(ctx, s.devices[k], m)
	}
	return fmt.Sprintf("the last words were said in epoch %d just now", epoch)
}

// fault describes what is wrong, or not yet right, with a conversation; "" for nothing.
func (s *soak) fault(ctx context.Context, m *room) string {
	members, epoch, why := s.agreed(ctx, m)
	if why == "" {
		why = s.conclude(ctx, m, epoch)
	}
	if why != "" {
		return why
	}
	for _, k := range m.core {
		if !slices.Contains(members, k) {
			return fmt.Sprintf("%v is no member any more", s.devices[k])
		}
	}
	histories := make(map[int]map[int][]int)
	for _, i := range m.all() {
		k := s.devices[i]
		have, err := heard(context.WithoutCancel(ctx), k.device, m.id)
		if err != nil {
			if slices.Contains(members, i) {
				return fmt.Sprintf("%v: %v", k, err)
			}
			continue // the device was never in it
		}
		histories[i] = have
		for from, list := range have {
			for at := 1; at < len(list); at++ {
				if list[at] <= list[at-1] { // a duplicate or out of order: waiting does not help
					return fmt.Sprintf("%v has message %d of %v after %d", k, list[at], s.devices[from], list[at-1])
				}
			}
		}
	}
	for _, k := range m.core {
		if why := s.missing(m, histories, k); why != "" {
			return why
		}
	}
	for _, g := range m.guests {
		if slices.Contains(members, g) {
			if why := s.missed(m, histories[g], g); why != "" {
				return why
			}
		}
	}
	return ""
}

// agreed returns the members of a conversation if they share its epoch, its order and its members, and nothing is
// pending.
func (s *soak) agreed(ctx context.Context, m *room) (members []int, epoch wire.Epoch, why string) {
	var first *client.Conversation
	var names []wire.DeviceID
	for _, i := range m.all() {
		k := s.devices[i]
		v, err := k.device.Conversation(ctx, m.id)
		if err != nil || v.State == client.StateLeft {
			continue
		}
		if v.State != client.StateActive || v.Outgoing > 0 {
			return nil, 0, fmt.Sprintf("%v: %v %s, %d messages wait", k, v.State, v.Why, v.Outgoing)
		}
		list, err := k.device.Members(ctx, m.id)
		if err != nil {
			return nil, 0, fmt.Sprintf("%v: %v", k, err)
		}
		var now []wire.DeviceID
		for _, one := range list {
			now = append(now, one.Device)
		}
		if first == nil {
			first, names = v, now
		}
		if v.Sequence != first.Sequence || v.Order != first.Order || string(v.Authenticator) != string(first.Authenticator) || !slices.Equal(now, names) {
			return nil, 0, fmt.Sprintf("%v is at entry %d of epoch %d, another at %d of %d: orders %v and %v", k, v.Sequence, v.Epoch, first.Sequence, first.Epoch, v.Order, first.Order)
		}
		members = append(members, i)
	}
	for _, name := range names {
		if !slices.ContainsFunc(members, func(i int) bool { return s.devices[i].deviceID() == name }) {
			return nil, 0, fmt.Sprintf("%s is a member and not in it: %s", name, s.state(ctx, name, m))
		}
	}
	if first == nil || len(members) != len(names) {
		return nil, 0, fmt.Sprintf("%d devices are in it, of %d members", len(members), len(names))
	}
	return members, first.Epoch, ""
}

// state describes a device's view of a conversation.
func (s *soak) state(ctx context.Context, name wire.DeviceID, m *room) string {
	for _, k := range s.devices {
		if k.deviceID() == name {
			v, err := k.device.Conversation(context.WithoutCancel(ctx), m.id)
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintf("%v in epoch %d after entry %d (%s)", v.State, v.Epoch, v.Sequence, v.Why)
		}
	}
	return "no such device"
}

// missing describes what a core device lacks. It must have every message of the core, and the messages of guests that
// the other devices of its organization have. Other organizations can lack a guest's last messages: messages that are
// still in transit when an organization's last member is removed are refused, since it is not known any more when
// they were sent.
func (s *soak) missing(m *room, histories map[int]map[int][]int, k int) string {
	for _, from := range m.core {
		if have, want := len(histories[k][from]), m.sent[from].Load(); int64(have) != want {
			return fmt.Sprintf("%v has %d of %d messages of %v", s.devices[k], have, want, s.devices[from])
		}
	}
	for _, from := range m.guests {
		for _, other := range m.core {
			mine, others := histories[k][from], histories[other][from]
			if s.devices[other].org == s.devices[k].org && !slices.Equal(mine, others) {
				return fmt.Sprintf("%v has the messages %v of %v, %v has %v", s.devices[k], mine, s.devices[from], s.devices[other], others)
			}
		}
	}
	return ""
}

// missed describes what a guest lacks that is a member at the end. While it is a member it gets every message, so
// that it has at most as many holes as absences.
func (s *soak) missed(m *room, have map[int][]int, g int) string {
	for _, from := range slices.Sorted(maps.Keys(have)) {
		list := have[from]
		if !slices.Contains(m.core, from) || len(list) == 0 {
			continue
		}
		if last := int(m.sent[from].Load()) - 1; list[len(list)-1] != last {
			return fmt.Sprintf("%v has not the last message, %d, of %v", s.devices[g], last, s.devices[from])
		}
		holes := 0
		for at := 1; at < len(list); at++ {
			if list[at] != list[at-1]+1 {
				holes++
			}
		}
		if most := m.invited[g].Load() - 1; int64(holes) > most {
			return fmt.Sprintf("%v was out at most %d times, and has %d holes in the messages of %v: %v", s.devices[g], most, holes, s.devices[from], list)
		}
	}
	return ""
}
