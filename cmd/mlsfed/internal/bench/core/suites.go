package core

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/mlscore"
)

// suiteColumns holds the columns of the table of cipher suites, by the names of the rows.
var suiteColumns = []struct {
	name, title string
	width       int
}{
	{"keypackage-bytes", "KeyPackage", 10},
	{"welcome-bytes", "Welcome", 8},
	{"commit-bytes", "commit", 8},
	{"tree-bytes", "tree", 11},
	{"commit", "commit, ms", 15},
	{"process", "process, ms", 15},
	{"join", "join, ms", 18},
	{"protect", "protect, µs", 15},
	{"unprotect", "unprotect, µs", 15},
}

// measureSuites measures what differs between cipher suites. For people it prints a line for each group, with the
// ratio to the floor in brackets.
func (b *bench) measureSuites() error {
	if len(b.others) == 0 {
		return nil
	}
	if !b.table.JSON {
		fmt.Fprintf(b.table.Out, "\nCipher suites: bytes, and times with their ratio to the floor.\n%-7s %7s", "suite", "n")
		for _, c := range suiteColumns {
			fmt.Fprintf(b.table.Out, " %*s", c.width, c.title)
		}
		fmt.Fprintln(b.table.Out)
	}
	for at, cs := range b.others {
		for _, n := range b.suiteSizes {
			b.table.Progress("suite %d of %d, %v", at+1, len(b.others), cs)
			if err := b.measureSuite(cs, n); err != nil {
				return fmt.Errorf("%v, %d members: %w", cs, n, err)
			}
		}
	}
	return nil
}

func (b *bench) measureSuite(cs mlscore.CipherSuite, n int) error {
	m, err := newMeasures(b.table, b.clock, cs, n, 0)
	if err != nil {
		return err
	}
	rows := map[string]harness.Row{}
	if !b.table.JSON {
		m.emit = func(r harness.Row) error {
			rows[r.Name] = r
			return nil
		}
	}
	for _, step := range []func() error{m.commits, m.messages, m.sizes, m.joinOneCore} {
		if err := step(); err != nil {
			return err
		}
	}
	if b.table.JSON {
		return nil
	}
	fmt.Fprintf(b.table.Out, "%-#7x %7d", uint16(cs), n)
	for _, c := range suiteColumns {
		r := rows[c.name]
		cell := harness.Thousands(r.Value)
		if r.Ratio > 0 {
			cell = fmt.Sprintf("%.3g (%.2f)", r.Value, r.Ratio)
			if r.Value >= 1000 {
				cell = fmt.Sprintf("%s (%.2f)", harness.Thousands(r.Value), r.Ratio)
			}
		}
		fmt.Fprintf(b.table.Out, " %*s", c.width, cell)
	}
	_, err = fmt.Fprintln(b.table.Out)
	return err
}

// sizes reports how many bytes a newcomer's messages and the tree have. It adds a member.
func (m *measures) sizes() error {
	client, _, id, err := newCoreClient(m.c.suite, "newcomer")
	if err != nil {
		return err
	}
	kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{})
	if err != nil {
		return err
	}
	message, err := kp.Message()
	if err != nil {
		return err
	}
	tree, err := m.c.a.Public().Tree()
	if err != nil {
		return err
	}
	c, err := m.c.commit(mlscore.AddProposal(kp))
	if err != nil {
		return err
	}
	return errors.Join(
		m.c.follow(c),
		m.row("keypackage-bytes", float64(len(message)), "B", 0),
		m.row("welcome-bytes", float64(len(c.Welcome)), "B", 0),
		m.row("tree-bytes", float64(len(tree)), "B", 0),
	)
}
