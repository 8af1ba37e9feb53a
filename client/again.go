package client

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A device that cannot follow a conversation with private handshakes any further cannot come back by itself: servers take
// no external commit there, and it has no key of the present epoch. Another member's device removes it and adds it again
// (Restore). So it asks one: with a text message in a conversation of the two users alone. The text is for people; the body
// names the conversation for the device that receives it, which keeps the request if its sender shows the key that it has
// as a member. The user there decides.

// againRequest is the Body of such a message.
type againRequest struct {
	What         string              `cbor:"1,keyasint"` // againWhat: a body of another application is none
	Conversation wire.ConversationID `cbor:"2,keyasint"`
}

const (
	againWhat = "mlsfed/add-again/1"
	maxAgain  = 256 // bytes of an againRequest
)

// Check refuses a request of another kind, or without a conversation.
func (r *againRequest) Check() error {
	if r.What != againWhat {
		return wire.Errorf(wire.Malformed, "request", "of kind %.40q", r.What)
	}
	if err := r.Conversation.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "request", "%v", err)
	}
	return nil
}

// recordAgain is the letter of the requests to be added again: conversation, device → when it came.
const recordAgain = 'j'

func againKey(id wire.ConversationID, device wire.DeviceID) []byte {
	return recordKey(recordAgain, idPart(id), []byte(device))
}

// askedOf are how many members AskToBeAddedAgain tries that cannot be added to a conversation now.
const askedOf = 3

// AskToBeAddedAgain asks a member of a conversation that is broken for this device (StateBroken) to add it again, and
// returns whom: an admin if there is one. It sends a message in a conversation with that user alone, and makes one if
// there is none. wire.Invalid if the conversation is not broken, or if this device does not know who its members are.
// EventJoined tells when a member has done it.
func (d *Device) AskToBeAddedAgain(ctx context.Context, id wire.ConversationID) (wire.UserID, error) {
	var members []wire.UserID
	var title string
	var found wire.ConversationID
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil {
			return err
		}
		if t.rec.State != StateBroken {
			return wire.Errorf(wire.Invalid, "ask", "this device is %v in %v, and not broken", t.rec.State, t.id)
		}
		id, title = t.id, t.rec.Title
		if members, err = t.mayRestore(); err != nil {
			return err
		}
		found, err = d.pairWith(u, members)
		return err
	})
	if err != nil {
		return "", err
	}
	to := found
	if to == "" {
		if to, err = d.newPair(ctx, title, members); err != nil {
			return "", err
		}
	}
	asked, err := d.pairedUser(ctx, to)
	if err != nil {
		return "", err
	}
	body, err := wire.Encode(&againRequest{What: againWhat, Conversation: id})
	if err != nil {
		return "", err
	}
	_, err = d.Send(ctx, to, Content{Type: ContentText, Text: askText(title, id), Body: body})
	return asked, err
}

func askText(title string, id wire.ConversationID) string {
	if title == "" {
		title = id.String()[:8]
	}
	return fmt.Sprintf("This device cannot follow the conversation %q any further. Please add it again.", title)
}

// mayRestore are the users who can remove this device and add it again, as far as it has followed: its own user for other
// devices, then admins, then others if the rules let them.
func (t *thread) mayRestore() ([]wire.UserID, error) {
	g, err := t.d.load(t.id)
	if err != nil {
		return nil, wire.Errorf(wire.Invalid, "ask", "this device does not know who is in %v: ask the person who added it", t.id)
	}
	rules, err := rulesOf(g.Public().Context().Extensions)
	if err != nil {
		return nil, err
	}
	self := t.d.self.Device
	rank := make(map[wire.UserID]int)
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
	var list []wire.UserID
	for u := range rank {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b wire.UserID) int {
		if rank[a] != rank[b] {
			return rank[a] - rank[b]
		}
		return strings.Compare(string(a), string(b))
	})
	if len(list) == 0 {
		return nil, wire.Errorf(wire.Invalid, "ask", "nobody else in %v may add this device again", t.id)
	}
	return list, nil
}

