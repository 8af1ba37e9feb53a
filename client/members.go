package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Add adds all devices of users to a conversation, with one claim for each user and one commit, or several where
// one would not fit an entry of the log: then KeyPackages are claimed for one commit at a time, and an error says how many
// users are in. It returns once the last commit is taken in. Devices that are members already stay as they are. wire.NotFound
// for an unknown user; wire.Exists if an admin here is an earlier owner of the name; wire.NoneLeft if no device of one has a KeyPackage left, and none brings one within
// Timing.Claim: one of them has to be online for that.
func (d *Device) Add(ctx context.Context, id wire.ConversationID, users ...wire.UserID) error {
	_, suite, err := d.mayAct(ctx, id)
	if err != nil {
		return err
	}
	op, size, in := &operationRecord{Kind: opAdd}, 0, 0
	for at, user := range users {
		if size >= d.opts.Limits.AddBytes { // the next user's may still fit: the limit leaves room
			if err := d.addClaimed(ctx, id, op); err != nil {
				return partly(in, len(users), err)
			}
			op, size, in = &operationRecord{Kind: opAdd}, 0, at
		}
		list, err := d.claim(ctx, id, user, suite, d.opts.Timing.Claim)
		if err == nil {
			list, err = d.knownOf(ctx, user, list)
		}
		if err != nil {
			return partly(in, len(users), err)
		}
		op.Add = append(op.Add, list...)
		for _, a := range list {
			size += len(a.KeyPackage)
		}
	}
	return partly(in, len(users), d.addClaimed(ctx, id, op))
}

// addClaimed makes one commit of Add.
func (d *Device) addClaimed(ctx context.Context, id wire.ConversationID, op *operationRecord) error {
	if err := d.makeRoom(ctx, id, op.Add); err != nil {
		return err
	}
	return d.perform(ctx, id, op)
}

// partly says of an error how many users were added before it.
func partly(in, all int, err error) error {
	if err == nil || in == 0 {
		return err
	}
	return fmt.Errorf("%d of %d users were added: %w", in, all, err)
}

// knownOf leaves of this user's own devices those that this device knows, and of others' all.
func (d *Device) knownOf(ctx context.Context, user wire.UserID, list []addition) ([]addition, error) {
	err := d.turn(ctx, func(u *unit) (err error) {
		if self, err := d.enrolled(); err != nil || self.Device.User() != user {
			return err
		}
		if list, err = d.known(u, list); err == nil && len(list) == 0 {
			err = wire.Errorf(wire.Invalid, "add", "no device of %s that can be added is known here: confirm it first", user)
		}
		return err
	})
	return list, err
}

// sameKeys leaves of what was claimed what bears the signature key that the device has as a member: an
// organization can hand out another key under its name. A device that is no member is left out if strangers
// is false.
func (d *Device) sameKeys(ctx context.Context, id wire.ConversationID, list []addition, strangers bool) ([]addition, error) {
	var kept []addition
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err != nil {
			return err
		}
		for _, a := range list {
			kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
			if err != nil {
				return err
			}
			leaf, ok := t.group.ByIdentity([]byte(a.Device))
			m, _ := t.group.Public().Member(leaf)
			if ok && bytes.Equal(m.SignatureKey, kp.LeafNode.SignatureKey) || !ok && strangers {
				kept = append(kept, a)
			}
		}
		return nil
	})
	return kept, err
}

// mayAct refuses before anything is claimed. It returns the conversation that is meant, which may have
// succeeded the one that is named, and its cipher suite.
func (d *Device) mayAct(ctx context.Context, id wire.ConversationID) (now wire.ConversationID, suite mlscore.CipherSuite, err error) {
	d.Reconnect()
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err == nil {
			now, suite = t.id, t.suite()
		}
		return err
	})
	return now, suite, err
}

