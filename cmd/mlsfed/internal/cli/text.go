package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// InGroups splits hexadecimal digits into groups that can be read aloud, and that break at the end of a line.
func InGroups(text string) string {
	var groups []string
	for i := 0; i < len(text); i += 8 {
		groups = append(groups, text[i:min(i+8, len(text))])
	}
	return strings.Join(groups, " ")
}

// Clean makes text of others fit for a terminal: control characters could move the cursor, hide what was
// written, or run what a terminal runs.
func Clean(s string) string { return wire.Printable(s) }

// OneLine does the same as clean for a text inside a line.
func OneLine(s string) string { return wire.Line(s) }

func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Size formats a number of bytes.
func Size(n uint64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// ClockTime formats a time in the zone of now, without its date if that is today.
func ClockTime(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}
