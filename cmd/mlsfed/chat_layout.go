package main

import (
	"fmt"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/mlsfed/mlsfed/client"
)

// chatLayout is what the messages and remarks of a conversation are as lines of a width.
type chatLayout struct {
	lines  []string
	starts []messageStart // of the messages, in their order

	width, longest int // that it was made for
}

// messageStart is the line in which a message begins.
type messageStart struct {
	number uint64
	line   int
}

// chatPlace is a line of a message: a place that stays where it is when lines come before or after it.
type chatPlace struct {
	number uint64
	offset int // lines after the one in which the message begins
}

// place is where a line belongs.
func (l *chatLayout) place(line int) (at chatPlace, ok bool) {
	for _, s := range l.starts {
		if s.line > line {
			break
		}
		at, ok = chatPlace{s.number, line - s.line}, true
	}
	return at, ok
}

// line is where a place is.
func (l *chatLayout) line(at chatPlace) (line int, ok bool) {
	for _, s := range l.starts {
		if s.number == at.number {
			return min(s.line+at.offset, len(l.lines)-1), true
		}
	}
	return 0, false
}

// lines are the messages and remarks of the conversation by time, wrapped.
func (m *chatModel) lines(width int) []string { return m.layout(width).lines }

func (m *chatModel) layout(width int) *chatLayout {
	if m.current == "" {
		return &chatLayout{lines: m.welcome(width)}
	}
	if m.kept == nil || m.kept.width != width || m.kept.longest != m.longest() {
		m.kept = m.newLayout(width)
	}
	return m.kept
}

// keeps reports whether a key changes nothing but what the person writes, or where they look. With a long history it
// would take too long to make the layout anew for each.
func keeps(k tea.KeyMsg) bool {
	switch k.Type {
	case tea.KeyRunes, tea.KeySpace, tea.KeyBackspace, tea.KeyDelete, tea.KeyLeft, tea.KeyRight, tea.KeyHome, tea.KeyEnd, tea.KeyPgUp, tea.KeyPgDown:
		return true
	}
	return false
}

func (m *chatModel) newLayout(width int) *chatLayout {
	l := &chatLayout{width: width, longest: m.longest()}
	faint := lipgloss.NewStyle().Faint(true)
	if m.older {
		l.lines = append(l.lines, faint.Render(fit("… older messages: PgUp", width)))
	}
	day := ""
	begin := func(t time.Time) {
		if d := t.Local().Format("Monday, 2 January 2006"); d != day {
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
	return l
}

// take puts a look at the device on the screen. Who has scrolled back sees the same lines as before, whatever came.
func (m *chatModel) take(s *chatSnapshot) {
	width, height := m.middleWidth(), m.bodyHeight()
	var at chatPlace
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
		if line, ok := after.line(chatPlace{number: m.jump - 1}); ok {
			m.jump = 0
			m.scroll = max(0, len(after.lines)-(max(0, line-height/3)+height))
			return
		}
	}
	if line, ok := after.line(at); held && ok {
		m.scroll = max(0, len(after.lines)-1-line)
	}
}

// longest is how many lines of one message are shown unless the person opens it: not more than leaves room for others.
func (m *chatModel) longest() int { return max(8, min(mostLines, m.bodyHeight()*2/3)) }

// isFound reports whether a message is the one that a search has found.
func (m *chatModel) isFound(msg *client.Message) bool {
	return m.search.pattern != "" && m.search.found && m.search.number == msg.Number
}

// roomForInput is how many lines what the person writes may take.
func (m *chatModel) roomForInput() int { return max(1, min(5, m.height/4)) }

// inputLines is what the person writes: one line, or those around the cursor.
func (m *chatModel) inputLines() []string {
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

// inputHeight is the number of inputLines.
func (m *chatModel) inputHeight() int {
	return min(m.roomForInput(), 1+strings.Count(string(m.input.text), "\n"))
}

// say shows what came of something. An error that another text takes the place of stays among the messages.
func (m *chatModel) say(text string, failed bool) {
	if m.failed && m.said != "" && m.said != text && !m.noted {
		m.remark(m.current, time.Now(), m.said)
	}
	m.said, m.failed, m.noted = text, failed, false
	if m.width > 0 && ansi.StringWidth(text) > m.width { // the status line cannot show it whole
		m.remark(m.current, time.Now(), text)
		m.noted = true
	}
}

// read clears what was said: the person has done something after it.
func (m *chatModel) read() { m.said, m.failed, m.noted = "", false, false }

// help shows the commands and keys among the messages.
func (m *chatModel) help() {
	var b strings.Builder
	for i, c := range chatCommands() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%-23s %s", strings.TrimSpace("/"+c.name+" "+c.args), c.about)
	}
	for _, k := range chatKeys() {
		b.WriteString("\n" + k)
	}
	r := chatRemark{time: time.Now(), text: b.String()}
	m.append(m.current, r)
	m.scroll = max(0, len(r.lines(m.middleWidth()))-m.bodyHeight()) // from its beginning
}
