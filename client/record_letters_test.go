package client

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRecordLettersAreUsedOnce checks that no two kinds of records have the same letter: they would read each other's
// records.
func TestRecordLettersAreUsedOnce(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(record[A-Z]\w*)\s*= '(.)'`)
	kinds := make(map[string]string)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range declared.FindAllStringSubmatch(string(source), -1) {
			if other := kinds[d[2]]; other != "" {
				t.Errorf("%s and %s have the letter %s", other, d[1], d[2])
			}
			kinds[d[2]] = d[1]
		}
	}
	if len(kinds) < 20 {
		t.Errorf("%d kinds of records found", len(kinds))
	}
}
