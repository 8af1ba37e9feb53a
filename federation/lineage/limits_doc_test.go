package lineage

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumentedLimits checks that the table of formats' limits in docs/reach.md has the values of the source.
func TestDocumentedLimits(t *testing.T) {
	raw, err := os.ReadFile("../../docs/reach.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(raw), "\n### Limits of the formats\n")
	text, _, _ = strings.Cut(text, "\n#")
	want := map[string]string{
		"document":                            fmt.Sprintf("%d KiB", MaxDocument>>10),
		"links in a document":                 fmt.Sprint(MaxLinks),
		"signed link":                         fmt.Sprintf("%d KiB", MaxLink>>10),
		"roots in a link":                     fmt.Sprint(MaxRoots),
		"root certificate":                    fmt.Sprintf("%d KiB", MaxRoot>>10),
		"signatures":                          fmt.Sprintf("%d, of at most %d bytes each", maxSigners, maxSignature),
		"signed statement":                    fmt.Sprintf("%d KiB", MaxStatement>>10),
		"contacts":                            fmt.Sprintf("%d, of at most %d bytes each", MaxContacts, MaxContact),
		"node records in a document":          fmt.Sprintf("%d, of at most %d KiB each", MaxRecords, MaxRecord>>10),
		"from issue to end":                   fmt.Sprintf("%d days", MaxValidity/day),
		"issue and serial ahead of the clock": fmt.Sprintf("%.0f hours", MaxAhead.Hours()),
		"stored pin":                          fmt.Sprintf("%d KiB", maxPin>>10),
	}
	compareTable(t, ok, text, want)
}

func compareTable(t *testing.T, ok bool, text string, want map[string]string) {
	t.Helper()
	if !ok {
		t.Fatal("the page has no such heading")
	}
	rows := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 2 || strings.HasPrefix(line, "| limit") || strings.HasPrefix(line, "| ---") {
			continue
		}
		rows++
		what, value := strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1])
		if want[what] != value {
			t.Errorf("%s: the page says %q, the source %q", what, value, want[what])
		}
		delete(want, what)
	}
	for what, value := range want {
		t.Errorf("the page has no row %q with %q", what, value)
	}
	if rows == 0 {
		t.Error("the page has no table there")
	}
}
