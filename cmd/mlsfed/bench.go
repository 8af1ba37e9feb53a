package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// newBench groups the measurements that can be repeated by anybody.
func newBench() *cobra.Command {
	c := &cobra.Command{
		Use:     "bench",
		GroupID: groupDevelopers,
		Short:   "Measure this build on this machine",
	}
	c.AddCommand(newBenchCore(), newBenchOrder(), newBenchDelivery(), newBenchFederation(), newBenchDevice())
	return c
}

// unitRate is the unit of rates, the only figures of which more is better.
const unitRate = "1/s"

// benchRow is one figure. Suite is the cipher suite of a group, 0 where there is none. Ratio is Value over
// that of Against, 0 where there is nothing to compare with.
type benchRow struct {
	Name    string  `json:"name"`
	Suite   uint16  `json:"suite,omitempty"`
	N       int     `json:"n"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Against string  `json:"against,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
}

// benchTable prints rows as they come: a line each for people, an object each with asJSON.
type benchTable struct {
	out    io.Writer
	log    io.Writer // progress
	asJSON bool
	start  time.Time
}

func newBenchTable(c *cobra.Command, asJSON bool) *benchTable {
	return &benchTable{out: c.OutOrStdout(), log: c.ErrOrStderr(), asJSON: asJSON, start: time.Now()}
}

// head prints the titles of the columns of add.
func (t *benchTable) head() {
	if !t.asJSON {
		fmt.Fprintf(t.out, "%-26s %9s %16s %-8s %s\n", "name", "n", "value", "unit", "against")
	}
}

func (t *benchTable) add(r benchRow) error {
	if t.asJSON {
		return json.NewEncoder(t.out).Encode(r)
	}
	against := ""
	if r.Against != "" {
		against = fmt.Sprintf("%.2f × %s", r.Ratio, r.Against)
		if r.Ratio >= 100 {
			against = fmt.Sprintf("%s × %s", thousands(r.Ratio), r.Against)
		}
	}
	_, err := fmt.Fprintf(t.out, "%-26s %9d %16.3f %-8s %s\n", r.Name, r.N, r.Value, r.Unit, against)
	return err
}

// progress tells on standard error what is going on.
func (t *benchTable) progress(format string, args ...any) {
	fmt.Fprintf(t.log, "%7s  %s\n", time.Since(t.start).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}
