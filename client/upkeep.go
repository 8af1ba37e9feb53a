package client

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// takeInbox takes an item of the device's own inbox in. That this device was added to a conversation
// shows when the entry that did it comes.
func (d *Device) takeInbox(u *unit, p *wire.Push) error {
	if p.Kind != wire.ItemNotice {
		return nil
	}
	n := new(wire.Notice)
	if err := wire.Decode(p.Payload, wire.MaxSessionFrame, n); err != nil {
		d.log.Warn("notice passed over", "error", err)
		return nil
	}
	u.then(func() { d.lanes.kick(laneUpkeep) })
	if n.Type == wire.NoticeEnrolled || n.Type == wire.NoticeRevoked {
		u.then(func() { d.emit(Event{Type: EventDevices, Device: n.Device}) })
	}
	return nil
}

// upkeep looks after what no single conversation needs: roots, the own certificate, KeyPackages, the
// user's devices, and members that were revoked. What fails is tried again; the rest goes on.
func (d *Device) upkeep(ctx context.Context) error {
	var failures []error
	for _, part := range []func(context.Context) error{d.refreshRoots, d.renew, d.topUp, d.tendRefusals, d.tendDevices, d.tendMembers, d.tendMoved, d.tendReaders} {
		if err := part(ctx); err != nil {
			failures = append(failures, err)
			if errors.Is(err, ErrOffline) {
				break
			}
		}
	}
	return errors.Join(failures...)
}

// renew asks for the device's certificate, which is another one when the old one ends soon; conversations
// get it with the next commits.
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
		return d.eachActive(u, func(t *thread) error { return t.enqueueOwn(&operationRecord{Kind: opRenew}) })
	})
}

// eachActive visits the conversations that this device can change.
func (d *Device) eachActive(u *unit, visit func(*thread) error) error {
	ids, err := listConversations(u)
	for _, id := range ids {
		if err != nil {
			return err
		}
		var t *thread
		if t, err = d.thread(u, id); err == nil && t.rec.State == StateActive {
			err = visit(t)
		}
	}
	return err
}

// tendMembers removes members whose certificates their organizations have revoked.
func (d *Device) tendMembers(ctx context.Context) error {
	members := make(map[wire.Domain]bool)
	err := d.turn(ctx, func(u *unit) error {
		return d.eachActive(u, func(t *thread) error {
			t.group.Public().Members(func(m mlscore.Member) bool {
				if device, err := deviceOf(m.Credential); err == nil {
					members[device.Organization()] = true
				}
				return true
			})
			return nil
		})
	})
	if err != nil {
		return err
	}
	lists := make(map[wire.Domain][]byte)
	var failures []error
	for org := range members {
		var a wire.RevocationsAnswer
		if err := d.call(ctx, wire.MethodRevocations, &wire.RevocationsRequest{Domain: org}, &a); err != nil {
			failures = append(failures, err)
			continue
		}
		lists[org] = a.List
	}
	if len(lists) > 0 {
		failures = append(failures, d.turn(ctx, func(u *unit) error {
			return d.eachActive(u, func(t *thread) error { return t.removeRevoked(lists) })
		}))
	}
	return errors.Join(failures...)
}

// removeRevoked enqueues the removal of members whom the lists name, with the lists that prove it.
func (t *thread) removeRevoked(lists map[wire.Domain][]byte) error {
	op := &operationRecord{Kind: opRevoked}
	for org, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			t.d.log.Warn("revocation list passed over", "organization", org, "error", err)
			continue
		}
		if found := t.revokedMembers(org, list); len(found) > 0 {
			op.Devices = append(op.Devices, found...)
			op.Evidence = append(op.Evidence, der)
		}
	}
	if len(op.Devices) == 0 {
		return nil
	}
	if (&statement{Evidence: op.Evidence}).Check() != nil {
		op.Evidence = nil // too long to prove it: admins need no proof
	}
	op.After = t.d.now() + wire.Time(t.d.jitter(t.d.opts.Timing.Proposals).Milliseconds()) // others have seen it too
	return t.enqueueOwn(op)
}

func (t *thread) revokedMembers(org wire.Domain, list *x509.RevocationList) []wire.DeviceID {
	serials := make(map[string]bool, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		serials[e.SerialNumber.String()] = true
	}
	var found []wire.DeviceID
	t.group.Public().Members(func(m mlscore.Member) bool {
		cert, err := certificateOf(m.Credential)
		if err != nil || m.Leaf == t.group.Self() || !serials[cert.SerialNumber.String()] {
			return true
		}
		if device, err := deviceOf(m.Credential); err == nil && device.Organization() == org {
			found = append(found, device)
		}
		return true
	})
	return found
}
