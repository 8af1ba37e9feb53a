package mlscore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The post-quantum set has the vectors of RFC 9420's formats for the draft's cipher suites. Its trees are large, so
// only digests are stored of most kinds. The set was made with the seed of the other set, in DIR/all, and then for
// each suite separately in a folder with its number, like 0xf001:
//
//	go run ./cmd/mlsfed vectors make --seed 6d6c73666564 --suites pq DIR/all
//	go run ./cmd/mlsfed vectors make --seed 6d6c73666564 --suites 0xf001 DIR/0xf001
//	cd DIR && sha256sum 0xf0*/*.json > SHA256SUMS
//
// The files of the folder that are not digests come from DIR/all.
const pqFolder = "testdata/vectors-pq"

// pqFiles are the files that are stored whole.
var pqFiles = []string{"crypto-basics.json", "key-schedule.json", "message-protection.json", "psk_secret.json", "secret-tree.json", "transcript-hashes.json"}

// TestRegressionVectorsPostQuantum verifies vectors that an earlier state of this library made.
func TestRegressionVectorsPostQuantum(t *testing.T) {
	for _, name := range pqFiles {
		data, err := os.ReadFile(filepath.Join(pqFolder, name))
		if err != nil {
			t.Fatal(err)
		}
		tallies := must[vectorTallies](t)(tallyVectors(name, data, nil))
		for _, tally := range tallies {
			requirePassed(t, tally)
		}
		for at := range draftRows {
			s := draftRows[at].under(draftRows[at].earlier)
			if tally := tallies[s.id]; tally == nil || tally.passed == 0 {
				t.Errorf("%s: no case for %v", name, s.id)
			}
		}
	}
}

// pqDigests reads the digests of the set by suite and file.
func pqDigests(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(pqFolder, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		digest, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			t.Fatalf("line %q", lines.Text())
		}
		digests[name] = digest
	}
	return digests
}

// TestMakeVectorsPostQuantum makes the set again and verifies it. Unless MLSFED_LONG is set, it uses only three
// suites, one of each signature scheme.
func TestMakeVectorsPostQuantum(t *testing.T) {
	digests := pqDigests(t)
	for at := range draftRows {
		s := draftRows[at].under(draftRows[at].earlier)
		quick := s.id == 0xf001 || s.id == 0xf009 && !testing.Short()
		if !quick && longRun(t) == "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			files, err := makeVectors([]byte(regressionSeed), []CipherSuite{s.id})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range vectorFiles {
				if !f.suites {
					continue
				}
				sum := sha256.Sum256(files[f.name])
				if name := fmt.Sprintf("%#04x/%s", uint16(s.id), f.name); hex.EncodeToString(sum[:]) != digests[name] {
					t.Errorf("%s is not that of the stored set", name)
				}
				for _, tally := range must[vectorTallies](t)(tallyVectors(f.name, files[f.name], nil)) {
					requirePassed(t, tally)
				}
			}
		})
	}
}

// TestPostQuantumVectorsComplete checks that there is a digest for every suite and kind of vectors, and no other
// digest.
func TestPostQuantumVectorsComplete(t *testing.T) {
	digests := pqDigests(t)
	for at := range draftRows {
		s := draftRows[at].under(draftRows[at].earlier)
		for _, f := range vectorFiles {
			if name := fmt.Sprintf("%#04x/%s", uint16(s.id), f.name); f.suites {
				if digests[name] == "" {
					t.Errorf("no digest of %s", name)
				}
				delete(digests, name)
			}
		}
	}
	for name := range digests {
		t.Errorf("a digest of %s, which is not made", name)
	}
}
