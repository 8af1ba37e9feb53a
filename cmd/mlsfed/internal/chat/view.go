package chat

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
)

// The widths of the columns, and of the windows that have room for them.
const (
	listWidth     = 22
	membersWidth  = 26
	widthFor2     = 60
	widthFor3     = 100
	smallestWidth = 20
)

func (m *model) hasList() bool { return m.width >= widthFor2 }
func (m *model) hasMembers() bool {
	return m.showMembers && m.width >= widthFor3 && m.current != ""
}

func (m *model) middleWidth() int {
	w := m.width
	if m.hasList() {
		w -= listWidth + 3
	}
	if m.hasMembers() {
		w -= membersWidth + 3
	}
	return max(w, 1)
}

// bodyHeight returns the lines that title, input and status leave.
func (m *model) bodyHeight() int { return max(m.height-3-m.inputHeight(), 1) }

// View implements tea.Model.
func (m *model) View() string {
	view := cli.PrintableStyled(m.view())
	if m.plain {
		view = ansi.Strip(view)
	}
	return view
}

func (m *model) view() string {
	if m.width < smallestWidth || m.height < 6 {
		return fit("too small", m.width)
	}
	faint := lipgloss.NewStyle().Faint(true)
	columns := [][]string{m.middle()}
	widths := []int{m.middleWidth()}
	if m.hasList() {
		columns, widths = append([][]string{m.left()}, columns...), append([]int{listWidth}, widths...)
	}
	if m.hasMembers() {
		columns, widths = append(columns, m.right()), append(widths, membersWidth)
	}
	var b strings.Builder
	for row := range m.bodyHeight() + 1 {
		for i, column := range columns {
			if i > 0 {
				b.WriteString(faint.Render(" │ "))
			}
			cell := ""
			if row < len(column) {
				cell = column[row]
			}
			b.WriteString(cell + strings.Repeat(" ", max(0, widths[i]-lipgloss.Width(cell))))
		}
		b.WriteString("\n")
	}
	b.WriteString(faint.Render(strings.Repeat("─", m.width)) + "\n")
	b.WriteString(strings.Join(m.inputLines(), "\n") + "\n")
	b.WriteString(m.statusLine())
	return b.String()
}

// left lists the conversations.
func (m *model) left() []string {
	title := lipgloss.NewStyle().Bold(true)
	out := []string{title.Render("Conversations")}
	shown, from := m.list, 0
	rest := ""
	if room := m.bodyHeight() - 1; len(m.list) > room+1 {
		if i := slices.IndexFunc(m.list, func(c client.Conversation) bool { return c.ID == m.current }); i >= room {
			from = i - room + 1
		}
		shown = m.list[from : from+room]
		rest = fmt.Sprintf("  … %d more", len(m.list)-room)
	}
	for _, c := range shown {
		name := people.PlainNames(&c)
		if c.OwnName != "" {
			name = cli.OneLine(c.OwnName)
		}
		mark := ""
		switch {
		case c.State == client.StateLeft, c.State == client.StateBroken:
			mark = " (" + c.State.String() + ")"
		case c.Unread > 0:
			mark = fmt.Sprintf(" %d", c.Unread)
		}
		if people.Marks(m.list, &c) != "" {
			mark = shortMark + mark
		}
		text := fit(name, listWidth-2-len(mark)) + mark
		style := lipgloss.NewStyle()
		switch {
		case c.ID == m.current:
			text, style = "▸ "+text, style.Bold(true).Foreground(lipgloss.Color("6"))
		case c.Unread > 0:
			text, style = "• "+text, style.Bold(true)
		default:
			text = "  " + text
		}
		out = append(out, style.Render(text))
	}
	if rest != "" {
		out = append(out, lipgloss.NewStyle().Faint(true).Render(rest))
	}
	return out
}

// shortMark is the mark after a name that could be taken for something else, where people.Marks has no room.
const shortMark = " (?)"

// title returns the names of the conversation that is shown, in a width. The marks after them are never cut off.
func (m *model) title(width int) string {
	c := m.conversation()
	if c == nil {
		return fit("mlsfed", width)
	}
	name, mark := people.PlainNames(c), people.Marks(m.list, c)
	if mark != "" && ansi.StringWidth(mark) > width/2 {
		mark = shortMark
	}
	return fit(name, width-ansi.StringWidth(mark)) + mark
}

