package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// rulesPath is the table of rules, relative to the root of the repository.
var rulesPath = filepath.Join("test", "rfc9420", "rules.json")

// A rule is a row of the table.
type rule struct {
	clause, text string
	places       []string // where it is checked: "file.go: Type.Method"
	tests        []unit
	names        map[unit]string // subtests as the source writes them
}

// A unit is a test, or one of its subtests, as the testing package names it: "Test" or "Test/the_subtest".
type unit string

func (u unit) test() string {
	name, _, _ := strings.Cut(string(u), "/")
	return name
}

// covers reports whether v is u or a subtest of it.
func (u unit) covers(v unit) bool { return u == v || strings.HasPrefix(string(v), string(u)+"/") }

// readRules reads the rules of test/rfc9420/rules.json.
func readRules(path string) ([]rule, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var table struct {
		Sections []struct {
			Rules []struct {
				Clause, Rule string
				Code, Tests  []string
			}
		}
	}
	if err := json.Unmarshal(raw, &table); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var rules []rule
	for _, section := range table.Sections {
		for _, row := range section.Rules {
			r := rule{clause: row.Clause, text: row.Rule, places: row.Code}
			r.tests, r.names = unitsOf(row.Tests)
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("%s has no rules", path)
	}
	return rules, nil
}

// unitsOf returns the units of tests that are named as the source writes them, and the names of subtests.
func unitsOf(tests []string) (units []unit, names map[unit]string) {
	names = map[unit]string{}
	for _, t := range tests {
		u := unit(strings.ReplaceAll(t, " ", "_"))
		units = append(units, u)
		if _, subtest, ok := strings.Cut(t, "/"); ok {
			names[u] = subtest
		}
	}
	return units, names
}

// checkedAt returns a function that reports whether any rule names a place.
func checkedAt(rules []rule) func(place string) bool {
	places := map[string]bool{}
	for _, r := range rules {
		for _, p := range r.places {
			places[p] = true
		}
	}
	return func(p string) bool { return places[p] }
}
