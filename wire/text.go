package wire

import (
	"strings"
	"unicode"
)

// Printable makes text of others fit for a terminal or a log: characters that control a terminal, that reverse the
// order of what is shown, or that only separate lines where nobody sees it, become U+FFFD. Line feeds and tabs stay.
func Printable(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\n' && c != '\t' || c >= 0x7f {
			return strings.Map(printable, s)
		}
	}
	return s
}

func printable(r rune) rune {
	switch {
	case r == '\n' || r == '\t':
		return r
	case unicode.IsControl(r), // C0, DEL and C1
		0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069, // they reverse the order of what is shown
		r == 0x2028 || r == 0x2029,                               // they separate lines
		r == 0x200b || 0x2060 <= r && r <= 0x2064 || r == 0xfeff, // they have no width
		0xe0000 <= r && r <= 0xe007f,                             // tags
		0xfff9 <= r && r <= 0xfffb:                               // interlinear annotations
		return unicode.ReplacementChar
	}
	return r
}

// Line is Printable for a name, or for what shares a line with other things: line feeds, tabs and runs of spaces become
// one space, and no character is left that cannot be seen (category Cf of Unicode).
func Line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) {
			return unicode.ReplacementChar
		}
		return printable(r)
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
