package main

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const root = "../.."

// example has a mutant of each kind, and places without a mutant.
const example = `package x

import "errors"

type T struct{ n int }

func (t *T) Check(a, b int) error {
	if a > 3 || b < 1 {
		return errors.New("out of range")
	}
	if a == b {
		b++ // no refusal
	}
	switch {
	case a == 2:
		return errors.New("§9 two")
	case a == 3:
		b = 0
	}
	if err := t.deep(func() error {
		if b == 9 {
			return errors.New("nine")
		}
		return nil
	}); err != nil {
		return err
	}
	return t.deep(nil)
}

func (t *T) deep(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func (t *T) good(a int) bool {
	if a == 7 {
		return false
	}
	return a >= 0 && a != t.n
}

type reader struct{ err error }

func (r *reader) Fail(err error) { r.err = err }

func read(r *reader, v int) {
	switch v {
	case 1:
	case 2:
	default:
		r.Fail(errors.New("undefined"))
	}
}
`

// TestMutants checks what is a mutant and what is not.
func TestMutants(t *testing.T) {
	s, err := readMutants("x.go", []byte(example), 1, func(place string) bool { return place == "x.go: T.good" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.mutants {
		got = append(got, string(m.kind)+" "+strings.TrimPrefix(m.id, "x.go: "))
	}
	want := []string{
		"check T.Check: a > 3",
		"boundary T.Check: a > 3 (boundary)",
		"check T.Check: b < 1",
		"boundary T.Check: b < 1 (boundary)",
		"check T.Check: a == 2",
		"check T.Check: b == 9",
		`check T.Check: err := t.deep(func() error { if b == 9 { return errors.New("nine") } return nil }); err != nil`,
		"result T.Check: t.deep(nil)",
		"result T.deep: f()",
		"check T.good: a == 7",
		"verdict T.good: a >= 0",
		"boundary T.good: a >= 0 (boundary)",
		"verdict T.good: a != t.n",
		`check read: r.Fail(errors.New("undefined"))`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("mutants:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// exampleProgram prints, in order, what the example answers to a few questions.
const exampleProgram = `package x

import (
	"fmt"
	"testing"
)

func TestExample(t *testing.T) {
	x := &T{n: 5}
	for _, p := range [][2]int{{3, 2}, {4, 2}, {0, 1}, {0, 0}, {2, 1}, {1, 9}} {
		fmt.Print(x.Check(p[0], p[1]) == nil, " ")
	}
	r := &reader{}
	read(r, 3)
	fmt.Println(x.good(7), x.good(0), x.good(-1), x.good(5), r.err == nil)
}
`

// TestMutantsAtWork compiles the example with its mutants and activates each of them.
func TestMutantsAtWork(t *testing.T) {
	s, err := readMutants("x.go", []byte(example), 1, func(place string) bool { return place == "x.go: T.good" })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module x\n\ngo 1.26\n", "x.go": string(s.instrumented()), "x_test.go": exampleProgram,
		"mutants.go": strings.ReplaceAll(hook, "PACKAGE", "x"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "x.test")
	c := exec.Command("go", "test", "-c", "-o", binary)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, s.instrumented())
	}
	b := &bench{root: dir, dir: dir, binaries: []string{binary}, binary: map[string]int{"TestExample": 0}, mutants: s.mutants}
	if err := os.MkdirAll(filepath.Join(dir, packages[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	answers := func(n int) (string, outcome) {
		o := b.run(context.Background(), []unit{"TestExample"}, n)
		var words []string
		for _, w := range strings.Fields(o.output) {
			if w == "true" || w == "false" {
				words = append(words, w[:1])
			}
		}
		return strings.Join(words, ""), o
	}
	for n, want := range []string{
		"tftfffftfff", // none
		"tttfffftfff", // a > 3
		"fftfffftfff", // its boundary
		"tfttffftfff", // b < 1
		"tfffffftfff", // its boundary
		"tftftfftfff", // a == 2
		"tftfftftfff", // b == 9
		"tftfftftfff", // what deep returns
		"tftfffftfff", // deep(nil) never fails
		"tftfftftfff", // f()
		"tftfffttfff", // a == 7
		"tftffffttff", // a >= 0
		"tftffffffff", // its boundary
		"tftfffftftf", // a != t.n
		"tftfffftfft", // Fail
	} {
		got, o := answers(n)
		if got != want {
			t.Errorf("mutant %d: answers %s, want %s\n%s", n, got, want, o.output)
		}
		if n > 0 {
			continue
		}
		for m := 1; m <= len(s.mutants); m++ {
			if asked := len(o.asked[m]) > 0; asked != (m != 8) { // deep(nil) has no error to lose
				t.Errorf("%s would change something: %v", s.mutants[m-1].id, asked)
			}
		}
	}
}

// TestReadOutcome checks that mutants are recorded with the running subtest, and failures with the innermost one.
func TestReadOutcome(t *testing.T) {
	o := readOutcome([]byte(`=== RUN   TestA
@mutant 1
=== RUN   TestA/x
=== RUN   TestA/x/deep
@mutant 2
    --- FAIL: TestA/x (0.50s)
        --- FAIL: TestA/x/deep (0.25s)
@mutant 3
=== RUN   TestA/y
@mutant 2
--- FAIL: TestA (0.75s)
`))
	for n, want := range map[int][]unit{1: {"TestA"}, 2: {"TestA/x", "TestA/y"}, 3: {"TestA/x"}} {
		if !slices.Equal(o.asked[n], want) {
			t.Errorf("mutant %d: %v, want %v", n, o.asked[n], want)
		}
	}
	if !slices.Equal(o.failed, []unit{"TestA/x"}) || o.took["TestA/x"] != 500*time.Millisecond {
		t.Errorf("failed %v, took %v", o.failed, o.took)
	}
}

func TestUnits(t *testing.T) {
	got, names := unitsOf([]string{"TestA/§1 a b", "TestA/§2 (c)", "TestB"})
	want := []unit{"TestA/§1_a_b", "TestA/§2_(c)", "TestB"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if names[want[0]] != "§1 a b" || len(names) != 2 {
		t.Errorf("names %q", names)
	}
	if p := pattern(want[:2]); p != `^TestA$/^(§1_a_b|§2_\(c\))$` {
		t.Errorf("pattern %s", p)
	}
}

// now reads the present repository.
func now(t *testing.T) (*report, []*source) {
	t.Helper()
	rules, err := readRules(filepath.Join(root, rulesPath))
	if err != nil {
		t.Fatal(err)
	}
	sources, err := findMutants(filepath.Join(root, "mlscore"), checkedAt(rules))
	if err != nil {
		t.Fatal(err)
	}
	found, err := readFindings(filepath.Join(root, findingsPath))
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := readReasons(filepath.Join(root, reasonsPath))
	if err != nil {
		t.Fatal(err)
	}
	r := &report{rules: rules, found: found, reasons: reasons}
	for _, s := range sources {
		r.mutants = append(r.mutants, s.mutants...)
	}
	return r, sources
}

// TestFindings compares findings.json with the sources, as far as that is possible without running a mutant: the tests,
// mutants and survivors that the findings name exist, no mutant of an unchanged function survives without a reason,
// and the document has a row for each rule.
func TestFindings(t *testing.T) {
	const again = ": run go run ./test/mutate -report"
	r, _ := now(t)
	functions := map[string]bool{}
	tests := testNames(t)
	byID := map[string]mutant{}
	for _, m := range r.mutants {
		byID[m.id] = m
		functions[m.place()] = true
	}
	for id, f := range r.found {
		place := strings.Join(strings.SplitN(id, ": ", 3)[:2], ": ")
		if !functions[place] {
			t.Errorf("there is no check in %s any more"+again, place)
		}
		for _, u := range f.Killed {
			if !tests[u.test()] {
				t.Errorf("there is no test %s any more"+again, u.test())
			}
		}
		if m, ok := byID[id]; ok && m.digest == f.Source && len(f.Killed) == 0 && r.reasons.of[id] == "" {
			t.Errorf("no test notices, and test/mutate/survivors.txt does not say why: %s", id)
		}
	}
	for id, why := range r.reasons.of {
		if len(r.found[id].Killed) > 0 {
			t.Errorf("survives for a reason (%s), and %s fails with it: %s", why, r.found[id].Killed[0], id)
		}
	}
	if rows := strings.Count(string(r.document()), "\n| §"); rows != len(r.rules) {
		t.Errorf("the document has %d rows, the table has %d rules", rows, len(r.rules))
	}
}

// testNames lists the tests of the packages.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, pkg := range packages {
		files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%d test files in %s, %v", len(files), pkg, err)
		}
		for _, file := range files {
			syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range syntax.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					names[f.Name.Name] = true
				}
			}
		}
	}
	return names
}

// TestLongMutants activates mutants that the document shows for a rule, and runs the test that it shows, which
// must fail: all of them with MLSFED_LONG=full, every sixth with short.
func TestLongMutants(t *testing.T) {
	step := map[string]int{"short": 6, "full": 1}[os.Getenv("MLSFED_LONG")]
	if step == 0 {
		t.Skip("builds the tests of mlscore again: set MLSFED_LONG to short or full")
	}
	r, sources := now(t)
	b, err := build(t.Context(), mustAbs(t, root), t.TempDir(), sources)
	if err != nil {
		t.Fatal(err)
	}
	number := map[string]int{}
	for i, m := range b.mutants {
		number[m.id] = i + 1
	}
	shown, tried := 0, 0
	for _, rule := range r.rules {
		_, proved := r.proofs(rule)
		if len(proved) == 0 {
			continue
		}
		if shown++; shown%step != 0 {
			continue
		}
		tried++
		p := proved[0]
		if o := b.run(t.Context(), []unit{p.test}, number[p.mutant.id]); o.ok {
			t.Errorf("%s, %s: %s passes without this check: %s\n%s", rule.clause, rule.text, p.test, p.mutant.id, tail(o.output))
		}
	}
	if tried == 0 {
		t.Fatal("no mutant was tried: the findings show none")
	}
	t.Logf("%d mutants of %d that are shown were put to work, and noticed", tried, shown)
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
