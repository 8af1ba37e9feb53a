package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A device that cannot follow a conversation with private handshakes any further cannot return by itself: servers
// accept no external commit there, and the device has no key of the present epoch. Another member's device must
// remove it and add it again (Restore). The device asks for that with a text message in a conversation of the two
// users alone. The text is for people. The body names the conversation for the receiving device, which keeps the
// request if its sender shows the key that it has as a member. The user there decides.

// againRequest is the Body of such a request.
type againRequest struct {
	What         string         `cbor:"1,keyasint"` // other values: the body of another application
	Conversation ConversationID `cbor:"2,keyasint"`
}

const (
	againWhat = "mlsfed/add-again/1"
	maxAgain  = 256 // bytes of an againRequest
)

// Check refuses a request of another kind, and a request without a conversation.
func (r *againRequest) Check() error {
	if r.What != againWhat {
		return wire.Errorf(wire.Malformed, "request", "of kind %.40q", r.What)
	}
	if err := r.Conversation.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "request", "%v", err)
	}
	return nil
}

// recordAgain is the letter of the requests to be added again: conversation, device → when the request came; or
// doneMark and the time at which the device was removed or added after it.
const recordAgain = 'j'

// doneMark begins the record of a request that was fulfilled. A request that was sent before that time, or so soon
// after it that the device had not heard of it, may arrive later: it is no new one.
const (
	doneMark  = 1
	doneGrace = 10 * time.Second
)

// recordAsked is the letter of the records of the user that this device has asked to add it again: conversation →
// user.
const recordAsked = 'Q'

func (t *conversation) askedKey() []byte { return recordKey(recordAsked, idPart(t.id)) }

func againKey(id ConversationID, device DeviceID) []byte {
	return recordKey(recordAgain, idPart(id), []byte(device))
}

// askedOf bounds the users that AskToBeAddedAgain tries if the earlier ones cannot be added to a conversation now.
const askedOf = 3

// requestTargets lists the users that a broken device can ask.
type requestTargets struct {
	id      ConversationID
	title   string
	self    UserID         // the user of this device
	members []UserID       // the users who may add the device again: see mayRestore
	found   ConversationID // the conversation with one of members alone; "" if there is none
}

// AskToBeAddedAgain asks a member of a broken conversation (StateBroken) to add this device again, and returns that
// member's user. It asks the user's own other devices if they are members, else an admin if there is one. It sends a
// message in a conversation with that user alone, and creates one if there is none. It returns [Invalid] if the
// conversation is not broken, or if this device does not know its members. EventJoined reports when a member has
// added the device.
//
// A device whose conversation breaks asks once by itself if that needs no new conversation with another user.
func (d *Device) AskToBeAddedAgain(ctx context.Context, id ConversationID) (UserID, error) {
	a, err := d.membersToAsk(ctx, id)
	if err != nil {
		return "", err
	}
	return d.sendRequest(ctx, a)
}

func (d *Device) membersToAsk(ctx context.Context, id ConversationID) (a requestTargets, err error) {
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		if t.rec.State != StateBroken {
			return wire.Errorf(wire.Invalid, "ask", "this device is %v in %v, and not broken", t.rec.State, t.id)
		}
		a.id, a.title, a.self = t.id, t.rec.Title, d.self.Device.User()
		if a.members, err = t.mayRestore(); err != nil {
			return err
		}
		a.found, err = d.pairWith(u, a.members)
		return err
	})
	return a, err
}

// sendRequest sends the request.
func (d *Device) sendRequest(ctx context.Context, a requestTargets) (UserID, error) {
	to := a.found
	if to == "" {
		var err error
		if to, err = d.newPair(ctx, a.title, a.members); err != nil {
			return "", err
		}
	}
	asked, err := d.pairedUser(ctx, to)
	if err != nil {
		return "", err
	}
	body, err := wire.Encode(&againRequest{What: againWhat, Conversation: a.id})
	if err != nil {
		return "", err
	}
	if _, err = d.Send(ctx, to, Content{Type: ContentText, Text: askText(a.title, a.id), Body: body}); err != nil {
		return "", err
	}
	return asked, d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, a.id)
		if err == nil && t != nil && t.rec.State == StateBroken {
			u.put(t.askedKey(), []byte(asked))
		}
		return err
	})
}

