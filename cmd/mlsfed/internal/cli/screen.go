package cli

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-isatty"

	"github.com/mlsfed/mlsfed/wire"
)

// screen is the output of a command. All text passes it, so that no text of nodes, other organizations and members
// controls the terminal. It is safe for concurrent use.
type screen struct {
	mu   sync.Mutex
	to   io.Writer
	rest []byte // the beginning of a character
}

// NewScreen returns a writer that passes text to another one without what controls a terminal.
func NewScreen(to io.Writer) io.Writer { return &screen{to: to} }

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

// flush writes the bytes of an incomplete character.
func (s *screen) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) > 0 {
		_, _ = io.WriteString(s.to, string(unicode.ReplacementChar))
		s.rest = nil
	}
}

// Below returns the writer below the screen, for an interface that draws the whole terminal and cleans each text
// itself, and for bytes that are no text.
func Below(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.to
	}
	return w
}

// colours matches the only terminal sequences that the interface of a chat writes itself.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// PrintableStyled is wire.Printable for text with colours.
func PrintableStyled(s string) string {
	var b strings.Builder
	at := 0
	for _, m := range colours.FindAllStringIndex(s, -1) {
		b.WriteString(wire.Printable(s[at:m[0]]) + s[m[0]:m[1]])
		at = m[1]
	}
	b.WriteString(wire.Printable(s[at:]))
	return b.String()
}

// These sequences switch off and on that a terminal continues a long line in the next line (DECAWM).
const (
	NoWrap    = "\x1b[?7l"
	WrapAgain = "\x1b[?7h"
)

// IsTerminal reports whether the output goes to a terminal.
func IsTerminal(w any) bool {
	if out, ok := w.(io.Writer); ok {
		w = Below(out)
	}
	if t, ok := w.(interface{ IsTerminal() bool }); ok {
		return t.IsTerminal()
	}
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
