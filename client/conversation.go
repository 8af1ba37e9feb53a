package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// State is the state of this device in a conversation.
type State uint8

// The states.
const (
	StateCreating  State = 1 // created here, not yet ordered
	StateJoining   State = 2 // this device was added; it is fetching the content that the join needs
	StateActive    State = 3
	StateLeaving   State = 4  // this device has asked to be removed
	StateLeft      State = 5  // the device is out, or the conversation was closed
	StateBroken    State = 6  // the device cannot follow the conversation: see Conversation.Why and Device.Rejoin
	StateRejoining State = 7  // an external commit is on its way
	StateFounding  State = 8  // created here to succeed another conversation; its first commit is not ordered yet
	StateMoving    State = 9  // closed by a ReInit; the device is entering its successor
	StateMoved     State = 10 // the conversation continues as its successor
	StateHeld      State = 11 // another user has added this device, and the user has not decided: see Device.Held
)

// String returns the name of the state.
func (s State) String() string {
	names := [...]string{"", "creating", "joining", "active", "leaving", "left", "broken", "rejoining", "founding", "moving", "moved", "held"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// PaddingMode selects the padding of messages.
type PaddingMode uint8

// The modes: Padmé (the default) hides the length except for its magnitude; blocks of 256 bytes; no padding.
const (
	PadPadme  PaddingMode = 0
	PadBlocks PaddingMode = 1
	PadNone   PaddingMode = 2
)

func (p PaddingMode) padding() mlscore.Padding {
	switch p {
	case PadBlocks:
		return mlscore.PadToMultiple(256)
	case PadNone:
		return mlscore.NoPadding()
	}
	return mlscore.Padme()
}

// findConversation is a conversation as one turn sees it.
type conversation struct {
	d     *Device
	u     *unit
	id    ConversationID
	rec   *conversationRecord
	group *mlscore.Group // nil in states without a group
	// foreign is set while this device takes in an item that came under another address than the present one: this
	// device was removed and added again, and both streams still have items. The old stream leads up to the removal,
	// so no entry has to be fetched ahead of its messages.
	foreign bool
}

func conversationKey(id ConversationID) []byte { return recordKey(recordOne, idPart(id)) }

// findConversation opens a conversation; nil if this device has no conversation with that id.
func (d *Device) findConversation(u *unit, id ConversationID) (*conversation, error) {
	rec := new(conversationRecord)
	ok, err := u.getRecord(conversationKey(id), rec)
	if err != nil || !ok {
		return nil, err
	}
	t := &conversation{d: d, u: u, id: id, rec: rec}
	if rec.hasGroup() {
		t.group, err = d.group(id)
	}
	return t, err
}

// peekConversation returns a conversation for a pass over many conversations that changes no group. Groups that it
// reads from the store do not displace the groups that are already open.
func (d *Device) peekConversation(u *unit, id ConversationID, rec *conversationRecord) (t *conversation, err error) {
	t = &conversation{d: d, u: u, id: id, rec: rec}
	if !rec.hasGroup() {
		return t, nil
	}
	if t.group = d.groups.get(id); t.group == nil {
		t.group, err = d.load(id)
	}
	return t, err
}

// hasGroup reports whether the store holds a group for the conversation.
func (r *conversationRecord) hasGroup() bool {
	switch r.State {
	case StateCreating, StateActive, StateLeaving, StateFounding, StateMoving:
		return true
	case StateMoved:
		return !r.Line.Erased
	}
	return false
}

// someRecords is eachRecord for one conversation, or for all conversations if only is "".
func someRecords(u *unit, only ConversationID, visit func(ConversationID, *conversationRecord) error) error {
	if only == "" {
		return eachRecord(u, visit)
	}
	rec := new(conversationRecord)
	ok, err := u.getRecord(conversationKey(only), rec)
	if err != nil || !ok {
		return err
	}
	return visit(only, rec)
}

// eachRecord visits all conversations of the device in the order of their ids, without their groups.
func eachRecord(u *unit, visit func(ConversationID, *conversationRecord) error) error {
	prefix := recordKey(recordOne)
	return u.Scan(prefix, func(key, value []byte) error {
		defer clear(value)
		rec := new(conversationRecord)
		if err := wire.Decode(value, maxRecord, rec); err != nil {
			return err
		}
		return visit(wire.ConversationID(key[len(prefix)+1:]), rec)
	})
}

// knownConversation is findConversation for a caller that names the conversation or one that it succeeds.
func (d *Device) knownConversation(u *unit, id ConversationID) (*conversation, error) {
	t, err := d.findConversation(u, id)
	for err == nil && t != nil && t.rec.State == StateMoved {
		t, err = d.findConversation(u, wire.ConversationID(t.rec.Line.Successor))
	}
	if err == nil && t == nil {
		err = wire.Errorf(wire.UnknownConversation, "conversation", "%v is not one of this device", id)
	}
	return t, err
}

// usableConversation is knownConversation for a caller that sends or changes something.
func (d *Device) usableConversation(u *unit, id ConversationID) (*conversation, error) {
	t, err := d.knownConversation(u, id)
	if err != nil {
		return nil, err
	}
	switch t.rec.State {
	case StateCreating, StateActive:
		return t, nil
	case StateBroken:
		return nil, wire.Errorf(wire.Invalid, "conversation", "%v cannot be followed any further: %s", id, t.rec.Why)
	case StateMoving:
		return nil, wire.Errorf(wire.Unavailable, "conversation", "%v is moving to another cipher suite: try again in a moment", id)
	}
	return nil, wire.Errorf(wire.Closed, "conversation", "this device is %v in %v", t.rec.State, id)
}

// group returns the open group, or opens it.
func (d *Device) group(id ConversationID) (*mlscore.Group, error) {
	if g := d.groups.get(id); g != nil {
		return g, nil
	}
	g, err := d.load(id)
	if err != nil {
		return nil, err
	}
	d.groups.keep(id, g, g.Public().Size())
	return g, nil
}

// load reads a group from the store.
func (d *Device) load(id ConversationID) (*mlscore.Group, error) {
	d.policy.loading = true
	defer func() { d.policy.loading = false }()
	return d.client.LoadGroup([]byte(id))
}

func (t *conversation) save() error { return t.u.putRecord(conversationKey(t.id), t.rec) }

// setPolicy makes the policy check this group.
func (t *conversation) setPolicy(revoked map[string]bool) {
	t.d.policy.setGroup(t.group.Public(), revoked)
}

func (t *conversation) event(e Event) {
	e.Conversation = t.id
	t.u.then(func() { t.d.emit(e) })
}

func (t *conversation) kick(l workQueue) { t.u.then(func() { t.d.queues.kick(l) }) }

func (t *conversation) rules() (*Rules, error) { return rulesOf(t.group.Public().Context().Extensions) }

// self returns this device's own member.
func (t *conversation) self() (mlscore.Member, error) {
	m, ok := t.group.Public().Member(t.group.Self())
	if !ok {
		return m, wire.Errorf(wire.Internal, "conversation", "own leaf is blank in %v", t.id)
	}
	return m, nil
}

// breakOff stops following a conversation that only the user can repair.
func (t *conversation) breakOff(why error) error {
	t.rec.State, t.rec.Why = StateBroken, shorten(why.Error())
	t.rec.Behind, t.rec.Failed = behind{}, failed{}
	t.event(Event{Type: EventBroken, Err: why})
	t.u.delete(t.askedKey())
	t.kick(handshakes(t.id))
	if err := t.dropPending(); err != nil {
		return err
	}
	t.group = nil
	if err := t.failOperations(why); err != nil {
		return err
	}
	if err := t.failOutgoing(why); err != nil {
		return err
	}
	if err := t.save(); err != nil {
		return err
	}
	return t.useInvitation()
}

// whyOut describes to the user a commit that removes this device. The state is the one before the commit.
func (t *conversation) whyOut(by DeviceID) string {
	switch {
	case t.rec.State == StateLeaving:
		return "this device has left the conversation"
	case by == "":
		return "a member removed this device"
	}
	return string(by) + " removed this device"
}

func shorten(s string) string {
	if len(s) > 512 {
		s = string(bytes.ToValidUTF8([]byte(s[:512]), nil))
	}
	return s
}

// exporter is implemented by a group and by a staged commit.
type exporter interface {
	Export(label string, context []byte, length int) (Secret, error)
}

// submissionKey derives the key pair of an epoch with which members prove their membership to servers.
func submissionKey(e exporter) (ed25519.PrivateKey, error) {
	seed, err := e.Export("mlsfed submission", nil, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	defer seed.Erase()
	return ed25519.NewKeyFromSeed(seed.Bytes()), nil
}

func publicKey(k ed25519.PrivateKey) wire.SubmissionKey {
	return wire.SubmissionKey(k.Public().(ed25519.PublicKey))
}

func listConversations(u *unit) ([]ConversationID, error) {
	var ids []ConversationID
	prefix := recordKey(recordOne)
	err := u.Scan(prefix, func(key, _ []byte) error {
		ids = append(ids, wire.ConversationID(key[len(prefix)+1:]))
		return nil
	})
	return ids, err
}

// Conversation describes a conversation as this device knows it.
type Conversation struct {
	ID         ConversationID
	OwnName    string // chosen by the user and known to this device alone: see Device.SetOwnName
	State      State
	Why        string // why the state is StateBroken or StateLeft, or what StateJoining waits for
	Rules      Rules  // the last known rules, if the device is out
	Epoch      Epoch
	Sequence   SequenceNumber // the last entry that was taken in
	Order      wire.Hash      // the order hash up to Sequence
	Members    int            // number of devices
	Messages   uint64         // number of messages in the local history
	Unread     uint64         // since MarkRead
	Outgoing   int            // number of messages that wait to be accepted
	Active     time.Time      // when the newest message was stored; zero without one
	Handshakes wire.Handshakes
	Offered    bool // no admin is left, and this user is offered the role: see Device.AnswerAdmin
	// Again lists the devices that have asked to be added again: see Device.Restore. Asked is the user that this
	// device has asked, if the conversation is broken for this device.
	Again []DeviceID
	Asked UserID
	// Suite is the cipher suite of the group. From is the conversation that this one succeeded, if any.
	Suite CipherSuite
	From  ConversationID
	// Authenticator is equal on two devices exactly if they share the state of the epoch (RFC 9420 §8.7).
	Authenticator []byte
	// With is the only other user, in a conversation without a name in which two users are; else "". WithPerson is
	// Member.Person of that user.
	With       UserID
	WithPerson int

	number uint64
}

// Conversation returns the description of a conversation.
func (d *Device) Conversation(ctx context.Context, id ConversationID) (*Conversation, error) {
	var c *Conversation
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err == nil {
			c, err = t.describe()
		}
		return err
	})
	return c, err
}

// newest returns the newest message of the history, or nil if the history is empty.
func (t *conversation) newest() (*messageRecord, error) {
	if t.rec.Counters.Message == 0 {
		return nil, nil
	}
	rec, _, err := t.messageAt(t.rec.Counters.Message - 1)
	return rec, err
}

func (t *conversation) describe() (*Conversation, error) {
	r := t.rec
	c := &Conversation{
		ID: t.id, State: r.State, Why: r.Why, Sequence: r.Position.Last, Order: r.Position.Order, Messages: r.Counters.Message,
		Suite: t.suite(), From: wire.ConversationID(r.Line.From), Unread: r.Counters.Unread, Outgoing: t.waiting(), Handshakes: wire.Handshakes(r.Policy), number: r.Number, Rules: Rules{Name: r.Title},
	}
	newest, err := t.newest()
	if err != nil {
		return nil, err
	}
	if newest != nil {
		c.Active = newest.Stored.Std()
	}
	if r.State == StateBroken {
		asked, _, err := t.u.Get(t.askedKey())
		if err != nil {
			return nil, err
		}
		if len(asked) > 1 {
			c.Asked = wire.UserID(asked)
		}
	}
	if c.OwnName, err = t.ownName(); err != nil || t.group == nil {
		return c, err
	}
	if c.Offered, err = t.offered(); err != nil {
		return nil, err
	}
	if c.Again, err = t.askingAgain(); err != nil {
		return nil, err
	}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	c.Rules, c.Epoch, c.Members = *rules, wire.Epoch(t.group.Epoch()), t.group.Public().Size()
	c.Authenticator = t.group.EpochAuthenticator()
	if rules.Name == "" {
		err = t.findOther(c)
	}
	return c, err
}

// findOther finds the only other user. It looks at no member after the first one of a third user.
func (t *conversation) findOther(c *Conversation) (err error) {
	self, other := t.d.self.Device.User(), mlscore.Member{}
	t.group.Public().Members(func(m mlscore.Member) bool {
		switch u := userOf(m); {
		case u == self || u != "" && u == c.With:
			return true
		case u == "" || c.With != "":
			c.With = ""
			return false
		default:
			c.With, other = u, m
			return true
		}
	})
	if c.With != "" {
		c.WithPerson, err = t.d.person(t.u, c.With, accountOf(other.Credential))
	}
	return err
}
