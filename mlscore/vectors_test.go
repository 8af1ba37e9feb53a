package mlscore

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// officialKinds are the names with which the files of the working group's set begin.
var officialKinds = []string{
	"crypto-basics", "deserialization", "key-schedule", "message-protection", "messages",
	"passive-client-handling-commit", "passive-client-random", "passive-client-welcome", "psk_secret",
	"secret-tree", "transcript-hashes", "tree-math", "tree-operations", "tree-validation", "treekem", "welcome",
}

// oneSuite are those of which the working group's set has cases for suite 1 only.
var oneSuite = []string{"passive-client-random", "tree-operations"}

// TestVectors verifies the MLS working group's test vectors, all files of the folder that MLS_VECTORS
// names.
func TestVectors(t *testing.T) {
	dir := os.Getenv("MLS_VECTORS")
	if dir == "" {
		t.Skip("MLS_VECTORS is not set: let it name the folder with the MLS working group's test vectors (*.json)")
	}
	verifyFolder(t, dir, oneSuite)
}

// verifyFolder verifies the files of a folder. All kinds must be there, with cases for all suites; of
// those in oneSuite, for suite 1 at least.
func verifyFolder(t *testing.T, dir string, oneSuite []string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range officialKinds {
		if !slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(filepath.Base(f), kind) }) {
			t.Errorf("no file %s*.json in %s", kind, dir)
		}
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := VerifyVectors(filepath.Base(file), data, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, tally := range r.Suites {
				t.Run(tally.Suite.String(), func(t *testing.T) { requirePassed(t, tally) })
			}
			requireSuites(t, &r, slices.Contains(oneSuite, name))
		})
	}
}

func requirePassed(t *testing.T, tally VectorTally) {
	t.Logf("%d cases passed, %d failed", tally.Passed, tally.Failed)
	if tally.Failed > 0 || tally.Passed == 0 {
		t.Errorf("%d cases failed of %d", tally.Failed, tally.Failed+tally.Passed)
	}
	for _, c := range tally.First {
		t.Error(c)
	}
}

// requireSuites checks that no suite is without a case.
func requireSuites(t *testing.T, r *VectorReport, onlyFirst bool) {
	format, err := vectorFormatOf(r.File)
	if err != nil {
		t.Fatal(err)
	}
	if !format.suites {
		return
	}
	for _, id := range CipherSuites() {
		has := slices.ContainsFunc(r.Suites, func(tally VectorTally) bool { return tally.Suite == id && tally.Passed > 0 })
		if !has && (id == 1 || !onlyFirst) {
			t.Errorf("no case for %v", id)
		}
	}
}
