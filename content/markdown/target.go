package markdown

import "strings"

// maxParentheses is the deepest nesting of parentheses in a URL without angle brackets.
const maxParentheses = 32

// target reads the URL and the title of a link at i: (url "title"). It looks at a bounded number of bytes.
func (in *inline) target(i int) (url, title string, end int, ok bool) {
	if i >= len(in.s) || in.s[i] != '(' {
		return "", "", 0, false
	}
	begin := i
	s := in.s[:min(len(in.s), i+maxURL+maxTitle)]
	defer func() { in.p.steps += end - begin + 1 }()
	end = skipBlanks(s, i+1)
	if url, end, ok = destination(s, end); !ok {
		return "", "", end, false
	}
	next := skipBlanks(s, end)
	if next > end {
		if t, after, found := quoted(s, next); found {
			title, next = t, skipBlanks(s, after)
		}
	}
	end = next
	if end >= len(s) || s[end] != ')' {
		return "", "", end, false
	}
	return unescape(url), unescape(title), end + 1, true
}

func skipBlanks(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n') {
		i++
	}
	return i
}

// destination reads a URL, with or without angle brackets.
func destination(s string, i int) (string, int, bool) {
	if i < len(s) && s[i] == '<' {
		for at := i + 1; at < len(s); at++ {
			switch s[at] {
			case '\\':
				at++
			case '\n', '<':
				return "", at, false
			case '>':
				return s[i+1 : at], at + 1, true
			}
		}
		return "", len(s), false
	}
	depth := 0
	at := i
loop:
	for ; at < len(s); at++ {
		switch c := s[at]; {
		case c == '\\':
			at++
		case c <= ' ' || c == 0x7f:
			break loop
		case c == '(':
			if depth++; depth > maxParentheses {
				return "", at, false
			}
		case c == ')':
			if depth--; depth < 0 {
				break loop
			}
		}
	}
	at = min(at, len(s))
	return s[i:at], at, depth <= 0
}

// quoted reads a title in quotes or parentheses.
func quoted(s string, i int) (string, int, bool) {
	if i >= len(s) {
		return "", i, false
	}
	closing := s[i]
	switch closing {
	case '"', '\'':
	case '(':
		closing = ')'
	default:
		return "", i, false
	}
	for at := i + 1; at < len(s) && at-i <= maxTitle; at++ {
		switch s[at] {
		case '\\':
			at++
		case closing:
			return s[i+1 : at], at + 1, true
		case '(':
			if closing == ')' {
				return "", at, false
			}
		}
	}
	return "", i, false
}

// unescape resolves the backslashes and character references of a URL or a title.
func unescape(s string) string {
	if !strings.ContainsAny(s, `\&`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && punctuation(s[i+1]):
			i++
		case s[i] == '&':
			if text, n := entity(s[i:]); n > 0 {
				b.WriteString(text)
				i += n - 1
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
