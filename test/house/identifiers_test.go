package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestIdentifiers holds the words in identifiers: no folder has more identifiers with a word that it may not use than
// identifiers.txt allows it. The allowance may only fall.
func TestIdentifiers(t *testing.T) {
	allowed := ledger(t, "identifiers.txt")
	files, err := sources(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	hits, err := checkIdentifiers(files)
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
		t.Errorf("%s has %d identifiers with a word that it may not use, %d are allowed: see docs/architecture.md, Words in identifiers",
			folder, len(found[folder]), allowed[folder])
		for _, h := range found[folder] {
			t.Errorf("%s:%d: %s", h.file, h.line, h.text)
		}
	}
}

// Every kind of declaration with a banned word is found, in the folder that may not use the word and nowhere else.
func TestIdentifiersFindViolations(t *testing.T) {
	list := []term{
		{forms: []string{"tell", "told"}, instead: "report"},
		{forms: []string{"lane", "lanes"}, instead: "queue", only: []string{"federation"}},
	}
	source := `package p

import told "errors"

type tellType struct {
	toldField int
	fine, lane int
}

const toldConst = 1

var a, URLTold = 1, told.New("tell")

func (t tellType) Tell(tellParam int) (toldResult int) {
	tellLocal, fine := 1, 2
	for tellKey, toldValue := range []int{} {
		_, _ = tellKey, toldValue
	}
toldLabel:
	for {
		fine = tellLocal
		break toldLabel
	}
	func(tellInner int) {}(fine)
	t.toldField = tolderance + retell
	return
}

type of interface{ Told_1() }

const retell, tolderance, planes = 1, 2, 3
`
	all := []string{
		"5 tellType", "6 toldField", "7 lane", "10 toldConst", "12 URLTold", "14 Tell", "14 tellParam", "14 toldResult",
		"15 tellLocal", "16 tellKey", "16 toldValue", "19 toldLabel", "24 tellInner", "29 Told_1",
	}
	for _, test := range []struct {
		file string
		want []string
	}{
		{"gateway/p.go", all},
		{"federationx/p.go", all},
		{"federation/p.go", slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "7 lane" })},
		{"federation/below/p.go", slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "7 lane" })},
	} {
		hits, err := identifiers(test.file, []byte(source), list)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range hits {
			name, _, _ := strings.Cut(h.text, ":")
			got = append(got, fmt.Sprintf("%d %s", h.line, name))
		}
		slices.SortStableFunc(got, func(a, b string) int { return line(a) - line(b) })
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: found\n%q, want\n%q", test.file, got, test.want)
		}
	}
}

func line(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

func TestParts(t *testing.T) {
	for name, want := range map[string]string{
		"tellAll":  "tell all",
		"URLPath":  "url path",
		"ids":      "ids",
		"ID":       "id",
		"Told_1x":  "told 1 x",
		"KeyIDs":   "key i ds",
		"x509Cert": "x 509 cert",
		"_told":    "told",
	} {
		if got := strings.Join(parts(name), " "); got != want {
			t.Errorf("%s has the parts %q, want %q", name, got, want)
		}
	}
}

// Each word that some folders may use has a row in the vocabulary, each folder exists, and no word has two entries.
func TestTermsAreDefined(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n### Words in identifiers\n")
	if !found {
		t.Fatal("docs/architecture.md has no section Words in identifiers")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	defined := make(map[string]bool)
	for row := range strings.Lines(section) {
		if cells := strings.Split(row, "|"); len(cells) > 3 {
			for word := range strings.SplitSeq(cells[1], ",") {
				defined[strings.TrimSpace(word)] = true
			}
		}
	}
	seen := make(map[string]bool)
	for _, term := range terms {
		for _, form := range term.forms {
			if seen[form] {
				t.Errorf("%s has two entries", form)
			}
			seen[form] = true
		}
		if len(term.only) == 0 {
			continue
		}
		if !defined[term.forms[0]] {
			t.Errorf("docs/architecture.md does not define %s", term.forms[0])
		}
		for _, folder := range term.only {
			if info, err := os.Stat(root + "/" + folder); err != nil || !info.IsDir() {
				t.Errorf("%s: the folder %s does not exist", term.forms[0], folder)
			}
		}
	}
}
