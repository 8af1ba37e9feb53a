package main

import (
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

func TestDeliveryText(t *testing.T) {
	now := time.Date(2026, 3, 1, 15, 0, 0, 0, time.Local)
	old := time.Date(2026, 3, 1, 14, 2, 0, 0, time.Local)
	down := wire.Errorf(wire.Unavailable, "deliver", "cannot be reached")
	at := func(d wire.Domain, s client.DeliveryState) client.Delivery {
		v := client.Delivery{Organization: d, State: s}
		if s == client.DeliveryWaiting {
			v.Since, v.Err = old, down
		}
		return v
	}
	for want, list := range map[string][]client.Delivery{
		"waiting for b.example since 14:02": {at("b.example", client.DeliveryWaiting)},
		"delivered to 2 of 4 organizations, waiting for c.example since 14:02, refused by d.example": {
			at("a.example", client.DeliveryDone), at("b.example", client.DeliveryDone), at("c.example", client.DeliveryWaiting), at("d.example", client.DeliveryRefused)},
		"waiting for z.example since 2026-02-27 14:02: your organization does not talk to it, ask your operator": {
			{Organization: "z.example", State: client.DeliveryWaiting, Since: old.AddDate(0, 0, -2), Err: wire.NotAdmitted}},
	} {
		if got := deliveryText(list, now); got != want {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
	for name, list := range map[string][]client.Delivery{
		"nobody else": nil, "all have it": {at("b.example", client.DeliveryDone)}, "unknown": {at("b.example", client.DeliveryUnknown)},
		"on its way": {{Organization: "b.example", State: client.DeliveryWaiting, Since: now.Add(-time.Second)}},
	} {
		if got := deliveryText(list, now); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestChatSaysForWhomItWaits: below the message and in the status line, within the width.
func TestChatNamesOrganizationsThatWait(t *testing.T) {
	m := &chatModel{p: &person{id: "mimi://a.example/d/alice/phone"}, width: 80, height: 24, online: true, link: "connected", opened: make(map[uint64]bool)}
	msg := client.Message{Number: 7, Sender: m.p.id, Status: client.StatusAccepted, Time: time.Now(), Content: client.Content{Type: client.ContentText, Text: "Soup?"}}
	waits := client.Delivery{Organization: "b.example", State: client.DeliveryWaiting, Since: time.Now().Add(-time.Hour)}
	m.progress = &client.Progress{Waiting: []client.Delivery{waits}, Messages: map[uint64][]client.Delivery{7: {waits}}}
	for _, width := range []int{80, 30} {
		lines := m.messageLines(&msg, width)
		if got := strings.Join(lines, "\n"); !strings.Contains(got, "✓ waiting for b.") {
			t.Errorf("%d columns: %q", width, got)
		}
	}
	if got := m.statusLine(); !strings.Contains(got, "waiting for b.example since ") {
		t.Errorf("status line: %q", got)
	}
	m.progress.Waiting = append(m.progress.Waiting, client.Delivery{Organization: "c.example", State: client.DeliveryWaiting, Since: time.Now().Add(-time.Minute)})
	if got := m.statusLine(); !strings.Contains(got, "and for 1 more") {
		t.Errorf("status line: %q", got)
	}
	m.progress = nil
	if got := m.statusLine(); !strings.Contains(got, "connected") {
		t.Errorf("status line: %q", got)
	}
	m.event(client.Event{Type: client.EventOffline, Time: time.Now(), Err: client.ErrOffline})
	if !strings.HasPrefix(m.link, "offline since ") {
		t.Errorf("link: %q", m.link)
	}
}

// TestChatOffersToAddAgain: who asks is named among the messages, with the command that does it.
func TestChatOffersToAddAgain(t *testing.T) {
	m := newChatModel(t.Context(), &person{id: "mimi://a.example/d/alice/phone", opts: &peopleOptions{}})
	m.event(client.Event{Type: client.EventAgain, Conversation: "conversation-one", Device: "mimi://b.example/d/bob/phone", Time: time.Now()})
	list := m.remarks["conversation-one"]
	if len(list) != 1 || !strings.Contains(list[0].text, "bob@b.example/phone cannot follow") || !strings.Contains(list[0].text, "/again") {
		t.Errorf("remarks %+v", list)
	}
}
