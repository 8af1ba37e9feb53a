package client

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// forgetGroups drops all groups from a device's memory.
func (p *peer) forgetGroups() {
	check(p.t, p.turn(p.t.Context(), func(*unit) error {
		p.groups = newOpenGroups(&p.opts.Limits)
		return nil
	}))
}

// TestUpkeepOpensNoGroupWithoutReason checks that a round of upkeep without work reads no group, and that an entry or
// a revoked certificate makes it check again.
func TestUpkeepOpensNoGroupWithoutReason(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	clean := func() error {
		before := b.disk.groups.Load()
		b.forgetGroups()
		if err := b.Tend(t.Context()); err != nil {
			return err
		}
		if n := b.disk.groups.Load() - before; n > 0 {
			return fmt.Errorf("a round of upkeep reads %d records of groups", n)
		}
		return nil
	}
	eventually(t, clean)
	check(t, a.UpdateKeys(t.Context(), id))
	agree(t, id, a, b, c)
	eventually(t, clean)
	w.mu.Lock()
	check(t, w.revoke(w.orgs["c.example"], c.id))
	w.mu.Unlock()
	check(t, b.Tend(t.Context()))
	eventually(t, func() error {
		members, err := b.Members(t.Context(), id)
		if err == nil && len(members) != 2 {
			err = fmt.Errorf("%d members, wanted 2", len(members))
		}
		return err
	})
}

// TestUpkeepLooksWhereAnEntryCame checks that an entry between the two checks of a round does not hide a missing
// device of the user.
func TestUpkeepLooksWhereAnEntryCame(t *testing.T) {
	_, id, a, _, _ := trio(t, CreateOptions{})
	p := &tending{d: a.Device, asked: true, serials: make(map[wire.Domain]map[string]bool), lists: make(map[wire.Domain][]byte), failed: make(map[wire.Domain]bool)}
	p.devices = []wire.DeviceInfo{{ID: "mimi://a.example/d/alice/tablet", Enrolled: wire.TimeOf(time.Now())}}
	check(t, a.turn(t.Context(), func(u *unit) error {
		if err := p.survey(u, id); err != nil {
			return err
		}
		return p.members(u, &p.list[0], make(map[wire.Domain]bool))
	}))
	p.list[0].know.Last-- // as if the last entry had come since
	check(t, a.turn(t.Context(), func(u *unit) error { return p.one(u, &p.list[0]) }))
	if len(p.missing) != 1 {
		t.Errorf("the device is missing in %d conversations, wanted 1", len(p.missing))
	}
}

// TestResumeLeavesIdleConversationsAlone checks that a start opens no group of a conversation without waiting work.
func TestResumeLeavesIdleConversationsAlone(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	eventually(t, func() error { // work under way has ended
		return b.turn(t.Context(), func(u *unit) error {
			busy, err := b.busy(u)
			if err == nil && len(busy) > 0 {
				err = fmt.Errorf("%d conversations have work", len(busy))
			}
			b.queues.mu.Lock()
			defer b.queues.mu.Unlock()
			if err == nil && b.queues.busy[handshakes(id)] != nil {
				err = errors.New("the queue of handshakes is at work")
			}
			return err
		})
	})
	before := b.disk.groups.Load()
	b.forgetGroups()
	check(t, b.resume(t.Context()))
	b.queues.mu.Lock()
	busy := b.queues.busy[handshakes(id)] != nil
	b.queues.mu.Unlock()
	if n := b.disk.groups.Load() - before; n > 0 || busy {
		t.Errorf("resume reads %d records of groups, its queue is at work: %v", n, busy)
	}
	_, err := a.SendText(t.Context(), id, "one")
	check(t, err)
	agree(t, id, a, b, c)
}