// claim takes one KeyPackage of a suite of each device of a user, and checks that each is of that user, still
// valid and with the address that was named. A user who has none, who may have enrolled a moment ago, is asked
// again for as long as patience. Who claims faster than the node allows waits for it, as long as ctx does, and
// EventDelayed reports that for the conversation: what was claimed before is not lost. devices are those of the own user that
// are asked for, none for all.
func (d *Device) claim(ctx context.Context, id wire.ConversationID, user wire.UserID, suite mlscore.CipherSuite, patience time.Duration, devices ...wire.DeviceID) ([]addition, error) {
	if err := user.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "add", "%v", err)
	}
	claim, err := d.newSubmission()
	if err != nil {
		return nil, err
	}
	r := &wire.KeyMaterialRequest{ID: claim, User: user, Suite: uint16(suite)}
	if s, _ := d.link.get(); s != nil && s.has(wire.FeatureClaimOwn) {
		r.Devices = slices.Sorted(slices.Values(devices))
	}
	if _, known := d.roots.Load().certs[user.Organization()]; !known {
		if err := d.refreshRoots(ctx); err != nil {
			return nil, err
		}
	}
	a, err := d.askKeyMaterial(ctx, id, r, patience)
	if err != nil {
		return nil, err
	}
	var list []addition
	for _, m := range a.Devices {
		if err := d.checkClaimed(user, suite, &m); err != nil {
			return nil, err
		}
		if len(devices) == 0 || slices.Contains(devices, m.Device) { // an earlier node answers for all
			list = append(list, addition{Device: m.Device, Token: m.Address.Token, KeyPackage: m.Message})
		}
	}
	return list, nil
}

func (d *Device) askKeyMaterial(ctx context.Context, id wire.ConversationID, r *wire.KeyMaterialRequest, patience time.Duration) (*wire.KeyMaterialAnswer, error) {
	begun := d.opts.Clock.Now()
	busy := 0
	for attempt := 0; ; attempt++ {
		a := new(wire.KeyMaterialAnswer)
		err := d.call(ctx, wire.MethodKeyMaterial, r, a)
		spared := len(r.Devices) > 0 && slices.ContainsFunc(a.Devices, func(m wire.KeyMaterial) bool { return m.LastResort })
		if err == nil && len(a.Devices) > 0 && !spared {
			return a, nil
		}
		if refused := new(wire.Error); wire.CodeOf(err) == wire.Busy && errors.As(err, &refused) {
			busy++
			pause := d.backoff(busy)
			d.emit(Event{Type: EventDelayed, Conversation: id, Err: refused, Retry: pause})
			if !d.wait(ctx, pause) {
				return nil, fmt.Errorf("%w: %w", ctx.Err(), refused)
			}
			continue
		}
		if err != nil && wire.CodeOf(err) != wire.NoneLeft {
			return nil, err
		}
		pause := d.opts.Timing.RetryFirst << min(attempt, 3)
		limit := patience
		if spared { // a last resort takes its device into few conversations: a device that is online brings others
			limit = d.opts.Timing.Claim
		}
		if d.opts.Clock.Now().Sub(begun)+pause > limit {
			if spared {
				return a, nil
			}
			return nil, wire.Errorf(wire.NoneLeft, "add", "no device of %s has a KeyPackage left: they bring new ones when one of them is online, so try again then", r.User)
		}
		if !d.wait(ctx, pause) {
			return nil, ctx.Err()
		}
		if r.ID, err = d.newSubmission(); err != nil { // the same one would get the same answer
			return nil, err
		}
	}
}

