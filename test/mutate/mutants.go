package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A mutant is one check that can be switched off, or one limit that can be moved by one.
type mutant struct {
	id       string // place, and the source of the check
	file     string // relative to mlscore, like "codec/reader.go"
	function string // "Name" or "Type.Name"
	kind     kind
	clause   string // the clause that the refusal names, if any
	digest   string // of the function
}

// place returns the name that the table of rules uses for the place of a check.
func (m *mutant) place() string { return m.file + ": " + m.function }

// kind is the effect of a mutant.
type kind string

const (
	check    kind = "check"    // the condition of a refusal is never met
	result   kind = "result"   // an error that is returned is nil
	verdict  kind = "verdict"  // a condition of a predicate is always true
	boundary kind = "boundary" // < and <=, > and >= change places
)

// edit replaces the text between two offsets of a file.
type edit struct {
	from, to int
	text     string
	closes   bool
	order    int
}

// source is one file with its mutants. Their numbers begin with first.
type source struct {
	path    string // relative to mlscore
	set     *token.FileSet
	text    []byte
	syntax  *ast.File
	first   int
	mutants []mutant
	edits   []edit
	seen    map[string]int
}

// notRules matches files that check no received data: writers and readers of test vectors, the fabrication of groups
// for benchmarks, and the access to both from other packages.
var notRules = regexp.MustCompile(`_test\.go$|^vectors|^vectormake|^fabricate|^inside|^doc\.go`)

// findMutants reads the Go files of mlscore and mlscore/codec. checked reports whether the table of rules names a place.
func findMutants(mlscore string, checked func(place string) bool) ([]*source, error) {
	var all []*source
	next := 1
	for _, dir := range []string{"", "codec"} {
		files, err := filepath.Glob(filepath.Join(mlscore, dir, "*.go"))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("no Go files in %s: %w", filepath.Join(mlscore, dir), err)
		}
		for _, file := range files {
			if notRules.MatchString(filepath.Base(file)) {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			s, err := readMutants(path.Join(dir, filepath.Base(file)), text, next, checked)
			if err != nil {
				return nil, err
			}
			next += len(s.mutants)
			all = append(all, s)
		}
	}
	return all, nil
}

// readMutants finds the mutants of one file.
func readMutants(name string, text []byte, first int, checked func(place string) bool) (*source, error) {
	s := &source{path: name, set: token.NewFileSet(), text: text, first: first, seen: map[string]int{}}
	syntax, err := parser.ParseFile(s.set, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	s.syntax = syntax
	for _, d := range syntax.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
			w := walker{source: s, function: functionName(f)}
			w.predicate = checked(w.place()) && onlyBool(f.Type)
			from, to := s.span(f)
			w.digest = digest(text[from:to])
			w.body(f.Type, f.Body)
		}
	}
	return s, nil
}

// functionName returns "Name", or "Type.Name" for a method.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	recv := d.Recv.List[0].Type
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	if id, ok := recv.(*ast.Ident); ok {
		return id.Name + "." + d.Name.Name
	}
	return d.Name.Name
}

func onlyBool(f *ast.FuncType) bool { return f.Results.NumFields() == 1 && lastResult(f) == "bool" }