// fit cuts text to a width.
func fit(s string, width int) string { return ansi.Truncate(s, max(width, 1), "…") }

// middle shows the messages.
func (m *model) middle() []string {
	news := ""
	if n := m.unreadElsewhere(); n > 0 {
		news = fmt.Sprintf("  • %d unread: Ctrl-G", n)
	}
	title := m.title(m.middleWidth() - ansi.StringWidth(news))
	out := []string{lipgloss.NewStyle().Bold(true).Render(title) + fit(news, m.middleWidth())}
	lines := m.lines(m.middleWidth())
	height := m.bodyHeight()
	end := max(0, len(lines)-m.scroll)
	lines = lines[max(0, end-height):end]
	for range height - len(lines) {
		out = append(out, "")
	}
	return append(out, lines...)
}

// unreadElsewhere counts the unread messages of conversations that are not shown.
func (m *model) unreadElsewhere() (n uint64) {
	for _, c := range m.list {
		if c.ID != m.current {
			n += c.Unread
		}
	}
	return n
}

func (r remark) lines(width int) []string {
	style := lipgloss.NewStyle().Faint(true)
	if r.alarm {
		style = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("1"))
	}
	return wrap(style, r.time, "* "+r.text, width)
}

func (m *model) welcome(width int) []string {
	var out []string
	for _, s := range []string{
		"You are " + cli.DeviceName(m.p.DeviceID) + ".", "",
		"No conversation yet. Make one:", "", "  /create Lunch bob@b.example", "",
		"or wait until somebody adds you.", "/help lists the commands.",
	} {
		out = append(out, fit(s, width))
	}
	for _, r := range m.remarks[""] {
		out = append(out, r.lines(width)...)
	}
	return out
}

// messageLines returns one message: the sender, the text, and the delivery state of an own message.
func (m *model) messageLines(msg *client.Message, width int) []string {
	style := lipgloss.NewStyle().Foreground(colorOf(cli.PersonName(msg.Sender.User())))
	name := msg.Sender.User().Name()
	if msg.Sender.User().Organization() != m.p.DeviceID.Organization() {
		name = cli.PersonName(msg.Sender.User())
	}
	name += people.Ordinal(msg.Person)
	lines := m.wrapped(msg, name, width)
	if mark := m.statusMark(msg); msg.Sender == m.p.DeviceID && mark != "" {
		last := &lines[len(lines)-1]
		if room := width - ansi.StringWidth(*last) - 2; room >= ansi.StringWidth(mark) {
			*last += "  " + mark
		} else {
			lines = append(lines, strings.Repeat(" ", indent)+ansi.Truncate(mark, max(width-indent, 1), "…"))
		}
	}
	if head := m.p.Local(msg.Time).Format("15:04") + " " + name; m.isFound(msg) {
		lines[0] = lipgloss.NewStyle().Reverse(true).Render(lines[0])
	} else if strings.HasPrefix(lines[0], head) {
		lines[0] = lipgloss.NewStyle().Faint(true).Render(head[:5]) + " " + style.Bold(true).Render(name) + lines[0][len(head):]
	}
	return lines
}

// mostLines bounds how many lines of one message are shown unless the person opens it.
const mostLines = 40

// wrappedMessage holds the lines of a message at one width.
type wrappedMessage struct {
	text  string
	width int
	lines []string
}

// wrapped breaks a message into lines. It keeps the result, because each key that is pressed shows all messages.
func (m *model) wrapped(msg *client.Message, name string, width int) []string {
	text := name + ": " + separateEmoji(people.MessageText(msg))
	if m.numbers {
		text = fmt.Sprintf("%s #%d: %s", name, msg.Number, separateEmoji(people.MessageText(msg)))
	}
	have, ok := m.broken[msg.Number]
	if !ok || have.width != width || have.text != text {
		have = wrappedMessage{text, width, wrap(lipgloss.NewStyle(), m.p.Local(msg.Time), text, width)}
		if m.broken == nil || len(m.broken) > mostBroken {
			m.broken = make(map[uint64]wrappedMessage)
		}
		m.broken[msg.Number] = have
	}
	most := m.longest()
	if n := len(have.lines) - most; n > 1 && !m.opened[msg.Number] {
		rest := fmt.Sprintf("… %d more lines: /open %d", n, msg.Number)
		return append(slices.Clone(have.lines[:most]), lipgloss.NewStyle().Faint(true).Render(fit(strings.Repeat(" ", indent)+rest, width)))
	}
	return slices.Clone(have.lines)
}

