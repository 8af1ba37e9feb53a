package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport checks the output of packages of each kind.
func TestReport(t *testing.T) {
	said := func(action, pkg, test, output string) string {
		return fmt.Sprintf(`{"Action":%q,"Package":%q,"Test":%q,"Output":%q}`, action, pkg, test, output)
	}
	in := strings.Join([]string{
		said("output", "p/good", "TestA", "    a_test.go:3: noise of what passes\n"),
		said("pass", "p/good", "TestA", ""),
		said("output", "p/good", "TestLongB", "    b_test.go:4: set MLSFED_LONG to short or full\n"),
		said("skip", "p/good", "TestLongB", ""),
		said("output", "p/good", "TestNamedOtherwise", "    b_test.go:9: set MLSFED_LONG to short or full\n"),
		said("skip", "p/good", "TestNamedOtherwise", ""),
		said("output", "p/good", "TestC/python", "    c_test.go:5: python3 is not installed | here\n"),
		said("output", "p/good", "TestC/python", "--- SKIP: TestC/python (0.00s)\n"),
		said("skip", "p/good", "TestC/python", ""),
		said("output", "p/good", "", "ok  \tp/good\t0.1s\n"),
		said("pass", "p/good", "", ""),
		said("output", "p/bad", "TestD", "    d_test.go:6: got 1, wanted 2\n"),
		said("fail", "p/bad", "TestD", ""),
		said("output", "p/bad", "TestE", "noise of another\n"),
		said("pass", "p/bad", "TestE", ""),
		said("output", "p/bad", "TestHangs", "panic: test timed out\n"), // and no event for its end
		said("output", "p/bad", "", "FAIL\tp/bad\t0.2s\n"),
		said("fail", "p/bad", "", ""),
		`{"Action":"build-output","ImportPath":"p/broken","Output":"x.go:1: undefined: y\n"}`,
		`go: what the command says itself`,
	}, "\n")
	rows := filepath.Join(t.TempDir(), "rows")
	var out strings.Builder
	if err := run(strings.NewReader(in), &out, "^TestLong.*: .*MLSFED_LONG", rows); err != nil {
		t.Fatal(err)
	}
	want := "ok  \tp/good\t0.1s\n    d_test.go:6: got 1, wanted 2\npanic: test timed out\nFAIL\tp/bad\t0.2s\n" +
		"x.go:1: undefined: y\ngo: what the command says itself\nSKIPPED: TestNamedOtherwise: set MLSFED_LONG to short or full\nSKIPPED: TestC/python: python3 is not installed | here\n"
	if out.String() != want {
		t.Errorf("printed:\n%s\nwanted:\n%s", &out, want)
	}
	b, err := os.ReadFile(rows)
	if want := "TestNamedOtherwise|NOT RUN|-|set MLSFED_LONG to short or full\nTestC/python|NOT RUN|-|python3 is not installed / here\n"; err != nil || string(b) != want {
		t.Errorf("rows %q, wanted %q (%v)", b, want, err)
	}

	err = run(strings.NewReader(said("skip", "p", "TestF", "")), new(strings.Builder), "^$", "")
	if err == nil || !strings.Contains(err.Error(), "TestF of p was skipped and does not say why") {
		t.Errorf("a skip without a reason: %v", err)
	}
}
