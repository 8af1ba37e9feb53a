package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed hook.go.txt
var hook string

// bench is a build of the tests in which every mutant is present and none is active.
type bench struct {
	root     string // of the repository
	dir      string // for the built files
	binaries []string
	mutants  []mutant       // number n is mutants[n-1]
	tests    []unit         // of all binaries
	binary   map[string]int // of a test: its place in packages and binaries
}

// packages lists the packages whose tests are run, relative to the repository.
var packages = []string{"mlscore", "mlscore/codec"}

// build overlays the mutants on the packages and compiles their tests. The repository is not written to.
func build(ctx context.Context, root, dir string, sources []*source) (*bench, error) {
	b := &bench{root: root, dir: dir}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	put := func(name, copy string, text []byte) error {
		copy = filepath.Join(dir, copy)
		overlay.Replace[filepath.Join(root, "mlscore", filepath.FromSlash(name))] = copy
		return os.WriteFile(copy, text, 0o600)
	}
	for i, s := range sources {
		b.mutants = append(b.mutants, s.mutants...)
		if err := put(s.path, fmt.Sprintf("%d_%s", i, filepath.Base(s.path)), s.instrumented()); err != nil {
			return nil, err
		}
	}
	for _, pkg := range packages {
		name := filepath.Base(pkg)
		at := strings.TrimPrefix(strings.TrimPrefix(pkg, "mlscore"), "/")
		if err := put(filepath.Join(at, "mutants.go"), "mutants_"+name+".go", []byte(strings.ReplaceAll(hook, "PACKAGE", name))); err != nil {
			return nil, err
		}
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600); err != nil {
		return nil, err
	}
	for _, pkg := range packages {
		binary := filepath.Join(dir, filepath.Base(pkg)+".test")
		c := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "-overlay", filepath.Join(dir, "overlay.json"), "./"+pkg)
		c.Dir = root
		if out, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the tests of %s with mutants: %w\n%s", pkg, err, out)
		}
		b.binaries = append(b.binaries, binary)
	}
	return b, b.listTests(ctx)
}

// outcome is the result of one run of tests.
type outcome struct {
	asked  map[int][]unit // mutants that would have changed something, and where
	failed []unit         // the innermost
	took   map[unit]time.Duration
	ok     bool
	output string
}

// run runs one test, or the named subtests, with mutant n active; 0 for none.
func (b *bench) run(ctx context.Context, units []unit, n int) outcome {
	at := b.binary[units[0].test()]
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, b.binaries[at], "-test.v", "-test.timeout=150s", "-test.run", pattern(units))
	c.Dir = filepath.Join(b.root, filepath.FromSlash(packages[at]))
	c.Env = append(os.Environ(), "MLSFED_MUTANT="+strconv.Itoa(n), "GOMEMLIMIT=1GiB")
	c.WaitDelay = time.Second
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	o := readOutcome(out.Bytes())
	o.ok = err == nil
	if err != nil && len(o.failed) == 0 { // the run ended in another way than by a failing test
		o.failed = units[:1]
	}
	return o
}

// pattern selects units of one test.
func pattern(units []unit) string {
	test := units[0].test()
	var subtests []string
	for _, u := range units {
		if _, sub, ok := strings.Cut(string(u), "/"); ok {
			sub, _, _ = strings.Cut(sub, "/")
			subtests = append(subtests, regexp.QuoteMeta(sub))
		}
	}
	p := "^" + test + "$"
	if len(subtests) > 0 {
		p += "/^(" + strings.Join(subtests, "|") + ")$"
	}
	return p
}

var (
	started  = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S+)`)
	ended    = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+)s\)`)
	atMutant = regexp.MustCompile(`^@mutant ([0-9]+)$`)
)

// readOutcome reads the output of go test -v, with the lines of the mutants in it.
func readOutcome(out []byte) outcome {
	o := outcome{asked: map[int][]unit{}, took: map[unit]time.Duration{}, output: string(out)}
	var now unit
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := atMutant.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1])
			if u := short(now); !slices.Contains(o.asked[n], u) {
				o.asked[n] = append(o.asked[n], u)
			}
		} else if m := started.FindStringSubmatch(line); m != nil {
			now = unit(m[1])
		} else if m := ended.FindStringSubmatch(line); m != nil {
			name := unit(m[2])
			seconds, _ := strconv.ParseFloat(m[3], 64)
			o.took[name] = time.Duration(seconds * float64(time.Second))
			if m[1] == "FAIL" {
				o.failed = append(o.failed, name)
			}
			if i := strings.LastIndex(string(name), "/"); i >= 0 {
				now = name[:i]
			}
		}
	}
	o.failed = innermost(o.failed)
	return o
}