// mostBroken bounds the messages that are kept broken into lines.
const mostBroken = 20000

// statusMark returns the delivery state of an own message: a check mark when the own organization has it, with the
// number of devices that have it, and the organizations that do not have it yet.
func (m *model) statusMark(msg *client.Message) string {
	mark := ""
	switch {
	case msg.Delivered > 0:
		mark = fmt.Sprintf("✓%d", msg.Delivered)
	case msg.Status == client.StatusAccepted:
		mark = "✓"
	}
	if m.progress != nil {
		if how := people.DeliveryText(m.progress.Messages[msg.Number], m.p.Now()); how != "" {
			mark += " " + how
		}
	}
	return mark
}

// colorOf returns one of the terminal's own colors for each person.
func colorOf(name string) lipgloss.Color {
	sum := 0
	for _, r := range name {
		sum = sum*31 + int(r)
	}
	return lipgloss.Color(fmt.Sprint(1 + (sum&0x7fffffff)%6))
}

// indent is the width of the time before a message: its further lines begin there.
const indent = 6

// wrap puts the time, in its own zone, before text and breaks it into lines, which are indented after the first.
func wrap(style lipgloss.Style, t time.Time, text string, width int) []string {
	room := max(width-indent, 1)
	var out []string
	for _, paragraph := range strings.Split(text, "\n") {
		for _, line := range breakLine(strings.TrimRight(paragraph, " "), room) {
			lead := strings.Repeat(" ", indent)
			if len(out) == 0 {
				lead = t.Format("15:04") + " "
			}
			out = append(out, style.Render(lead+line))
		}
	}
	return out
}

// breakLine breaks a line at spaces, or inside a word that is longer than a line.
func breakLine(s string, width int) []string {
	s = strings.ReplaceAll(s, "\t", "    ")
	var out []string
	line := ""
	for _, word := range strings.SplitAfter(s, " ") {
		if line == "" && len(out) > 0 && strings.TrimSpace(word) == "" {
			continue // a space at which the line was broken
		}
		for isWider(line+strings.TrimRight(word, " "), width) {
			if line != "" {
				out, line = append(out, strings.TrimRight(line, " ")), ""
				continue
			}
			head := ansi.Truncate(beginning(word, width), width, "")
			if head == "" { // a character that is wider than the window
				head = string([]rune(word)[:1])
			}
			out, word = append(out, head), word[len(head):]
		}
		line += word
	}
	if line == "" && len(out) > 0 {
		return out
	}
	return append(out, strings.TrimRight(line, " "))
}

// bytesForCell bounds the part of a long text that is read for one line, in bytes for each cell, so that breaking a
// text takes time in proportion to its length.
const bytesForCell = 32

