package client

import (
	"context"
	"iter"
	"sync"
	"time"
)

// EventType is the type of an Event.
type EventType uint8

// The types of Event, and the fields that each sets besides Type and Time; docs/use/embedding.md has a table.
const (
	// EventMessage: Conversation, Message: a message came. Messages that the same user has sent from another device
	// come as well, so that all devices show the same: compare Message.Sender.User() with the own user, and
	// Message.Sender with Device.ID. Messages that this device sends are not included: the call that sends a message
	// returns it.
	EventMessage     EventType = iota + 1
	EventAccepted              // Conversation, Message: an own message is on disk at the organization
	EventDelivered             // Conversation, Message, Device: an own message has reached a device
	EventUndelivered           // Conversation, Message, Err: refused for good, or accepted but not for all members
	EventUnreadable            // Conversation, Epoch, Err, perhaps By: a message came that cannot be read
	EventCreated               // Conversation: a conversation of this device has been ordered
	EventJoined                // Conversation, Epoch: this device was added to the conversation
	EventAdded                 // Conversation, Device, By, Epoch
	EventRemoved               // Conversation, Device, By, Epoch
	EventLeft                  // Conversation, perhaps By: this device was removed, or the conversation closed
	EventRules                 // Conversation, By, Epoch: the name, the admins or the rights of members have changed
	EventEpoch                 // Conversation, By, Epoch: a commit was taken in
	EventWon                   // Conversation, Epoch: the commit was this device's
	EventLost                  // Conversation, Epoch: this device's commit was overtaken and will be repeated
	EventFailed                // Conversation, Err: a change of the group was given up
	EventPoison                // Conversation, Epoch, Err, perhaps By: this device cannot process the epoch's commit
	EventDivergence            // Conversation, Err, perhaps By: alarm: somebody saw another order of entries
	EventGap                   // Conversation, Err: items expired before this device read them
	EventBroken                // Conversation, Err: this device can no longer follow: see Device.Rejoin
	EventTrust                 // Domain, Err: alarm: an organization's root has changed; see Device.AcceptRoot
	EventPinned                // Domain: an organization was met for the first time
	EventDevices               // Device: a device of the same user was enrolled or revoked
	EventConnected             // Node
	EventOffline               // Err, Retry: not connected; Retry is the next attempt
	EventDelayed               // Conversation, Err, Retry: a submission or fetch was refused for now
	EventMissed                // Count: events that a slow subscriber has missed: read the state again
	EventMoved                 // Conversation, From, Epoch: From was closed by a ReInit and continues as Conversation
	// EventDeviceWaiting: Device, Number: this device does not know a device of the same user: see
	// Device.ConfirmDevice. With Conversation and By, the device is a member of that conversation already, added by
	// By.
	EventDeviceWaiting
	EventRequest // Conversation: another user has added this device to the conversation: see Device.Held
	EventRefused // Conversation, Err: this device has refused the conversation, since too many requests wait
	// EventRolledBack: Err: an older copy of this device's store was restored. The device sends nothing in a
	// conversation before it has new keys there; an EventGap names the missing messages.
	EventRolledBack
	// EventClock: Err: the clocks of this device and of its node differ by more than a minute. Up to a day of
	// difference the device works in the node's time.
	EventClock
	// EventPerson: Conversation, Device, Count, Err, perhaps By: a device was added whose user is another person than
	// the one who had the name before. Count is the number of that person among those whom this device has met
	// (Member.Person).
	EventPerson
	// EventAdmin: Conversation, By, Err: this device's user has become an admin. Err is nil if an admin did it. Err
	// is set if no admin is left: then the event is an offer, which Device.AnswerAdmin answers
	// (Conversation.Offered).
	EventAdmin
	// EventAgain: Conversation, Device: a member's device cannot follow the conversation and asks to be added again:
	// see Device.Restore.
	EventAgain
	// EventChanged: Conversation, Message, Change, perhaps By: a message of the history has changed; Message is its
	// present form. Changes by this device's user are reported too.
	EventChanged
	EventMention // Conversation, Message: a message that names this device's user came; EventMessage came before
	// EventActed: Conversation, Content, perhaps Err: an own reaction, edit or delete is on disk at the organization, or
	// was refused for good
	EventActed
)

// String returns the name of the type.
func (t EventType) String() string {
	names := [...]string{"", "message", "accepted", "delivered", "undelivered", "unreadable", "created", "joined", "added", "removed",
		"left", "rules", "epoch", "won", "lost", "failed", "poison", "divergence", "gap", "broken", "trust", "pinned", "devices",
		"connected", "offline", "delayed", "missed", "moved", "device waiting", "request", "refused", "rolled back", "clock", "person", "admin", "asks to be added again", "changed", "mention", "acted"}
	if int(t) < len(names) {
		return names[t]
	}
	return "unknown"
}

// Event is something that happened. Its effects are already on disk.
type Event struct {
	Type         EventType
	Time         time.Time
	Conversation ConversationID
	From         ConversationID
	Message      *Message
	Device       DeviceID
	By           DeviceID
	Epoch        Epoch
	Domain       Domain
	Node         NodeID
	Retry        time.Duration
	Count        int    // of EventMissed and EventPerson
	Number       string // the number that the user compares on two devices
	Err          error
	Change       ChangeKind // of EventChanged
	Content      ContentID  // of EventActed
}

// eventBuffer is the number of events that wait for a subscriber before it misses some.
const eventBuffer = 1024

// hub hands events to subscribers, who may be slow.
type hub struct {
	mu   sync.Mutex
	subs map[*subscriber]struct{}
}

type subscriber struct {
	events chan Event
	missed int
}

func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.offer(e)
	}
}

// offer never blocks.
func (s *subscriber) offer(e Event) {
	if s.missed > 0 {
		select {
		case s.events <- Event{Type: EventMissed, Time: e.Time, Count: s.missed}:
			s.missed = 0
		default:
			s.missed++
			return
		}
	}
	select {
	case s.events <- e:
	default:
		s.missed++
	}
}

func (h *hub) add() *subscriber {
	s := &subscriber{events: make(chan Event, eventBuffer)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = make(map[*subscriber]struct{})
	}
	h.subs[s] = struct{}{}
	return s
}

func (h *hub) drop(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

// Subscribe returns the events from the call on, until ctx ends or the loop is left. A subscriber that does not keep
// up misses events, and gets an EventMissed.
func (d *Device) Subscribe(ctx context.Context) iter.Seq[Event] {
	s := d.hub.add()
	stop := context.AfterFunc(ctx, func() { d.hub.drop(s) })
	return func(yield func(Event) bool) {
		defer stop()
		defer d.hub.drop(s)
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-s.events:
				if !yield(e) {
					return
				}
			}
		}
	}
}
