package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// A hit is one place where a text breaks a rule of CONTRIBUTING.md, "Words".
type hit struct {
	file string // slash-separated, relative to the root of the repository
	line int
	rule string // what the text has and should not have
	text string // the sentence or the literal, for the person who mends it
}

// A word is a word or phrase that the project does not use, with what to write instead.
type word struct {
	name    string
	pattern *regexp.Regexp
	instead string
}

// listed makes the pattern of a word: whole words, any case, any blanks between.
func listed(name, expression, instead string) word {
	return word{name, regexp.MustCompile(`(?i)\b(?:` + expression + `)\b`), instead}
}

// words is the list. Readers learned English as a second language: a word is
// on it because it is archaic, an idiom, or because a plainer one exists.
var words = []word{
	listed("whoever", `whoever|whomever`, "name the party"),
	listed("anew", `anew`, "again"),
	listed("beside", `beside`, "in addition to, next to, as well as"),
	listed("for ever", `for ever`, "without end, permanently"),
	listed("thereby", `thereby`, "so; or a new sentence"),
	listed("wherein", `wherein|whereby|thereof|therein|hereby`, "in which"),
	listed("in the midst of", `in the midst of`, "during"),
	listed("in its stead", `in (?:its|his|her|their) stead`, "instead of it"),
	listed("of no use", `of no use`, "useless, has no effect"),
	listed("has it that", `has it that`, "says"),
	listed("comes of", `(?:comes|came|come) of`, "results from"),
	listed("the like", `(?:and|or|of) the like`, "name the others"),
	listed("tell", `tell|tells|told`, "report, say, show, distinguish"),
	listed("stands", `stands|stood`, "is; or name what it does"),
	listed("nought", `nought|naught`, "zero, nothing"),
}

// clauses are patterns of a sentence rather than of a word.
var clauses = []struct {
	name    string
	pattern *regexp.Regexp
}{
	{"relative clause as subject", regexp.MustCompile(`^(?:Who|What|Whatever|Which|Whose) [^?]*$`)},
	{`"of" for "implements"`, regexp.MustCompile(`^[A-Z]\w+ is of \w+\.\w+`)},
}

// pronoun is the begin of an error text that does not name its subject.
var pronoun = regexp.MustCompile(`(?i)^(?:it|that|there|this|they|these|those|he|she)\b`)

// prose returns the hits of one sentence or literal.
func prose(text string) []string {
	var found []string
	for _, w := range words {
		for range w.pattern.FindAllStringIndex(text, -1) {
			found = append(found, w.name)
		}
	}
	for _, c := range clauses {
		if c.pattern.MatchString(text) {
			found = append(found, c.name)
		}
	}
	return found
}

// goProse returns the hits in the comments and string literals of a Go file.
func goProse(name string, source []byte) ([]hit, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var hits []hit
	add := func(at token.Pos, text string, rules []string) {
		for _, rule := range rules {
			hits = append(hits, hit{file: name, line: files.Position(at).Line, rule: rule, text: text})
		}
	}
	for _, group := range file.Comments {
		for _, sentence := range sentences(group.Text()) {
			add(group.Pos(), sentence, prose(sentence))
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.CallExpr:
			if text, ok := errorText(node); ok && pronoun.MatchString(text) {
				add(node.Pos(), text, []string{"error text begins with a pronoun"})
			}
		case *ast.BasicLit:
			text, ok := literal(node)
			if !ok || !strings.Contains(text, " ") { // an identifier or a key
				break
			}
			for _, sentence := range sentences(text) {
				add(node.Pos(), sentence, prose(sentence))
			}
		}
		return true
	})
	return hits, nil
}

// errorText returns the text of an error that a call makes.
func errorText(call *ast.CallExpr) (string, bool) {
	function, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 {
		return "", false
	}
	from, ok := function.X.(*ast.Ident)
	if !ok || from.Name+"."+function.Sel.Name != "errors.New" && from.Name+"."+function.Sel.Name != "fmt.Errorf" {
		return "", false
	}
	argument, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return "", false
	}
	return literal(argument)
}

func literal(node *ast.BasicLit) (string, bool) {
	if node.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(node.Value)
	return text, err == nil
}

// sentences splits a text at full stops, at blank lines and at lines of lists.
// Indented lines are code and are left out.
func sentences(text string) []string {
	var all []string
	var paragraph []string
	flush := func() {
		all = append(all, split(strings.Join(paragraph, " "))...)
		paragraph = paragraph[:0]
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\n")
		switch {
		case line == "":
			flush()
			continue
		case strings.HasPrefix(line, "\t"), strings.HasPrefix(line, "    "):
			continue
		case strings.HasPrefix(strings.TrimLeft(line, " "), "- "):
			flush()
		}
		paragraph = append(paragraph, strings.TrimSpace(line))
	}
	flush()
	return all
}

// split cuts a paragraph after a full stop, question mark or colon that a blank follows.
func split(paragraph string) []string {
	var all []string
	start := 0
	for i, r := range paragraph {
		if r != '.' && r != '?' && r != '!' {
			continue
		}
		rest := paragraph[i+1:]
		if rest != "" && !unicode.IsSpace(rune(rest[0])) {
			continue
		}
		all = append(all, strings.TrimSpace(paragraph[start:i+1]))
		start = i + 1
	}
	if last := strings.TrimSpace(paragraph[start:]); last != "" {
		all = append(all, last)
	}
	return all
}

// markdown returns the hits in a document. Code, between fences or backticks, is left out.
func markdown(name string, source []byte) []hit {
	var hits []hit
	fenced := false
	number := 0
	var first int
	var paragraph strings.Builder
	flush := func() {
		for _, sentence := range split(strings.TrimSpace(paragraph.String())) {
			for _, rule := range prose(sentence) {
				hits = append(hits, hit{file: name, line: first, rule: rule, text: sentence})
			}
		}
		paragraph.Reset()
	}
	for line := range strings.Lines(string(source)) {
		number++
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			flush()
			continue
		}
		if fenced {
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "|") {
			flush()
		}
		if line == "" {
			continue
		}
		if paragraph.Len() == 0 {
			first = number
		}
		paragraph.WriteString(code.ReplaceAllString(strings.TrimLeft(line, "#-| "), "code"))
		paragraph.WriteByte(' ')
	}
	flush()
	return hits
}

var code = regexp.MustCompile("`[^`]*`")
