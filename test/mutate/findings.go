package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The files of the findings and of the reasons why a mutant may survive, relative to the repository.
const (
	findingsPath = "test/mutate/findings.json"
	reasonsPath  = "test/mutate/survivors.txt"
)

// digest returns a value that distinguishes sources.
func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:4])
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readFindings reads the findings, by the names of mutants.
func readFindings(path string) (map[string]finding, error) {
	found := map[string]finding{}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it to begin again", path, err)
	}
	return found, nil
}

func writeFindings(path string, found map[string]finding) error { return writeJSON(path, found) }

// readSurvey reads a survey. It drops the part about tests in files that have changed since, and everything if the
// packages have changed.
func readSurvey(path, root string) (*survey, error) {
	of, tests, err := digestsOf(root)
	if err != nil {
		return nil, err
	}
	s := &survey{}
	if text, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(text, s); err != nil {
			return nil, fmt.Errorf("%s: %w: remove it to begin again", path, err)
		}
	}
	if s.Of != of {
		s = &survey{Of: of, Asked: map[string][]unit{}, Took: map[unit]time.Duration{}, Done: map[unit]string{}}
	}
	s.tests = tests
	for id, units := range s.Asked {
		s.Asked[id] = slices.DeleteFunc(units, func(u unit) bool { return s.stale(u) })
	}
	return s, nil
}

// stale reports whether the survey lacks the present version of a test.
func (s *survey) stale(u unit) bool { return s.Done[unit(u.test())] != s.tests[u.test()] }

// met returns a value that distinguishes versions of the tests that meet a mutant.
func (s *survey) met(id string) string {
	var list []string
	for _, u := range s.Asked[id] {
		list = append(list, string(u)+" "+s.tests[u.test()])
	}
	slices.Sort(list)
	return digest([]byte(strings.Join(list, "\n")))
}

var testDeclared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

// digestsOf returns values that distinguish versions of the packages, and for each test versions of its file.
func digestsOf(root string) (of string, tests map[string]string, err error) {
	var all []byte
	tests = map[string]string{}
	for _, pkg := range packages {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pkg), "*.go"))
		if err != nil {
			return "", nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return "", nil, err
			}
			if !strings.HasSuffix(file, "_test.go") {
				all = append(append(all, file...), text...)
			}
			for _, m := range testDeclared.FindAllSubmatch(text, -1) {
				tests[string(m[1])] = digest(text)
			}
		}
	}
	return digest(all), tests, nil
}

// reasons holds why mutants may survive.
type reasons struct {
	order []string            // the reasons
	of    map[string]string   // by the name of the mutant
	all   map[string][]string // names by reason
}

// readReasons reads paragraphs: a line "= why", then the mutants with this reason, one a line.
func readReasons(path string) (*reasons, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r := &reasons{of: map[string]string{}, all: map[string][]string{}}
	why := ""
	for at, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "= "):
			why = line[2:]
			if !slices.Contains(r.order, why) {
				r.order = append(r.order, why)
			}
		case why == "":
			return nil, fmt.Errorf("%s:%d: a mutant without a reason: a line '= why' must stand before it", path, at+1)
		default:
			r.of[line] = why
			r.all[why] = append(r.all[why], line)
		}
	}
	return r, nil
}
