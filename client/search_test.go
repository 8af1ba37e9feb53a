package client

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// expire makes an organization forget the items of a conversation that its devices have not read. With ended, it
// forgets the memberships that have ended too, as nodes do.
func (w *world) expire(id wire.ConversationID, d wire.Domain, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.convs[id].streams[d]
	s.expired = uint64(len(s.items))
	maps.DeleteFunc(s.readers, func(_ wire.Token, r *reader) bool { return ended && r.until > 0 })
}

// onlyLastResort leaves a device only its last resort in the directory.
func (w *world) onlyLastResort(id wire.DeviceID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orgs[id.Organization()].devices[id].packages[1] = nil
}

// TestExpiredAddition checks a device that was added while it was away, and whose items expired before it came back:
// it finds the entry that added it in the log.
func TestExpiredAddition(t *testing.T) {
	for _, c := range []struct {
		name        string
		knows, left bool // the device was a member before; it has left before it was away
		lastResort  bool // each addition uses the same address
		removed     bool // the device was removed again
		large       int
		ended       bool // the node forgets the ended membership
		noLog       bool // the node has left the conversation, and the removal has not expired
		disorder    bool
		keep        int
		want        State // 0 for a conversation that the device does not know
	}{
		{name: "never a member", want: StateActive},
		{name: "never a member, Welcome in a blob", large: 64, want: StateActive},
		{name: "never a member, last resort", lastResort: true, want: StateActive},
		{name: "member before", knows: true, want: StateActive},
		{name: "member before, streams in disorder", knows: true, disorder: true, want: StateActive},
		{name: "member before, ended membership forgotten", knows: true, ended: true, want: StateActive},
		{name: "member before, last resort", knows: true, lastResort: true, want: StateActive},
		{name: "left before", knows: true, left: true, want: StateActive},
		{name: "left before, last resort", knows: true, left: true, lastResort: true, want: StateActive},
		{name: "removed again", removed: true},
		{name: "removed again, the node has no log", removed: true, noLog: true},
		{name: "member before, removed again", knows: true, removed: true, want: StateLeft},
		{name: "left before, removed again", knows: true, left: true, removed: true, want: StateLeft},
		{name: "the log has forgotten it", keep: 2, want: StateBroken},
		{name: "left before, the log has forgotten it", knows: true, left: true, keep: 2, want: StateBroken},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "a.example", "b.example")
			w.limits.Receipts, w.limits.Inline, w.faults.disorder, w.keep = -1, c.large, c.disorder, c.keep
			ctx := t.Context()
			a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
			id, err := a.Create(ctx, CreateOptions{})
			check(t, err)
			if c.lastResort {
				w.onlyLastResort(b.id)
			}
			if c.knows {
				check(t, a.Add(ctx, id, bob))
				agree(t, id, a, b)
			}
			if c.left {
				check(t, a.Remove(ctx, id, bob))
				inState(t, b, id, StateLeft)
			}
			if c.lastResort {
				w.onlyLastResort(b.id)
			}
			b.stop()
			if c.knows && !c.left {
				goOn(t, a, id, 3)
				check(t, a.Remove(ctx, id, bob))
			}
			check(t, a.Add(ctx, id, bob))
			goOn(t, a, id, 6)
			if c.noLog {
				w.expire(id, "b.example", c.ended)
				w.refuse(wire.MethodEntries, wire.UnknownConversation)
			}
			if c.removed {
				check(t, a.Remove(ctx, id, bob))
			}
			if !c.noLog {
				w.expire(id, "b.example", c.ended)
			}
			b.start()
			eventually(t, func() error {
				if len(b.events(EventGap)) == 0 {
					return errors.New("no gap was reported")
				}
				return nil
			})
			switch c.want {
			case StateActive:
				agree(t, id, a, b)
				text := goOn(t, a, id, 1)[0]
				eventually(t, func() error {
					if got := b.texts(id); len(got) == 0 || !strings.HasSuffix(got[len(got)-1], text) {
						return fmt.Errorf("bob has %q", got)
					}
					return nil
				})
			case 0:
				eventually(t, func() error {
					if _, err := b.Conversation(ctx, id); wire.CodeOf(err) != wire.UnknownConversation {
						return fmt.Errorf("%v, gaps %v", err, b.events(EventGap))
					}
					return nil
				})
			default:
				inState(t, b, id, c.want)
				if v, err := b.Conversation(ctx, id); err != nil || v.Why == "" {
					t.Errorf("no reason for the state: %v", err)
				}
			}
			if c.ended && len(b.events(EventGap)) < 2 {
				t.Error("no gap was reported for the first membership")
			}
			if list := append(b.events(EventDivergence), b.events(EventRolledBack)...); len(list) > 0 {
				t.Errorf("an alarm: %v", list[0].Err)
			}
			check(t, b.CatchUp(ctx))
		})
	}
}
