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

// Add adds all devices of users to a conversation, with one claim for each user. It makes one commit, or several if
// one would not fit an entry of the log: then it claims KeyPackages for one commit at a time, and an error says how
// many users were added. Add returns once the last commit is taken in. If an earlier call whose context ended is
// still adding a user, Add does not claim for that user again, and waits for the earlier commit. Devices that are
// already members stay as they are. Add returns [NotFound] for an unknown user, and [Exists] if an admin here
// is an earlier owner of the name. It returns [NoneLeft] if no device of a user has a KeyPackage left and none
// uploads one within Timing.Claim: one of the devices has to be online for that.
func (d *Device) Add(ctx context.Context, id ConversationID, users ...UserID) error {
	_, suite, err := d.mayAct(ctx, id)
	if err != nil {
		return err
	}
	waits, users, err := d.beingAdded(ctx, id, users)
	if err != nil {
		return err
	}
	defer func() {
		for o, outcome := range waits {
			d.waiters.drop(o, outcome)
		}
	}()
	if len(users) > 0 || len(waits) == 0 {
		if err := d.addUsers(ctx, id, suite, users); err != nil {
			return err
		}
	}
	for o, outcome := range waits {
		if err := d.await(ctx, o, outcome); err != nil {
			return err
		}
	}
	return nil
}

