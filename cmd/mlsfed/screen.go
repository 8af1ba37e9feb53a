package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/wire"
)

// screen is where a command writes: all text goes through it, so that none of what nodes, other organizations and
// members said controls the terminal that it is shown on. It is safe for concurrent use.
type screen struct {
	mu   sync.Mutex
	to   io.Writer
	rest []byte // the beginning of a character
}

// Write implements io.Writer.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	whole := append(s.rest, b...)
	s.rest = nil
	for end := len(whole) - 1; end >= 0 && end >= len(whole)-utf8.UTFMax; end-- {
		if utf8.RuneStart(whole[end]) {
			if !utf8.FullRune(whole[end:]) {
				s.rest = bytes.Clone(whole[end:])
				whole = whole[:end]
			}
			break
		}
	}
	if _, err := io.WriteString(s.to, wire.Printable(string(whole))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// flush writes what a character that never came whole has left.
func (s *screen) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) > 0 {
		_, _ = io.WriteString(s.to, string(unicode.ReplacementChar))
		s.rest = nil
	}
}

// below is the writer below the screen: for what shows a whole terminal, and cleans each text itself, and for
// bytes that are no text.
func below(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.to
	}
	return w
}

// colours are the only sequences of a terminal that the interface of a chat writes itself.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// printableStyled is wire.Printable for text with colours.
func printableStyled(s string) string {
	var b strings.Builder
	at := 0
	for _, m := range colours.FindAllStringIndex(s, -1) {
		b.WriteString(wire.Printable(s[at:m[0]]) + s[m[0]:m[1]])
		at = m[1]
	}
	b.WriteString(wire.Printable(s[at:]))
	return b.String()
}

// escapeJSON writes the characters of a JSON text that control a terminal as escapes, which every reader of JSON takes
// for the same characters. JSON escapes those below U+0020 itself.
func escapeJSON(b []byte) []byte {
	if !bytes.ContainsFunc(b, escaped) {
		return b
	}
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case !escaped(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16Pair(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

func utf16Pair(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}

func escaped(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == 0x2028 || r == 0x2029)
}