// pairWith finds a conversation of this user with one of some users alone, the first of them that there is.
func (d *Device) pairWith(u *unit, users []wire.UserID) (found wire.ConversationID, err error) {
	best := len(users)
	return found, d.eachActive(u, func(t *thread) error {
		if other, ok := t.other(); ok {
			if at := slices.Index(users, other); at >= 0 && at < best {
				best, found = at, t.id
			}
		}
		return nil
	})
}

// other is whom the own user shares a conversation with, the own user where nobody else is there; false for a conversation
// of more users, or of this device alone.
func (t *thread) other() (wire.UserID, bool) {
	self := t.d.self.Device
	var found wire.UserID
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

// newPair makes a conversation with the first of some users who can be added now.
func (d *Device) newPair(ctx context.Context, title string, users []wire.UserID) (wire.ConversationID, error) {
	self, err := d.ID(ctx)
	if err != nil {
		return "", err
	}
	users = slices.DeleteFunc(slices.Clone(users), func(u wire.UserID) bool { return u == self.User() })
	if len(users) == 0 {
		return "", wire.Errorf(wire.Invalid, "ask", "only other devices of %s can add this one again, and it shares no other conversation with them: use one of those", self.User())
	}
	name := "Add me again"
	if title != "" && len(title) <= MaxName-len(name)-2 && CheckName(title) == nil {
		name += ": " + title
	}
	id, err := d.Create(ctx, CreateOptions{Name: name})
	if err != nil {
		return "", err
	}
	for i, u := range users {
		err = d.Add(ctx, id, u)
		if wire.CodeOf(err) != wire.NoneLeft && wire.CodeOf(err) != wire.NotFound || i == askedOf-1 {
			break
		}
	}
	if err != nil {
		if closeErr := d.Close(ctx, id); closeErr != nil {
			d.log.Info("conversation without members stays", "conversation", id, "error", closeErr)
		}
		return "", err
	}
	return id, nil
}

func (d *Device) pairedUser(ctx context.Context, id wire.ConversationID) (u wire.UserID, err error) {
	err = d.turn(ctx, func(in *unit) error {
		t, err := d.usableThread(in, id)
		if err == nil && t.group != nil {
			u, _ = t.other()
		}
		return err
	})
	return u, err
}

// takeAgain keeps the request of a device that asks to be added again to a conversation in which this device is too.
func (t *thread) takeAgain(sender wire.DeviceID, key []byte, c *Content) error {
	r := new(againRequest)
	if c.Type != ContentText || len(c.Body) == 0 || wire.Decode(c.Body, maxAgain, r) != nil || r.Conversation == t.id {
		return nil
	}
	in, err := t.d.thread(t.u, r.Conversation)
	if err == nil && in != nil {
		in, err = in.home()
	}
	if err != nil || in == nil || in.rec.State != StateActive {
		return err
	}
	leaf, ok := in.group.ByIdentity([]byte(sender))
	m, _ := in.group.Public().Member(leaf)
	if !ok || string(m.SignatureKey) != string(key) {
		return nil // no member, or another device of the name
	}
	at := againKey(in.id, sender)
	if _, known, err := t.u.Get(at); err != nil || known {
		return err
	}
	t.u.put(at, number(uint64(t.d.now())))
	in.event(Event{Type: EventAgain, Device: sender})
	return nil
}

// AskingAgain are the devices that have asked to be added again to a conversation, and were not yet: see Restore.
func (d *Device) AskingAgain(ctx context.Context, id wire.ConversationID) (list []wire.DeviceID, err error) {
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil {
			return err
		}
		prefix := recordKey(recordAgain, idPart(t.id))
		return u.Scan(prefix, func(key, _ []byte) error {
			list = append(list, wire.DeviceID(key[len(prefix):]))
			return nil
		})
	})
	return list, err
}