// beingAdded finds the users whom an earlier call is adding: a call that gave up while it waited for the nodes. It
// returns the waiting operations and the other users.
func (d *Device) beingAdded(ctx context.Context, id ConversationID, users []UserID) (waits map[operation]<-chan error, others []UserID, err error) {
	waits = make(map[operation]<-chan error)
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil {
			return err
		}
		by := make(map[UserID]uint64)
		err = t.eachOperation(func(n uint64, op *operationRecord) error {
			for _, a := range op.Add {
				if op.Kind == opAdd {
					by[a.Device.User()] = n
				}
			}
			if op.Kind != opAdd { // other operations remove the device and add it again
				for _, u := range op.Users {
					delete(by, u)
				}
				for _, v := range op.Devices {
					delete(by, v.User())
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, user := range users {
			n, ok := by[user]
			if !ok {
				others = append(others, user)
			} else if o := (operation{t.id, n}); waits[o] == nil {
				waits[o] = d.waiters.add(o)
			}
		}
		return nil
	})
	return waits, others, err
}

// addUsers claims and adds, in as many commits as the limits require.
func (d *Device) addUsers(ctx context.Context, id ConversationID, suite CipherSuite, users []UserID) error {
	most, err := d.addBytes(ctx, id)
	if err != nil {
		return err
	}
	op, size, in := &operationRecord{Kind: opAdd}, 0, 0
	for at, user := range users {
		if size >= most { // the next user's KeyPackages may still fit: the limit leaves room
			if err := d.addClaimed(ctx, id, op); err != nil {
				return partly(in, len(users), err)
			}
			op, size, in = &operationRecord{Kind: opAdd}, 0, at
		}
		list, err := d.claim(ctx, id, user, suite, d.opts.Timing.Claim)
		if err == nil {
			list, err = d.knownOwnAdditions(ctx, user, list)
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

// maxGrowthFactor is the factor by which one commit may add more bytes of KeyPackages if the commit travels in a blob.
const maxGrowthFactor = 8

// addBytes returns how many bytes of KeyPackages go into one commit.
func (d *Device) addBytes(ctx context.Context, id ConversationID) (most int, err error) {
	most = d.opts.Limits.AddBytes
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err == nil && t.mayRest(nil) == "" {
			most *= maxGrowthFactor
		}
		return err
	})
	return most, err
}

// addClaimed makes one commit of Add.
func (d *Device) addClaimed(ctx context.Context, id ConversationID, op *operationRecord) error {
	if err := d.makeRoom(ctx, id, op.Add); err != nil {
		return err
	}
	return d.perform(ctx, id, op)
}

// partly adds to an error how many users were added before it.
func partly(in, all int, err error) error {
	if err == nil || in == 0 {
		return err
	}
	return fmt.Errorf("%d of %d users were added: %w", in, all, err)
}

// knownOwnAdditions keeps, of this user's own devices, those that this device knows, and all devices of other users.
func (d *Device) knownOwnAdditions(ctx context.Context, user UserID, list []addition) ([]addition, error) {
	err := d.turn(ctx, func(u *unit) (err error) {
		if self, err := d.enrolled(); err != nil || self.Device.User() != user {
			return err
		}
		if list, err = d.knownAdditions(u, list); err == nil && len(list) == 0 {
			err = wire.Errorf(wire.Invalid, "add", "no device of %s that can be added is known here: confirm it first", user)
		}
		return err
	})
	return list, err
}

// sameKeys keeps the claimed KeyPackages whose signature key is the one that the device has as a member: an
// organization can hand out another key under a device's name. If strangers is false, devices that are no members are
// left out.
func (d *Device) sameKeys(ctx context.Context, id ConversationID, list []addition, strangers bool) ([]addition, error) {
	var kept []addition
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
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

// mayAct refuses a change before anything is claimed. It returns the current conversation, which may have succeeded
// the named one, and its cipher suite.
func (d *Device) mayAct(ctx context.Context, id ConversationID) (now ConversationID, suite CipherSuite, err error) {
	d.Reconnect()
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err == nil {
			now, suite = t.id, t.suite()
		}
		return err
	})
	return now, suite, err
}

// claim takes one KeyPackage of a suite for each device of a user. It checks that each KeyPackage belongs to that
// user, is still valid and has the address that was named. If the user has no KeyPackage, perhaps because the
// enrolment is only moments ago, claim repeats the request for the duration patience. A device that claims faster
// than the node allows waits, as long as ctx allows, and EventDelayed reports the wait for the conversation: earlier
// claims are not lost. devices selects devices of the own user; empty selects all.
func (d *Device) claim(ctx context.Context, id ConversationID, user UserID, suite CipherSuite, patience time.Duration, devices ...DeviceID) ([]addition, error) {
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
		if len(devices) == 0 || slices.Contains(devices, m.Device) { // an earlier node answers for all devices
			list = append(list, addition{Device: m.Device, Token: m.Address.Token, KeyPackage: m.Message})
		}
	}
	return list, nil
}

func (d *Device) askKeyMaterial(ctx context.Context, id ConversationID, r *wire.KeyMaterialRequest, patience time.Duration) (*wire.KeyMaterialAnswer, error) {
	begun := d.opts.Clock.Now()
	busy := 0
	for attempt := 0; ; attempt++ {
		a := new(wire.KeyMaterialAnswer)
		err := d.call(ctx, wire.MethodKeyMaterial, r, a)
		spared := len(r.Devices) > 0 && slices.ContainsFunc(a.Devices, func(m wire.KeyMaterial) bool { return m.LastResort })
		if err == nil && len(a.Devices) > 0 && !spared {
			return a, nil
		}
		if refused := new(Error); wire.CodeOf(err) == wire.Busy && errors.As(err, &refused) {
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
		if spared { // last resorts add a device to few conversations: a device that is online uploads other KeyPackages
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
		if r.ID, err = d.newSubmission(); err != nil { // the same id would get the same answer
			return nil, err
		}
	}
}

func (d *Device) checkClaimed(user UserID, suite CipherSuite, m *wire.KeyMaterial) error {
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

// Remove removes all devices of users from a conversation. It returns once the commit is taken in. It ignores users
// who are no members. To remove itself, a device uses Leave.
func (d *Device) Remove(ctx context.Context, id ConversationID, users ...UserID) error {
	return d.perform(ctx, id, &operationRecord{Kind: opRemove, Users: users})
}

// RemoveDevices is Remove for single devices.
func (d *Device) RemoveDevices(ctx context.Context, id ConversationID, devices ...DeviceID) error {
	return d.perform(ctx, id, &operationRecord{Kind: opRemove, Devices: devices})
}

// Restore removes a device and adds it again with one commit, for a device that reports a conversation as broken. The
// device cannot read what was sent in between.
func (d *Device) Restore(ctx context.Context, id ConversationID, device DeviceID) error {
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
	if list, err = d.knownOwnAdditions(ctx, device.User(), list); err != nil {
		return err
	}
	return d.perform(ctx, id, &operationRecord{Kind: opRemove, Devices: []DeviceID{device}, Add: list})
}

// Leave asks the other members to remove this device from a conversation. Other devices of the user stay, and do not
// add this device again. Leave returns once the request is ordered. Another member's device commits it automatically,
// and EventLeft reports that. If this device is the only member, it closes the conversation. Leave returns
// [Invalid] for the last device of the last admin, until ChangeRules has promoted another member.
func (d *Device) Leave(ctx context.Context, id ConversationID) error {
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil {
			return err
		}
		return t.lastAdmin(func(v DeviceID) bool { return v == d.self.Device })
	})
	if err != nil {
		return err
	}
	return d.perform(ctx, id, &operationRecord{Kind: opLeave})
}

// Close ends a conversation for everybody, if this device's user is an admin.
func (d *Device) Close(ctx context.Context, id ConversationID) error {
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
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
func (d *Device) Rename(ctx context.Context, id ConversationID, name string) error {
	return d.ChangeRules(ctx, id, RulesChange{Name: &name})
}

// ChangeRules changes the name, the admins or the rights of members. It returns [Invalid] if a user who is no
// member would become an admin, if no member would be an admin any more, or if the name looks like an id.
func (d *Device) ChangeRules(ctx context.Context, id ConversationID, c RulesChange) error {
	if c.Name != nil {
		if err := CheckName(*c.Name); err != nil {
			return err
		}
	}
	return d.perform(ctx, id, &operationRecord{Kind: opRules, Rules: &c})
}

// UpdateKeys gives this device new keys in a conversation, and commits waiting proposals of others. A device also
// does so by itself from time to time: see Timing.KeyAge.
func (d *Device) UpdateKeys(ctx context.Context, id ConversationID) error {
	return d.perform(ctx, id, &operationRecord{Kind: opCommit})
}

// Conversations lists all conversations of this device, newest first.
func (d *Device) Conversations(ctx context.Context) ([]Conversation, error) {
	var list []Conversation
	err := d.turn(ctx, func(u *unit) error {
		return eachRecord(u, func(id ConversationID, rec *conversationRecord) error {
			t, err := d.peekConversation(u, id, rec)
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
	Device       DeviceID
	User         UserID
	Account      AccountID // the user's account; zero in certificates of earlier releases
	Organization Domain
	// Person is the number of the user among the persons whom this device has met under the name: 2 or more if the
	// organization has given the name of a removed account to another person. It is 0 if the account is not known.
	Person  int
	Admin   bool
	Self    bool
	Leaving bool      // its removal waits for a commit
	Ends    time.Time // when its certificate ends
	Expired bool
	// SafetyNumber is equal on both devices exactly if each sees the key that the other has: two people compare it.
	// It is empty for the own device.
	SafetyNumber string
}

// Members lists the devices of a conversation by name.
func (d *Device) Members(ctx context.Context, id ConversationID) ([]Member, error) {
	var list []Member
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
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

// ConversationNumber returns a number that two members can compare: it is equal exactly if they share the present
// epoch with all its members.
func (d *Device) ConversationNumber(ctx context.Context, id ConversationID) (string, error) {
	var n string
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil {
			return err
		}
		h := hashOf(append([]byte("mlsfed conversation number 1\x00"), t.group.EpochAuthenticator()...))
		n = digits(h[:], 6)
		return nil
	})
	return n, err
}
