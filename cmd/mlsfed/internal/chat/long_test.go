package chat

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people/peopletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongMessageIsBrokenOnce checks that the work for a text is in proportion to its length, that a key repeats none
// of it, and that only the beginning is shown until the person opens the message.
func TestLongMessageIsBrokenOnce(t *testing.T) {
	long := strings.Repeat("x", client.MaxText-1)
	lines := breakLine(long, 74)
	if want := (len(long) + 73) / 74; len(lines) != want || strings.Join(lines, "") != long {
		t.Fatalf("%d lines, wanted %d", len(lines), want)
	}
	p := &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}}
	m := newModel(t.Context(), p)
	m.width, m.height, m.current = 80, 24, "\x01\x02\x03\x04\x05\x06\x07\x08"
	m.list = []client.Conversation{{ID: m.current, State: client.StateActive}}
	m.messages = []client.Message{{Number: 7, Sender: "mimi://a.example/d/bob/phone", Content: client.Content{Type: client.ContentText, Text: long}}}
	text := ansi.Strip(strings.Join(m.lines(80), "\n"))
	if n := strings.Count(text, "\n"); n > mostLines+3 || !strings.Contains(text, "more lines: /open 7") {
		t.Errorf("%d lines are shown:\n%s", n, text[max(0, len(text)-200):])
	}
	if allocs := testing.AllocsPerRun(5, func() { m.lines(80) }); allocs > 2000 {
		t.Errorf("%.0f allocations for lines that were broken before", allocs)
	}
	m.openMessage([]string{"7"})
	if n := len(m.lines(80)); n < len(long)/80 {
		t.Errorf("opened, %d lines", n)
	}
}

// TestEmojiHaveOneWidth checks that emoji whose width differs between terminals are taken apart.
func TestEmojiHaveOneWidth(t *testing.T) {
	for s, want := range map[string]string{
		"👍🏽": "👍", "👨\u200d👩\u200d👧": "👨👩👧", "❤\ufe0f": "❤", "plain": "plain",
	} {
		if got := separateEmoji(s); got != want {
			t.Errorf("%q is shown as %q, wanted %q", s, got, want)
		}
	}
}

// TestPastedCommandIsText checks that a pasted command is text, and a typed command is a command.
func TestPastedCommandIsText(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}})
	enter := tea.KeyMsg{Type: tea.KeyEnter}
	m.key(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("/quit"), Paste: true})
	if m.key(enter); !strings.HasPrefix(m.said, "no conversation yet") { // the line would have been sent
		t.Errorf("a pasted command: %q", m.said)
	}
	m.key(runes("/quit"))
	if cmd := m.key(enter); cmd == nil || fmt.Sprintf("%T", cmd()) != "tea.QuitMsg" {
		t.Error("a typed command does nothing")
	}
	m.key(runes("a"))
	m.key(tea.KeyMsg{Type: tea.KeyEnter, Alt: true})
	m.key(runes("b"))
	if got := string(m.input.text); got != "a\nb" {
		t.Errorf("after Alt-Enter: %q", got)
	}
}

// TestChatGoesBackAndAcross checks that all of a long history can be reached, and other conversations by name.
func TestChatGoesBackAndAcross(t *testing.T) {
	ctx, alice, _, id := peopletest.Pair(t)
	for n := range pageSize + 20 {
		if _, err := alice.SendText(ctx, id, fmt.Sprint("text ", n)); err != nil {
			t.Fatal(err)
		}
	}
	p := &people.Person{Device: alice, DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{Timeout: time.Minute}}
	m := newModel(ctx, p)
	m.width, m.height = 80, 24
	act := func(cmd tea.Cmd) {
		for cmd != nil {
			var next tea.Model
			next, cmd = m.Update(cmd())
			m = next.(*model)
		}
	}
	act(m.look())
	if len(m.messages) != pageSize || !m.older || !strings.Contains(strings.Join(m.lines(80), "\n"), "older messages") {
		t.Fatalf("%d messages, older %v", len(m.messages), m.older)
	}
	for range pageSize {
		act(m.key(tea.KeyMsg{Type: tea.KeyPgUp}))
	}
	if len(m.messages) != pageSize+20 || m.older || m.messages[0].Content.Text != "text 0" {
		t.Errorf("scrolled back, %d messages", len(m.messages))
	}
	other, err := alice.Create(ctx, client.CreateOptions{Name: "Other"})
	if err != nil {
		t.Fatal(err)
	}
	act(m.look())
	act(m.goTo("other"))
	if m.current != other {
		t.Errorf("/go other shows %v", m.current)
	}
	act(m.goTo("nowhere"))
	if !m.failed || m.current != other {
		t.Errorf("/go nowhere: %q", m.said)
	}
	if d := doLeave(ctx, p, other, nil); d.err == nil || !strings.Contains(d.err.Error(), "/leave yes") {
		t.Errorf("/leave does not ask: %v", d.err)
	}
	if d := doAdd(ctx, p, id, []string{"bob"}); d.err != nil || !strings.Contains(d.text, "is in it already") {
		t.Errorf("/add of a member: %q, %v", d.text, d.err)
	}
	if s := takeSnapshot(context.WithoutCancel(ctx), p, "", "Lunch", 10); s.err != nil || s.current != id || len(s.messages) != 10 {
		t.Errorf("chat Lunch shows %v with %d messages, %v", s.current, len(s.messages), s.err)
	}
}

// TestChatNamesWhatItWaitsFor checks that the chat shows for whom a message waits, and since when, until something is
// accepted.
func TestChatNamesWhatItWaitsFor(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}})
	m.event(client.Event{Type: client.EventConnected, Node: "n1.a.example"})
	begun := time.Date(2026, 3, 1, 9, 30, 0, 0, time.Local)
	refused := &wire.Error{Code: wire.NoQuorum, Text: "no majority", Nodes: []wire.NodeID{"n1.b.example", "n2.b.example"}}
	for after := range time.Duration(3) {
		m.event(client.Event{Type: client.EventDelayed, Time: begun.Add(after * time.Minute), Err: refused})
	}
	if want := "waiting since 09:30: too few nodes that vote on the conversation can be reached: it waits for b.example"; m.link != want {
		t.Errorf("%q, wanted %q", m.link, want)
	}
	m.event(client.Event{Type: client.EventWon})
	if m.link != "connected" {
		t.Errorf("afterwards: %q", m.link)
	}
}
