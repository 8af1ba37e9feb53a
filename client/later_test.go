package client

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestEachMembershipIsRead checks that a device that was removed and added again twice while it was away reads its
// items of each membership, or gets a gap.
func TestEachMembershipIsRead(t *testing.T) {
	for _, c := range []struct {
		name             string
		knows            bool // the device was in the conversation before it was away
		large, held      int
		disorder, mayGap bool
		perMembership    int
	}{
		{name: "member before", knows: true, perMembership: 3},
		{name: "away from the start", perMembership: 3},
		{name: "Welcomes that have to be fetched", knows: true, large: 64, perMembership: 3},
		{name: "away, Welcomes that have to be fetched", large: 64, perMembership: 3},
		{name: "more than a page", knows: true, large: 64, perMembership: 30},
		{name: "more than may wait", knows: true, held: 4, perMembership: 10, mayGap: true},
		{name: "memberships in disorder", disorder: true, perMembership: 3, mayGap: true},
		{name: "member before, in disorder", knows: true, disorder: true, perMembership: 3, mayGap: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "a.example", "b.example")
			w.limits.Held = c.held
			w.limits.Inline = c.large
			w.faults.disorder = c.disorder
			ctx := t.Context()
			a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
			id, err := a.Create(ctx, CreateOptions{})
			check(t, err)
			var want []string
			say := func(member bool) {
				for n := range c.perMembership {
					text := fmt.Sprintf("%d %v", n, member)
					_, err := a.SendText(ctx, id, text)
					check(t, err)
					if n%4 == 1 {
						check(t, a.UpdateKeys(ctx, id))
					}
					if member {
						want = append(want, "alice: "+text)
					}
				}
				eventually(t, func() error {
					v, err := a.Conversation(ctx, id)
					if err == nil && v.Outgoing > 0 {
						err = fmt.Errorf("%d messages are not sent", v.Outgoing)
					}
					return err
				})
			}
			if c.knows {
				check(t, a.Add(ctx, id, bob))
				agree(t, id, a, b)
			}
			b.stop()
			if c.knows {
				say(true)
				check(t, a.Remove(ctx, id, bob))
			}
			for range 3 {
				say(false)
				check(t, a.Add(ctx, id, bob))
				say(true)
				check(t, a.Remove(ctx, id, bob))
			}
			say(false)
			check(t, a.Add(ctx, id, bob))
			say(true)
			b.start()
			agree(t, id, a, b)
			gap := func() bool { return c.mayGap && len(b.events(EventGap)) > 0 }
			eventually(t, func() error {
				if got := b.texts(id); !slices.Equal(got, want) && !gap() {
					return fmt.Errorf("bob has %q of %q, gaps %v", got, want, b.events(EventGap))
				}
				return nil
			})
			if !c.mayGap && len(b.events(EventGap)) > 0 {
				t.Errorf("a gap: %v", b.events(EventGap)[0].Err)
			}
			_, err = a.SendText(ctx, id, "on we go")
			check(t, err)
			eventually(t, func() error {
				if got := b.texts(id); len(got) == 0 || got[len(got)-1] != "alice: on we go" {
					return fmt.Errorf("bob has %q", got)
				}
				return nil
			})
			check(t, b.turn(ctx, func(u *unit) error {
				return u.Scan(recordKey(recordLater), func(_, _ []byte) error {
					return wire.Errorf(wire.Internal, "test", "something still waits")
				})
			}))
		})
	}
}