// nextOfBroken makes a device ask by itself, once, where servers accept no external commit.
func (t *conversation) nextOfBroken() (*step, error) {
	if t.public() {
		return nil, nil
	}
	if _, done, err := t.u.Get(t.askedKey()); err != nil || done {
		return nil, err
	}
	t.u.put(t.askedKey(), []byte{0}) // once, even if the request fails: the user can ask again
	return &step{ask: true}, nil
}

// askByItself asks the user's own other devices, or a user with whom there is a conversation of the two. Only the
// user decides to create a conversation with somebody else.
func (d *Device) askByItself(ctx context.Context, id ConversationID) error {
	a, err := d.membersToAsk(ctx, id)
	if err == nil && (a.found != "" || a.members[0] == a.self) {
		if a.found == "" {
			a.members = a.members[:1]
		}
		_, err = d.sendRequest(ctx, a)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Info("nobody is asked to add this device again", "conversation", id, "error", err)
		err = nil
	}
	return err
}

func askText(title string, id ConversationID) string {
	if title == "" {
		title = id.String()[:8]
	}
	return fmt.Sprintf("This device cannot follow the conversation %q any further. Please add it again.", title)
}

// mayRestore returns the users who can remove this device and add it again, as of the last epoch that the device has
// followed: its own user if there are other devices, then admins, then other users if the rules let them.
func (t *conversation) mayRestore() ([]UserID, error) {
	g, err := t.d.load(t.id)
	if err != nil {
		return nil, wire.Errorf(wire.Invalid, "ask", "this device does not know who is in %v: ask the person who added it", t.id)
	}
	rules, err := rulesOf(g.Public().Context().Extensions)
	if err != nil {
		return nil, err
	}
	self := t.d.self.Device
	rank := make(map[UserID]int)
	g.Public().Members(func(m mlscore.Member) bool {
		device, err := deviceOf(m.Credential)
		if err != nil || device == self {
			return true
		}
		u := device.User()
		switch {
		case u == self.User():
			rank[u] = 1
		case rules.Admin(u):
			rank[u] = 2
		case rules.MembersRemove && rules.MembersAdd:
			rank[u] = 3
		}
		return true
	})
	var list []UserID
	for u := range rank {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b UserID) int {
		if rank[a] != rank[b] {
			return rank[a] - rank[b]
		}
		return strings.Compare(string(a), string(b))
	})
	if len(list) == 0 {
		return nil, wire.Errorf(wire.Invalid, "ask", "no other member of %v may add this device again, because only admins may, and no other user is one: make another conversation with its members, and delete this one", t.id)
	}
	return list, nil
}

// pairWith finds a conversation between this user and one of users alone: the first that exists, in the order of
// users.
func (d *Device) pairWith(u *unit, users []UserID) (found ConversationID, err error) {
	best := len(users)
	return found, d.eachActive(u, func(t *conversation) error {
		if other, ok := t.otherUser(); ok {
			if at := slices.Index(users, other); at >= 0 && at < best {
				best, found = at, t.id
			}
		}
		return nil
	})
}

// otherUser returns the user with whom the own user shares a conversation, or the own user if nobody else is a member.
// It returns false for a conversation of more users, or of this device alone.
func (t *conversation) otherUser() (UserID, bool) {
	self := t.d.self.Device
	var found UserID
	pair := true
	t.group.Public().Members(func(m mlscore.Member) bool {
		device, err := deviceOf(m.Credential)
		switch u := device.User(); {
		case err != nil || device == self:
		case found == "" || found == self.User():
			found = u
		case u != found && u != self.User():
			pair = false
		}
		return pair
	})
	return found, pair && found != ""
}

