package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// addMissing adds the known devices of a user to the conversations that lack them.
func (d *Device) addMissing(ctx context.Context, user UserID, missing []ConversationID, devices []wire.DeviceInfo) error {
	if len(missing) == 0 {
		return nil
	}
	if !d.wait(ctx, d.jitter(d.opts.Timing.Proposals)) { // another device of this user may be faster
		return ctx.Err()
	}
	if err := d.addToEach(ctx, user, missing, devices); err != nil {
		return err
	}
	return d.scheduleRecheck(devices)
}

// addAtOnce is the number of conversations to which a device adds other devices of its user concurrently: a claim and
// its commit mostly wait for disks and other nodes.
const addAtOnce = 8

// addToEach adds devices to conversations, several conversations at once. It returns the first error after all
// started work has ended.
func (d *Device) addToEach(ctx context.Context, user UserID, missing []ConversationID, devices []wire.DeviceInfo) error {
	var wg sync.WaitGroup
	var next atomic.Int64
	failures := make([]error, min(addAtOnce, len(missing)))
	for worker := range failures {
		wg.Go(func() {
			for failures[worker] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(missing) {
					return
				}
				if err := d.addOwn(ctx, missing[i], user, devices); err != nil && wire.CodeOf(err) != wire.NoneLeft {
					failures[worker] = err
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failures...)
}

// addable returns those of the user's devices that can be added: this device, the known devices, and, while a code of
// this device is open, the devices that may have enrolled with it. It asks the user about the other devices.
func (d *Device) addable(u *unit, devices []wire.DeviceInfo) ([]wire.DeviceInfo, error) {
	if err := d.beginSiblings(u); err != nil {
		return nil, err
	}
	waiting, err := d.waiting(u, devices)
	if err != nil || len(waiting) == 0 {
		return devices, err
	}
	open, err := d.offers(u)
	if err != nil {
		return nil, err
	}
	if len(open) > 0 { // an asked device has shown no proof and never will: the proof is older than the device
		waiting = slices.DeleteFunc(waiting, func(v wire.DeviceInfo) bool { return !d.asked[string(siblingKey(v.Key))] })
	}
	for _, v := range waiting {
		d.ask(u, v.ID, v.Key, "", "")
	}
	return slices.DeleteFunc(devices, func(v wire.DeviceInfo) bool {
		return slices.ContainsFunc(waiting, func(w wire.DeviceInfo) bool { return w.ID == v.ID })
	}), nil
}

// missingDevices returns the devices of the user that are to be added to a conversation. A device that left or was
// removed since it was enrolled stays out until somebody adds it. Devices that are being added already are not
// included.
func (t *conversation) missingDevices(devices []wire.DeviceInfo) (list []DeviceID, err error) {
	coming := make(map[DeviceID]bool)
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

func (t *conversation) departedKey(device DeviceID) []byte {
	return recordKey(recordDeparted, idPart(t.id), []byte(device))
}

// noteDeparted records that a device of this user is out of the conversation, or that it is in again.
func (t *conversation) noteDeparted(device DeviceID, out bool) {
	switch {
	case device.User() != t.d.self.Device.User():
	case out:
		t.u.put(t.departedKey(device), number(uint64(t.d.now())))
	default:
		t.u.delete(t.departedKey(device))
	}
}

// scheduleRecheck schedules another look at a new device that may not have had KeyPackages yet. The delay equals the
// time since the enrolment, so there are few attempts, and none after half an hour.
func (d *Device) scheduleRecheck(devices []wire.DeviceInfo) error {
	youngest := 30 * time.Minute
	for _, v := range devices {
		youngest = min(youngest, max(time.Second, d.opts.Clock.Now().Sub(v.Enrolled.Std())))
	}
	if youngest == 30*time.Minute {
		return nil
	}
	return later(youngest)
}

func (d *Device) addOwn(ctx context.Context, id ConversationID, user UserID, devices []wire.DeviceInfo) error {
	var absent []DeviceID
	var suite CipherSuite
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.rec.State != StateActive {
			return err
		}
		suite = t.suite()
		absent, err = t.missingDevices(devices)
		return err
	})
	if err != nil || len(absent) == 0 {
		return err
	}
	list, err := d.claim(ctx, id, user, suite, 0, absent...)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(a addition) bool { return !slices.Contains(absent, a.Device) })
	if len(list) == 0 {
		return nil // none has a KeyPackage yet
	}
	return d.turn(ctx, func(u *unit) error {
		if list, err = d.knownAdditions(u, list); err != nil || len(list) == 0 {
			return err
		}
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.rec.State != StateActive {
			return err
		}
		return t.enqueueOwn(&operationRecord{Kind: opAdd, Add: list})
	})
}

// knownAdditions keeps, of the claimed KeyPackages of the user's devices, those of the devices that this device knows.
// It asks the user about the other devices. The key in the KeyPackage decides: the organization chooses which
// KeyPackage it hands out under a device's name.
func (d *Device) knownAdditions(u *unit, list []addition) ([]addition, error) {
	if err := d.beginSiblings(u); err != nil {
		return nil, err
	}
	var kept []addition
	for _, a := range list {
		ok, err := d.proves(u, a)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, a)
			continue
		}
		kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
		if err != nil {
			return nil, err
		}
		d.ask(u, a.Device, kp.LeafNode.SignatureKey, "", "")
	}
	return kept, nil
}

// Devices lists the devices of this device's user.
func (d *Device) Devices(ctx context.Context) ([]wire.DeviceInfo, error) {
	var a wire.DevicesAnswer
	err := d.call(ctx, wire.MethodDevices, nil, &a)
	return a.Devices, err
}

// InviteDevice creates a code with which another device of the same user can enrol, once, within the given time; zero
// seconds means ten minutes. This device then adds the other device to its conversations without a question, and the
// other device knows this one: the code carries a secret that the node does not get. Anyone who has the code can use
// it, so give it to the other device only. A build without confirmations does not accept such a code.
func (d *Device) InviteDevice(ctx context.Context, seconds uint32) (code string, ends wire.Time, err error) {
	var a wire.InviteAnswer
	if err = d.call(ctx, wire.MethodInvite, &wire.InviteRequest{Seconds: seconds}, &a); err != nil {
		return "", 0, err
	}
	var carried string
	err = d.turn(ctx, func(u *unit) (err error) {
		carried, err = d.offer(u)
		return err
	})
	return a.Code + "~" + carried, a.Ends, err
}

// Revoke ends another device of the same user: its certificate is revoked at once, and a member that is online
// removes the device from conversations.
func (d *Device) Revoke(ctx context.Context, device DeviceID) error {
	devices, err := d.Devices(ctx)
	if err != nil {
		return err
	}
	if err := d.call(ctx, wire.MethodRevoke, &wire.RevokeRequest{Device: device}, nil); err != nil {
		return err
	}
	err = d.turn(ctx, func(u *unit) error {
		for _, v := range devices {
			if v.ID == device {
				u.delete(siblingKey(v.Key))
			}
		}
		return nil
	})
	d.queues.kick(queueUpkeep)
	return err
}
