// Package harness has what the benchmarks share: the table of figures, workloads in a folder, the comparison of two
// builds, and the clock of this process.
package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// UnitRate is the unit of rates, the only figures for which more is better.
const UnitRate = "1/s"

// Row is one figure. Suite is the cipher suite of a group, 0 without one. Ratio is Value divided by the value of
// Against, 0 if there is nothing to compare with.
type Row struct {
	Name    string  `json:"name"`
	Suite   uint16  `json:"suite,omitempty"`
	N       int     `json:"n"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Against string  `json:"against,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
}

// Table prints rows as they come: one line for each row for people, one object for each row with asJSON.
type Table struct {
	Out   io.Writer
	log   io.Writer // progress
	JSON  bool
	start time.Time
}

func NewTable(c *cobra.Command, asJSON bool) *Table {
	return &Table{Out: c.OutOrStdout(), log: c.ErrOrStderr(), JSON: asJSON, start: time.Now()}
}

// Head prints the titles of the columns of add.
func (t *Table) Head() {
	if !t.JSON {
		fmt.Fprintf(t.Out, "%-26s %9s %16s %-8s %s\n", "name", "n", "value", "unit", "against")
	}
}

func (t *Table) Add(r Row) error {
	if t.JSON {
		return json.NewEncoder(t.Out).Encode(r)
	}
	against := ""
	if r.Against != "" {
		against = fmt.Sprintf("%.2f × %s", r.Ratio, r.Against)
		if r.Ratio >= 100 {
			against = fmt.Sprintf("%s × %s", Thousands(r.Ratio), r.Against)
		}
	}
	_, err := fmt.Fprintf(t.Out, "%-26s %9d %16.3f %-8s %s\n", r.Name, r.N, r.Value, r.Unit, against)
	return err
}

// Progress reports progress on standard error.
func (t *Table) Progress(format string, args ...any) {
	fmt.Fprintf(t.log, "%7s  %s\n", time.Since(t.start).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}

// Thousands writes a whole number with commas.
func Thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