// newPair creates a conversation with the first of users who can be added now. users contains the own user when own
// other devices are asked.
func (d *Device) newPair(ctx context.Context, title string, users []UserID) (ConversationID, error) {
	self, err := d.ID(ctx)
	if err != nil {
		return "", err
	}
	for i, u := range users {
		var id ConversationID
		id, err = d.newPairWith(ctx, title, u, u == self.User())
		if err == nil || i == askedOf-1 || !slices.Contains([]wire.Code{wire.NoneLeft, wire.NotFound, wire.Invalid}, wire.CodeOf(err)) {
			return id, err
		}
	}
	return "", err
}

func (d *Device) newPairWith(ctx context.Context, title string, user UserID, own bool) (ConversationID, error) {
	name := "Add me again"
	switch {
	case own:
		name = "My devices"
	case title != "" && len(title) <= MaxName-len(name)-2 && CheckName(title) == nil:
		name += ": " + title
	}
	id, err := d.Create(ctx, CreateOptions{Name: name})
	if err != nil {
		return "", err
	}
	if err = d.Add(ctx, id, user); err != nil {
		if closeErr := d.Close(ctx, id); closeErr != nil {
			d.log.Info("conversation without members stays", "conversation", id, "error", closeErr)
		}
		return "", err
	}
	return id, nil
}

func (d *Device) pairedUser(ctx context.Context, id ConversationID) (u UserID, err error) {
	err = d.turn(ctx, func(in *unit) error {
		t, err := d.usableConversation(in, id)
		if err == nil && t.group != nil {
			u, _ = t.otherUser()
		}
		return err
	})
	return u, err
}

// takeAgain keeps the request of a device to be added again to a conversation in which this device is a member too.
func (t *conversation) takeAgain(sender DeviceID, key []byte, c *Content) error {
	r := new(againRequest)
	if c.Type != ContentText || len(c.Body) == 0 || wire.Decode(c.Body, maxAgain, r) != nil || r.Conversation == t.id {
		return nil
	}
	in, err := t.d.findConversation(t.u, r.Conversation)
	if err == nil && in != nil {
		in, err = in.shownIn()
	}
	if err != nil || in == nil || in.rec.State != StateActive {
		return err
	}
	leaf, ok := in.group.ByIdentity([]byte(sender))
	m, _ := in.group.Public().Member(leaf)
	if !ok || string(m.SignatureKey) != string(key) {
		return nil // not a member, or another device with the same name
	}
	at := againKey(in.id, sender)
	before, known, err := t.u.Get(at)
	if err != nil || known && (!isDone(before) || c.Time <= wire.Time(parseNumber(before[1:]))+wire.Time(doneGrace.Milliseconds())) {
		return err
	}
	t.u.put(at, number(uint64(t.d.now())))
	in.event(Event{Type: EventAgain, Device: sender})
	return nil
}

func isDone(record []byte) bool { return len(record) == 9 && record[0] == doneMark }

// doneAgain notes that a device which asked to be added again was removed or added.
func (t *conversation) doneAgain(device DeviceID) error {
	at := againKey(t.id, device)
	if _, asked, err := t.u.Get(at); err != nil || !asked {
		return err
	}
	t.u.put(at, append([]byte{doneMark}, number(uint64(t.d.now()))...))
	return nil
}

// AskingAgain returns the devices that have asked to be added to a conversation again and that nobody has added yet:
// see Restore.
func (d *Device) AskingAgain(ctx context.Context, id ConversationID) (list []DeviceID, err error) {
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err == nil {
			list, err = t.askingAgain()
		}
		return err
	})
	return list, err
}

func (t *conversation) askingAgain() (list []DeviceID, err error) {
	prefix := recordKey(recordAgain, idPart(t.id))
	return list, t.u.Scan(prefix, func(key, record []byte) error {
		if !isDone(record) {
			list = append(list, wire.DeviceID(key[len(prefix):]))
		}
		return nil
	})
}