// short cuts a name after the first subtest.
func short(u unit) unit {
	parts := strings.SplitN(string(u), "/", 3)
	return unit(strings.Join(parts[:min(len(parts), 2)], "/"))
}

// innermost leaves out tests that failed because a subtest did, and cuts names after the first subtest.
func innermost(failed []unit) []unit {
	var list []unit
	for _, u := range failed {
		if !slices.ContainsFunc(failed, func(v unit) bool { return u != v && u.covers(v) }) {
			list = append(list, short(u))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// listTests records the tests of all binaries.
func (b *bench) listTests(ctx context.Context) error {
	b.binary = map[string]int{}
	for i, binary := range b.binaries {
		c := exec.CommandContext(ctx, binary, "-test.list", "^(Test|Fuzz)")
		c.Dir = filepath.Join(b.root, filepath.FromSlash(packages[i]))
		out, err := c.Output()
		if err != nil {
			return fmt.Errorf("list the tests of %s: %w", packages[i], err)
		}
		for _, name := range strings.Fields(string(out)) {
			if _, twice := b.binary[name]; twice {
				return fmt.Errorf("two packages have a test %s: give one of them another name", name)
			}
			b.binary[name] = i
			b.tests = append(b.tests, unit(name))
		}
	}
	return nil
}

// survey records where each mutant would change something, found by running every test without an active mutant.
type survey struct {
	Of    string            // a digest of the packages
	Asked map[string][]unit // by id
	Took  map[unit]time.Duration
	Done  map[unit]string   // a digest of the test's file
	tests map[string]string // the same, as they are now
}

// look runs tests that the survey has not seen yet. It leaves out a test that fails without any active mutant, since
// that test shows nothing about mutants (it may count allocations, which the recording adds).
func (b *bench) look(ctx context.Context, s *survey, progress func(t unit, ok bool)) error {
	for _, t := range b.tests {
		if !s.stale(t) {
			continue
		}
		o := b.run(ctx, []unit{t}, 0)
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.ok {
			for n, units := range o.asked {
				id := b.mutants[n-1].id
				s.Asked[id] = append(s.Asked[id], units...)
			}
		}
		for u, d := range o.took {
			s.Took[short(u)] = max(d, s.Took[short(u)])
		}
		s.Done[t] = s.tests[t.test()]
		progress(t, o.ok)
	}
	return nil
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// A finding is the result for one mutant.
type finding struct {
	Killed []unit `json:",omitempty"` // the tests that failed
	Named  bool   `json:",omitempty"` // one of them is named for a rule of the place
	Asked  int    // in how many tests it would change something
	Source string // a digest of the function at that time
	Met    string `json:",omitempty"` // of one that survives, a digest of the tests that met it
}

// enough is how long a mutant is tried in further tests that are named for its rules, once one has failed: most
// mutants take seconds, and a few make every test fail.
const enough = 15 * time.Second

// try activates a mutant in the tests that are named for its rules, in all of them if that does not take too long. If
// none of them fails, it tries the other tests until one fails.
func (b *bench) try(ctx context.Context, n int, s *survey, named []unit) (f finding, err error) {
	asked := s.Asked[b.mutants[n-1].id]
	f = finding{Asked: len(asked), Source: b.mutants[n-1].digest}
	defer func() {
		if len(f.Killed) == 0 {
			f.Met = s.met(b.mutants[n-1].id)
		}
	}()
	var first, rest []unit
	for _, u := range asked {
		if slices.ContainsFunc(named, func(v unit) bool { return v.covers(u) || u.covers(v) }) {
			first = append(first, u)
		} else {
			rest = append(rest, u)
		}
	}
	began := time.Now()
	for _, group := range byTest(first, s.Took) {
		if len(f.Killed) > 0 && time.Since(began) > enough {
			break
		}
		if o := b.run(ctx, group, n); !o.ok {
			f.Killed = append(f.Killed, o.failed...)
			f.Named = true
		}
	}
	for _, group := range byTest(rest, s.Took) {
		if len(f.Killed) > 0 {
			break
		}
		if o := b.run(ctx, group, n); !o.ok {
			f.Killed = append(f.Killed, o.failed...)
		}
	}
	return f, ctx.Err()
}

// byTest gathers units of one test, the cheapest first.
func byTest(units []unit, took map[unit]time.Duration) [][]unit {
	groups := map[string][]unit{}
	cost := map[string]time.Duration{}
	var order []string
	for _, u := range units {
		t := u.test()
		if groups[t] == nil {
			order = append(order, t)
		}
		groups[t] = append(groups[t], u)
		cost[t] += took[u]
	}
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(cost[a], cost[b]) })
	var list [][]unit
	for _, t := range order {
		list = append(list, groups[t])
	}
	return list
}
