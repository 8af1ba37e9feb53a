package discovery

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func page(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/reach.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// section returns the lines of the tables under a heading, without those of the heads, as cells.
func section(t *testing.T, heading string, columns int) (rows [][]string) {
	t.Helper()
	_, text, ok := strings.Cut(page(t), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("docs/reach.md has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n#")
	head := true
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| ---") {
			head = false
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || head || len(cells) != columns {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) == 0 {
		t.Fatalf("docs/reach.md has no table under %q", heading)
	}
	return rows
}

// TestDocumentedLimits checks that the table of limits of the look-up has the values of the source.
func TestDocumentedLimits(t *testing.T) {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%d s", d/time.Second) }
	hours := func(d time.Duration) string { return fmt.Sprintf("%d h", d/time.Hour) }
	minutes := func(d time.Duration) string { return fmt.Sprintf("%d min", d/time.Minute) }
	d := DefaultTimeouts()
	want := map[string]string{
		"TXT record":                          fmt.Sprintf("%d bytes", MaxTXT),
		"addresses of the web server":         fmt.Sprint(MaxAddresses),
		"headers of the answer":               fmt.Sprintf("%d KiB", MaxHeader>>10),
		"body of the answer":                  fmt.Sprintf("%d KiB", MaxBody>>10),
		"bytes that a connection reads":       fmt.Sprintf("%d KiB", maxReceived>>10),
		"DNS: TXT record; addresses":          seconds(d.DNS) + "; " + seconds(d.DNS),
		"connect; TLS; headers":               seconds(d.Connect) + "; " + seconds(d.TLS) + "; " + seconds(d.Header),
		"all stages together":                 seconds(d.Total),
		"look-ups at once":                    fmt.Sprint(MaxUnderWay),
		"documents kept; failures kept":       fmt.Sprintf("%d; %d", MaxEntries, MaxEntries),
		"a document is kept":                  hours(keepGood) + ", ±10%",
		"a used document is fetched again":    hours(refreshGood),
		"a failure of a domain that was good": minutes(keepAgain),
		"another failure":                     minutes(keepFailure) + ", doubled to " + hours(keepFailed),
	}
	for _, row := range section(t, "### Limits of the look-up", 2) {
		if want[row[0]] != row[1] {
			t.Errorf("%s: the page says %q, the source %q", row[0], row[1], want[row[0]])
		}
		delete(want, row[0])
	}
	for what, value := range want {
		t.Errorf("docs/reach.md has no row %q with %q", what, value)
	}
	if total := d.Total; total > 9*time.Second {
		t.Errorf("a look-up takes up to %s", total)
	}
}

// TestDocumentedThreats checks that each row of the table of threats names tests that exist.
func TestDocumentedThreats(t *testing.T) {
	for _, row := range section(t, "## Threats", 4) {
		named := strings.Split(row[3], ", ")
		for _, name := range named {
			folder, test, ok := strings.Cut(strings.Trim(name, "`"), ".")
			if !ok || !defines(t, folder, test) {
				t.Errorf("%s, %s: there is no test %s", row[0], row[1], name)
			}
		}
	}
}

func defines(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join("..", "internal", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(`)
	for _, file := range append(files, more...) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if pattern.Match(raw) {
			return true
		}
	}
	return false
}

// TestDocumentedReasons checks that the table of failures has each reason with its code.
func TestDocumentedReasons(t *testing.T) {
	rows := make(map[string]string)
	for _, row := range section(t, "### Failures", 3) {
		rows[strings.Trim(row[0], "`")] = strings.Trim(row[1], "`")
	}
	for _, r := range reasons {
		if got := rows[string(r)]; got != string((&Error{Reason: r}).Code()) {
			t.Errorf("reason %s: the page has the code %q, the source %q", r, got, (&Error{Reason: r}).Code())
		}
	}
	if len(rows) != len(reasons) {
		t.Errorf("the page has %d reasons, the source %d", len(rows), len(reasons))
	}
}