func (d *Device) checkClaimed(user wire.UserID, suite mlscore.CipherSuite, m *wire.KeyMaterial) error {
	refuse := func(format string, args ...any) error {
		return wire.Errorf(wire.Forged, "add", "KeyPackage of %s: "+format, append([]any{m.Device}, args...)...)
	}
	kp, err := mlscore.ParseKeyPackage(m.Message)
	if err != nil {
		return refuse("%v", err)
	}
	if kp.CipherSuite != suite {
		return refuse("it is for %v, asked for was %v", kp.CipherSuite, suite)
	}
	device, err := deviceOf(kp.LeafNode.Credential)
	if err != nil || device != m.Device || device.User() != user {
		return refuse("it is of %q (%v)", device, err)
	}
	if err := d.client.VerifyKeyPackage(kp); err != nil {
		return refuse("%v", err)
	}
	if err := d.authenticator().Expired(kp.LeafNode.Credential, d.opts.Clock.Now()); err != nil {
		return refuse("its certificate: %v", err)
	}
	token, err := tokenOf(kp.LeafNode.Extensions)
	if err != nil || token != m.Address.Token || m.Address.Organization != device.Organization() {
		return refuse("the address that its organization names is not the one in it (%v)", err)
	}
	return nil
}

// Remove removes all devices of users from a conversation. It returns once the commit is taken in. Users
// who are no members are passed over. To go oneself there is Leave.
func (d *Device) Remove(ctx context.Context, id wire.ConversationID, users ...wire.UserID) error {
	return d.perform(ctx, id, &operationRecord{Kind: opRemove, Users: users})
}

// RemoveDevices is Remove for single devices.
func (d *Device) RemoveDevices(ctx context.Context, id wire.ConversationID, devices ...wire.DeviceID) error {
	return d.perform(ctx, id, &operationRecord{Kind: opRemove, Devices: devices})
}

// Restore removes a device and adds it again with one commit: for one that says that a conversation is
// broken for it. It reads nothing of what came in between.
func (d *Device) Restore(ctx context.Context, id wire.ConversationID, device wire.DeviceID) error {
	_, suite, err := d.mayAct(ctx, id)
	if err != nil {
		return err
	}
	list, err := d.claim(ctx, id, device.User(), suite, d.opts.Timing.Claim)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(a addition) bool { return a.Device != device })
	if len(list) == 0 {
		return wire.Errorf(wire.NoneLeft, "restore", "%s cannot be added now", device)
	}
	if list, err = d.sameKeys(ctx, id, list, true); err != nil {
		return err
	}
	if len(list) == 0 {
		return wire.Errorf(wire.Invalid, "restore", "%s shows another key than as a member: it was enrolled again, so remove it, and add the user", device)
	}
	if list, err = d.knownOf(ctx, device.User(), list); err != nil {
		return err
	}
	return d.perform(ctx, id, &operationRecord{Kind: opRemove, Devices: []wire.DeviceID{device}, Add: list})
}

// Leave asks to be removed from a conversation, as this device: others of the user's stay, and do not add it
// again. It returns once the request is ordered; another member's device commits it, by itself, and EventLeft
// tells when. Who is alone closes the conversation. wire.Invalid: the last device of the last admin stays until
// ChangeRules has promoted another member.
func (d *Device) Leave(ctx context.Context, id wire.ConversationID) error {
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err != nil {
			return err
		}
		return t.lastAdmin(func(v wire.DeviceID) bool { return v == d.self.Device })
	})
	if err != nil {
		return err
	}
	return d.perform(ctx, id, &operationRecord{Kind: opLeave})
}

// Close ends a conversation for everybody, if this device's user is an admin.
func (d *Device) Close(ctx context.Context, id wire.ConversationID) error {
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err != nil {
			return err
		}
		rules, err := t.rules()
		if err == nil && !rules.Admin(d.self.Device.User()) {
			err = wire.Errorf(wire.Denied, "close", "only admins close %v", id)
		}
		return err
	})
	if err != nil {
		return err
	}
	return d.perform(ctx, id, &operationRecord{Kind: opClose})
}

// Rename changes a conversation's name.
func (d *Device) Rename(ctx context.Context, id wire.ConversationID, name string) error {
	return d.ChangeRules(ctx, id, RulesChange{Name: &name})
}

