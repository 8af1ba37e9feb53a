package client

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// DeliveryState says how far an own message has come at one organization.
type DeliveryState uint8

// The states.
const (
	DeliveryUnknown DeliveryState = 0 // this device is offline, or its node is of an earlier release
	DeliveryDone    DeliveryState = 1 // the organization has it on disk, for its devices
	DeliveryWaiting DeliveryState = 2 // it waits at this device's own organization
	DeliveryRefused DeliveryState = 3 // the organization will not get it
)

// String is the state's name.
func (s DeliveryState) String() string {
	names := [...]string{"unknown", "delivered", "waiting", "refused"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Delivery is how far something has come at one organization.
type Delivery struct {
	Organization wire.Domain
	State        DeliveryState
	Since        time.Time // of DeliveryWaiting: when the oldest message that waits for the organization was accepted
	// Err is why: of DeliveryRefused, and of DeliveryWaiting after a failed attempt. Its code is wire.NotAdmitted where
	// the own organization does not talk to that one.
	Err error
}

// Progress is how far the own messages of a conversation have come at the other organizations.
type Progress struct {
	// Waiting are the organizations for which anything waits, of any device of the own organization, by name.
	Waiting []Delivery
	// Messages are the organizations of the other members, by name, for each own message that was accepted.
	Messages map[uint64][]Delivery
}

// Progress describes own messages of a conversation, as History gives them; others are passed over. It asks the node
// once, and does not wait for a connection: without one, or with a node of an earlier release, all but refusals is
// DeliveryUnknown. Of messages that were sent before a member's organization joined it says that the organization has
// them.
func (d *Device) Progress(ctx context.Context, id wire.ConversationID, messages []Message) (*Progress, error) {
	lanes, known, err := d.waitingLanes(ctx, id)
	if err != nil {
		return nil, err
	}
	p := &Progress{Messages: make(map[uint64][]Delivery)}
	for i := range lanes {
		p.Waiting = append(p.Waiting, waitingFor(&lanes[i]))
	}
	return p, d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil {
			return err
		}
		first, err := t.firstWaiting(lanes)
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
				p.Messages[m.Number] = deliveries(rec, m.Number, orgs, lanes, first, known)
			}
		}
		return nil
	})
}

// waitingLanes asks the node what waits. known is false where it cannot be asked.
func (d *Device) waitingLanes(ctx context.Context, id wire.ConversationID) (lanes []wire.WaitingLane, known bool, err error) {
	if s, _ := d.link.get(); s == nil {
		return nil, false, nil
	}
	if ok, err := d.supports(ctx, wire.FeatureWaiting); err != nil || !ok {
		return nil, false, ctx.Err()
	}
	var now wire.ConversationID
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
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
		return nil, false, nil // this device is out of it
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

// firstWaiting is, for each lane, the number of the first own message in it that the node has named.
func (t *thread) firstWaiting(lanes []wire.WaitingLane) (map[wire.Domain]uint64, error) {
	first := make(map[wire.Domain]uint64)
	if len(lanes) == 0 {
		return first, nil
	}
	return first, t.u.Scan(recordKey(recordAccepted, idPart(t.id)), func(_, value []byte) error {
		var sent wire.SubmissionID
		if len(value) != len(sent)+8 {
			return nil
		}
		copy(sent[:], value)
		n := binary.BigEndian.Uint64(value[len(sent):])
		for i := range lanes {
			if have, ok := first[lanes[i].Organization]; slices.Contains(lanes[i].First, sent) && (!ok || n < have) {
				first[lanes[i].Organization] = n
			}
		}
		return nil
	})
}

// otherOrganizations are those of the other members, by name.
func (t *thread) otherOrganizations() (list []wire.Domain) {
	if t.group == nil {
		return nil
	}
	own := t.d.self.Device.Organization()
	seen := make(map[wire.Domain]bool)
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

// deliveries is how far one message has come. What waits is handed over in order: after the first own message that waits,
// all wait.
func deliveries(rec *messageRecord, n uint64, orgs []wire.Domain, lanes []wire.WaitingLane, first map[wire.Domain]uint64, known bool) []Delivery {
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
		at := slices.IndexFunc(lanes, func(l wire.WaitingLane) bool { return l.Organization == org })
		if at >= 0 {
			l := &lanes[at]
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
