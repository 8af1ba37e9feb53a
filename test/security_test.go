package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityTable checks that docs/security.md names existing tests, and that a row without a test states that
// nothing stops the act.
func TestSecurityTable(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 4 || strings.HasPrefix(line, "| attacker") || strings.HasPrefix(line, "| ---") {
			continue
		}
		rows++
		named := strings.TrimSpace(cells[3])
		if named == "–" {
			if !strings.Contains(cells[2], "**nothing") {
				t.Errorf("row without a test: %s", line)
			}
			continue
		}
		for name := range strings.SplitSeq(named, ", ") {
			at := strings.LastIndex(name, ".")
			folder := map[string]string{"machine": "consensus/machine"}[name[:at]]
			if folder == "" {
				folder = name[:at]
			}
			if !definesTest(t, folder, name[at+1:]) {
				t.Errorf("there is no test %s", name)
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d rows", rows)
	}
}

func definesTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(folder), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(`)
	for _, file := range files {
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
