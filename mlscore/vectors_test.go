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
	dir := vectorsFolder()
	if dir == "" {
		t.Skip("MLS_VECTORS is not set: let it name the folder with the MLS working group's test vectors (*.json)")
	}
	verifyFolder(t, dir, oneSuite)
}

// vectorsFolder is the folder that MLS_VECTORS names, "" if it is not set. A relative one counts from
// the module's root, where the tests are called, and not from the package's folder, where they run.
func vectorsFolder() string {
	dir := os.Getenv("MLS_VECTORS")
	if dir == "" || filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join("..", dir)
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

// The regression set was made with this seed:
//
//	go run ./cmd/mlsfed vectors make --seed 6d6c73666564 DIR
//
// Vectors made anew differ when randomness is drawn in another order or an encoding changed. Where that
// is meant, empty the folder, make the set again with the same command, and say why in the commit.
const (
	regressionSeed   = "mlsfed"
	regressionFolder = "testdata/vectors"
)

// TestRegressionVectors verifies vectors that an earlier state of this library made.
func TestRegressionVectors(t *testing.T) { verifyFolder(t, regressionFolder, nil) }

// TestMakeVectors makes the regression set again, each suite by itself: the bytes are the same. With
// -short it leaves out the suites whose curves are slow.
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
			files, err := MakeVectors([]byte(regressionSeed), []CipherSuite{id})
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

// requireCases compares cases of one suite with those of a set for all suites, in which they stand
// together.
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

// TestMakeVectorsSeeds: other seeds give other vectors, and all of them verify; suites are checked.
func TestMakeVectorsSeeds(t *testing.T) {
	first, err := MakeVectors([]byte("first"), []CipherSuite{3, 1, 3})
	if err != nil {
		t.Fatal(err)
	}
	second, err := MakeVectors([]byte("second"), []CipherSuite{1, 3})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range first {
		if string(data) == string(second[name]) && name != "tree-math.json" {
			t.Errorf("%s does not depend on the seed", name)
		}
		r, err := VerifyVectors(name, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, tally := range r.Suites {
			requirePassed(t, tally)
		}
	}
	_, err = MakeVectors(nil, []CipherSuite{1, 8})
	requireKind(t, err, ErrUnsupported)
}

// TestRandomWalks makes and verifies more random walks than are stored.
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
		r, err := VerifyVectors("passive-client-random.json", data, nil)
		if err != nil {
			t.Fatal(err)
		}
		requirePassed(t, r.Suites[0])
	}
}
