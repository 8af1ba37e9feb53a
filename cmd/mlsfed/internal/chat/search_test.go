package chat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people/peopletest"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// shownChat is the interface of a device in its state after each step.
type shownChat struct {
	t *testing.T
	m *model
}

func newShownChat(ctx context.Context, t *testing.T, d *client.Device, id wire.DeviceID) *shownChat {
	s := &shownChat{t, newModel(ctx, &people.Person{Device: d, DeviceID: id, Options: &people.Options{Timeout: time.Minute}})}
	s.m.width, s.m.height = 80, 24
	s.act(s.m.look())
	return s
}

// act runs the commands that follow from a step, to their end.
func (s *shownChat) act(cmd tea.Cmd) {
	for cmd != nil {
		_, cmd = s.m.Update(cmd())
	}
}

func (s *shownChat) enter(line string) {
	s.act(s.m.key(runes(line)))
	s.act(s.m.key(tea.KeyMsg{Type: tea.KeyEnter}))
}

func (s *shownChat) view() string { return ansi.Strip(s.m.View()) }

// row returns the line of the screen that contains a text, -1 for none.
func (s *shownChat) row(text string) int {
	return slices.IndexFunc(strings.Split(s.view(), "\n"), func(l string) bool { return strings.Contains(l, text) })
}

// TestSearchGoesToWhatItFinds checks that a search goes to the message that it finds, also far back, and on to older
// ones. Messages that arrive meanwhile do not move the view.
func TestSearchGoesToWhatItFinds(t *testing.T) {
	ctx, alice, bob, id := peopletest.Pair(t)
	for n := range pageSize + 100 {
		text := fmt.Sprintf("text %d.", n)
		if n == 20 || n == 30 {
			text = fmt.Sprintf("The Needle %d", n)
		}
		if _, err := alice.SendText(ctx, id, text); err != nil {
			t.Fatal(err)
		}
	}
	s := newShownChat(ctx, t, alice, "mimi://a.example/d/alice/phone")
	if s.row("text 399.") < 0 || s.row("Needle") >= 0 {
		t.Fatalf("at first:\n%s", s.view())
	}
	s.enter("/search needle")
	if s.row("The Needle 30") < 0 || s.row("text 31.") < 0 || s.row("text 29.") < 0 || !strings.Contains(s.m.said, `found "needle"`) {
		t.Fatalf("the newest (%s):\n%s", s.m.said, s.view())
	}
	before := s.row("The Needle 30")
	if _, err := alice.SendText(ctx, id, "another one, which is so long that it takes several lines of the screen, as messages of people do now and then"); err != nil {
		t.Fatal(err)
	}
	s.act(s.m.look())
	if got := s.row("The Needle 30"); got != before {
		t.Errorf("a message that came moved it from row %d to %d:\n%s", before, got, s.view())
	}
	s.enter("/search")
	if s.row("The Needle 20") < 0 {
		t.Errorf("the older one (%s):\n%s", s.m.said, s.view())
	}
	s.enter("/search")
	if !strings.Contains(s.m.said, `no older message with "needle"`) {
		t.Errorf("before the oldest: %q", s.m.said)
	}
	s.act(s.m.key(tea.KeyMsg{Type: tea.KeyEsc}))
	if s.row("another one") < 0 || s.m.said != "" {
		t.Errorf("Esc does not lead back:\n%s", s.view())
	}
	s.enter("/search no such text")
	if !strings.Contains(s.m.said, `no message with "no such text"`) {
		t.Errorf("nothing: %q", s.m.said)
	}
	// Messages that are unread when the conversation is opened are marked.
	if err := cluster.Await(ctx, bob, func() (bool, error) {
		c, err := bob.Conversation(ctx, id)
		return err == nil && c.Messages == pageSize+101, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := bob.MarkReadTo(ctx, id, 395); err != nil {
		t.Fatal(err)
	}
	b := newShownChat(ctx, t, bob, "mimi://a.example/d/bob/phone")
	if mark := b.row("── new ──"); mark < 0 || b.row("text 395.") != mark+1 {
		t.Errorf("what is new:\n%s", b.view())
	}
	b.act(b.m.look())
	if b.row("── new ──") < 0 {
		t.Error("the mark goes away by itself")
	}
	b.enter("read")
	if b.row("── new ──") >= 0 {
		t.Error("the mark stays")
	}
}

// TestConversationsAreOrderedByActivity checks that conversations are ordered by activity, that unread ones are shown
// in every conversation, and that Ctrl-G goes to them.
func TestConversationsAreOrderedByActivity(t *testing.T) {
	now := time.Unix(1e9, 0)
	var list []client.Conversation
	for n := range 40 {
		list = append(list, client.Conversation{ID: wire.ConversationID(fmt.Sprintf("%016d", n)), Rules: client.Rules{Name: fmt.Sprintf("conv %d", n)}, State: client.StateActive, Active: now.Add(time.Duration(n) * time.Minute)})
	}
	list[39].State, list[3].Unread = client.StateLeft, 2
	byActivity(list, map[wire.ConversationID]time.Time{list[5].ID: now.Add(time.Hour)})
	if list[0].Rules.Name != "conv 5" || list[1].Rules.Name != "conv 38" || list[39].Rules.Name != "conv 39" {
		t.Errorf("%q, %q … %q", list[0].Rules.Name, list[1].Rules.Name, list[39].Rules.Name)
	}
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}})
	m.width, m.height, m.list, m.current = 80, 24, list, list[0].ID
	for _, width := range []int{40, 80, 200} {
		m.width = width
		view := ansi.Strip(m.View())
		if title, _, _ := strings.Cut(view, "\n"); !strings.Contains(title, "• 2 unread: Ctrl-G") || width >= widthFor2 && !strings.Contains(view, "… 21 more") {
			t.Errorf("in %d columns:\n%s", width, view)
		}
	}
	m.key(tea.KeyMsg{Type: tea.KeyCtrlG})
	if c := m.conversation(); c.Rules.Name != "conv 3" {
		t.Errorf("Ctrl-G shows %s", c.Rules.Name)
	}
	m.goTo("V 17") // a part of one name is enough
	if c := m.conversation(); c.Rules.Name != "conv 17" {
		t.Errorf("/go V 17 shows %s", c.Rules.Name)
	}
	if m.goTo("v 1"); !m.failed || m.conversation().Rules.Name != "conv 17" {
		t.Errorf("/go v 1, of many: %q", m.said)
	}
}

