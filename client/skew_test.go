package client

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// shiftedClock is wrong by a constant.
type shiftedClock struct {
	systemClock
	by time.Duration
}

func (c shiftedClock) Now() time.Time { return time.Now().Add(c.by) }

// TestDeviceWithAWrongClock checks a device whose clock is up to a day ahead or behind: it can be added, adds others,
// and its user gets an event.
func TestDeviceWithAWrongClock(t *testing.T) {
	for by, reported := range map[time.Duration]string{
		30 * time.Second: "", time.Hour: "1h0m0s ahead of", -time.Hour: "1h0m0s behind", 23 * time.Hour: "23h0m0s ahead of", -23 * time.Hour: "23h0m0s behind",
	} {
		t.Run(by.String(), func(t *testing.T) {
			w := newWorld(t, "a.example", "b.example", "c.example")
			w.clocks = map[wire.DeviceID]Clock{bobPhone: shiftedClock{by: by}}
			a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
			id, err := a.Create(t.Context(), CreateOptions{})
			check(t, err)
			check(t, a.Add(t.Context(), id, bob))
			agree(t, id, a, b)
			check(t, b.Add(t.Context(), id, carol))
			_, err = b.SendText(t.Context(), id, "on time")
			check(t, err)
			agree(t, id, a, b, c)
			for _, p := range []*peer{a, c} {
				hasTexts(t, p, id, "bob: on time")
				page, err := p.History(t.Context(), id, Query{})
				check(t, err)
				if off := time.Since(page.Messages[0].Time).Abs(); off > time.Minute {
					t.Errorf("the message is off by %v", off)
				}
			}
			for _, p := range []*peer{a, b, c} {
				if len(p.events(EventPoison))+len(p.events(EventBroken))+len(p.events(EventDivergence)) > 0 {
					t.Errorf("%s accuses somebody", p.id)
				}
			}
			if reported == "" {
				if len(b.events(EventClock)) > 0 {
					t.Error("half a minute is mentioned")
				}
				return
			}
			eventually(t, func() error {
				for _, e := range b.events(EventClock) {
					if strings.Contains(e.Err.Error(), reported) {
						return nil
					}
				}
				return errors.New("bob gets no event")
			})
		})
	}
}

// TestNodeDoesNotMoveTheClockFar checks that a difference of more than a day is reported, and not applied.
func TestNodeDoesNotMoveTheClockFar(t *testing.T) {
	w := newWorld(t, "a.example")
	a := w.peer(alicePhone)
	eventually(t, func() error { // a login compares the clocks too
		if !a.Connected() {
			return errors.New("not connected")
		}
		return nil
	})
	events := a.Subscribe(t.Context())
	a.compareClock(wire.TimeOf(time.Now().Add(maxSkew + time.Hour)))
	if off := time.Until(a.opts.Clock.Now()).Abs(); off > time.Minute {
		t.Errorf("the clock was moved by %v", off)
	}
	for e := range events {
		if e.Type == EventClock {
			if !strings.Contains(e.Err.Error(), "cannot be added") {
				t.Error(e.Err)
			}
			break
		}
	}
	a.compareClock(wire.TimeOf(time.Now().Add(maxSkew - time.Hour)))
	if off := time.Until(a.opts.Clock.Now()); off < maxSkew-2*time.Hour {
		t.Errorf("the clock was moved by %v", off)
	}
}
