package client

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"

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
	for _, part := range []func(context.Context) error{d.refreshRoots, d.renew, d.topUp, d.tendDevices, d.tendMembers, d.tendMoved, d.tendReaders} {
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

// tendDevices adds the user's devices to the conversations in which they are not.
func (d *Device) tendDevices(ctx context.Context) error {
	devices, err := d.Devices(ctx)
	if err != nil {
		return err
	}
	var missing []wire.ConversationID
	var user wire.UserID
	err = d.turn(ctx, func(u *unit) error {
		user = d.self.Device.User()
		return d.eachActive(u, func(t *thread) error {
			absent, err := t.absent(devices)
			if len(absent) > 0 {
				missing = append(missing, t.id)
			}
			return err
		})
	})
	if err != nil || len(missing) == 0 {
		return err
	}
	if !d.wait(ctx, d.jitter(d.opts.Timing.Proposals)) { // another device of the user's may be faster
		return ctx.Err()
	}
	for _, id := range missing {
		if err := d.addOwn(ctx, id, user, devices); err != nil && wire.CodeOf(err) != wire.NoneLeft {
			return err
		}
	}
	return d.lookAgain(devices)
}

// absent are those of the user's devices that are to be added to a conversation: who went, or was removed, since
// it was enrolled, stays out until somebody adds it; others are being added already.
func (t *thread) absent(devices []wire.DeviceInfo) (list []wire.DeviceID, err error) {
	coming := make(map[wire.DeviceID]bool)
	err = t.eachOperation(func(_ uint64, op *operationRecord) error {
		for _, a := range op.Add {
			coming[a.Device] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, v := range devices {
		if _, member := t.group.ByIdentity([]byte(v.ID)); member || coming[v.ID] {
			continue
		}
		at, departed, err := t.u.Get(t.departedKey(v.ID))
		if err != nil {
			return nil, err
		}
		if !departed || wire.Time(parseNumber(at)) < v.Enrolled {
			list = append(list, v.ID)
		}
	}
	return list, nil
}

func (t *thread) departedKey(device wire.DeviceID) []byte {
	return recordKey(recordDeparted, idPart(t.id), []byte(device))
}

// noteDeparted remembers that a device of the user's is out, or that it is in again.
func (t *thread) noteDeparted(device wire.DeviceID, out bool) {
	switch {
	case device.User() != t.d.self.Device.User():
	case out:
		t.u.put(t.departedKey(device), number(uint64(t.d.now())))
	default:
		t.u.delete(t.departedKey(device))
	}
}

// lookAgain has a new device looked for again, that may not have had KeyPackages yet: after as long as it
// is enrolled, so that there are few attempts, and none after half an hour.
func (d *Device) lookAgain(devices []wire.DeviceInfo) error {
	youngest := 30 * time.Minute
	for _, v := range devices {
		youngest = min(youngest, max(time.Second, d.opts.Clock.Now().Sub(v.Enrolled.Std())))
	}
	if youngest == 30*time.Minute {
		return nil
	}
	return later(youngest)
}

func (d *Device) addOwn(ctx context.Context, id wire.ConversationID, user wire.UserID, devices []wire.DeviceInfo) error {
	var absent []wire.DeviceID
	var suite mlscore.CipherSuite
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.thread(u, id)
		if err != nil || t == nil || t.rec.State != StateActive {
			return err
		}
		suite = t.suite()
		absent, err = t.absent(devices)
		return err
	})
	if err != nil || len(absent) == 0 {
		return err
	}
	list, err := d.claim(ctx, user, suite, 0)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(a addition) bool { return !slices.Contains(absent, a.Device) })
	if len(list) == 0 {
		return nil // none has a KeyPackage yet
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.thread(u, id)
		if err != nil || t == nil || t.rec.State != StateActive {
			return err
		}
		return t.enqueueOwn(&operationRecord{Kind: opAdd, Add: list})
	})
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

// Devices lists the devices of this device's user.
func (d *Device) Devices(ctx context.Context) ([]wire.DeviceInfo, error) {
	var a wire.DevicesAnswer
	err := d.call(ctx, wire.MethodDevices, nil, &a)
	return a.Devices, err
}

// InviteDevice makes a code by which another device of the same user enrols, once, within a time; zero
// seconds are ten minutes. The user's devices then add it to their conversations.
func (d *Device) InviteDevice(ctx context.Context, seconds uint32) (code string, ends wire.Time, err error) {
	var a wire.InviteAnswer
	err = d.call(ctx, wire.MethodInvite, &wire.InviteRequest{Seconds: seconds}, &a)
	return a.Code, a.Ends, err
}

// Revoke ends another device of the same user: its certificate is revoked at once, and it is removed
// from conversations by whoever is online.
func (d *Device) Revoke(ctx context.Context, device wire.DeviceID) error {
	if err := d.call(ctx, wire.MethodRevoke, &wire.RevokeRequest{Device: device}, nil); err != nil {
		return err
	}
	d.lanes.kick(laneUpkeep)
	return nil
}
