package mlscore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// officialKinds are the beginnings of the file names of the working group's set.
var officialKinds = []string{
	"crypto-basics", "deserialization", "key-schedule", "message-protection", "messages",
	"passive-client-handling-commit", "passive-client-random", "passive-client-welcome", "psk_secret",
	"secret-tree", "transcript-hashes", "tree-math", "tree-operations", "tree-validation", "treekem", "welcome",
}

// oneSuite are the kinds for which the working group's set has cases only for suite 1.
var oneSuite = []string{"passive-client-random", "tree-operations"}

// TestVectors verifies the MLS working group's test vectors: all files of the folder that MLS_VECTORS names.
func TestVectors(t *testing.T) {
	dir := vectorsFolder()
	if dir == "" {
		t.Skip("MLS_VECTORS is not set: let it name the folder with the MLS working group's test vectors (*.json)")
	}
	verifyFolder(t, dir, oneSuite)
}

// vectorsFolder returns the folder that MLS_VECTORS names, "" if it is not set. A relative path is relative to the
// module's root, where the tests are called, and not to the package's folder, where they run.
func vectorsFolder() string {
	dir := os.Getenv("MLS_VECTORS")
	if dir == "" || filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join("..", dir)
}

// verifyFolder verifies the files of a folder. All kinds must be there, with cases for all suites; the kinds in
// oneSuite need cases only for suite 1.
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
			tallies := must[vectorTallies](t)(tallyVectors(filepath.Base(file), data, nil))
			for id, tally := range tallies {
				t.Run(id.String(), func(t *testing.T) { requirePassed(t, tally) })
			}
			requireSuites(t, filepath.Base(file), tallies, slices.Contains(oneSuite, name))
		})
	}
}

// vectorTallies counts the cases of a file by cipher suite.
type vectorTallies map[CipherSuite]*vectorTally

type vectorTally struct {
	passed   int
	failures []error
}

// failed returns the failures of all suites.
func (v vectorTallies) failed() (all []error) {
	for _, tally := range v {
		all = append(all, tally.failures...)
	}
	return all
}

// tallyVectors verifies a file of test vectors. folder has the files that this file refers to; it may be nil.
func tallyVectors(file string, data []byte, folder fs.FS) (vectorTallies, error) {
	var read func(string) ([]byte, error)
	if folder != nil {
		read = func(name string) ([]byte, error) { return fs.ReadFile(folder, name) }
	}
	tallies := vectorTallies{}
	_, err := verifyVectors(file, data, read, func(at int, id CipherSuite, err error) {
		tally := tallies[id]
		if tally == nil {
			tally = &vectorTally{}
			tallies[id] = tally
		}
		if err != nil {
			tally.failures = append(tally.failures, fmt.Errorf("case %d: %w", at, err))
		} else {
			tally.passed++
		}
	})
	return tallies, err
}

func requirePassed(t *testing.T, tally *vectorTally) {
	t.Helper()
	if len(tally.failures) > 0 || tally.passed == 0 {
		t.Errorf("%d cases passed, %d failed; the first failures: %v", tally.passed, len(tally.failures), tally.failures[:min(3, len(tally.failures))])
	}
}

// requireSuites checks that every suite has a case.
func requireSuites(t *testing.T, file string, tallies vectorTallies, onlyFirst bool) {
	format, err := vectorFormatOf(file)
	if err != nil {
		t.Fatal(err)
	}
	if !format.suites {
		return
	}
	for _, id := range CipherSuites() {
		if tally := tallies[id]; (tally == nil || tally.passed == 0) && (id == 1 || !onlyFirst) {
			t.Errorf("no case for %v", id)
		}
	}
}

// The regression set was made with this seed:
//
//	go run ./cmd/mlsfed vectors make --seed 6d6c73666564 DIR
//
// Vectors that are made again differ if randomness is drawn in another order or an encoding changed. If the change is
// intended, empty the folder, make the set again with the same command, and give the reason in the commit.
const (
	regressionSeed   = "mlsfed"
	regressionFolder = "testdata/vectors"
)

// TestRegressionVectors verifies vectors that an earlier state of this library made.
func TestRegressionVectors(t *testing.T) { verifyFolder(t, regressionFolder, nil) }

// TestMakeVectors makes the regression set again, each suite separately, and checks that the bytes are the same. With
// -short it leaves out the suites with slow curves.
func TestMakeVectors(t *testing.T) {
	for _, id := range CipherSuites() {
		if testing.Short() && id > 3 {
			continue
		}
		t.Run(id.String(), func(t *testing.T) {
			if raceDetector && (id == MLS256P521AES256P521 || id == MLS256P384AES256P384) {
				t.Skip("minutes with -race, and the same code as for P-256: not with -race")
			}
			t.Parallel()
			files, err := makeVectors([]byte(regressionSeed), []CipherSuite{id})
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != len(vectorFiles) {
				t.Errorf("%d files, not %d", len(files), len(vectorFiles))
			}
			for name, got := range files {
				stored, err := os.ReadFile(filepath.Join(regressionFolder, name))
				if err != nil {
					t.Fatal(err)
				}
				requireCases(t, name, id, got, stored)
			}
		})
	}
}

// requireCases compares the cases of one suite with those of a set for all suites, in which they are consecutive.
func requireCases(t *testing.T, name string, id CipherSuite, got, stored []byte) {
	gotLines, lines := caseLines(got), caseLines(stored)
	at := 0
	if len(gotLines) < len(lines) { // as many cases for each suite
		if len(lines) != len(gotLines)*len(CipherSuites()) {
			t.Fatalf("%s: %d cases, the stored set has %d", name, len(gotLines), len(lines))
		}
		at = slices.Index(CipherSuites(), id) * len(gotLines)
	}
	for i, line := range gotLines {
		if line != lines[at+i] {
			t.Errorf("%s: case %d is not that of the stored set", name, at+i)
		}
	}
}

func caseLines(data []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], ",")
	}
	return lines[1 : len(lines)-1]
}

// TestMakeVectorsSeeds checks that different seeds give different vectors, that all of them verify, and that
// makeVectors checks its suites.
func TestMakeVectorsSeeds(t *testing.T) {
	first, err := makeVectors([]byte("first"), []CipherSuite{3, 1, 3})
	if err != nil {
		t.Fatal(err)
	}
	second, err := makeVectors([]byte("second"), []CipherSuite{1, 3})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range first {
		if string(data) == string(second[name]) && name != "tree-math.json" {
			t.Errorf("%s does not depend on the seed", name)
		}
		for _, tally := range must[vectorTallies](t)(tallyVectors(name, data, nil)) {
			requirePassed(t, tally)
		}
	}
	_, err = makeVectors(nil, []CipherSuite{1, 8})
	requireKind(t, err, ErrUnsupported)
}

// TestRandomWalks makes and verifies more random walks than the stored set has.
func TestRandomWalks(t *testing.T) {
	n := 40
	if testing.Short() {
		n = 5
	}
	for i := range n {
		cases, err := makePassiveRandom(newVectorMaker([]byte{byte(i)}, "walk", suites[0]))
		if err != nil {
			t.Errorf("walk %d: %v", i, err)
			continue
		}
		data, err := encodeVectors(cases)
		if err != nil {
			t.Fatal(err)
		}
		requirePassed(t, must[vectorTallies](t)(tallyVectors("passive-client-random.json", data, nil))[suites[0].id])
	}
}
