package markdown

import (
	"strconv"
	"strings"
)

// tab is the distance of tab stops.
const tab = 4

// codeIndent is the number of spaces that begin indented code.
const codeIndent = 4

// blocks parses lines into blocks. depth counts the containers around them. Each container parses its lines with one
// more call of blocks, so that the whole takes time in proportion to the text times MaxBlockDepth.
func (p *parser) blocks(all []string, depth int) []*Node {
	var nodes []*Node
	for len(all) > 0 {
		p.steps += len(all[0]) + 1
		if blank(all[0]) {
			all = all[1:]
			continue
		}
		if p.left <= 2 { // the rest is one text
			return append(nodes, &Node{Kind: Paragraph, Children: []*Node{{Kind: Text, Text: clean(strings.Join(all, "\n"))}}})
		}
		node, n := p.block(all, depth)
		nodes = append(nodes, node)
		all = all[n:]
	}
	return nodes
}

// block parses the block that begins with the first line, and returns the number of its lines. The tree has room for
// the node.
func (p *parser) block(all []string, depth int) (*Node, int) {
	line := expand(all[0])
	indent := leading(line)
	rest := line[indent:]
	switch {
	case indent >= codeIndent:
		return p.indented(all)
	case isRule(rest):
		return p.node(Rule), 1
	}
	if f, ok := fenceOf(rest); ok {
		return p.fenced(all, indent, f)
	}
	if level := headingLevel(rest); level > 0 {
		node := p.node(Heading)
		node.Level = uint8(level)
		node.Children = p.inlines(headingText(rest[level:]))
		return node, 1
	}
	if depth < MaxBlockDepth {
		if rest[0] == '>' {
			return p.quote(all, depth)
		}
		if m, ok := markerOf(line); ok {
			return p.list(all, m, depth)
		}
	}
	if table, ok := tableOf(all); ok {
		return p.table(all, table)
	}
	return p.paragraph(all, depth)
}

func blank(line string) bool { return strings.Trim(line, " \t") == "" }

// expand replaces the tabs at the begin of a line by spaces.
func expand(line string) string {
	i := 0
	column := 0
	tabs := false
	for ; i < len(line) && (line[i] == ' ' || line[i] == '\t'); i++ {
		column++
		if line[i] == '\t' {
			tabs = true
			column = (column-1)/tab*tab + tab
		}
	}
	if !tabs {
		return line
	}
	return strings.Repeat(" ", column) + line[i:]
}

