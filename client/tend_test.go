package client

import (
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// forgetGroups takes all groups out of a device's memory.
func (p *peer) forgetGroups() {
	check(p.t, p.turn(p.t.Context(), func(*unit) error {
		p.groups = newOpenGroups(&p.opts.Limits)
		return nil
	}))
}

// TestUpkeepOpensNoGroupWithoutReason: a round of upkeep that has nothing to do reads no group, and an entry or a
// certificate that was revoked makes it look again.
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

// TestUpkeepLooksWhereAnEntryCame: an entry that comes between the two looks of a round does not hide that a device of the
// user's is missing.
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

// TestResumeLeavesIdleConversationsAlone: a start opens no group of a conversation for which nothing waits.
func TestResumeLeavesIdleConversationsAlone(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	eventually(t, func() error { // what was under way has ended
		return b.turn(t.Context(), func(u *unit) error {
			busy, err := b.busy(u)
			if err == nil && len(busy) > 0 {
				err = fmt.Errorf("%d conversations have work", len(busy))
			}
			return err
		})
	})
	before := b.disk.groups.Load()
	b.forgetGroups()
	check(t, b.resume(t.Context()))
	b.lanes.mu.Lock()
	busy := b.lanes.busy[handshakes(id)] != nil
	b.lanes.mu.Unlock()
	if n := b.disk.groups.Load() - before; n > 0 || busy {
		t.Errorf("resume reads %d records of groups, its lane is at work: %v", n, busy)
	}
	_, err := a.SendText(t.Context(), id, "one")
	check(t, err)
	agree(t, id, a, b, c)
}
