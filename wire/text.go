package wire

import (
	"strings"
	"unicode"
)

// Printable makes text from others safe for a terminal or a log. It replaces by U+FFFD the characters that control a
// terminal, that reverse the order of the displayed text, or that separate lines invisibly. Line feeds and tabs stay.
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
		0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069, // reverse the order of the displayed text
		r == 0x2028 || r == 0x2029,                               // separate lines
		r == 0x200b || 0x2060 <= r && r <= 0x2064 || r == 0xfeff, // have no width
		0xe0000 <= r && r <= 0xe007f,                             // tags
		0xfff9 <= r && r <= 0xfffb:                               // interlinear annotations
		return unicode.ReplacementChar
	}
	return r
}

// Line is Printable for a name, or for another text that shares a line with others: line feeds, tabs and runs of
// spaces become one space, and no invisible character remains: category Cf of Unicode, and blank letters and signs.
func Line(s string) string {
	s = strings.Map(func(r rune) rune {
		switch r {
		case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x2800, 0x3164, 0xffa0: // a joiner, fillers of Hangul, vowels of Khmer, Braille without dots
			return unicode.ReplacementChar
		}
		if unicode.Is(unicode.Cf, r) {
			return unicode.ReplacementChar
		}
		return printable(r)
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
