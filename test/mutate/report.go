package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
)

// report combines all findings.
type report struct {
	rules   []rule
	mutants []mutant
	found   map[string]finding
	reasons *reasons
}

// forget drops the findings of mutants that no longer exist.
func (r *report) forget() {
	now := map[string]bool{}
	for _, m := range r.mutants {
		now[m.id] = true
	}
	for id := range r.found {
		if !now[id] {
			delete(r.found, id)
		}
	}
}

// known reports whether a mutant need not be tried: its function is unchanged, and the tests that failed still meet
// it. A mutant that survived is tried again if other tests, or changed tests, meet it now.
func (r *report) known(m mutant, s *survey) bool {
	f, ok := r.found[m.id]
	if !ok || f.Source != m.digest {
		return false
	}
	asked := s.Asked[m.id]
	if len(f.Killed) == 0 {
		return f.Met == s.met(m.id)
	}
	return slices.ContainsFunc(f.Killed, func(u unit) bool {
		return slices.ContainsFunc(asked, func(v unit) bool { return u.covers(v) || v.covers(u) })
	})
}

// namedFor returns the tests of the rules that are checked at a place.
func (r *report) namedFor() map[string][]unit {
	named := map[string][]unit{}
	for _, rule := range r.rules {
		for _, p := range rule.places {
			named[p] = append(named[p], rule.tests...)
		}
	}
	return named
}

// proof is a mutant of a rule, and a test of this rule that fails with it.
type proof struct {
	mutant *mutant
	test   unit
}

// proofs returns, for a rule, the number of its mutants and those that its own tests kill: first the mutants that
// cite its clause.
func (r *report) proofs(of rule) (mutants int, proved []proof) {
	for i := range r.mutants {
		m := &r.mutants[i]
		if !slices.Contains(of.places, m.place()) {
			continue
		}
		mutants++
		for _, u := range r.found[m.id].Killed {
			if slices.ContainsFunc(of.tests, func(t unit) bool { return t.covers(u) || u.covers(t) }) {
				proved = append(proved, proof{m, u})
				break
			}
		}
	}
	slices.SortStableFunc(proved, func(a, b proof) int {
		return rank(a.mutant, of) - rank(b.mutant, of)
	})
	return mutants, proved
}

func rank(m *mutant, of rule) int {
	if m.clause == of.clause {
		return 0
	}
	return 1
}

// figures returns the sums in one line.
func (r *report) figures() string {
	var named, other, explained, open, untried int
	for _, m := range r.mutants {
		switch f, tried := r.found[m.id]; {
		case !tried:
			untried++
		case len(f.Killed) > 0 && f.Named:
			named++
		case len(f.Killed) > 0:
			other++
		case r.reasons.of[m.id] != "":
			explained++
		default:
			open++
		}
	}
	return fmt.Sprintf("%d mutants: %d killed by a test that docs/rfc9420.md names for their place, %d by another test; %d survive for a reason, %d without one; %d not tried yet",
		len(r.mutants), named, other, explained, open, untried)
}

func (r *report) listSurvivors(w io.Writer) {
	for _, m := range r.mutants {
		if f, tried := r.found[m.id]; tried && len(f.Killed) == 0 && r.reasons.of[m.id] == "" {
			fmt.Fprintf(w, "%d\t%s\n", f.Asked, m.id)
		}
	}
	fmt.Fprintln(w, r.figures())
}

// document returns the findings as a document in Markdown.
func (r *report) document() []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, `# Each check switched off

%s switches off, one at a time, every refusal that mlscore and mlscore/codec make, and
runs the tests that met the refusal. A mutant is a refusal that is switched off. If no test fails with a
mutant, no test protects the check.

%s.

| kind of mutant | number | killed |
| --- | --- | --- |
`, "`go run ./test/mutate`", r.figures())
	for _, k := range []struct {
		kind kind
		what string
	}{
		{check, "the condition of a refusal is never met"}, {result, "an error that is returned is nil"},
		{verdict, "what a predicate demands is always met"}, {boundary, "< and <=, > and >= change places"},
	} {
		n, killed := 0, 0
		for _, m := range r.mutants {
			if m.kind == k.kind {
				n++
				if len(r.found[m.id].Killed) > 0 {
					killed++
				}
			}
		}
		fmt.Fprintf(&w, "| %s | %d | %d |\n", k.what, n, killed)
	}
	fmt.Fprintf(&w, `
## Rule by rule

The rows are those of docs/rfc9420.md. "Killed" counts, of the mutants of the functions that check a rule, those
with which a test of this rule fails. The check that is shown is one of those; the test is the test of the rule that
fails without the check.

| clause | rule | killed | a check | the test that fails without it |
| --- | --- | --- | --- | --- |
`)
	for _, rule := range r.rules {
		n, proved := r.proofs(rule)
		killed, check, test := "—", "—", "—"
		if n > 0 {
			killed = fmt.Sprintf("%d of %d", len(proved), n)
		}
		if len(proved) > 0 {
			check, test = code(proved[0].mutant.id), rule.cell(proved[0].test)
		} else {
			check = r.unproved(rule, n)
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s |\n", rule.clause, rule.text, killed, check, test)
	}
	fmt.Fprintf(&w, `
## Survivors

The mutants with which no test fails, and the reason why that is right.
`)
	survives := map[string]bool{}
	for _, m := range r.mutants {
		f, tried := r.found[m.id]
		survives[m.id] = tried && len(f.Killed) == 0
	}
	for _, why := range r.reasons.order {
		fmt.Fprintf(&w, "\n%s\n\n", why)
		for _, id := range r.reasons.all[why] {
			if survives[id] {
				fmt.Fprintf(&w, "- %s\n", code(id))
			}
		}
	}
	var open []string
	for _, m := range r.mutants {
		if survives[m.id] && r.reasons.of[m.id] == "" {
			open = append(open, m.id)
		}
	}
	if len(open) > 0 {
		fmt.Fprintf(&w, "\nNot explained yet:\n\n")
		for _, id := range open {
			fmt.Fprintf(&w, "- %s\n", code(id))
		}
	}
	return w.Bytes()
}

// unproved describes why a rule has no check to show.
func (r *report) unproved(of rule, mutants int) string {
	switch {
	case len(of.tests) == 0:
		return "— there is no test: see there"
	case mutants == 0:
		return "— a rule of what is computed, not of what is refused"
	case r.untriedAt(of.places):
		return "— not all tried yet"
	default:
		return "— what its tests try is refused there by several checks, or computed; other tests hold these in place"
	}
}

// untriedAt reports whether a mutant of these places was not tried yet.
func (r *report) untriedAt(places []string) bool {
	return slices.ContainsFunc(r.mutants, func(m mutant) bool {
		_, tried := r.found[m.id]
		return !tried && slices.Contains(places, m.place())
	})
}

const longest = 110

// code quotes the name of a mutant for a table.
func code(id string) string {
	if len(id) > longest {
		cut := id[:longest]
		for !strings.HasSuffix(cut, " ") && len(cut) > longest-20 {
			cut = cut[:len(cut)-1]
		}
		id = strings.ToValidUTF8(cut, "") + "…"
	}
	return "`" + strings.ReplaceAll(strings.ReplaceAll(id, "`", "'"), "|", "∣") + "`"
}

// cell formats a unit for a table.
func (r *rule) cell(u unit) string {
	name, ok := r.names[u]
	if !ok {
		return "`" + string(u) + "`"
	}
	return "`" + u.test() + "`: \"" + name + "\""
}
