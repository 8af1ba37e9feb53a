package chat

import (
	"fmt"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
)

// layout holds the messages and remarks of a conversation as lines of a width.
type layout struct {
	lines  []string
	starts []messageStart // of the messages, in their order

	width, longest int // for which the layout was made
}

// messageStart holds the line in which a message begins.
type messageStart struct {
	number uint64
	line   int
}

// place is a line of a message. It stays valid when lines are added before or after it.
type place struct {
	number uint64
	offset int // lines after the one in which the message begins
}

// place returns the place of a line.
func (l *layout) place(line int) (at place, ok bool) {
	for _, s := range l.starts {
		if s.line > line {
			break
		}
		at, ok = place{s.number, line - s.line}, true
	}
	return at, ok
}

// line returns the line of a place.
func (l *layout) line(at place) (line int, ok bool) {
	for _, s := range l.starts {
		if s.number == at.number {
			return min(s.line+at.offset, len(l.lines)-1), true
		}
	}
	return 0, false
}

// lines returns the messages and remarks of the conversation by time, wrapped.
func (m *model) lines(width int) []string { return m.layout(width).lines }

func (m *model) layout(width int) *layout {
	if m.current == "" {
		return &layout{lines: m.welcome(width)}
	}
	if m.kept == nil || m.kept.width != width || m.kept.longest != m.longest() {
		m.kept = m.newLayout(width)
	}
	return m.kept
}

// keeps reports whether a key changes only the input or the scroll position. With a long history, a new layout for
// each such key would take too long.
func keeps(k tea.KeyMsg) bool {
	switch k.Type {
	case tea.KeyRunes, tea.KeySpace, tea.KeyBackspace, tea.KeyDelete, tea.KeyLeft, tea.KeyRight, tea.KeyHome, tea.KeyEnd, tea.KeyPgUp, tea.KeyPgDown:
		return true
	}
	return false
}

func (m *model) newLayout(width int) *layout {
	l := &layout{width: width, longest: m.longest()}
	faint := lipgloss.NewStyle().Faint(true)
	if m.older {
		l.lines = append(l.lines, faint.Render(fit("… older messages: PgUp", width)))
	}
	day := ""
	begin := func(t time.Time) {
		if d := m.p.Local(t).Format("Monday, 2 January 2006"); d != day {
			day = d
			l.lines = append(l.lines, faint.Render(fit("── "+d+" ──", width)))
		}
	}
	remarks := m.remarks[m.current]
	for i := range m.messages {
		msg := &m.messages[i]
		for len(remarks) > 0 && remarks[0].time.Before(msg.Stored) {
			begin(remarks[0].time)
			l.lines = append(l.lines, remarks[0].lines(width)...)
			remarks = remarks[1:]
		}
		begin(msg.Stored)
		if m.news > 0 && msg.Number == m.news-1 {
			l.lines = append(l.lines, lipgloss.NewStyle().Bold(true).Render(fit("── new ──", width)))
		}
		l.starts = append(l.starts, messageStart{msg.Number, len(l.lines)})
		l.lines = append(l.lines, m.messageLines(msg, width)...)
	}
	for _, r := range remarks {
		begin(r.time)
		l.lines = append(l.lines, r.lines(width)...)
	}
	if c := m.conversation(); c != nil {
		for _, text := range people.Troubles(c, true) {
			l.lines = append(l.lines, remark{time: m.p.Now(), text: cli.OneLine(text), alarm: true}.lines(width)...)
		}
	}
	return l
}

// take shows a snapshot of the device. A person who has scrolled back sees the same lines as before.
func (m *model) take(s *snapshot) {
	width, height := m.middleWidth(), m.bodyHeight()
	var at place
	held := false
	if m.scroll > 0 {
		before := m.layout(width)
		at, held = before.place(len(before.lines) - 1 - m.scroll)
	}
	if m.fresh && s.unread > 0 {
		m.news = s.firstUnread + 1
	}
	m.fresh = false
	m.current, m.messages, m.members, m.older, m.progress = s.current, s.messages, s.members, s.older, s.progress
	m.kept = nil
	after := m.layout(width)
	if m.jump > 0 {
		if line, ok := after.line(place{number: m.jump - 1}); ok {
			m.jump = 0
			m.scroll = max(0, len(after.lines)-(max(0, line-height/3)+height))
			return
		}
	}
	if line, ok := after.line(at); held && ok {
		m.scroll = max(0, len(after.lines)-1-line)
	}
}

// longest returns how many lines of one message are shown unless the person opens it. The number leaves room for
// other messages.
func (m *model) longest() int { return max(8, min(mostLines, m.bodyHeight()*2/3)) }

// isFound reports whether a search has found this message.
func (m *model) isFound(msg *client.Message) bool {
	return m.search.pattern != "" && m.search.found && m.search.number == msg.Number
}

// roomForInput returns how many lines the input may take.
func (m *model) roomForInput() int { return max(1, min(5, m.height/4)) }

// inputLines returns the shown input: one line, or the lines around the cursor.
func (m *model) inputLines() []string {
	cursor := func(s string) string { return lipgloss.NewStyle().Reverse(true).Render(s) }
	lines := m.input.lines(m.width-3, cursor)
	if room := m.roomForInput(); len(lines) > room {
		from := min(max(0, m.input.row()-room/2), len(lines)-room)
		lines = lines[from : from+room]
	}
	for i := range lines {
		lead := "> "
		if i > 0 {
			lead = "  "
		}
		lines[i] = lead + lines[i]
	}
	return lines
}

// inputHeight returns the number of inputLines.
func (m *model) inputHeight() int {
	return min(m.roomForInput(), 1+strings.Count(string(m.input.text), "\n"))
}

// say shows a result in the status line. If another text replaces an error, the error stays among the messages.
func (m *model) say(text string, failed bool) {
	if m.failed && m.said != "" && m.said != text && !m.noted {
		m.remark(m.current, time.Now(), m.said)
	}
	m.said, m.failed, m.noted = text, failed, false
	if m.width > 0 && ansi.StringWidth(text) > m.width { // the status line cannot show it whole
		m.remark(m.current, time.Now(), text)
		m.noted = true
	}
}

// read clears the status text, since the person has done something after it.
func (m *model) read() { m.said, m.failed, m.noted = "", false, false }

// helpColumn is the width of the first column of the help, and helpWidth the width of the longest line.
const (
	helpColumn = 23
	helpWidth  = helpColumn + 25
)

// helpLine returns one line of the help, in columns if there is room for them.
func (m *model) helpLine(what, about string) string {
	if m.middleWidth() < indent+helpWidth {
		return what + ": " + about
	}
	return fmt.Sprintf("%-*s %s", helpColumn, what, about)
}

// help shows the commands and keys among the messages.
func (m *model) help() {
	var b strings.Builder
	for i, c := range commands() {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(m.helpLine(strings.TrimSpace("/"+c.name+" "+c.args), c.about))
	}
	for _, k := range keyHelp() {
		b.WriteString("\n" + m.helpLine(k[0], k[1]))
	}
	r := remark{time: m.p.Now(), text: b.String()}
	m.append(m.current, r)
	m.scroll = max(0, len(r.lines(m.middleWidth()))-m.bodyHeight()) // show the help from its beginning
}
