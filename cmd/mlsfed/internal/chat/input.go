package chat

import (
	"strings"
	"unicode"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
)

// inputLine is the line that a person writes.
type inputLine struct {
	text   []rune
	cursor int
	past   []string // what was written before
	at     int      // in past; len(past) is the line that is being written
	draft  []rune   // that line, while an older line is shown
	pasted bool     // its first character was pasted
}

// maxPast is the length of the input history.
const maxPast = 100

// key changes the line, and reports whether the key was for the line.
func (l *inputLine) key(k tea.KeyMsg) bool {
	switch k.Type {
	case tea.KeyRunes, tea.KeySpace:
		if l.cursor == 0 {
			l.pasted = k.Paste
		}
		l.insert(k.Runes)
	case tea.KeyBackspace:
		l.erase(l.cursor-1, l.cursor)
	case tea.KeyDelete:
		l.erase(l.cursor, l.cursor+1)
	case tea.KeyLeft, tea.KeyCtrlB:
		l.cursor = max(l.cursor-1, 0)
	case tea.KeyRight, tea.KeyCtrlF:
		l.cursor = min(l.cursor+1, len(l.text))
	case tea.KeyHome, tea.KeyCtrlA:
		l.cursor = 0
	case tea.KeyEnd, tea.KeyCtrlE:
		l.cursor = len(l.text)
	case tea.KeyCtrlU:
		l.erase(0, l.cursor)
	case tea.KeyCtrlK:
		l.erase(l.cursor, len(l.text))
	case tea.KeyCtrlW:
		l.erase(l.wordStart(), l.cursor)
	case tea.KeyUp:
		if !l.vertical(-1) {
			l.recall(l.at - 1)
		}
	case tea.KeyDown:
		if !l.vertical(1) {
			l.recall(l.at + 1)
		}
	case tea.KeyEsc:
		l.erase(0, len(l.text))
	default:
		return false
	}
	return true
}

// insert puts text at the cursor. Pasted lines stay lines.
func (l *inputLine) insert(runes []rune) {
	var fit []rune
	for _, r := range runes {
		switch {
		case r == '\n' || r == '\r': // terminals paste either character
			fit = append(fit, '\n')
		case r == '\t':
			fit = append(fit, ' ')
		case unicode.IsControl(r):
		default:
			fit = append(fit, r)
		}
	}
	l.text = append(l.text[:l.cursor:l.cursor], append(fit, l.text[l.cursor:]...)...)
	l.cursor += len(fit)
}

func (l *inputLine) erase(from, to int) {
	if from < 0 || to > len(l.text) || from >= to {
		return
	}
	l.text = append(l.text[:from:from], l.text[to:]...)
	l.cursor = from
}

func (l *inputLine) wordStart() int {
	i := l.cursor
	for i > 0 && l.text[i-1] == ' ' {
		i--
	}
	for i > 0 && l.text[i-1] != ' ' {
		i--
	}
	return i
}

// vertical moves the cursor to another line of the text, and reports whether there is such a line.
func (l *inputLine) vertical(by int) bool {
	lines := strings.Split(string(l.text), "\n")
	row := l.row()
	if row+by < 0 || row+by >= len(lines) {
		return false
	}
	start := 0
	for _, line := range lines[:row] {
		start += len([]rune(line)) + 1
	}
	column := l.cursor - start
	if by < 0 {
		start -= len([]rune(lines[row-1])) + 1
	} else {
		start += len([]rune(lines[row])) + 1
	}
	l.cursor = start + min(column, len([]rune(lines[row+by])))
	return true
}

func (l *inputLine) recall(n int) {
	if n < 0 || n > len(l.past) {
		return
	}
	if l.at == len(l.past) {
		l.draft = l.text
	}
	l.at = n
	if n == len(l.past) {
		l.text = l.draft
	} else {
		l.text = []rune(l.past[n])
	}
	l.cursor = len(l.text)
}

// take returns the text and begins a new line.
func (l *inputLine) take() string {
	s := strings.TrimSpace(string(l.text))
	if s != "" {
		l.past = append(l.past, s)
		l.past = l.past[max(0, len(l.past)-maxPast):]
	}
	l.text, l.cursor, l.draft, l.at, l.pasted = nil, 0, nil, len(l.past), false
	return s
}

// row returns the number of the line that the cursor is in.
func (l *inputLine) row() int { return strings.Count(string(l.text[:l.cursor]), "\n") }

// lines returns the text as it is shown, one shown line for each line of the text, with a block as the cursor.
func (l *inputLine) lines(width int, cursor func(string) string) []string {
	var out []string
	start := 0
	for i := 0; i <= len(l.text); i++ {
		if i < len(l.text) && l.text[i] != '\n' {
			continue
		}
		part := &inputLine{text: l.text[start:i], cursor: l.cursor - start}
		if part.cursor < 0 || part.cursor > len(part.text) { // the cursor is in another line
			part.cursor = 0
			out = append(out, part.view(width, func(s string) string { return s }))
		} else {
			out = append(out, part.view(width, cursor))
		}
		start = i + 1
	}
	return out
}

// view returns one line as it is shown in a width, with a block as the cursor: of a long line, the end, or the part
// around the cursor. Characters whose width differs between terminals are taken apart.
func (l *inputLine) view(width int, cursor func(string) string) string {
	from := max(0, l.cursor-width) // text far to the left is not visible
	show := func(runes []rune) string { return separateEmoji(string(runes)) }
	for ansi.StringWidth(show(l.text[from:l.cursor]))+1 > width && from < l.cursor {
		from++
	}
	under, rest := " ", ""
	if l.cursor < len(l.text) {
		under, rest = show(l.text[l.cursor:l.cursor+1]), show(l.text[l.cursor+1:])
	}
	if under == "" {
		under = " " // a part of an emoji
	}
	before := show(l.text[from:l.cursor])
	room := max(0, width-ansi.StringWidth(before)-ansi.StringWidth(under))
	return before + cursor(under) + ansi.Truncate(rest, room, "")
}
