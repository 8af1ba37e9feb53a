// Command rfc9420 writes docs/rfc9420.md from the table of rules in test/rfc9420/rules.json.
//
//	go run ./test/rfc9420              write the page
//	go run ./test/rfc9420 -show 7.6    print the rows of a clause and of the clauses below it, with every subtest
//
// Run it in the root of the repository. The package's test checks that the page is the one that the table gives, and
// that the code, tests and subtests of the table exist.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A table is the content of rules.json.
type table struct {
	Sections []section `json:"sections"`
	Faults   faults    `json:"faults"`
}

// A section is one table of rules.
type section struct {
	Title string `json:"title"`
	Text  string `json:"text,omitempty"` // a paragraph above the rows
	Rules []rule `json:"rules"`
}

// A rule is one check of RFC 9420.
type rule struct {
	Clause  string   `json:"clause"`
	Rule    string   `json:"rule"`
	Party   string   `json:"party"`             // whom the rule binds: receiver, maker, application or ours
	Reason  string   `json:"reason,omitempty"`  // why the library requires more than the RFC, or of whom else
	Code    []string `json:"code"`              // "file.go: Type.Method", relative to mlscore
	Where   string   `json:"where,omitempty"`   // a sentence about the code, with the names of Code
	Tests   []string `json:"tests"`             // "Test", or "Test/subtest" as the source writes the subtest
	Testing string   `json:"testing,omitempty"` // why there is no test, or a remark about the tests
}

// faults are those of other implementations.
type faults struct {
	Title string  `json:"title"`
	Text  string  `json:"text"`
	Rows  []fault `json:"rows"`
}

// A fault has the test that fails if mlscore has it too.
type fault struct {
	Fault   string   `json:"fault"`
	Tests   []string `json:"tests"`
	Testing string   `json:"testing,omitempty"`
}

// The files, relative to the root of the repository.
var (
	tablePath = filepath.Join("test", "rfc9420", "rules.json")
	pagePath  = filepath.Join("docs", "rfc9420.md")
)

func main() {
	show := flag.String("show", "", "print the whole rows of a `clause`, such as 7.6, and write nothing")
	flag.Parse()
	if err := run(*show); err != nil {
		fmt.Fprintln(os.Stderr, "rfc9420:", err)
		os.Exit(1)
	}
}

func run(show string) error {
	t, err := readTable(tablePath)
	if err != nil {
		return err
	}
	if show == "" {
		return os.WriteFile(pagePath, t.page(), 0o644)
	}
	if t.show(os.Stdout, "§"+strings.TrimPrefix(show, "§")) == 0 {
		return fmt.Errorf("clause %s has no row in %s", show, tablePath)
	}
	return nil
}

func readTable(path string) (*table, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	t := new(table)
	if err := decoder.Decode(t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// show prints the rules of a clause and of the clauses below it, and returns their number.
func (t *table) show(out io.Writer, clause string) int {
	shown := 0
	for _, s := range t.Sections {
		for _, r := range s.Rules {
			if r.Clause != clause && !strings.HasPrefix(r.Clause, clause+".") {
				continue
			}
			shown++
			fmt.Fprintf(out, "%s %s\n", r.Clause, r.Rule)
			line(out, "binds", r.Party)
			line(out, "reason", r.Reason)
			for _, c := range r.Code {
				line(out, "code", "mlscore/"+c)
			}
			line(out, "code", r.Where)
			for _, u := range r.Tests {
				line(out, "test", u)
			}
			line(out, "tests", r.Testing)
		}
	}
	return shown
}

func line(out io.Writer, name, value string) {
	if value != "" {
		fmt.Fprintf(out, "    %-7s %s\n", name, value)
	}
}
