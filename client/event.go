package client

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// EventType says what an Event tells.
type EventType uint8

// The types of Event, and which fields are set besides Type and Time; docs/embedding.md has them as a table.
const (
	// EventMessage: Conversation, Message: one that came. Messages that the same user has sent from another device come
	// as well, so that all devices show the same: compare Message.Sender.User() with the own user, and Message.Sender with
	// Device.ID. What this device sends is not among them: the call that sends it returns it.
	EventMessage     EventType = iota + 1
	EventAccepted              // Conversation, Message: an own one is on disk at the organization
	EventDelivered             // Conversation, Message, Device: an own one has reached a device
	EventUndelivered           // Conversation, Message, Err: an own one was refused for good, or was accepted and some members will not get it
	EventUnreadable            // Conversation, Epoch, Err, perhaps By: a message came that cannot be read
	EventCreated               // Conversation: an own one has been ordered
	EventJoined                // Conversation, Epoch: this device was added to it
	EventAdded                 // Conversation, Device, By, Epoch
	EventRemoved               // Conversation, Device, By, Epoch
	EventLeft                  // Conversation, perhaps By: this device was removed, or the conversation closed
	EventRules                 // Conversation, By, Epoch: name, admins or what members may do has changed
	EventEpoch                 // Conversation, By, Epoch: a commit was taken in
	EventWon                   // Conversation, Epoch: the commit was this device's
	EventLost                  // Conversation, Epoch: this device's commit was overtaken and will be made again
	EventFailed                // Conversation, Err: a change of the group was given up
	EventPoison                // Conversation, Epoch, Err, perhaps By: a commit won its epoch that this device cannot process
	EventDivergence            // Conversation, Err, perhaps By: alarm: somebody was shown another order of entries
	EventGap                   // Conversation, Err: items expired before this device read them
	EventBroken                // Conversation, Err: it cannot be followed any further: see Device.Rejoin
	EventTrust                 // Domain, Err: alarm: an organization's root has changed; see Device.AcceptRoot
	EventPinned                // Domain: an organization was met for the first time
	EventDevices               // Device: of the same user, was enrolled or revoked
	EventConnected             // Node
	EventOffline               // Err, Retry: not connected; the next attempt
	EventDelayed               // Conversation, Err, Retry: what waits to go out or to be fetched was refused for now, and is tried again
	EventMissed                // Count: events that a slow subscriber has lost: read the state again
	EventMoved                 // Conversation, From, Epoch: From was closed by a ReInit and goes on as Conversation
	// EventDeviceWaiting: Device, Number: a device of the same user is not known: see Device.ConfirmDevice. With
	// Conversation and By, it is a member of that conversation already, added by By.
	EventDeviceWaiting
	EventRequest // Conversation: somebody has added this device to it: see Device.Held
	EventRefused // Conversation, Err: this device has refused it, since too many requests wait
	// EventRolledBack: Err: an older copy of this device's store was put back. It sends nothing in a conversation before
	// it has new keys there; an EventGap names the messages that are missing.
	EventRolledBack
	// EventClock: Err: this device's clock and its node's differ by more than a minute. Up to a day the device works in
	// the node's time.
	EventClock
	// EventPerson: Conversation, Device, Count, Err, perhaps By: this device was added, and its user is another person than the
	// one who had the name before: the Count-th whom this device has met (Member.Person).
	EventPerson
	// EventAdmin: Conversation, By, Err: this device's user has become an admin. Err is nil if an admin has done it, and
	// says why if there was no admin any more.
	EventAdmin
	// EventAgain: Conversation, Device: a member's device cannot follow the conversation and asks to be added again: see
	// Device.Restore.
	EventAgain
)

// String is the type's name.
func (t EventType) String() string {
	names := [...]string{"", "message", "accepted", "delivered", "undelivered", "unreadable", "created", "joined", "added", "removed",
		"left", "rules", "epoch", "won", "lost", "failed", "poison", "divergence", "gap", "broken", "trust", "pinned", "devices",
		"connected", "offline", "delayed", "missed", "moved", "device waiting", "request", "refused", "rolled back", "clock", "person", "admin", "asks to be added again"}
	if int(t) < len(names) {
		return names[t]
	}
	return "unknown"
}

// Event is something that happened. What it tells is on disk already.
type Event struct {
	Type         EventType
	Time         time.Time
	Conversation wire.ConversationID
	From         wire.ConversationID
	Message      *Message
	Device       wire.DeviceID
	By           wire.DeviceID
	Epoch        wire.Epoch
	Domain       wire.Domain
	Node         wire.NodeID
	Retry        time.Duration
	Count        int    // of EventMissed and EventPerson
	Number       string // that the user compares on two devices
	Err          error
}

// eventBuffer is how many events wait for a subscriber before it misses some.
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

// offer never waits.
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

// Subscribe gives the events from the call on, until ctx ends or the loop is left. A subscriber who does
// not keep up misses events, and is told so by an EventMissed.
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