func lastResult(f *ast.FuncType) string {
	if f.Results == nil {
		return ""
	}
	if id, ok := f.Results.List[len(f.Results.List)-1].Type.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// walker walks one function and the function literals in it.
type walker struct {
	*source
	function  string
	predicate bool // the current function returns only a bool, and checks a rule
	errors    bool // its last result is an error
	results   int
	digest    string
}

func (w *walker) place() string { return w.path + ": " + w.function }

func (w walker) body(f *ast.FuncType, b *ast.BlockStmt) {
	w.errors, w.results = lastResult(f) == "error", f.Results.NumFields()
	w.list(b.List)
}

// list walks statements; the previous statement names an error.
func (w *walker) list(stmts []ast.Stmt) {
	for i, st := range stmts {
		var before ast.Stmt
		if i > 0 {
			before = stmts[i-1]
		}
		w.stmt(st, before)
	}
}

func (w *walker) stmt(st, before ast.Stmt) {
	switch st := st.(type) {
	case *ast.IfStmt:
		w.exprs(st.Init)
		w.exprs(st.Cond)
		if clause, ok := w.refuses(st.Body.List); ok {
			if st.Init != nil {
				before = st.Init
			}
			w.condition(st.Cond, before, clause)
			w.inside(st.Body.List)
		} else {
			w.list(st.Body.List)
		}
		if st.Else != nil {
			w.stmt(st.Else, nil)
		}
	case *ast.BlockStmt:
		w.list(st.List)
	case *ast.ForStmt:
		w.list(st.Body.List)
	case *ast.RangeStmt:
		w.exprs(st.X)
		w.list(st.Body.List)
	case *ast.SwitchStmt:
		w.cases(st.Body.List, st.Tag == nil)
	case *ast.TypeSwitchStmt:
		w.cases(st.Body.List, false)
	case *ast.LabeledStmt:
		w.stmt(st.Stmt, before)
	case *ast.ReturnStmt:
		w.exprs(st)
		w.returned(st, before)
	case *ast.ExprStmt:
		w.exprs(st)
		if clause, ok := failCall(st); ok {
			n := w.add(check, w.src(st), clause)
			w.wrap(st, fmt.Sprintf("if mutantMet(%d) { ", n), " }")
		}
	default:
		w.exprs(st)
	}
}

// cases walks the clauses of a switch; the clauses of a switch without a tag are conditions.
func (w *walker) cases(clauses []ast.Stmt, conditions bool) {
	for _, c := range clauses {
		c := c.(*ast.CaseClause)
		clause, ok := w.refuses(c.Body)
		if ok && conditions && len(c.List) > 0 {
			for _, cond := range c.List {
				w.condition(cond, nil, clause)
			}
			w.inside(c.Body)
			continue
		}
		w.list(c.Body)
	}
}

// inside walks the statements of a refusal: they are no mutants, but function literals in them may have mutants.
func (w *walker) inside(stmts []ast.Stmt) {
	for _, st := range stmts {
		w.exprs(st)
	}
}

// exprs walks the function literals below a node.
func (w *walker) exprs(n ast.Node) {
	if n == nil {
		return
	}
	if st, ok := n.(ast.Stmt); ok && st == nil {
		return
	}
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.FuncLit); ok {
			inner := *w
			inner.predicate = false
			inner.body(lit.Type, lit.Body)
			return false
		}
		return true
	})
}

// most is how many statements a refusal may have: the last statement refuses, the earlier ones erase or record
// something.
const most = 3

// refuses reports whether a block ends by returning an error, in a predicate by returning false, or makes a reader
// fail; and returns the clause that the block cites.
func (w *walker) refuses(block []ast.Stmt) (clause string, ok bool) {
	if len(block) == 0 || len(block) > most {
		return "", false
	}
	for _, st := range block {
		switch st.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt:
			return "", false
		}
		if clause, ok := failCall(st); ok {
			return clause, true
		}
	}
	ret, ok := block[len(block)-1].(*ast.ReturnStmt)
	if !ok || len(ret.Results) == 0 {
		return "", false
	}
	last := ret.Results[len(ret.Results)-1]
	if w.predicate {
		return "", isIdent(last, "false")
	}
	return clauseIn(ret), w.errors && len(ret.Results) == w.results && !isIdent(last, "nil")
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// failCall reports whether a statement makes a decoder fail.
func failCall(st ast.Stmt) (clause string, ok bool) {
	e, ok := st.(*ast.ExprStmt)
	if !ok {
		return "", false
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Fail" && sel.Sel.Name != "fail" {
		return "", false
	}
	return clauseIn(st), true
}

var clauseLiteral = regexp.MustCompile(`^"(§[0-9.]+)"$`)

// clauseIn returns the clause that an error in a statement cites.
func clauseIn(n ast.Node) (clause string) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok {
			if m := clauseLiteral.FindStringSubmatch(lit.Value); m != nil {
				clause = m[1]
			}
		}
		return clause == ""
	})
	return clause
}

// condition makes a mutant of each alternative of a refusal's condition, and of each limit in it.
func (w *walker) condition(cond ast.Expr, before ast.Stmt, clause string) {
	if or, ok := cond.(*ast.BinaryExpr); ok && or.Op == token.LOR {
		w.condition(or.X, before, clause)
		w.condition(or.Y, before, clause)
		return
	}
	text := w.src(cond)
	if text == "err != nil" || text == "!ok" || text == "found" {
		if before != nil {
			text = w.src(before) + "; " + text
		}
	}
	n := w.add(check, text, clause)
	w.wrap(cond, "(", fmt.Sprintf(") && mutantMet(%d)", n))
	w.limits(cond, clause)
}

