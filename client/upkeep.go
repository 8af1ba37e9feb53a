package client

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// takeInbox takes in an item of the device's own inbox. The entry that adds the device to a conversation reports the
// addition.
func (d *Device) takeInbox(u *unit, p *wire.Push) error {
	if p.Kind == wire.ItemMissed {
		return d.takeMissed(u, p.Payload)
	}
	if p.Kind != wire.ItemNotice {
		return nil
	}
	n := new(wire.Notice)
	if err := wire.Decode(p.Payload, wire.MaxSessionFrame, n); err != nil {
		d.log.Warn("notice passed over", "error", err)
		return nil
	}
	u.then(func() { d.queues.kick(queueUpkeep) })
	if n.Type == wire.NoticeEnrolled || n.Type == wire.NoticeRevoked {
		u.then(func() { d.emit(Event{Type: EventDevices, Device: n.Device}) })
	}
	return nil
}

// Tend does one round of the upkeep that Run does every Timing.Upkeep, and returns when the round is done: roots, the
// certificate, KeyPackages, the user's devices, revoked members. Run must be running. Tend waits up to Timing.Call
// for the connection, and then returns ErrOffline.
func (d *Device) Tend(ctx context.Context) error {
	if err := d.upkeep(ctx); err != nil {
		var again later
		if !errors.As(err, &again) { // later means work that will happen by itself
			return err
		}
	}
	return nil
}

// upkeep handles roots, the own certificate, KeyPackages, the user's devices, and revoked members. A failed part is
// tried again; the other parts continue.
func (d *Device) upkeep(ctx context.Context) error {
	var failures []error
	for _, part := range []func(context.Context) error{d.refreshRoots, d.renew, d.topUp, d.tendRefusals, d.tendAll} {
		if err := part(ctx); err != nil {
			failures = append(failures, err)
			if errors.Is(err, ErrOffline) {
				break
			}
		}
	}
	return errors.Join(failures...)
}

// renew requests the device's certificate, which is a new one if the old one ends soon. Conversations get it with the
// next commits.
func (d *Device) renew(ctx context.Context) error {
	var a wire.ChainAnswer
	if err := d.call(ctx, wire.MethodRenew, nil, &a); err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		if err != nil {
			return err
		}
		if slices.EqualFunc(self.Chain, a.Chain, slices.Equal[[]byte]) {
			return nil
		}
		if err := d.take(u, a.Chain, wire.Hash{}); err != nil {
			return err
		}
		return d.eachActive(u, func(t *conversation) error { return t.enqueueOwn(&operationRecord{Kind: opRenew}) })
	})
}

// tendAll does the upkeep of all conversations.
func (d *Device) tendAll(ctx context.Context) error {
	return errors.Join(d.tendConversations(ctx, ""), d.tendReaders(ctx, ""))
}

// eachActive visits the conversations that this device can change. visit changes no group.
func (d *Device) eachActive(u *unit, visit func(*conversation) error) error {
	return eachRecord(u, func(id ConversationID, rec *conversationRecord) error {
		if rec.State != StateActive {
			return nil
		}
		t, err := d.peekConversation(u, id, rec)
		if err != nil {
			return err
		}
		return visit(t)
	})
}

// removeRevoked enqueues the removal of members whom the lists revoke, with the lists as proof.
func (t *conversation) removeRevoked(lists map[Domain][]byte, serials map[Domain]map[string]bool) error {
	op := &operationRecord{Kind: opRevoked}
	for _, org := range slices.Sorted(maps.Keys(lists)) {
		if found := t.revokedMembers(org, serials[org]); len(found) > 0 {
			op.Devices = append(op.Devices, found...)
			op.Evidence = append(op.Evidence, lists[org])
		}
	}
	if len(op.Devices) == 0 {
		return nil
	}
	if (&statement{Evidence: op.Evidence}).Check() != nil {
		op.Evidence = nil // the lists are too long as proof: admins need no proof
	}
	op.After = t.d.now() + wire.Time(t.groupDelay(t.d.opts.Timing.Proposals).Milliseconds()) // others have seen it too
	return t.enqueueOwn(op)
}

// revokedMembers returns the members of an organization, except this device, whose certificates have one of the
// serial numbers.
func (t *conversation) revokedMembers(org Domain, serials map[string]bool) []DeviceID {
	if len(serials) == 0 {
		return nil
	}
	var found []DeviceID
	t.group.Public().Members(func(m mlscore.Member) bool {
		device, err := deviceOf(m.Credential)
		if err != nil || device.Organization() != org || m.Leaf == t.group.Self() {
			return true
		}
		if cert, err := certificateOf(m.Credential); err == nil && serials[cert.SerialNumber.String()] {
			found = append(found, device)
		}
		return true
	})
	return found
}
