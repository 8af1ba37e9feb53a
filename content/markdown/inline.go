package markdown

import (
	"html"
	"strings"
	"unicode"
	"unicode/utf8"
)

// special has the characters that can begin markup within a text.
const special = "\\`*_~[]!<&\n"

// maxTokens bounds the tokens of one block: the rest of its text stays without markup.
const maxTokens = 2 * MaxNodes

// maxEntity is the length of the longest character reference that is understood, in bytes.
const maxEntity = 32

// A mark is the markup that begins or ends at a token.
type mark struct {
	kind       Kind
	url, title string
}

// A token is a piece of a text. The marks that end at it come before its own text, those that begin at it after.
type token struct {
	text   string
	node   *Node // a node without inlines, instead of text
	closes int
	opens  []mark // the innermost first
}

// A delimiter is a run of * _ or ~ that can begin or end emphasis. Delimiters that are still of interest form a list.
type delimiter struct {
	token       int
	char        byte
	count, size int // the characters that are left, and those at the begin
	open, close bool
	prev, next  int
}

// A bracket is a [ or ![ that can begin a link.
type bracket struct {
	token     int
	delimiter int // the last delimiter before it
	image     bool
}

// inline is the state of parsing one text, with the algorithm of CommonMark's appendix. Every loop that looks back ends
// at a bound that only grows, so that the whole takes linear time.
type inline struct {
	p          *parser
	s          string
	tokens     []token
	delimiters []delimiter
	first      int // of the list of delimiters; -1 if empty
	last       int
	brackets   []bracket
	inactive   int           // brackets below this one cannot begin a link: a link has no link within
	ticks      map[int][]int // the places of runs of backticks, by their length; nil before the first one
}

// inlines parses the text of a block. Lines are separated by "\n" and have no leading spaces.
func (p *parser) inlines(s string) []*Node {
	if s == "" {
		return nil
	}
	in := &inline{p: p, s: s, first: -1, last: -1}
	in.scan()
	in.emphasis(-1)
	for i := range in.delimiters {
		d := &in.delimiters[i]
		in.tokens[d.token].text = in.tokens[d.token].text[:d.count]
	}
	return in.tree()
}

func (in *inline) add(t token) { in.tokens = append(in.tokens, t) }

func (in *inline) text(s string) {
	if s != "" {
		in.add(token{text: s})
	}
}

// scan splits the text into tokens.
func (in *inline) scan() {
	for i := 0; i < len(in.s); {
		in.p.steps++
		next := strings.IndexAny(in.s[i:], special)
		if next < 0 || len(in.tokens) >= maxTokens {
			in.text(in.s[i:])
			return
		}
		in.text(in.s[i : i+next])
		i += next
		i += in.special(i)
	}
}

// special reads what begins with a special character, and returns its length.
func (in *inline) special(i int) int {
	switch in.s[i] {
	case '\\':
		return in.backslash(i)
	case '`':
		return in.code(i)
	case '*', '_', '~':
		return in.delimiter(i)
	case '[':
		in.brackets = append(in.brackets, bracket{token: len(in.tokens), delimiter: in.last})
		in.text("[")
		return 1
	case '!':
		if i+1 < len(in.s) && in.s[i+1] == '[' {
			in.brackets = append(in.brackets, bracket{token: len(in.tokens), delimiter: in.last, image: true})
			in.text("![")
			return 2
		}
	case ']':
		return in.closing(i)
	case '<':
		if n := in.autolink(i); n > 0 {
			return n
		}
	case '&':
		if text, n := entity(in.s[i:]); n > 0 {
			in.text(text)
			return n
		}
	case '\n':
		return in.lineEnd()
	}
	in.text(in.s[i : i+1])
	return 1
}

func punctuation(c byte) bool {
	return c > ' ' && c < 0x7f && !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z')
}

