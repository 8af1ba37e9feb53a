package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// source holds the declarations in the Go files of mlscore and the packages below it.
type source struct {
	declared map[string]bool            // "file.go: Name", "file.go: Type.Method"
	tests    map[string]map[string]bool // test function → the strings in it
	clauses  map[string]string          // subtest named after a clause → its test function, in rules_*_test.go
}

// readSource parses the files to which a table can refer.
func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{declared: map[string]bool{}, tests: map[string]map[string]bool{}, clauses: map[string]string{}}
	folder := filepath.Join(root, "mlscore")
	for _, pattern := range []string{"*.go", "codec/*.go", "boltstore/*.go"} {
		paths, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(folder, path)
			if err != nil {
				t.Fatal(err)
			}
			s.add(filepath.ToSlash(name), file)
		}
	}
	return s
}

func (s *source) add(path string, file *ast.File) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.declared[path+": "+functionName(d)] = true
			if strings.HasSuffix(path, "_test.go") && d.Recv == nil {
				s.addTest(path, d)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if spec, ok := spec.(*ast.TypeSpec); ok {
					s.addType(path, spec)
				}
			}
		}
	}
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

// addType adds a type, and for an interface its methods.
func (s *source) addType(path string, spec *ast.TypeSpec) {
	s.declared[path+": "+spec.Name.Name] = true
	if i, ok := spec.Type.(*ast.InterfaceType); ok {
		for _, m := range i.Methods.List {
			for _, name := range m.Names {
				s.declared[path+": "+spec.Name.Name+"."+name.Name] = true
			}
		}
	}
}

var bearsClause = regexp.MustCompile(`^§[0-9.]+ `)

// addTest collects the strings of a test function: the names of its subtests are among them.
func (s *source) addTest(path string, d *ast.FuncDecl) {
	name := d.Name.Name
	if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") && !strings.HasPrefix(name, "Benchmark") {
		return
	}
	s.tests[name] = map[string]bool{}
	ast.Inspect(d.Body, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil {
			return true
		}
		s.tests[name][text] = true
		if strings.HasPrefix(path, "rules_") && bearsClause.MatchString(text) {
			s.clauses[text] = name
		}
		return true
	})
}

var (
	codeName   = regexp.MustCompile(`^[a-z0-9_/]+\.go: [A-Za-z0-9_.]+$`)
	codeInText = regexp.MustCompile("`([a-z0-9_/]+\\.go: [A-Za-z0-9_.]+)`")
	testName   = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)[A-Za-z0-9_]*(?:/[^|"]+)?$`)
	testInText = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]*)`")
	clauseName = regexp.MustCompile(`^§[0-9]+(\.[0-9]+)*$`)
)

// TestTable compares rules.json with the source: the code and the tests of its rows must exist, and every subtest that
// is named after a clause must be in a row.
func TestTable(t *testing.T) {
	table := read(t)
	s := readSource(t)
	named := make(map[string]bool)
	rules := 0
	for _, section := range table.Sections {
		for i, r := range section.Rules {
			rules++
			row := &row{t: t, name: fmt.Sprintf("%s, rule %d, %s", section.Title, i+1, r.Clause), source: s, named: named}
			if !clauseName.MatchString(r.Clause) {
				row.fail("%q is no clause", r.Clause)
			}
			row.text(r.Rule)
			row.places(r.Code, r.Where)
			row.tests(r.Tests, r.Testing)
			row.party(r.Party, r.Reason)
		}
	}
	for i, f := range table.Faults.Rows {
		row := &row{t: t, name: fmt.Sprintf("fault %d", i+1), source: s, named: named}
		row.text(f.Fault)
		row.tests(f.Tests, f.Testing)
	}
	if rules < 150 || len(table.Faults.Rows) < 40 {
		t.Errorf("%d rules and %d faults were read", rules, len(table.Faults.Rows))
	}
	for name, test := range s.clauses {
		if !named[test+"/"+name] {
			t.Errorf("rules.json has no row with %s/%s", test, name)
		}
	}
}

// TestPage checks that docs/rfc9420.md is the page that rules.json gives.
func TestPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, pagePath))
	if err != nil {
		t.Fatal(err)
	}
	want := read(t).page()
	if string(page) == string(want) {
		return
	}
	got, lines := strings.Split(string(page), "\n"), strings.Split(string(want), "\n")
	for i, line := range lines {
		if i >= len(got) || got[i] != line {
			t.Fatalf("docs/rfc9420.md, line %d, is not what rules.json gives: run go run ./test/rfc9420", i+1)
		}
	}
	t.Fatal("docs/rfc9420.md is longer than what rules.json gives: run go run ./test/rfc9420")
}

// TestShow checks that the rows of a clause are printed whole, with those of the clauses below it and no others.
func TestShow(t *testing.T) {
	table := &table{Sections: []section{{Rules: []rule{
		{Clause: "§7.1", Rule: "one", Party: "receiver", Code: []string{"a.go: F"}, Tests: []string{"TestA/§7.1 x", "TestA/§7.1 y"}},
		{Clause: "§7.1.2", Rule: "two", Party: "ours", Reason: "why", Code: []string{"a.go: G"}, Where: "`a.go: G` counts", Testing: "none"},
		{Clause: "§7.10", Rule: "three", Party: "maker", Code: []string{"a.go: H"}},
	}}}}
	var out strings.Builder
	if shown := table.show(&out, "§7.1"); shown != 2 {
		t.Errorf("%d rows", shown)
	}
	const want = `§7.1 one
    binds   receiver
    code    mlscore/a.go: F
    test    TestA/§7.1 x
    test    TestA/§7.1 y
