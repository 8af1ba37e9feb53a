package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// TestWords holds the words of the tree: no folder has more places that break
// the rules than ledger.txt allows it. The allowance may only fall.
func TestWords(t *testing.T) {
	allowed := ledger(t, "ledger.txt")
	files, err := sources(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 500 {
		t.Fatalf("the tree has %d files: the walk misses some", len(files))
	}
	hits, err := check(files)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]hit)
	for _, h := range hits {
		found[byFolder(h)] = append(found[byFolder(h)], h)
	}
	for _, folder := range slices.Sorted(maps.Keys(found)) {
		if len(found[folder]) <= allowed[folder] {
			continue
		}
		t.Errorf("%s has %d places that break the rules for words, %d are allowed: see CONTRIBUTING.md, and go run ./test/house -list %[1]s",
			folder, len(found[folder]), allowed[folder])
		if allowed[folder] == 0 {
			for _, h := range found[folder] {
				t.Errorf("%s:%d: %s: %s", h.file, h.line, h.rule, h.text)
			}
		}
	}
}

// ledger reads the number of places that each folder may still have.
func ledger(t *testing.T, name string) map[string]int {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	allowed := make(map[string]int)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		var folder string
		var count int
		if _, err := fmt.Sscanf(line, "%s %d", &folder, &count); err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		allowed[folder] = count
	}
	return allowed
}

// Every rule finds its example, and leaves a sentence alone that is right.
func TestRules(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"Whoever asks gets it.", "whoever"},
		{"It is built anew at each start.", "anew"},
		{"The list stands beside the table.", "beside,stands"},
		{"It waits for ever.", "for ever"},
		{"It waits for\never.", "for ever"},
		{"The node tells the device.", "tell"},
		{"What it refuses it notes elsewhere.", "relative clause as subject"},
		{"What is a lane?", ""},
		{"Begin is of batch.Part.", `"of" for "implements"`},
		{"Begin implements batch.Part.", ""},
		{"The node reports the error to the device.", ""},
		{"One sentence. Who is gone goes first.", "relative clause as subject"},
		{"Besides, the intelligent retelling is a standard.", ""},
	} {
		var found []string
		for _, sentence := range sentences(test.text) {
			found = append(found, prose(sentence)...)
		}
		if got := strings.Join(found, ","); got != test.want {
			t.Errorf("%q: found %q, want %q", test.text, got, test.want)
		}
	}
}

func TestGoProse(t *testing.T) {
	source := `// Package p stands for nothing.
package p

import "errors"

// Err is an error.
//
//	stands in code
var Err = errors.New("it is not in order")

var (
	id   = "anew"
	text = "made anew"
	ok   = errors.New("the submission was not ordered")
)
`
	hits, err := goProse("p.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range hits {
		got = append(got, fmt.Sprintf("%d %s", h.line, h.rule))
	}
	want := []string{"1 stands", "9 error text begins with a pronoun", "13 anew"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	source := "# Anew\n\nA line\nbegins anew here. Fine.\n\n```\nanew\n```\n\n- `anew` is code\n- told\n"
	var got []string
	for _, h := range markdown("a.md", []byte(source)) {
		got = append(got, fmt.Sprintf("%d %s", h.line, h.rule))
	}
	want := []string{"1 anew", "3 anew", "11 tell"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestPositional(t *testing.T) {
	body := `package p

type row struct{ a, b, c, d int }
type rows []row

var (
	_ = row{1, 2, 3, 4}
	_ = row{a: 1, b: 2, c: 3, d: 4}
	_ = rows{{1, 2, 3, 4}}
	_ = map[string]*row{"x": {1, 2, 3, 4}}
	_ = []int{1, 2, 3, 4}
	_ = struct{ a, b int }{1, 2}
)
`
	f, err := measure([]source{{name: "p/p.go", body: []byte(body)}})
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, h := range f.literals {
		got = append(got, h.line)
	}
	if want := []int{7, 9, 10}; !slices.Equal(got, want) {
		t.Errorf("literals without names in lines %v, want %v", got, want)
	}
}