func (in *inline) backslash(i int) int {
	if i+1 == len(in.s) {
		in.text(`\`)
		return 1
	}
	switch c := in.s[i+1]; {
	case c == '\n':
		in.add(token{node: &Node{Kind: Break}})
		return 2
	case punctuation(c):
		in.text(in.s[i+1 : i+2])
		return 2
	}
	in.text(`\`)
	return 1
}

// lineEnd ends a line: two spaces before its end make a hard break.
func (in *inline) lineEnd() int {
	if n := len(in.tokens); n > 0 && in.tokens[n-1].node == nil && in.tokens[n-1].closes == 0 {
		t := &in.tokens[n-1]
		trimmed := strings.TrimRight(t.text, " ")
		hard := len(t.text)-len(trimmed) >= 2
		t.text = trimmed
		if hard {
			in.add(token{node: &Node{Kind: Break}})
			return 1
		}
	}
	in.text("\n")
	return 1
}

// code reads a code span, or backticks that begin none.
func (in *inline) code(i int) int {
	size := runOf(in.s[i:], '`')
	if in.ticks == nil {
		in.ticks = make(map[int][]int)
		for at := 0; at < len(in.s); at++ {
			if n := runOf(in.s[at:], '`'); n > 0 {
				in.ticks[n] = append(in.ticks[n], at)
				at += n
			}
		}
	}
	places := in.ticks[size]
	for len(places) > 0 && places[0] < i+size { // scan never goes back
		in.p.steps++
		places = places[1:]
	}
	in.ticks[size] = places
	if len(places) == 0 {
		in.text(in.s[i : i+size])
		return size
	}
	text := strings.ReplaceAll(in.s[i+size:places[0]], "\n", " ")
	if len(text) > 2 && text[0] == ' ' && text[len(text)-1] == ' ' && strings.Trim(text, " ") != "" {
		text = text[1 : len(text)-1]
	}
	in.add(token{node: &Node{Kind: Code, Text: clean(text)}})
	return places[0] + size - i
}

// delimiter reads a run of * _ or ~.
func (in *inline) delimiter(i int) int {
	c := in.s[i]
	size := runOf(in.s[i:], c)
	before, _ := utf8.DecodeLastRuneInString(in.s[:i])
	if i == 0 {
		before = ' '
	}
	after, _ := utf8.DecodeRuneInString(in.s[i+size:])
	if i+size == len(in.s) {
		after = ' '
	}
	left := !unicode.IsSpace(after) && (!isPunctuation(after) || unicode.IsSpace(before) || isPunctuation(before))
	right := !unicode.IsSpace(before) && (!isPunctuation(before) || unicode.IsSpace(after) || isPunctuation(after))
	d := delimiter{token: len(in.tokens), char: c, count: size, size: size, open: left, close: right, prev: in.last, next: -1}
	if c == '_' {
		d.open = left && (!right || isPunctuation(before))
		d.close = right && (!left || isPunctuation(after))
	}
	in.add(token{text: in.s[i : i+size]})
	if c == '~' && size > 2 {
		return size
	}
	n := len(in.delimiters)
	in.delimiters = append(in.delimiters, d)
	if in.last >= 0 {
		in.delimiters[in.last].next = n
	} else {
		in.first = n
	}
	in.last = n
	return size
}

func isPunctuation(r rune) bool { return unicode.IsPunct(r) || unicode.IsSymbol(r) }

// remove takes a delimiter off the list.
func (in *inline) remove(i int) {
	d := &in.delimiters[i]
	if d.prev >= 0 {
		in.delimiters[d.prev].next = d.next
	} else {
		in.first = d.next
	}
	if d.next >= 0 {
		in.delimiters[d.next].prev = d.prev
	} else {
		in.last = d.prev
	}
}

// key returns the class of a delimiter that closes: for two of one class the same delimiters cannot open.
func (d *delimiter) key() int {
	k := d.size % 3
	if d.char == '~' {
		k = d.size
	}
	if d.open {
		k += 3
	}
	return k + 6*strings.IndexByte("*_~", d.char)
}

// opens reports whether d can open what c closes.
func (d *delimiter) opens(c *delimiter) bool {
	if !d.open || d.char != c.char {
		return false
	}
	if d.char == '~' {
		return d.size == c.size
	}
	return !(d.close || c.open) || (d.size+c.size)%3 != 0 || d.size%3 == 0 && c.size%3 == 0
}

// emphasis pairs the delimiters after bottom, and takes them off the list.
func (in *inline) emphasis(bottom int) {
	var bottoms [18]int
	for i := range bottoms {
		bottoms[i] = bottom
	}
	at := in.first
	if bottom >= 0 {
		at = in.delimiters[bottom].next
	}
	for at >= 0 {
		in.p.steps++
		c := &in.delimiters[at]
		if !c.close {
			at = c.next
			continue
		}
		key := c.key()
		opener := c.prev
		for opener > bottoms[key] && !in.delimiters[opener].opens(c) {
			in.p.steps++
			opener = in.delimiters[opener].prev
		}
		if opener <= bottoms[key] {
			bottoms[key] = max(bottoms[key], c.prev)
			if !c.open {
				in.remove(at)
			}
			at = c.next
			continue
		}
		in.pair(opener, at)
		if c.count == 0 {
			in.remove(at)
			at = c.next
		}
	}
	in.last = bottom
	if bottom >= 0 {
		in.delimiters[bottom].next = -1
	} else {
		in.first = -1
	}
}

// pair makes emphasis of two delimiters and forgets those between them.
func (in *inline) pair(opener, closer int) {
	o, c := &in.delimiters[opener], &in.delimiters[closer]
	o.next, c.prev = closer, opener
	m := mark{kind: Emphasis}
	n := 1
	switch {
	case o.char == '~':
		m.kind, n = Strike, o.size
	case o.count >= 2 && c.count >= 2:
		m.kind, n = Strong, 2
	}
	o.count -= n
	c.count -= n
	in.tokens[o.token].opens = append(in.tokens[o.token].opens, m)
	in.tokens[c.token].closes++
	if o.count == 0 {
		in.remove(opener)
	}
}

// closing reads a ], which ends a link if a target in parentheses follows.
func (in *inline) closing(i int) int {
	n := len(in.brackets) - 1
	if n < 0 {
		in.text("]")
		return 1
	}
	b := in.brackets[n]
	in.brackets = in.brackets[:n]
	active := b.image || n >= in.inactive
	in.inactive = min(in.inactive, n)
	if !active {
		in.text("]")
		return 1
	}
	url, title, end, ok := in.target(i + 1)
	if !ok || !in.p.allowed(url) {
		in.text("]")
		return 1
	}
	m := mark{kind: Link, url: url, title: clean(title)}
	switch {
	case b.image:
		m.kind = Image
	case in.p.mention(url):
		m.kind = Mention
	}
	in.emphasis(b.delimiter)
	in.tokens[b.token] = token{opens: []mark{m}}
	in.add(token{closes: 1})
	if !b.image {
		in.inactive = n
	}
	return end - i
}

// autolink reads a URL or an e-mail address in angle brackets. It returns 0 if there is none.
func (in *inline) autolink(i int) int {
	s := in.s[i+1 : min(len(in.s), i+1+maxURL)]
	end := strings.IndexAny(s, "<> \n\t")
	if end <= 0 || s[end] != '>' {
		in.p.steps += max(end, 0)
		return 0
	}
	shown := s[:end]
	url := shown
	if scheme, _, ok := strings.Cut(shown, ":"); !ok || strings.Contains(scheme, "@") {
		name, domain, ok := strings.Cut(shown, "@")
		if !ok || name == "" || !strings.Contains(domain, ".") || strings.ContainsAny(domain, "@/:?") {
			return 0
		}
		url = "mailto:" + shown
	}
	if !in.p.allowed(url) {
		return 0
	}
	m := mark{kind: Link, url: url}
	if in.p.mention(url) {
		m.kind = Mention
	}
	in.add(token{opens: []mark{m}})
	in.text(shown)
	in.add(token{closes: 1})
	return end + 2
}

// entity reads a character reference, and returns its length, or 0 if there is none.
func entity(s string) (string, int) {
	end := strings.IndexByte(s[:min(len(s), maxEntity)], ';')
	if end < 2 {
		return "", 0
	}
	source := s[:end+1]
	if source == "&#x;" || source == "&#X;" {
		return "", 0 // no digits
	}
	text := html.UnescapeString(source)
	if text == source || strings.HasSuffix(text, ";") && text != ";" { // a part of it is a reference, or nothing
		return "", 0
	}
	return text, end + 1
}

// tree makes nodes of the tokens. A mark beyond MaxInlineDepth, or beyond the number of nodes, has no node: its text is
// part of the node around it.
func (in *inline) tree() []*Node {
	root := &Node{}
	stack := []*Node{root}
	var pending strings.Builder
	top := func() *Node { return stack[len(stack)-1] }
	flush := func() {
		if pending.Len() == 0 {
			return
		}
		in.p.left-- // a text is never lost: at most one more for each node
		top().Children = append(top().Children, &Node{Kind: Text, Text: clean(pending.String())})
		pending.Reset()
	}
	depth := 0 // of nodes, where stack repeats a node for a mark without one
	for i := range in.tokens {
		t := &in.tokens[i]
		for range t.closes {
			n := len(stack)
			if stack[n-1] != stack[n-2] {
				flush()
				depth--
			}
			stack = stack[:n-1]
		}
		if t.node == nil {
			pending.WriteString(t.text)
		} else if in.p.left > 0 {
			flush()
			in.p.left--
			top().Children = append(top().Children, t.node)
		} else if t.node.Kind == Break {
			pending.WriteString("\n")
		} else {
			pending.WriteString(t.node.Text)
		}
		for j := len(t.opens) - 1; j >= 0; j-- {
			m := t.opens[j]
			if depth >= MaxInlineDepth || in.p.left <= 0 {
				stack = append(stack, top())
				continue
			}
			flush()
			in.p.left--
			depth++
			node := &Node{Kind: m.kind, URL: m.url, Title: m.title}
			top().Children = append(top().Children, node)
			stack = append(stack, node)
		}
	}
	flush()
	return root.Children
}
