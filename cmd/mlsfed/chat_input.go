package main

import (
	"slices"
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
	draft  []rune   // that line, while an older one is shown
	pasted bool     // its first character was pasted
}

// maxPast bounds what is remembered of what was written.
const maxPast = 100

// key changes the line, and reports whether the key was one for it.
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
		l.recall(l.at - 1)
	case tea.KeyDown:
		l.recall(l.at + 1)
	case tea.KeyEsc:
		l.erase(0, len(l.text))
	default:
		return false
	}
	return true
}

// insert puts text at the cursor. Lines that are pasted stay lines.
func (l *inputLine) insert(runes []rune) {
	var fit []rune
	for _, r := range runes {
		switch {
		case r == '\n' || r == '\r': // terminals paste either
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

// take gives what was written and begins a new line.
func (l *inputLine) take() string {
	s := strings.TrimSpace(string(l.text))
	if s != "" {
		l.past = append(l.past, s)
		l.past = l.past[max(0, len(l.past)-maxPast):]
	}
	l.text, l.cursor, l.draft, l.at, l.pasted = nil, 0, nil, len(l.past), false
	return s
}

// view shows the line in a width, with a block as the cursor: the end of a long line, or where the cursor is.
// A line feed is shown as a sign.
func (l *inputLine) view(width int, cursor func(string) string) string {
	if slices.Contains(l.text, '\n') {
		shown := *l
		shown.text = []rune(strings.ReplaceAll(string(l.text), "\n", "⏎"))
		return shown.view(width, cursor)
	}
	from := max(0, l.cursor-width) // a character takes at least no cell, and what is far to the left is out of sight
	for ansi.StringWidth(string(l.text[from:l.cursor]))+1 > width && from < l.cursor {
		from++
	}
	under, rest := " ", ""
	if l.cursor < len(l.text) {
		under, rest = string(l.text[l.cursor]), string(l.text[l.cursor+1:])
	}
	before := string(l.text[from:l.cursor])
	room := max(0, width-ansi.StringWidth(before)-ansi.StringWidth(under))
	return before + cursor(under) + ansi.Truncate(rest, room, "")
}
