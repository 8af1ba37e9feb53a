package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// deliveryJSON is how far a message has come at an organization, as --json prints it.
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
			j.Error = plain(v.Err).Error()
		}
		out = append(out, j)
	}
	return out
}

// deliveryText says how far an accepted message has come, "" where there is nothing to say: every organization has it, or
// nobody can tell.
func deliveryText(list []client.Delivery, now time.Time) string {
	var parts []string
	done := 0
	for _, v := range list {
		switch v.State {
		case client.DeliveryDone:
			done++
		case client.DeliveryWaiting:
			if !onItsWay(v, now) {
				parts = append(parts, waitingText(v, now))
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

// onItsWay reports whether something waits as everything does for a moment.
func onItsWay(v client.Delivery, now time.Time) bool {
	return v.State == client.DeliveryWaiting && v.Err == nil && now.Sub(v.Since) < 5*time.Second
}

// waitingText says for whom something waits, and since when.
func waitingText(v client.Delivery, now time.Time) string {
	text := fmt.Sprintf("waiting for %s since %s", v.Organization, clockTime(v.Since, now))
	if wire.CodeOf(v.Err) == wire.NotAdmitted {
		text += ": your organization does not talk to it, ask your operator"
	}
	return text
}

// clockTime writes a time of today without its date.
func clockTime(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// settled are the messages of which no more is to be learnt, by conversation: those before a number.
type settled struct {
	mu     sync.Mutex // guards before
	before map[wire.ConversationID]uint64
}

// mostAsked is how many of the newest own messages the node is asked about.
const mostAsked = 200

// progressOf asks how far own messages have come, and what waits in the conversation. Messages of which it once said that
// all organizations have them are not asked about again. It is for display: nil where it cannot be told.
func (p *person) progressOf(ctx context.Context, id wire.ConversationID, messages []client.Message) *client.Progress {
	p.settled.mu.Lock()
	before := p.settled.before[id]
	p.settled.mu.Unlock()
	var own []client.Message
	for _, m := range slices.Backward(messages) {
		if m.Sender == p.id && m.Status == client.StatusAccepted && m.Number >= before && len(own) < mostAsked {
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

// waitingLine says for whom messages of the conversation wait, "" for nobody.
func (m *chatModel) waitingLine(now time.Time) string {
	if !m.online || m.progress == nil || !m.waits.IsZero() { // that is said already
		return ""
	}
	late := slices.DeleteFunc(slices.Clone(m.progress.Waiting), func(v client.Delivery) bool { return onItsWay(v, now) })
	if len(late) == 0 {
		return ""
	}
	text := waitingText(late[0], now)
	if more := len(late) - 1; more > 0 {
		text += fmt.Sprintf(" and for %d more", more)
	}
	return text
}