// TestErrorStaysUntilItIsRead checks that later events do not remove an error.
func TestErrorStaysUntilItIsRead(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}})
	m.width, m.height, m.current = 100, 24, "\x01\x02\x03\x04\x05\x06\x07\x08"
	m.loading = true // no snapshot is taken here
	m.Update(outcome{err: errors.New("nobody is there")})
	m.Update(outcome{}) // a message was sent
	if !m.failed || m.said != "nobody is there" {
		t.Errorf("after a message: %q", m.said)
	}
	m.event(client.Event{Type: client.EventDevices, Device: "mimi://a.example/d/alice/tablet"})
	if !strings.Contains(m.said, "alice@a.example/tablet was enrolled") || !strings.Contains(strings.Join(m.lines(100), "\n"), "nobody is there") {
		t.Errorf("after another text (%q):\n%s", m.said, strings.Join(m.lines(100), "\n"))
	}
	m.key(tea.KeyMsg{Type: tea.KeyEsc})
	if m.said != "" {
		t.Errorf("after Esc: %q", m.said)
	}
}

func TestWordsOfACommand(t *testing.T) {
	for line, want := range map[string][]string{
		`create "Project Falcon" bob`: {"create", "Project Falcon", "bob"}, ` file  a  b `: {"file", "a", "b"}, `file "a b`: {"file", `"a`, "b"},
		`create "" x`: {"create", "", "x"}, `file it's`: {"file", "it's"}, `file 5"x7" y`: {"file", `5"x7"`, "y"}, "": nil,
	} {
		if got := words(line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, wanted %q", line, got, want)
		}
	}
}

// TestSeveralLinesAreSeen checks that several lines are shown while they are written, as many as there is room for,
// and that the cursor moves among them.
func TestSeveralLinesAreSeen(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone", Options: &people.Options{}})
	m.width, m.height = 80, 24
	m.key(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("one\ntwo 👨\u200d👩\u200d👧 🇩🇪\nthree"), Paste: true})
	lines := strings.Split(ansi.Strip(m.View()), "\n")
	if len(lines) != 24 || lines[20] != "> one" || lines[21] != "  two 👨👩👧 DE" || lines[22] != "  three " {
		t.Errorf("%d lines: %q", len(lines), lines[19:])
	}
	m.key(tea.KeyMsg{Type: tea.KeyUp})
	m.key(tea.KeyMsg{Type: tea.KeyUp})
	m.key(runes("!"))
	if got := string(m.input.text); !strings.HasPrefix(got, "one!\n") { // the cursor is in the column of the shortest line
		t.Errorf("after Up: %q", got)
	}
	m.key(tea.KeyMsg{Type: tea.KeyDown})
	m.key(runes("?"))
	if got := string(m.input.text); !strings.HasPrefix(got, "one!\ntwo ?") {
		t.Errorf("after Down: %q", got)
	}
	for range 30 {
		m.key(tea.KeyMsg{Type: tea.KeyEnter, Alt: true})
	}
	if view := m.View(); strings.Count(view, "\n") != 23 {
		t.Errorf("with many lines the screen has %d", strings.Count(view, "\n")+1)
	}
}

// TestLookAlikesAreMarkedInEveryWindow checks that the mark of a name which could be taken for something else is shown
// in the list and in the title, also if the name is longer than the window.
func TestLookAlikesAreMarkedInEveryWindow(t *testing.T) {
	long := strings.Repeat("Lunch with the whole team ", 4)
	named := func(id, own, name string) client.Conversation {
		return client.Conversation{ID: wire.ConversationID(id), OwnName: own, Rules: client.Rules{Name: name}, State: client.StateActive}
	}
	for _, width := range []int{40, 80, 200} {
		m := newModel(t.Context(), &people.Person{DeviceID: "mimi://b.example/d/bob/phone"})
		m.width, m.height = width, 24
		m.list = []client.Conversation{
			named("conversation-one", long, long), named("conversation-two", "", strings.Replace(long, "c", "\u0441", 1)), named("conversation-three", "", "alice@a.example"), named("conversation-four", "", "5f2c9a10"), named("conversation-five", "", "Dinner"),
		}
		for i, want := range []bool{false, true, true, true, false} {
			m.current = m.list[i].ID
			lines := strings.Split(ansi.Strip(m.View()), "\n")
			title, row := lines[0], ""
			if width >= widthFor2 {
				title = lines[0][strings.Index(lines[0], "│"):]
				row, _, _ = strings.Cut(lines[1+i], "│")
			}
			marked := strings.Contains(title, shortMark) || strings.Contains(title, " (a name, not a") || strings.Contains(title, " (looks like another one)")
			if marked != want || row != "" && strings.Contains(row, shortMark) != want {
				t.Errorf("%d columns, %q: title %q, row %q", width, m.list[i].Rules.Name, title, row)
			}
		}
	}
}
