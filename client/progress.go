package client

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// DeliveryState is the progress of an own message at one organization.
type DeliveryState uint8

// The states.
const (
	DeliveryUnknown DeliveryState = 0 // this device is offline, or its node is of an earlier release
	DeliveryDone    DeliveryState = 1 // the organization has the message on disk, for its devices
	DeliveryWaiting DeliveryState = 2 // the message waits at this device's own organization
	DeliveryRefused DeliveryState = 3 // the organization will not get the message
)

// String returns the name of the state.
func (s DeliveryState) String() string {
	names := [...]string{"unknown", "delivered", "waiting", "refused"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Delivery is the progress of a message, or of a conversation's queue, at one organization.
type Delivery struct {
	Organization Domain
	State        DeliveryState
	Since        time.Time // for DeliveryWaiting: when the oldest message that waits for the organization was accepted
	// Err is the reason of DeliveryRefused, and of DeliveryWaiting after a failed attempt. Its code is
	// [NotAdmitted] if the own organization does not talk to the other one.
	Err error
}

// Progress is the progress of the own messages of a conversation at the other organizations.
type Progress struct {
	// Waiting lists the organizations for which items wait, from any device of the own organization, sorted by name.
	Waiting []Delivery
	// Messages lists, for each accepted own message, the organizations of the other members, sorted by name.
	Messages map[uint64][]Delivery
}

// Progress describes own messages of a conversation, in the form that History returns; it ignores other messages. It
// asks the node once, and does not wait for a connection: without one, or with a node of an earlier release, all
// states except refusals are DeliveryUnknown. For messages that were sent before a member's organization joined,
// Progress reports that the organization has them.
func (d *Device) Progress(ctx context.Context, id ConversationID, messages []Message) (*Progress, error) {
	waiting, known, err := d.waitingByOrganization(ctx, id)
	if err != nil {
		return nil, err
	}
	p := &Progress{Messages: make(map[uint64][]Delivery)}
	for i := range waiting {
		p.Waiting = append(p.Waiting, waitingFor(&waiting[i]))
	}
	return p, d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		first, err := t.firstWaiting(waiting)
		if err != nil {
			return err
		}
		orgs := t.otherOrganizations()
		for i := range messages {
			m := &messages[i]
			if m.Status != StatusAccepted || m.Sender != d.self.Device {
				continue
			}
			rec, _, err := t.messageAt(m.Number)
			if err != nil {
				return err
			}
			if rec != nil {
				p.Messages[m.Number] = deliveries(rec, m.Number, orgs, waiting, first, known)
			}
		}
		return nil
	})
}

// waitingByOrganization asks the node which items wait. knownAdditions is false if the node cannot be asked.
func (d *Device) waitingByOrganization(ctx context.Context, id ConversationID) (waiting []wire.WaitingLane, known bool, err error) {
	if s, _ := d.link.get(); s == nil {
		return nil, false, nil
	}
	if ok, err := d.supports(ctx, wire.FeatureWaiting); err != nil || !ok {
		return nil, false, ctx.Err()
	}
	var now ConversationID
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err == nil {
			now = t.id
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	var a wire.WaitingAnswer
	err = d.call(ctx, wire.MethodWaiting, &wire.WaitingRequest{Conversation: now}, &a)
	if code := wire.CodeOf(err); code == wire.UnknownConversation || code == wire.NotReplica {
		return nil, false, nil // this device is out of the conversation
	}
	return a.Lanes, err == nil, err
}

func waitingFor(l *wire.WaitingLane) Delivery {
	v := Delivery{Organization: l.Organization, State: DeliveryWaiting, Since: l.Oldest.Std()}
	switch l.Code {
	case "":
	case wire.NotAdmitted:
		v.Err = wire.Errorf(wire.NotAdmitted, "deliver", "%s is suspended, or not in the allow-list of this organization", l.Organization)
	default:
		v.Err = wire.Errorf(l.Code, "deliver", "%s cannot be reached, or takes nothing now", l.Organization)
	}
	return v
}

// firstWaiting returns, for each organization, the number of the first own message in it that the node has named.
func (t *conversation) firstWaiting(waiting []wire.WaitingLane) (map[Domain]uint64, error) {
	first := make(map[Domain]uint64)
	if len(waiting) == 0 {
		return first, nil
	}
	return first, t.u.Scan(recordKey(recordAccepted, idPart(t.id)), func(_, value []byte) error {
		var sent wire.SubmissionID
		if len(value) != len(sent)+8 {
			return nil
		}
		copy(sent[:], value)
		n := binary.BigEndian.Uint64(value[len(sent):])
		for i := range waiting {
			if have, ok := first[waiting[i].Organization]; slices.Contains(waiting[i].First, sent) && (!ok || n < have) {
				first[waiting[i].Organization] = n
			}
		}
		return nil
	})
}

// otherOrganizations returns the organizations of the other members, sorted by name.
func (t *conversation) otherOrganizations() (list []Domain) {
	if t.group == nil {
		return nil
	}
	own := t.d.self.Device.Organization()
	seen := make(map[Domain]bool)
	t.group.Public().Members(func(m mlscore.Member) bool {
		if device, err := deviceOf(m.Credential); err == nil && device.Organization() != own {
			seen[device.Organization()] = true
		}
		return true
	})
	for org := range seen {
		list = append(list, org)
	}
	slices.Sort(list)
	return list
}

// deliveries returns the progress of one message. Waiting messages are handed over in order: after the first own
// message that waits, all own messages wait.
func deliveries(rec *messageRecord, n uint64, orgs []Domain, waiting []wire.WaitingLane, first map[Domain]uint64, known bool) []Delivery {
	orgs = slices.Clone(orgs)
	for _, r := range rec.Refusals {
		if !slices.Contains(orgs, r.Organization) {
			orgs = append(orgs, r.Organization)
		}
	}
	list := make([]Delivery, 0, len(orgs))
	for _, org := range orgs {
		v := Delivery{Organization: org, State: DeliveryDone}
		if !known {
			v.State = DeliveryUnknown
		}
		at := slices.IndexFunc(waiting, func(l wire.WaitingLane) bool { return l.Organization == org })
		if at >= 0 {
			l := &waiting[at]
			from, named := first[org]
			if named && n >= from || !named && l.Items > uint64(len(l.First)) && rec.Stored > l.Last {
				v = waitingFor(l)
			}
		}
		for _, r := range rec.Refusals {
			if r.Organization == org {
				v = Delivery{Organization: org, State: DeliveryRefused, Err: lossError(org, r.Reason)}
			}
		}
		list = append(list, v)
	}
	return list
}