// ChangeRules changes the name, the admins or what members may do. It fails with wire.Invalid where somebody who
// is no member would become an admin, or no member would be one any more, or where the name looks like an id.
func (d *Device) ChangeRules(ctx context.Context, id wire.ConversationID, c RulesChange) error {
	if c.Name != nil {
		if err := CheckName(*c.Name); err != nil {
			return err
		}
	}
	return d.perform(ctx, id, &operationRecord{Kind: opRules, Rules: &c})
}

// UpdateKeys gives this device new keys in a conversation, and commits what others have proposed. It
// happens by itself now and then: see Timing.KeyAge.
func (d *Device) UpdateKeys(ctx context.Context, id wire.ConversationID) error {
	return d.perform(ctx, id, &operationRecord{Kind: opCommit})
}

// Conversations lists all of this device, the newest first.
func (d *Device) Conversations(ctx context.Context) ([]Conversation, error) {
	var list []Conversation
	err := d.turn(ctx, func(u *unit) error {
		return eachRecord(u, func(id wire.ConversationID, rec *conversationRecord) error {
			t, err := d.glance(u, id, rec)
			if err != nil || t.hidden() {
				return err
			}
			c, err := t.describe()
			if err == nil {
				list = append(list, *c)
			}
			return err
		})
	})
	slices.SortFunc(list, func(a, b Conversation) int { return int(int64(b.number) - int64(a.number)) })
	return list, err
}

// Member is a device in a conversation.
type Member struct {
	Device       wire.DeviceID
	User         wire.UserID
	Account      wire.AccountID // of the user; zero in certificates of earlier releases
	Organization wire.Domain
	// Person is the number of the user among the persons whom this device has met under the name: 2 and more for one
	// whose organization has given the name of a removed account again. 0 if the account is not known.
	Person  int
	Admin   bool
	Self    bool
	Leaving bool      // its removal waits for a commit
	Ends    time.Time // of its certificate
	Expired bool
	// SafetyNumber is equal on both devices exactly if each sees the key that the other has: two people
	// compare it. Empty for the own device.
	SafetyNumber string
}

// Members lists the devices of a conversation by name.
func (d *Device) Members(ctx context.Context, id wire.ConversationID) ([]Member, error) {
	var list []Member
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil || t.group == nil {
			return err
		}
		rules, err := t.rules()
		if err != nil {
			return err
		}
		self, err := t.self()
		if err != nil {
			return err
		}
		leaving := t.proposedRemovals()
		t.group.Public().Members(func(m mlscore.Member) bool {
			var one Member
			if one, err = d.describeMember(m, self); err != nil {
				return false
			}
			one.Admin, one.Leaving = rules.Admin(one.User), leaving[m.Leaf]
			if one.Person, err = d.person(u, one.User, one.Account); err != nil {
				return false
			}
			list = append(list, one)
			return true
		})
		return err
	})
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(string(a.Device), string(b.Device)) })
	return list, err
}

func (d *Device) describeMember(m, self mlscore.Member) (Member, error) {
	device, err := deviceOf(m.Credential)
	if err != nil {
		return Member{}, err
	}
	cert, err := certificateOf(m.Credential)
	if err != nil {
		return Member{}, err
	}
	one := Member{
		Device: device, User: device.User(), Account: wire.AccountOf(cert), Organization: device.Organization(), Self: m.Leaf == self.Leaf,
		Ends: cert.NotAfter, Expired: d.authenticator().Expired(m.Credential, d.opts.Clock.Now()) != nil,
	}
	if !one.Self {
		one.SafetyNumber, err = pairNumber(self, m)
	}
	return one, err
}

// ConversationNumber is a number that two members can compare: equal exactly if they share the present
// epoch, with all its members.
func (d *Device) ConversationNumber(ctx context.Context, id wire.ConversationID) (string, error) {
	var n string
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err != nil {
			return err
		}
		h := hashOf(append([]byte("mlsfed conversation number 1\x00"), t.group.EpochAuthenticator()...))
		n = digits(h[:], 6)
		return nil
	})
	return n, err
}
