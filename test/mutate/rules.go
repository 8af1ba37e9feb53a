package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// A rule is a row of docs/rfc9420.md.
type rule struct {
	clause, text string
	places       []string // where it is checked: "file.go: Type.Method"
	tests        []unit
	names        map[unit]string // subtests as they are written in the row
}

// A unit is a test, or one of its subtests, as the testing package names it: "Test" or "Test/the_subtest".
type unit string

func (u unit) test() string {
	name, _, _ := strings.Cut(string(u), "/")
	return name
}

// covers says whether v is u or a subtest of it.
func (u unit) covers(v unit) bool { return u == v || strings.HasPrefix(string(v), string(u)+"/") }

var (
	placeInCell = regexp.MustCompile("`([a-z0-9_/]+\\.go: [A-Za-z0-9_.]+)`")
	testInCell  = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]*)`")
	quoted      = regexp.MustCompile(`"([^"]*)"`)
)

// readRules reads the tables of rules.
func readRules(path string) ([]rule, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rules []rule
	for _, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| §") || len(cells) != 5 {
			continue
		}
		r := rule{clause: cells[0], text: cells[1]}
		for _, m := range placeInCell.FindAllStringSubmatch(cells[2], -1) {
			r.places = append(r.places, m[1])
		}
		r.tests, r.names = unitsIn(cells[3])
		rules = append(rules, r)
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("%s has no table of rules", path)
	}
	return rules, nil
}

// unitsIn reads a cell of tests: a test alone, or with the subtests that follow it.
func unitsIn(cell string) (units []unit, names map[unit]string) {
	names = map[unit]string{}
	at := testInCell.FindAllStringSubmatchIndex(cell, -1)
	for k, m := range at {
		test, end := cell[m[2]:m[3]], len(cell)
		if k+1 < len(at) {
			end = at[k+1][0]
		}
		subtests := quoted.FindAllStringSubmatch(cell[m[1]:end], -1)
		if len(subtests) == 0 {
			units = append(units, unit(test))
		}
		for _, q := range subtests {
			u := unit(test + "/" + strings.ReplaceAll(q[1], " ", "_"))
			units = append(units, u)
			names[u] = q[1]
		}
	}
	return units, names
}

// checkedAt gives the places that any rule names.
func checkedAt(rules []rule) func(place string) bool {
	places := map[string]bool{}
	for _, r := range rules {
		for _, p := range r.places {
			places[p] = true
		}
	}
	return func(p string) bool { return places[p] }
}
