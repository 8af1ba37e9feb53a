package chat

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
	"github.com/muesli/termenv"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/traffic"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// keys types into a line.
func keys(l *inputLine, list ...tea.KeyMsg) {
	for _, k := range list {
		l.key(k)
	}
}

func runes(s string) tea.KeyMsg { return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(s)} }

func TestInputLineIsEdited(t *testing.T) {
	left, back, home, end := tea.KeyMsg{Type: tea.KeyLeft}, tea.KeyMsg{Type: tea.KeyBackspace}, tea.KeyMsg{Type: tea.KeyHome}, tea.KeyMsg{Type: tea.KeyEnd}
	word, up, down := tea.KeyMsg{Type: tea.KeyCtrlW}, tea.KeyMsg{Type: tea.KeyUp}, tea.KeyMsg{Type: tea.KeyDown}
	for name, c := range map[string]struct {
		keys []tea.KeyMsg
		want string
	}{
		"types":                {[]tea.KeyMsg{runes("grüße"), runes(" 世界")}, "grüße 世界"},
		"inserts":              {[]tea.KeyMsg{runes("ac"), left, runes("b")}, "abc"},
		"erases":               {[]tea.KeyMsg{runes("abc"), left, back}, "ac"},
		"erases nothing":       {[]tea.KeyMsg{runes("abc"), home, back}, "abc"},
		"erases a word":        {[]tea.KeyMsg{runes("one two  "), word}, "one"},
		"goes to the end":      {[]tea.KeyMsg{runes("bc"), home, runes("a"), end, runes("d")}, "abcd"},
		"pastes lines as such": {[]tea.KeyMsg{runes("a\nb\tc\x1b")}, "a\nb c"},
		"keeps a draft":        {[]tea.KeyMsg{runes("draft"), up, down}, "draft"},
		"recalls":              {[]tea.KeyMsg{up}, "second"},
		"recalls what is old":  {[]tea.KeyMsg{up, up, up}, "first"},
		"deletes to the start": {[]tea.KeyMsg{runes("abc"), left, {Type: tea.KeyCtrlU}}, "c"},
		"is cleared":           {[]tea.KeyMsg{runes("abc"), {Type: tea.KeyEsc}}, ""},
	} {
		l := &inputLine{}
		for _, s := range []string{"first", "second"} {
			keys(l, runes(s))
			l.take()
		}
		keys(l, c.keys...)
		if got := strings.TrimSpace(string(l.text)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestInputLineHoldsTogether types random keys. It checks that the cursor stays in the line, and the line in its
// width.
func TestInputLineHoldsTogether(t *testing.T) {
	kinds := []tea.KeyType{tea.KeyRunes, tea.KeyBackspace, tea.KeyDelete, tea.KeyLeft, tea.KeyRight, tea.KeyHome, tea.KeyEnd, tea.KeyCtrlU, tea.KeyCtrlK, tea.KeyCtrlW, tea.KeyUp, tea.KeyDown, tea.KeyEsc, tea.KeyEnter}
	rapid.Check(t, func(t *rapid.T) {
		l := &inputLine{}
		for range rapid.IntRange(0, 40).Draw(t, "keys") {
			k := tea.KeyMsg{Type: rapid.SampledFrom(kinds).Draw(t, "kind")}
			switch k.Type {
			case tea.KeyRunes:
				k.Runes = []rune(rapid.StringN(0, 8, -1).Draw(t, "text"))
				l.key(k)
			case tea.KeyEnter:
				l.take()
			default:
				l.key(k)
			}
			if l.cursor < 0 || l.cursor > len(l.text) {
				t.Fatalf("the cursor is at %d of %d", l.cursor, len(l.text))
			}
			width := rapid.IntRange(4, 40).Draw(t, "width")
			if got := lipgloss.Width(l.view(width, func(s string) string { return s })); got > width+1 {
				t.Fatalf("%d columns, wanted at most %d: %q", got, width, string(l.text))
			}
		}
	})
}

func TestLinesAreBrokenAtSpaces(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 5, []string{""}},
		{"one two three", 7, []string{"one two", "three"}},
		{"one  two", 4, []string{"one", "two"}},
		{"abcdefgh", 3, []string{"abc", "def", "gh"}},
		{"a abcdefgh", 3, []string{"a", "abc", "def", "gh"}},
		{"世界世界", 5, []string{"世界", "世界"}},
		{"世", 1, []string{"世"}},
	} {
		if got := breakLine(c.text, c.width); !slices.Equal(got, c.want) {
			t.Errorf("breakLine(%q, %d) = %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

// player runs the interface as bubbletea does, with the events of the device.
type player struct {
	t      *testing.T
	m      *model
	events chan client.Event
	quit   bool
}

func newPlayer(t *testing.T, p *people.Person) *player {
	x := &player{t: t, m: newModel(t.Context(), p), events: make(chan client.Event, 1000)}
	stream := p.Subscribe(t.Context())
	go func() { // ends with the test's context
		for e := range stream {
			x.events <- e
		}
	}()
	x.update(tea.WindowSizeMsg{Width: 120, Height: 24})
	x.do(x.m.Init())
	return x
}

func (x *player) update(msg tea.Msg) {
	_, cmd := x.m.Update(msg)
	x.do(cmd)
}

func (x *player) do(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	msg := cmd()
	if _, ok := msg.(tea.QuitMsg); ok {
		x.quit = true
		return
	}
	x.update(msg)
}

func (x *player) enter(line string) {
	x.update(runes(line))
	x.update(tea.KeyMsg{Type: tea.KeyEnter})
}

// sees waits until all parts are on the screen.
func (x *player) sees(parts ...string) {
	x.t.Helper()
	late := time.After(20 * time.Second)
	for {
		view := x.m.View()
		if !slices.ContainsFunc(parts, func(s string) bool { return !strings.Contains(view, s) }) {
			return
		}
		select {
		case e := <-x.events:
			x.update(deviceEvent{e})
		case <-late:
			x.t.Fatalf("%q are not on the screen:\n%s", parts, view)
		}
	}
}

// talkers returns alice and bob, of two running organizations.
func talkers(t *testing.T) (alice *people.Person, bob *client.Device) {
	t.Helper()
	var all []*traffic.Meter
	c, err := cluster.New(t.TempDir(), cluster.Options{Client: func(o *client.Options) {
		watched := traffic.New(o.Transport)
		o.Transport, o.Timing = watched, client.Timing{
			Proposals: 200 * time.Millisecond, Contest: 200 * time.Millisecond, Receipts: 50 * time.Millisecond,
			RetryFirst: 50 * time.Millisecond, RetryLast: 500 * time.Millisecond,
		}
		all = append(all, watched)
	}}, "a.example", "b.example")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := c.Device(t.Context(), "a.example", "alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	if bob, err = c.Device(t.Context(), "b.example", "bob", "phone"); err != nil {
		t.Fatal(err)
	}
	id, err := d.ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, watched := range all { // KeyPackages are there
		if err := watched.Settle(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	return &people.Person{Device: d, DeviceID: id, Options: &people.Options{Timeout: 20 * time.Second}}, bob
}

func TestChatTalks(t *testing.T) {
	alice, bob := talkers(t)
	x := newPlayer(t, alice)
	x.sees("You are alice@a.example/phone", "/create Lunch bob@b.example")
	x.enter("hello?")
	x.sees("no conversation yet")
	x.enter("/add bob@b.example")
	x.sees("no conversation is shown")
	x.enter("/create")
	x.sees("wanted /create NAME")

	x.enter("/create Lunch bob@b.example")
	x.sees("▸ Lunch", "bob@b.example", "2 people with 2 devices")
	x.enter("Soup at noon?")
	x.sees("alice: Soup at noon?", "✓1") // bob's device has confirmed it

	id := x.m.current
	if _, err := bob.SendText(t.Context(), id, "Yes, with \x1b[31mbread"); err != nil {
		t.Fatal(err)
	}
	x.sees("bob@b.example: Yes, with �[31mbread")
	x.enter("//slash")
	x.sees("alice: /slash")
	x.enter("/slash")
	x.sees("/slash is no command")

	file := filepath.Join(t.TempDir(), "menu.txt")
	if err := os.WriteFile(file, []byte("soup"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.enter("/file " + file + " look here")
	x.sees("[file menu.txt, 4 B, message", "look here")
	i := slices.IndexFunc(x.m.messages, func(m client.Message) bool { return m.Content.File != nil })
	x.enter("/save " + x.m.messages[i].ID.String() + " " + file + ".copy")
	x.sees("saved as")
	if got, err := os.ReadFile(file + ".copy"); err != nil || string(got) != "soup" {
		t.Errorf("saved %q, %v", got, err)
	}
	x.enter("/rename Dinner")
	x.sees("▸ Dinner", "changed the name")
	x.enter("/add nobody@b.example")
	x.sees("not found: nobody@b.example")
	x.enter("/verify bob@b.example")
	x.sees("safety number of bob@b.example/phone:")
	x.enter("/members")
	if strings.Contains(x.m.View(), "2 people") {
		t.Error("/members does not hide the members")
	}
	x.enter("/help")
	x.sees("/go [NAME]", "/search [TEXT]")
	x.enter("/search look here")
	x.sees(`found "look here", `, "[file menu.txt")
	x.enter("/search nothing like it")
	x.sees(`no message with "nothing like it"`)
	x.enter("/trust")
	x.sees("b.example is believed with root")
	x.enter("/rejoin")
	x.sees("Dinner is not broken for this device")
	x.enter("/remove bob")
	x.sees("bob is not in this conversation")
	x.enter("/remove bob@b.example")
	x.sees("removed bob@b.example/phone")
	x.enter("/create Second")
	x.sees("▸ Second")
	x.update(tea.KeyMsg{Type: tea.KeyTab})
	x.sees("▸ Dinner")
	x.enter("/leave")
	x.sees("/leave yes takes you out of")
	x.enter("/leave yes") // alice is alone, so that the conversation is closed
	x.sees("Dinner (left)")
	x.enter("/forget")
	x.sees("/forget yes deletes all messages of")
	x.enter("/forget yes")
	x.sees("▸ Second", "Dinner is deleted from this device")
	x.enter("/forget yes")
	x.sees("the device is still in Second: /leave first")
	if x.enter("/quit"); !x.quit {
		t.Error("/quit does not quit")
	}
}

// TestChatFitsEveryWindow checks for windows of all sizes that no line is wider than the window, and the whole is not
// higher.
func TestChatFitsEveryWindow(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/phone"})
	id := wire.ConversationID("\x01\x02\x03\x04\x05\x06\x07\x08")
	m.list = []client.Conversation{{ID: id, Rules: client.Rules{Name: "世界 and a very long name of a conversation"}, State: client.StateActive, Epoch: 3}}
	m.current = id
	for n := range 50 {
		m.messages = append(m.messages, client.Message{
			Sender: "mimi://b.example/d/bob/phone", Time: time.Unix(int64(n)*3600, 0), Stored: time.Unix(int64(n)*3600, 0), Status: client.StatusReceived,
			Content: client.Content{Type: client.ContentText, Text: strings.Repeat("word ", n) + strings.Repeat("世", n) + "\nsecond line"},
		})
		m.members = append(m.members, client.Member{Device: "mimi://b.example/d/bob/phone", User: "mimi://b.example/u/bob"})
	}
	m.remark(id, time.Unix(7200, 0), "somebody did something that needs a lot of words")
	m.said, m.failed = strings.Repeat("an error that is long, ", 10), true
	keys(&m.input, runes(strings.Repeat("世界 ", 60)))
	for width := 1; width < 140; width += 3 {
		for _, height := range []int{1, 6, 9, 24, 80} {
			m.Update(tea.WindowSizeMsg{Width: width, Height: height})
			m.Update(tea.KeyMsg{Type: tea.KeyPgUp})
			view := m.View()
			if w, h := lipgloss.Width(view), lipgloss.Height(view); width >= smallestWidth && height >= 6 && (w > width || h > height) {
				t.Fatalf("a window of %d×%d is drawn with %d×%d:\n%s", width, height, w, h, view)
			}
		}
	}
}

// TestChatRuns runs the whole program without a terminal.
func TestChatRuns(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t, goleak.IgnoreCurrent()) })
	alice, bob := talkers(t)
	id, err := bob.Create(t.Context(), client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	if err := bob.Add(t.Context(), id, alice.DeviceID.User()); err != nil {
		t.Fatal(err)
	}
	in, typed := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(t.Context(), alice, "", in, io.Discard) }()
	err = cluster.Await(t.Context(), alice.Device, func() (bool, error) {
		list, err := alice.Conversations(t.Context())
		return len(list) == 1 && list[0].State == client.StateActive, err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The interface shows the conversation after its first snapshot; until then the line is not sent.
	err = cluster.Await(t.Context(), bob, func() (bool, error) {
		if _, err := typed.Write([]byte("hello from the terminal\r")); err != nil {
			return false, err
		}
		page, err := bob.History(t.Context(), id, client.Query{})
		return err == nil && len(page.Messages) > 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := typed.Write([]byte("/quit\r")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := typed.Close(); err != nil {
		t.Error(err)
	}
}

// TestChatSaysWhatCountsMost checks that a status line without room for everything drops the user and the
// conversation, not the result of a command or a missing connection. An open alarm is shown there when there is
// nothing else.
func TestChatSaysWhatCountsMost(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/alice/a-device-with-a-long-name"})
	m.list = []client.Conversation{
		{ID: "\x01\x02\x03\x04\x05\x06\x07\x08", Rules: client.Rules{Name: "Lunch"}, State: client.StateActive, Epoch: 3},
		{ID: "\x02\x02\x03\x04\x05\x06\x07\x08", Rules: client.Rules{Name: "Dinner"}, State: client.StateActive, Unread: 2},
	}
	m.current = m.list[0].ID
	last := func(width int) string {
		m.Update(tea.WindowSizeMsg{Width: width, Height: 12})
		lines := strings.Split(ansi.Strip(m.View()), "\n")
		return lines[len(lines)-1]
	}
	m.link = "offline, next try in 2s"
	m.said, m.failed = "not found: nobody@b.example", true
	for width, want := range map[int]string{
		120: "alice@a.example/a-device-with-a-long-name · epoch 3 · offline · not found: nobody@b.example",
		50:  "offline · not found: nobody@b.example",
		30:  "not found: nobody@b.example",
		20:  "not found: nobody@b…",
	} {
		if got := last(width); got != want {
			t.Errorf("in %d columns: %q, wanted %q", width, got, want)
		}
	}
	m.said = ""
	if got, want := last(40), "offline, next try in 2s"; got != want {
		t.Errorf("without a result: %q, wanted %q", got, want)
	}
	if title, _, _ := strings.Cut(ansi.Strip(m.View()), "\n"); !strings.Contains(title, "Lunch  • 2 unread: Ctrl-G") {
		t.Errorf("a narrow window does not show what waits elsewhere: %q", title)
	}
	m.offering = []wire.Domain{"b.example"}
	if got, want := last(60), "offline · b.example has another root: /trust"; got != want {
		t.Errorf("with an open alarm: %q, wanted %q", got, want)
	}
}

// colourful makes the process draw with colours until the test ends.
func colourful(t *testing.T) {
	before := lipgloss.ColorProfile()
	lipgloss.SetColorProfile(termenv.ANSI)
	t.Cleanup(func() { lipgloss.SetColorProfile(before) })
}

// TestChatIsDrawnForItsTerminal checks that the terminal of the person decides whether a chat has colours.
func TestChatIsDrawnForItsTerminal(t *testing.T) {
	m := newModel(t.Context(), &people.Person{DeviceID: "mimi://a.example/d/bob/phone"})
	m.width, m.height, m.current = 80, 24, "conversation-one"
	m.list = []client.Conversation{{ID: m.current}}
	colourful(t)
	if !strings.Contains(m.View(), "\x1b[") {
		t.Error("a chat on a terminal with colours has none")
	}
	if m.plain = true; strings.Contains(m.View(), "\x1b") {
		t.Errorf("a chat on a terminal without colours has some: %q", m.View())
	}
}
