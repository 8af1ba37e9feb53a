package markdown

import "strings"

// tableOf returns the alignments of a table whose header is the first line: the second line has one delimiter for each
// cell of the header.
func tableOf(all []string) ([]Align, bool) {
	if len(all) < 2 || !piped(all[0]) && !piped(all[1]) {
		return nil, false
	}
	delimiters := strings.Trim(all[1], " \t")
	if delimiters == "" || strings.Trim(delimiters, "|:- \t") != "" || leading(all[0]) >= codeIndent {
		return nil, false
	}
	columns, ok := cells(delimiters)
	if !ok {
		return nil, false
	}
	header, ok := cells(all[0])
	if !ok || len(header) != len(columns) {
		return nil, false
	}
	aligns := make([]Align, len(columns))
	for i, c := range columns {
		left, right := strings.HasPrefix(c, ":"), strings.HasSuffix(c, ":")
		dashes := strings.TrimSuffix(strings.TrimPrefix(c, ":"), ":")
		if dashes == "" || runOf(dashes, '-') != len(dashes) {
			return nil, false
		}
		switch {
		case left && right:
			aligns[i] = AlignCenter
		case left:
			aligns[i] = AlignLeft
		case right:
			aligns[i] = AlignRight
		}
	}
	return aligns, true
}

// piped reports whether a line has a pipe that is not escaped.
func piped(line string) bool {
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '|':
			return true
		}
	}
	return false
}

// cells splits a line at its pipes. It reports false for more than maxColumns cells.
func cells(line string) ([]string, bool) {
	line = strings.Trim(line, " \t")
	line = strings.TrimPrefix(line, "|")
	var found []string
	begin := 0
	add := func(end int) {
		found = append(found, strings.ReplaceAll(strings.Trim(line[begin:end], " \t"), `\|`, "|"))
		begin = end + 1
	}
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '|':
			add(i)
			if len(found) > maxColumns {
				return nil, false
			}
		}
	}
	if begin < len(line) { // no pipe ends the line
		add(len(line))
	}
	return found, len(found) <= maxColumns && len(found) > 0
}

// table parses a table. A row has at most as many cells as the header; a shorter row is not filled up, because one
// header with many columns would make every line that follows cost as much.
func (p *parser) table(all []string, aligns []Align) (*Node, int) {
	node := p.node(Table)
	n := 0
	for ; n < len(all) && !blank(all[n]); n++ {
		if n == 1 {
			continue // the delimiters
		}
		if n > 1 && interrupts(all[n:n+1]) {
			break
		}
		p.steps += len(all[n])
		found, ok := cells(all[n])
		if !ok && n > 1 {
			break
		}
		row := p.node(Row)
		if row == nil {
			break
		}
		for i, text := range found[:min(len(found), len(aligns))] {
			cell := p.node(Cell)
			if cell == nil {
				cell = &Node{Kind: Cell} // at most maxColumns
			}
			cell.Align = aligns[i]
			cell.Children = p.inlines(text)
			row.Children = append(row.Children, cell)
		}
		node.Children = append(node.Children, row)
	}
	return node, n
}
