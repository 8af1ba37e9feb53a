package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strings"
	"unicode"
)

// A term is a word in identifiers: one that the project does not use, or one that has one meaning and belongs to the
// packages with that meaning. docs/architecture.md, "Words in identifiers", defines the latter.
type term struct {
	forms   []string // the forms of the word, in lower case
	instead string   // the words to use instead, elsewhere
	only    []string // the folders in which the word has its meaning, with the folders below them; nil: nowhere
}

// terms is the list. Names on the wire, in metrics, in configuration and on disk are strings and tags, not
// identifiers: the list does not concern them.
var terms = []term{
	// Words that say too little or are archaic.
	{forms: []string{"tell", "tells", "told", "telling"}, instead: "report, notify, announce, show"},
	{forms: []string{"beside", "besides"}, instead: "separate, next to, as well as"},
	{forms: []string{"anew"}, instead: "again"},
	{forms: []string{"whoever", "whomever", "whatever"}, instead: "the name of the party"},
	{forms: []string{"stand", "stands", "stood", "standing"}, instead: "position, status, remains, placeholder"},
	{forms: []string{"nought", "naught", "thereby", "wherein"}, instead: "zero, so, in which"},
	{forms: []string{"whom", "whose"}, instead: "the name of the party"},
	{forms: []string{"glance", "glances"}, instead: "peek, inspect"},
	{forms: []string{"plea", "plead", "pleads"}, instead: "request"},
	{forms: []string{"rouse", "rouses"}, instead: "wake"},
	{forms: []string{"hurry", "hurried", "hurries"}, instead: "interrupt, expedite"},
	{forms: []string{"crowd", "crowded"}, instead: "memory, load, limit"},
	{forms: []string{"shelf", "shelve", "shelved", "shelves"}, instead: "archive"},

	// Words for which the field has a term.
	{forms: []string{"silence", "silent", "silences"}, instead: "unresponsive, timeout, failure detector", only: []string{"config"}}, // the key gateway.silence
	{forms: []string{"handover", "handovers"}, instead: "transfer"},
	{forms: []string{"holding", "holdings"}, instead: "summary, share"},
	{forms: []string{"mail", "mails"}, instead: "mailbox, feed"},
	{forms: []string{"thread", "threads"}, instead: "conversation", only: []string{"mlscore/boltstore"}}, // a parameter of Argon2

	// Words with one meaning, and the packages of that meaning.
	{forms: []string{"submit", "submits"}, instead: "order", only: []string{"wire", "node", "client"}},
	{forms: []string{"judge", "judges", "judged", "judging"}, instead: "validate, check", only: []string{"consensus", "test"}},
	{forms: []string{"lane", "lanes"}, instead: "queue", only: []string{"wire", "node", "store", "federation", "mlscore"}},
	{forms: []string{"session", "sessions"}, instead: "connection, link", only: []string{"wire", "client", "gateway", "node", "cmd", "test", "config"}},
}

// parts splits an identifier in camel case or with underscores into words in lower case. Capitals in a row are one
// word, without the last one if a small letter follows it: "URLPath" has the parts "url" and "path".
func parts(name string) []string {
	var all []string
	runes := []rune(name)
	start := 0
	cut := func(end int) {
		if word := strings.Trim(string(runes[start:end]), "_"); word != "" {
			all = append(all, strings.ToLower(word))
		}
		start = end
	}
	for i := 1; i < len(runes); i++ {
		before, r := runes[i-1], runes[i]
		switch {
		case r == '_', unicode.IsDigit(before) != unicode.IsDigit(r),
			unicode.IsUpper(r) && !unicode.IsUpper(before),
			unicode.IsUpper(r) && i+1 < len(runes) && unicode.IsLower(runes[i+1]):
			cut(i)
		}
	}
	cut(len(runes))
	return all
}

// declared calls visit with each identifier that a file declares: packages, types, functions, methods, fields,
// parameters, constants, variables and labels, at any depth.
func declared(file *ast.File, visit func(*ast.Ident)) {
	names := func(list ...ast.Expr) {
		for _, expression := range list {
			if name, ok := expression.(*ast.Ident); ok && name.Name != "_" {
				visit(name)
			}
		}
	}
	names(file.Name)
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			names(node.Name)
		case *ast.TypeSpec:
			names(node.Name)
		case *ast.ValueSpec:
			for _, name := range node.Names {
				names(name)
			}
		case *ast.Field:
			for _, name := range node.Names {
				names(name)
			}
		case *ast.LabeledStmt:
			names(node.Label)
		case *ast.AssignStmt:
			if node.Tok == token.DEFINE {
				names(node.Lhs...)
			}
		case *ast.RangeStmt:
			if node.Tok == token.DEFINE {
				names(node.Key, node.Value)
			}
		}
		return true
	})
}

// allows reports whether a folder may use the term.
func (t *term) allows(folder string) bool {
	return slices.ContainsFunc(t.only, func(only string) bool {
		return folder == only || strings.HasPrefix(folder, only+"/")
	})
}

// identifiers returns the identifiers of a Go file that contain a word which the file's folder may not use, once for
// each declaration.
func identifiers(name string, source []byte, list []term) ([]hit, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	banned := make(map[string]*term)
	for i := range list {
		if !list[i].allows(path.Dir(name)) {
			for _, form := range list[i].forms {
				banned[form] = &list[i]
			}
		}
	}
	var hits []hit
	declared(file, func(id *ast.Ident) {
		for _, word := range parts(id.Name) {
			if term := banned[word]; term != nil {
				hits = append(hits, hit{
					file: name, line: files.Position(id.Pos()).Line, rule: "identifier with " + word,
					text: fmt.Sprintf("%s: use %s", id.Name, term.instead),
				})
			}
		}
	})
	return hits, nil
}

// checkIdentifiers returns the hits in the identifiers of all Go files, in their order.
func checkIdentifiers(files []source) ([]hit, error) {
	var hits []hit
	for _, file := range files {
		if !strings.HasSuffix(file.name, ".go") {
			continue
		}
		found, err := identifiers(file.name, file.body, terms)
		if err != nil {
			return nil, err
		}
		hits = append(hits, found...)
	}
	return hits, nil
}