// returned makes a mutant of an error, or of each condition of a predicate.
func (w *walker) returned(ret *ast.ReturnStmt, before ast.Stmt) {
	if len(ret.Results) == 0 || len(ret.Results) != w.results {
		return
	}
	last := ret.Results[len(ret.Results)-1]
	switch {
	case w.predicate:
		w.demands(last)
	case w.errors && !isIdent(last, "nil"):
		text := w.src(last)
		if text == "err" && before != nil {
			text = w.src(before) + "; err"
		}
		n := w.add(result, text, clauseIn(last))
		w.wrap(last, fmt.Sprintf("mutantResult(%d, ", n), ")")
	}
}

func (w *walker) demands(e ast.Expr) {
	if and, ok := e.(*ast.BinaryExpr); ok && and.Op == token.LAND {
		w.demands(and.X)
		w.demands(and.Y)
		return
	}
	if isIdent(e, "true") || isIdent(e, "false") {
		return
	}
	n := w.add(verdict, w.src(e), "")
	w.wrap(e, "((", fmt.Sprintf(") || !mutantMet(%d))", n))
	w.limits(e, "")
}

var moved = map[token.Token]string{token.LSS: "Less", token.LEQ: "LessOrEqual", token.GTR: "Greater", token.GEQ: "GreaterOrEqual"}

// limits makes a mutant of each ordering comparison.
func (w *walker) limits(e ast.Expr, clause string) {
	ast.Inspect(e, func(n ast.Node) bool {
		if _, ok := n.(*ast.FuncLit); ok {
			return false
		}
		c, ok := n.(*ast.BinaryExpr)
		if !ok || moved[c.Op] == "" {
			return true
		}
		at := w.add(boundary, w.src(c), clause)
		w.wrap(c, fmt.Sprintf("mutant%s(%d, ", moved[c.Op], at), ")")
		op := w.set.Position(c.OpPos).Offset
		w.edits = append(w.edits, edit{from: op, to: op + len(c.Op.String()), text: ",", order: len(w.edits)})
		return false
	})
}

// add numbers a mutant.
func (w *walker) add(k kind, text, clause string) int {
	id := w.place() + ": " + text
	if k == boundary {
		id += " (boundary)"
	}
	w.seen[id]++
	if n := w.seen[id]; n > 1 {
		id += fmt.Sprintf(" #%d", n)
	}
	w.mutants = append(w.mutants, mutant{id: id, file: w.path, function: w.function, kind: k, clause: clause, digest: w.digest})
	return w.first + len(w.mutants) - 1
}

func (s *source) span(n ast.Node) (from, to int) {
	return s.set.Position(n.Pos()).Offset, s.set.Position(n.End()).Offset
}

var spaces = regexp.MustCompile(`\s+`)

// src returns the source of a node in one line.
func (s *source) src(n ast.Node) string {
	from, to := s.span(n)
	return spaces.ReplaceAllString(string(s.text[from:to]), " ")
}

func (s *source) wrap(n ast.Node, open, closing string) {
	from, to := s.span(n)
	s.edits = append(s.edits,
		edit{from: from, to: from, text: open, order: len(s.edits)},
		edit{from: to, to: to, text: closing, closes: true, order: len(s.edits)})
}

// instrumented returns the file with every mutant in it, none of them active.
func (s *source) instrumented() []byte {
	edits := slices.Clone(s.edits)
	slices.SortStableFunc(edits, func(a, b edit) int {
		switch {
		case a.from != b.from:
			return a.from - b.from
		case a.closes != b.closes: // an edit that ends here comes before one that begins here
			if a.closes {
				return -1
			}
			return 1
		case a.closes: // the innermost ends first
			return b.order - a.order
		default:
			return a.order - b.order
		}
	})
	var out strings.Builder
	at := 0
	for _, e := range edits {
		out.Write(s.text[at:e.from])
		out.WriteString(e.text)
		at = e.to
	}
	out.Write(s.text[at:])
	return []byte(out.String())
}