// leading returns the number of spaces at the begin of a line.
func leading(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// strip removes at most n spaces from the begin of a line.
func strip(line string, n int) string { return line[min(n, leading(line)):] }

// indented parses code that is indented.
func (p *parser) indented(all []string) (*Node, int) {
	var code []string
	end := 0
	for i, line := range all {
		line = expand(line)
		if !blank(line) {
			if leading(line) < codeIndent {
				break
			}
			end = i + 1
		}
		code = append(code, strip(line, codeIndent))
	}
	node := p.node(CodeBlock)
	node.Text = clean(strings.Join(code[:end], "\n"))
	return node, end
}

// A fence begins or ends a block of code.
type fence struct {
	char byte
	size int
	info string
}

func fenceOf(rest string) (fence, bool) {
	if rest == "" || rest[0] != '`' && rest[0] != '~' {
		return fence{}, false
	}
	f := fence{char: rest[0], size: runOf(rest, rest[0])}
	f.info = strings.TrimSpace(rest[f.size:])
	return f, f.size >= 3 && !(f.char == '`' && strings.Contains(f.info, "`"))
}

// runOf returns how often c repeats at the begin of s.
func runOf(s string, c byte) int {
	n := 0
	for n < len(s) && s[n] == c {
		n++
	}
	return n
}

func (p *parser) fenced(all []string, indent int, open fence) (*Node, int) {
	var code []string
	n := 1
	for ; n < len(all); n++ {
		line := expand(all[n])
		if leading(line) < codeIndent {
			f, ok := fenceOf(strings.TrimLeft(line, " "))
			if ok && f.char == open.char && f.size >= open.size && f.info == "" {
				n++
				break
			}
		}
		code = append(code, strip(line, indent))
	}
	node := p.node(CodeBlock)
	node.Info = clean(unescape(open.info))
	node.Text = clean(strings.Join(code, "\n"))
	return node, n
}

// isRule reports whether a line is three or more of the same character - _ or *.
func isRule(rest string) bool {
	if rest == "" || !strings.ContainsRune("-_*", rune(rest[0])) {
		return false
	}
	return strings.Trim(rest, rest[:1]+" \t") == "" && strings.Count(rest, rest[:1]) >= 3
}

func headingLevel(rest string) int {
	n := runOf(rest, '#')
	if n < 1 || n > 6 || n < len(rest) && rest[n] != ' ' && rest[n] != '\t' {
		return 0
	}
	return n
}

// headingText removes the closing number signs of a heading.
func headingText(s string) string {
	s = strings.Trim(s, " \t")
	closed := strings.TrimRight(s, "#")
	if closed == "" || closed[len(closed)-1] == ' ' || closed[len(closed)-1] == '\t' {
		return strings.TrimRight(closed, " \t")
	}
	return s
}

// quote parses a block quote.
func (p *parser) quote(all []string, depth int) (*Node, int) {
	var inner []string
	n := 0
	for ; n < len(all); n++ {
		line := expand(all[n])
		p.steps += len(line)
		text := strings.TrimLeft(line, " ")
		if leading(line) < codeIndent && text != "" && text[0] == '>' {
			text = text[1:]
			if text != "" && (text[0] == ' ' || text[0] == '\t') {
				text = text[1:]
			}
			inner = append(inner, text)
			continue
		}
		if !lazy(all, n, inner[len(inner)-1]) {
			break
		}
		inner = append(inner, lazyLine(line))
	}
	node := p.node(Quote)
	node.Children = p.blocks(inner, depth+1)
	return node, n
}

// lazy reports whether line n continues a paragraph within a container although the line has no mark of the container.
// last is the line before, without its mark.
func lazy(all []string, n int, last string) bool {
	return !blank(all[n]) && continues(last) && !interrupts(all[n:])
}

// lazyLine returns a line without a mark for the lines of the container. It can only continue a paragraph: indented, it
// underlines no heading.
func lazyLine(line string) string {
	if underline(line) > 0 {
		return strings.Repeat(" ", codeIndent) + line
	}
	return line
}

// continues reports whether a line can be one of a paragraph that the next line continues.
func continues(line string) bool {
	for range MaxBlockDepth { // within quotes and lists, mark by mark
		line = expand(line)
		if blank(line) || leading(line) >= codeIndent {
			return false
		}
		rest := strings.TrimLeft(line, " ")
		if rest[0] == '>' {
			line = rest[1:]
			continue
		}
		if m, ok := markerOf(line); ok && !isRule(rest) {
			line = m.first
			continue
		}
		_, fenced := fenceOf(rest)
		return !fenced && !isRule(rest) && headingLevel(rest) == 0
	}
	return true // deeper marks are text
}

// interrupts reports whether the first line begins a block that ends a paragraph.
func interrupts(all []string) bool {
	line := expand(all[0])
	if leading(line) >= codeIndent {
		return false
	}
	rest := strings.TrimLeft(line, " ")
	if _, ok := fenceOf(rest); ok || rest[0] == '>' || isRule(rest) || headingLevel(rest) > 0 {
		return true
	}
	if m, ok := markerOf(line); ok && !blank(m.first) && (!m.ordered || m.start == 1) {
		return true
	}
	_, ok := tableOf(all)
	return ok
}

// A marker begins a list item.
type marker struct {
	ordered bool
	char    byte // the bullet, or the character after the number
	start   int32
	offset  int    // the column of the item's content
	first   string // the content on the first line
}

// markerOf returns the marker at the begin of a line whose leading tabs are expanded.
func markerOf(line string) (marker, bool) {
	indent := leading(line)
	rest := line[indent:]
	var m marker
	width := 1
	switch {
	case rest == "" || indent >= codeIndent:
		return m, false
	case strings.ContainsRune("-+*", rune(rest[0])):
		m.char = rest[0]
	default:
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits < 1 || digits > 9 || digits == len(rest) || rest[digits] != '.' && rest[digits] != ')' {
			return m, false
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 32)
		if err != nil {
			return m, false
		}
		m.ordered, m.char, m.start = true, rest[digits], int32(n)
		width = digits + 1
	}
	text := rest[width:]
	if text != "" && text[0] != ' ' && text[0] != '\t' {
		return m, false
	}
	text = expand(text)
	spaces := leading(text)
	if spaces > codeIndent || spaces == len(text) {
		spaces = min(1, len(text))
	}
	m.first = text[spaces:]
	m.offset = indent + width + max(spaces, 1)
	return m, true
}

// list parses a list: the items with the same kind of marker.
func (p *parser) list(all []string, m marker, depth int) (*Node, int) {
	node := p.node(List)
	node.Ordered, node.Start = m.ordered, m.start
	n := 0
	for n < len(all) {
		line := expand(all[n])
		if blank(line) {
			n++
			continue
		}
		next, ok := markerOf(line)
		if !ok || next.ordered != m.ordered || next.char != m.char || isRule(strings.TrimLeft(line, " ")) || p.left <= 2 {
			break
		}
		inner, used := p.itemLines(all[n:], next)
		n += used
		node.Children = append(node.Children, p.item(inner, depth))
	}
	for n > 0 && blank(all[n-1]) { // they belong to no item
		n--
	}
	if n == 0 { // the tree is full
		return p.paragraph(all, depth)
	}
	return node, n
}

// itemLines returns the lines of an item without their indentation, and their number in all.
func (p *parser) itemLines(all []string, m marker) ([]string, int) {
	inner := []string{m.first}
	n := 1
	if blank(m.first) && n < len(all) && blank(all[n]) {
		return inner, n
	}
	for ; n < len(all); n++ {
		line := expand(all[n])
		p.steps += len(line) + 1
		switch {
		case blank(line):
			inner = append(inner, "")
		case leading(line) >= m.offset:
			inner = append(inner, line[m.offset:])
		case !blank(all[n-1]) && lazy(all, n, inner[len(inner)-1]) && !startsItem(line):
			inner = append(inner, lazyLine(line))
		default:
			return inner, n
		}
	}
	return inner, n
}

func startsItem(line string) bool {
	_, ok := markerOf(line)
	return ok
}

func (p *parser) item(inner []string, depth int) *Node {
	node := p.node(Item)
	if rest, task := taskOf(inner[0]); task != NoTask {
		node.Task = task
		inner[0] = rest
	}
	node.Children = p.blocks(inner, depth+1)
	return node
}

// taskOf removes the box of a task list item.
func taskOf(line string) (string, Task) {
	if len(line) > 3 && line[0] == '[' && line[2] == ']' && (line[3] == ' ' || line[3] == '\t') {
		switch line[1] {
		case ' ':
			return line[4:], Open
		case 'x', 'X':
			return line[4:], Done
		}
	}
	return line, NoTask
}

// paragraph parses a paragraph, or a heading that is underlined.
func (p *parser) paragraph(all []string, depth int) (*Node, int) {
	text := []string{strings.TrimLeft(expand(all[0]), " ")}
	n := 1
	for ; n < len(all) && !blank(all[n]); n++ {
		line := expand(all[n])
		p.steps += len(line)
		rest := strings.TrimLeft(line, " ")
		if level := underline(line); level > 0 {
			node := p.node(Heading)
			node.Level = uint8(level)
			node.Children = p.inlines(strings.TrimRight(strings.Join(text, "\n"), " \t"))
			return node, n + 1
		}
		if depth < MaxBlockDepth && interrupts(all[n:]) {
			break
		}
		text = append(text, rest)
	}
	node := p.node(Paragraph)
	node.Children = p.inlines(strings.TrimRight(strings.Join(text, "\n"), " \t"))
	return node, n
}

// underline returns the level of the heading that a line underlines, or 0.
func underline(line string) int {
	rest := strings.TrimRight(strings.TrimLeft(line, " "), " \t")
	switch {
	case leading(line) >= codeIndent || rest == "":
		return 0
	case runOf(rest, '=') == len(rest):
		return 1
	case runOf(rest, '-') == len(rest):
		return 2
	}
	return 0
}
