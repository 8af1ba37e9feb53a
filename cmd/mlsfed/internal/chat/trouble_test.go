package chat

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/wire"
)

// TestChatNamesOrganizationsThatWait checks that a chat names the organizations for which a message waits, below the
// message and in the status line, within the width.
func TestChatNamesOrganizationsThatWait(t *testing.T) {
	m := &model{p: &people.Person{DeviceID: "mimi://a.example/d/alice/phone"}, width: 80, height: 24, online: true, link: "connected", opened: make(map[uint64]bool)}
	msg := client.Message{Number: 7, Sender: m.p.DeviceID, Status: client.StatusAccepted, Time: time.Now(), Content: client.Content{Type: client.ContentText, Text: "Soup?"}}
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

// TestChatOffersToAddAgain checks that a chat names a device that asks to be added again, with the command that does
// it.
func TestChatOffersToAddAgain(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}})
	m.event(client.Event{Type: client.EventAgain, Conversation: "conversation-one", Device: "mimi://b.example/d/bob/phone", Time: time.Now()})
	list := m.remarks["conversation-one"]
	if len(list) != 1 || !strings.Contains(list[0].text, "bob@b.example/phone cannot follow") || !strings.Contains(list[0].text, "/again") {
		t.Errorf("remarks %+v", list)
	}
}

// TestChatNamesItsOwnCommands checks that an error that names a command of the command line names the chat's own
// command in a chat, if there is one.
func TestChatNamesItsOwnCommands(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{people.NotHere("zoe@b.example").Error(), "zoe@b.example is not in this conversation: /members shows who is"},
		{"bob@b.example is no admin here: 'mlsfed rules' shows who is", "bob@b.example is no admin here: ★ in /members shows who is"},
		{people.ChangeText(client.Event{Type: client.EventAgain, Device: "mimi://b.example/d/bob/phone"}), "bob@b.example/phone cannot follow this conversation any further and asks to be added again: /again does it"},
		{people.ChangeText(client.Event{Type: client.EventAdmin, Err: errors.New("x")}), "no admin is left, and you are offered to be the next one: /admin yes, or /admin no"},
		{people.Warning(client.Event{Type: client.EventTrust, Err: errors.New("x")}), "ANOTHER ROOT CERTIFICATE: x: /trust"},
		{"you are the last admin: name who is to be one with --successor USER, or 'mlsfed rules CONV --promote USER' (here are bob)", "you are the last admin: name who is to be one: /leave yes USER (here are bob)"},
	} {
		if got := ownCommands(c.text); got != c.want {
			t.Errorf("%q is shown as %q, wanted %q", c.text, got, c.want)
		}
	}
}

// TestNarrowChat checks that without room for columns, members are shown among the messages, and the help has no
// columns.
func TestNarrowChat(t *testing.T) {
	for _, width := range []int{40, 80, 120} {
		m := newModel(t.Context(), &people.Person{DeviceID: "mimi://b.example/d/bob/phone"})
		m.width, m.height, m.current = width, 24, "conversation-one"
		m.list = []client.Conversation{{ID: m.current}}
		m.members = []client.Member{{Device: "mimi://a.example/d/alice/phone", User: "mimi://a.example/u/alice", Admin: true}, {Device: m.p.DeviceID, User: m.p.DeviceID.User(), Self: true}}
		was := m.hasMembers()
		m.command("members")
		shown := strings.Join(m.lines(m.middleWidth()), "\n")
		if width < widthFor3 != strings.Contains(shown, "alice@a.example/phone ★") || width >= widthFor3 && m.hasMembers() == was {
			t.Errorf("%d columns: /members shows %q", width, shown)
		}
		m.remarks = make(map[wire.ConversationID][]remark)
		m.command("help")
		longest := 0
		for _, line := range m.lines(m.middleWidth()) {
			longest = max(longest, len([]rune(line)))
		}
		if columns := strings.Contains(strings.Join(m.lines(m.middleWidth()), "\n"), "/members                show"); columns != (width >= 80) || longest > m.middleWidth() {
			t.Errorf("%d columns: columns %v, lines of up to %d", width, columns, longest)
		}
	}
}

// TestChatShowsTroubles checks that a chat shows each problem of its conversation with the command that helps.
func TestChatShowsTroubles(t *testing.T) {
	for want, c := range map[string]client.Conversation{
		"/rejoin asks a member to add it again": {State: client.StateBroken, Why: "the entries are gone", Handshakes: wire.HandshakesPrivate},
		"has not entered yet":                   {State: client.StateJoining, Why: "the Welcome is being fetched"},
		"/admin yes, or /admin no":              {State: client.StateActive, Offered: true},
		"/again does it":                        {State: client.StateActive, Again: []wire.DeviceID{"mimi://b.example/d/bob/laptop"}},
	} {
		c.Rules.Name, c.ID = "Lunch", "conversation-one"
		m := newModel(t.Context(), &people.Person{DeviceID: "mimi://b.example/d/bob/phone"})
		m.width, m.height, m.current, m.list = 200, 24, c.ID, []client.Conversation{c}
		m.showMembers = false
		if shown := strings.Join(m.lines(170), " "); !strings.Contains(strings.Join(strings.Fields(shown), " "), want) {
			t.Errorf("the chat shows %q, wanted %q", shown, want)
		}
	}
}
