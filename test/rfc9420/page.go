package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

const head = `# RFC 9420, rule by rule

For reviewers of mlscore, and for developers who change a check. Written by %[1]sgo run ./test/rfc9420%[1]s; do not
edit: the source is [rules.json](../test/rfc9420/rules.json).

This page lists the checks that RFC 9420 and its errata (8745, 8815) require of a receiver, a joiner or a committer,
the code of each check in %[1]smlscore%[1]s, and the tests that break only this rule. In a test that is named here, every
member refuses the message, and so does a server that follows the group, if a server can detect the fault, in both
forms of handshakes. The test asserts the kind and the clause of the error, that nothing has changed, and that the
group continues. The page also lists positive tests, for valid input that some implementations refuse.

The last column names the party that a rule binds:

- *receiver*: RFC 9420 requires the check of the receiver of a message, or the message cannot be processed without the
  check.
- *maker*: the rule binds the maker of a message; this library follows the rule, and refuses nothing because of it.
- *application*: the RFC leaves the check to the application.
- *ours*: the library refuses more than the RFC requires of a receiver, for the reason in the note below the table. A
  member that alone refuses a message can never follow the group again, so there are few such rules, and none that
  members of other libraries are known to break. [interop.md](interop.md) lists the rules that they do break.

A number after a test is the number of its subtests for the rule. %[1]sgo run ./test/rfc9420 -show 7.6%[1]s prints the rows of a
clause with the name of each subtest. If nothing can be checked, or if the application must check the rule, the row
says so after a dash. %[1]sTestTable%[1]s in %[1]stest/rfc9420%[1]s fails if a function, test or subtest of the tables does
not exist, and if a subtest with a clause in its name is missing. %[1]sgo run ./test/mutate -report%[1]s shows, for each
rule, a check without which one of these tests fails.

The application decides through two interfaces, whose answers must be equal for all members: %[1]sAuthenticator%[1]s (the
owner of a credential, its validity, whether two credentials belong to the same client) and %[1]sPolicy%[1]s (the proposals
that each member may make).
`

// page returns the content of docs/rfc9420.md.
func (t *table) page() []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, head, "`")
	for _, s := range t.Sections {
		fmt.Fprintf(&w, "\n## %s\n\n", s.Title)
		if s.Text != "" {
			fmt.Fprintf(&w, "%s\n\n", s.Text)
		}
		w.WriteString("| clause | rule | code | tests | binds |\n| --- | --- | --- | --- | --- |\n")
		var notes []string
		for _, r := range s.Rules {
			party := r.Party
			if r.Reason != "" {
				at := slices.Index(notes, r.Reason)
				if at < 0 {
					at = len(notes)
					notes = append(notes, r.Reason)
				}
				party += fmt.Sprintf(" (note %d)", at+1)
			}
			fmt.Fprintf(&w, "| %s | %s | %s | %s | %s |\n", r.Clause, r.Rule, r.places(), tests(r.Tests, r.Testing), party)
		}
		if len(notes) > 0 {
			w.WriteString("\nNotes:\n\n")
		}
		for i, n := range notes {
			fmt.Fprintf(&w, "%d. %s\n", i+1, n)
		}
	}
	fmt.Fprintf(&w, "\n## %s\n\n%s\n\n| fault | tests |\n| --- | --- |\n", t.Faults.Title, t.Faults.Text)
	for _, f := range t.Faults.Rows {
		fmt.Fprintf(&w, "| %s | %s |\n", f.Fault, tests(f.Tests, f.Testing))
	}
	return w.Bytes()
}

// places formats the code of a rule.
func (r *rule) places() string {
	if r.Where != "" {
		return r.Where
	}
	return "`" + strings.Join(r.Code, "`, `") + "`"
}

// tests formats test functions, each with the number of its subtests that are named, and the remark about them.
func tests(units []string, remark string) string {
	var names []string
	subtests := make(map[string]int)
	for _, u := range units {
		name, _, sub := strings.Cut(u, "/")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		if sub {
			subtests[name]++
		}
	}
	for i, name := range names {
		names[i] = "`" + name + "`"
		if n := subtests[name]; n > 0 {
			names[i] += fmt.Sprintf(" (%d)", n)
		}
	}
	cell := strings.Join(names, ", ")
	switch {
	case cell == "":
		return "— " + remark
	case remark == "":
		return cell
	default:
		return cell + "; " + remark
	}
}