// beginning returns as much of a text as a line of a width can hold.
func beginning(s string, width int) string {
	if most := bytesForCell * width; len(s) > most {
		return strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// isWider reports whether a text does not fit a width.
func isWider(s string, width int) bool {
	return len(s) > bytesForCell*width || ansi.StringWidth(s) > width
}

// separateEmoji takes apart emoji whose width differs between terminals: joined emoji become several, skin tones are
// left out, and a flag becomes its two letters.
func separateEmoji(s string) string { return strings.Map(separated, s) }

// separated maps a rune for separateEmoji; a negative result drops the rune.
func separated(r rune) rune {
	switch {
	case r == 0x200d || r == 0xfe0f || 0x1f3fb <= r && r <= 0x1f3ff:
		return -1
	case 0x1f1e6 <= r && r <= 0x1f1ff: // regional indicators
		return 'A' + r - 0x1f1e6
	}
	return r
}

// right lists the members, by person.
func (m *model) right() []string {
	out := []string{lipgloss.NewStyle().Bold(true).Render(fit(people.CountMembers(m.members), membersWidth))}
	last := ""
	for _, x := range m.members {
		if who := cli.PersonName(x.User) + people.Ordinal(x.Person); who != last {
			last = who
			if x.Admin {
				who += " ★"
			}
			out = append(out, lipgloss.NewStyle().Foreground(colorOf(last)).Render(fit(who, membersWidth)))
		}
		device := "  " + x.Device.Name() + memberNote(&x)
		out = append(out, lipgloss.NewStyle().Faint(true).Render(fit(device, membersWidth)))
	}
	if room := m.bodyHeight(); len(out) > room {
		out = append(out[:room-1], fit(fmt.Sprintf("… %d lines more", len(out)-room+1), membersWidth))
	}
	return out
}

// memberNote returns a remark on a member's device, "" for most devices.
func memberNote(x *client.Member) string {
	switch {
	case x.Self:
		return " (here)"
	case x.Leaving:
		return " (leaving)"
	case x.Expired:
		return " (expired)"
	}
	return ""
}

// segment is a part of the status line.
type segment struct {
	text  string
	style lipgloss.Style
}

// statusLine returns the user, the state of the connection, and the result of the last command. If there is no room
// for all, the result counts most.
func (m *model) statusLine() string {
	faint := lipgloss.NewStyle().Faint(true)
	state, short := lipgloss.NewStyle().Foreground(lipgloss.Color("2")), "online"
	if !m.online {
		state, short = lipgloss.NewStyle().Foreground(lipgloss.Color("3")), "offline"
	}
	place := []segment{{cli.DeviceName(m.p.DeviceID), faint}}
	if c := m.conversation(); c != nil && c.Epoch > 0 {
		place = append(place, segment{fmt.Sprintf("epoch %d", c.Epoch), faint})
	}
	last := []segment{{m.link, state}} // for a line without room for more
	if m.scroll > 0 {
		newer := segment{"PgDn for newer", faint}
		place, last = append(place, newer), []segment{newer, {short, state}}
	}
	said, style := m.said, lipgloss.NewStyle()
	if m.failed {
		style = style.Foreground(lipgloss.Color("1"))
	}
	if said == "" && len(m.offering) > 0 {
		said, style = fmt.Sprintf("%s has another root: /trust", m.offering[0]), style.Foreground(lipgloss.Color("1"))
	}
	if said == "" {
		link := segment{m.link, state}
		if text := m.waitingLine(m.p.Now()); text != "" {
			link = segment{text, lipgloss.NewStyle().Foreground(lipgloss.Color("3"))}
			last[len(last)-1] = link
		}
		return chooseLine(m.width, append(place, link), last)
	}
	end := []segment{{short, state}, {said, style}}
	return chooseLine(m.width, append(place, end...), end, end[1:])
}

// chooseLine returns the first line that fits, or the part of the last one that fits.
func chooseLine(width int, lines ...[]segment) string {
	const between = " · "
	for i, line := range lines {
		texts := make([]string, len(line))
		for j, s := range line {
			texts[j] = s.text
		}
		if i < len(lines)-1 && ansi.StringWidth(strings.Join(texts, between)) > width {
			continue
		}
		var b strings.Builder
		for j, s := range line {
			if j > 0 {
				b.WriteString(between)
			}
			b.WriteString(s.style.Render(s.text))
		}
		return fit(b.String(), width)
	}
	return ""
}

// waitingLine describes for whom messages of the conversation wait, "" for nobody.
func (m *model) waitingLine(now time.Time) string {
	if !m.online || m.progress == nil || !m.waits.IsZero() { // another line shows this already
		return ""
	}
	late := slices.DeleteFunc(slices.Clone(m.progress.Waiting), func(v client.Delivery) bool { return people.OnItsWay(v, now) })
	if len(late) == 0 {
		return ""
	}
	text := people.WaitingText(late[0], now)
	if more := len(late) - 1; more > 0 {
		text += fmt.Sprintf(" and for %d more", more)
	}
	return text
}
