package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// State says where this device is in a conversation.
type State uint8

// The states.
const (
	StateCreating  State = 1 // made here, not yet ordered
	StateJoining   State = 2 // this device was added; what it needs to join is being fetched
	StateActive    State = 3
	StateLeaving   State = 4  // this device has asked to be removed
	StateLeft      State = 5  // it is out, or the conversation was closed
	StateBroken    State = 6  // it cannot follow: see Conversation.Why and Device.Rejoin
	StateRejoining State = 7  // an external commit is on its way
	StateFounding  State = 8  // made here to succeed another one; its first commit is not ordered yet
	StateMoving    State = 9  // closed by a ReInit; its successor is being entered
	StateMoved     State = 10 // it goes on as its successor
	StateHeld      State = 11 // somebody has added this device, and the user has not decided: see Device.Held
)

// String is the state's name.
func (s State) String() string {
	names := [...]string{"", "creating", "joining", "active", "leaving", "left", "broken", "rejoining", "founding", "moving", "moved", "held"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// PaddingMode says how much padding messages get.
type PaddingMode uint8

// The modes: Padmé, by default, hides lengths but for their magnitude; blocks of 256 bytes; none.
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

// thread is a conversation in somebody's turn.
type thread struct {
	d     *Device
	u     *unit
	id    wire.ConversationID
	rec   *conversationRecord
	group *mlscore.Group // nil where the state has none
	// foreign says that what is being taken in came under another address than the present one: this
	// device was removed and added again, and both streams still have something to give. The old one
	// leads up to the removal, so that nothing has to be fetched ahead of its messages.
	foreign bool
}

func conversationKey(id wire.ConversationID) []byte { return recordKey(recordOne, idPart(id)) }

// thread opens a conversation; nil if this device knows none of that id.
func (d *Device) thread(u *unit, id wire.ConversationID) (*thread, error) {
	rec := new(conversationRecord)
	ok, err := u.getRecord(conversationKey(id), rec)
	if err != nil || !ok {
		return nil, err
	}
	t := &thread{d: d, u: u, id: id, rec: rec}
	if rec.hasGroup() {
		t.group, err = d.group(id)
	}
	return t, err
}

// glance returns a thread for a pass over many conversations that changes no group. The groups that it reads from the
// store do not displace the open groups.
func (d *Device) glance(u *unit, id wire.ConversationID, rec *conversationRecord) (t *thread, err error) {
	t = &thread{d: d, u: u, id: id, rec: rec}
	if !rec.hasGroup() {
		return t, nil
	}
	if t.group = d.groups.get(id); t.group == nil {
		t.group, err = d.load(id)
	}
	return t, err
}

// hasGroup reports whether the store holds the group that a conversation is in.
func (r *conversationRecord) hasGroup() bool {
	switch r.State {
	case StateCreating, StateActive, StateLeaving, StateFounding, StateMoving:
		return true
	case StateMoved:
		return !r.Line.Erased
	}
	return false
}

// someRecords is eachRecord for one conversation, or for all where only is "".
func someRecords(u *unit, only wire.ConversationID, visit func(wire.ConversationID, *conversationRecord) error) error {
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

// eachRecord visits all conversations of the device, in the order of their ids, without their groups.
func eachRecord(u *unit, visit func(wire.ConversationID, *conversationRecord) error) error {
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

// knownThread is thread for a caller who names the conversation, or one that it succeeds.
func (d *Device) knownThread(u *unit, id wire.ConversationID) (*thread, error) {
	t, err := d.thread(u, id)
	for err == nil && t != nil && t.rec.State == StateMoved {
		t, err = d.thread(u, wire.ConversationID(t.rec.Line.Successor))
	}
	if err == nil && t == nil {
		err = wire.Errorf(wire.UnknownConversation, "conversation", "%v is not one of this device", id)
	}
	return t, err
}

// usableThread is knownThread for a caller who wants to send or change something.
func (d *Device) usableThread(u *unit, id wire.ConversationID) (*thread, error) {
	t, err := d.knownThread(u, id)
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

// group opens a group, or gives the one that is open.
func (d *Device) group(id wire.ConversationID) (*mlscore.Group, error) {
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
func (d *Device) load(id wire.ConversationID) (*mlscore.Group, error) {
	d.judge.loading = true
	defer func() { d.judge.loading = false }()
	return d.client.LoadGroup([]byte(id))
}

func (t *thread) save() error { return t.u.putRecord(conversationKey(t.id), t.rec) }

// look makes the judge see this group.
func (t *thread) look(revoked map[string]bool) { t.d.judge.look(t.group.Public(), revoked) }

func (t *thread) event(e Event) {
	e.Conversation = t.id
	t.u.then(func() { t.d.emit(e) })
}

func (t *thread) kick(l lane) { t.u.then(func() { t.d.lanes.kick(l) }) }

func (t *thread) rules() (*Rules, error) { return rulesOf(t.group.Public().Context().Extensions) }

// self is this device's own member.
func (t *thread) self() (mlscore.Member, error) {
	m, ok := t.group.Public().Member(t.group.Self())
	if !ok {
		return m, wire.Errorf(wire.Internal, "conversation", "own leaf is blank in %v", t.id)
	}
	return m, nil
}

// breakOff ends following a conversation that cannot be repaired without the user's word.
func (t *thread) breakOff(why error) error {
	t.rec.State, t.rec.Why = StateBroken, shorten(why.Error())
	t.rec.Behind, t.rec.Failed = behind{}, failed{}
	t.event(Event{Type: EventBroken, Err: why})
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

func shorten(s string) string {
	if len(s) > 512 {
		s = string(bytes.ToValidUTF8([]byte(s[:512]), nil))
	}
	return s
}

// exporter is a group or a staged commit.
type exporter interface {
	Export(label string, context []byte, length int) (mlscore.Secret, error)
}

// submissionKey derives the key pair of an epoch by which members prove membership to servers.
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

func listConversations(u *unit) ([]wire.ConversationID, error) {
	var ids []wire.ConversationID
	prefix := recordKey(recordOne)
	err := u.Scan(prefix, func(key, _ []byte) error {
		ids = append(ids, wire.ConversationID(key[len(prefix)+1:]))
		return nil
	})
	return ids, err
}

// Conversation is what a device knows of one.
type Conversation struct {
	ID         wire.ConversationID
	OwnName    string // the user's, known to this device alone: see Device.SetOwnName
	State      State
	Why        string // of StateBroken, and what StateJoining waits for
	Rules      Rules  // the last ones, where the device is out
	Epoch      wire.Epoch
	Sequence   wire.SequenceNumber // of the last entry that was taken in
	Order      wire.Hash           // the order hash up to it
	Members    int                 // devices
	Messages   uint64              // of the local history
	Unread     uint64              // since MarkRead
	Outgoing   int                 // messages that wait to be accepted
	Active     time.Time           // when the newest message was stored; zero without one
	Handshakes wire.Handshakes
	// Suite is the group's. From is the conversation that this one has succeeded, if it did.
	Suite mlscore.CipherSuite
	From  wire.ConversationID
	// Authenticator is equal for two devices exactly if they share the epoch's state (RFC 9420 §8.7).
	Authenticator []byte

	number uint64
}

// Conversation describes one.
func (d *Device) Conversation(ctx context.Context, id wire.ConversationID) (*Conversation, error) {
	var c *Conversation
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err == nil {
			c, err = t.describe()
		}
		return err
	})
	return c, err
}

// newest is the newest message of the history, nil without one.
func (t *thread) newest() (*messageRecord, error) {
	if t.rec.Counters.Message == 0 {
		return nil, nil
	}
	rec, _, err := t.messageAt(t.rec.Counters.Message - 1)
	return rec, err
}

func (t *thread) describe() (*Conversation, error) {
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
	if c.OwnName, err = t.ownName(); err != nil || t.group == nil {
		return c, err
	}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	c.Rules, c.Epoch, c.Members = *rules, wire.Epoch(t.group.Epoch()), t.group.Public().Size()
	c.Authenticator = t.group.EpochAuthenticator()
	return c, nil
}