§7.1.2 two
    binds   ours
    reason  why
    code    mlscore/a.go: G
    code    ` + "`a.go: G`" + ` counts
    tests   none
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
}

func read(t *testing.T) *table {
	t.Helper()
	table, err := readTable(filepath.Join(root, tablePath))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// row is one row of the table.
type row struct {
	t      *testing.T
	name   string
	source *source
	named  map[string]bool
}

func (r *row) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Errorf(r.name+": "+format, args...)
}

// text checks that a text fits into the cell of a table.
func (r *row) text(text string) {
	r.t.Helper()
	if text == "" || strings.ContainsAny(text, "|\n") {
		r.fail("%q is no text of a cell", text)
	}
}

// places checks the names of the code that checks a rule, and a sentence about it.
func (r *row) places(code []string, where string) {
	r.t.Helper()
	if len(code) == 0 {
		r.fail("the row names no code")
	}
	for _, c := range code {
		if !codeName.MatchString(c) || !r.source.declared[c] {
			r.fail("there is no %s", c)
		}
	}
	for _, m := range codeInText.FindAllStringSubmatch(where, -1) {
		if !slices.Contains(code, m[1]) {
			r.fail("the sentence names %s, the list of code does not", m[1])
		}
	}
}

// party checks whom a rule binds; a rule of this library must have a reason.
func (r *row) party(party, reason string) {
	r.t.Helper()
	if !slices.Contains([]string{"receiver", "maker", "application", "ours"}, party) {
		r.fail("the rule binds %q, which is no party", party)
	}
	if party == "ours" && len(reason) < 20 {
		r.fail("the row has no reason for a rule that RFC 9420 does not have: %q", reason)
	}
}

// tests checks the tests of a row; a row without tests must have a remark that says why.
func (r *row) tests(units []string, remark string) {
	r.t.Helper()
	if len(units) == 0 && remark == "" {
		r.fail("the row has no test and no reason")
	}
	for _, u := range units {
		test, subtest, sub := strings.Cut(u, "/")
		texts := r.source.tests[test]
		switch {
		case !testName.MatchString(u):
			r.fail("%q is no name of a test", u)
		case texts == nil:
			r.fail("there is no %s", test)
		case sub && !texts[subtest]:
			r.fail("%s has no subtest %q", test, subtest)
		}
		r.named[u] = true
	}
	for _, m := range testInText.FindAllStringSubmatch(remark, -1) {
		if r.source.tests[m[1]] == nil {
			r.fail("there is no %s", m[1])
		}
	}
}
