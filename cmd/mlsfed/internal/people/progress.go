package people

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// deliveryJSON is the delivery state of a message at an organization, as --json prints it.
type deliveryJSON struct {
	Organization wire.Domain `json:"organization"`
	State        string      `json:"state"` // delivered, waiting, refused or unknown
	Since        *time.Time  `json:"since,omitempty"`
	Error        string      `json:"error,omitempty"`
}

func deliveriesJSON(list []client.Delivery) (out []deliveryJSON) {
	for _, v := range list {
		j := deliveryJSON{Organization: v.Organization, State: v.State.String()}
		if !v.Since.IsZero() {
			since := v.Since.UTC()
			j.Since = &since
		}
		if v.Err != nil {
			j.Error = cli.Plain(v.Err).Error()
		}
		out = append(out, j)
	}
	return out
}

// DeliveryText describes the delivery state of an accepted message. It returns "" if every organization has the
// message, or if the state is not known.
func DeliveryText(list []client.Delivery, now time.Time) string {
	var parts []string
	done := 0
	for _, v := range list {
		switch v.State {
		case client.DeliveryDone:
			done++
		case client.DeliveryWaiting:
			if !OnItsWay(v, now) {
				parts = append(parts, WaitingText(v, now))
			}
		case client.DeliveryRefused:
			parts = append(parts, "refused by "+string(v.Organization))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	if len(list) > 1 {
		parts = slices.Insert(parts, 0, fmt.Sprintf("delivered to %d of %d organizations", done, len(list)))
	}
	return strings.Join(parts, ", ")
}

// OnItsWay reports whether a message has waited only for the short time that every message takes.
func OnItsWay(v client.Delivery, now time.Time) bool {
	return v.State == client.DeliveryWaiting && v.Err == nil && now.Sub(v.Since) < 5*time.Second
}

// WaitingText describes for whom something waits, and since when.
func WaitingText(v client.Delivery, now time.Time) string {
	text := fmt.Sprintf("waiting for %s since %s", v.Organization, cli.ClockTime(v.Since, now))
	if wire.CodeOf(v.Err) == wire.NotAdmitted {
		text += ": your organization does not talk to it, ask your operator"
	}
	return text
}

// settled holds, by conversation, the number before which the delivery state of all messages is final.
type settled struct {
	mu     sync.Mutex // guards before
	before map[wire.ConversationID]uint64
}

// mostAsked bounds the newest own messages about which the node is asked.
const mostAsked = 200

// ProgressOf asks for the delivery state of own messages, and for what waits in the conversation. It does not ask
// again about messages that all organizations have. The result is for display: nil if it is not known.
func (p *Person) ProgressOf(ctx context.Context, id wire.ConversationID, messages []client.Message) *client.Progress {
	p.settled.mu.Lock()
	before := p.settled.before[id]
	p.settled.mu.Unlock()
	var own []client.Message
	for _, m := range slices.Backward(messages) {
		if m.Sender == p.DeviceID && m.Status == client.StatusAccepted && m.Number >= before && len(own) < mostAsked {
			own = append(own, m)
		}
	}
	if len(own) == 0 {
		return nil
	}
	progress, err := p.Progress(ctx, id, own)
	if err != nil {
		return nil
	}
	open := false
	for _, list := range progress.Messages {
		open = open || slices.ContainsFunc(list, func(v client.Delivery) bool {
			return v.State != client.DeliveryDone
		})
	}
	if !open {
		p.settled.mu.Lock()
		if p.settled.before == nil {
			p.settled.before = make(map[wire.ConversationID]uint64)
		}
		p.settled.before[id] = own[0].Number + 1
		p.settled.mu.Unlock()
	}
	return progress
}
