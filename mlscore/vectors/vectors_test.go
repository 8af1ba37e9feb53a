package vectors

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
)

const regressionFolder = "../testdata/vectors"

// TestReport checks that a report counts cases by suite and quotes three failures, and that progress is called for
// every case.
func TestReport(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(regressionFolder, "psk_secret.json"))
	if err != nil {
		t.Fatal(err)
	}
	var stored []json.RawMessage
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	good := string(stored[0])
	bad := strings.Replace(good, `"psks":[]`, `"psks":[{"psk_id":"","psk":"","psk_nonce":""}]`, 1)
	if good == bad {
		t.Fatal("the case is not without PSKs")
	}
	other := strings.Replace(bad, `"cipher_suite":1`, `"cipher_suite":9`, 1)
	var failed, passed []int
	cases := "[" + strings.Join([]string{other, bad, good, bad, bad, good, bad}, ",") + "]"
	r, err := Verify("folder/psk_secret-x.json", []byte(cases), func(c Case) {
		if c.Err != nil {
			failed = append(failed, c.Index)
		} else {
			passed = append(passed, c.Index)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Format != "psk_secret" || r.Passed() != 2 || r.Failed() != 5 || len(r.Suites) != 2 {
		t.Errorf("%+v", r)
	}
	if s := r.Suites[0]; s.Suite != 1 || s.Passed != 2 || s.Failed != 4 || len(s.First) != 3 || s.First[2].Index != 4 {
		t.Errorf("suite 1: %+v", s)
	}
	if s := r.Suites[1]; s.Suite != 9 || s.Failed != 1 || !errors.Is(s.First[0].Err, mlscore.ErrUnsupported) {
		t.Errorf("suite 9: %+v", s)
	}
	if !slices.Equal(failed, []int{0, 1, 3, 4, 6}) || !slices.Equal(passed, []int{2, 5}) {
		t.Errorf("progress was called with the failures %v and the successes %v", failed, passed)
	}
	if text := r.Suites[1].First[0].String(); !strings.HasPrefix(text, "case 0: ") {
		t.Errorf("case %q", text)
	}
}

// TestMakeAndVerify makes the vectors of a suite, and verifies each file of the set in a folder.
func TestMakeAndVerify(t *testing.T) {
	files, err := Make([]byte("seed"), []mlscore.CipherSuite{1})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := VerifyFile(os.DirFS(dir), name, nil)
		if err != nil || r.Failed() > 0 || r.Passed() == 0 {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
	if len(files) < 16 {
		t.Errorf("%d files", len(files))
	}
}

// TestErrors checks the errors for files that cannot be verified, and for a suite that no vectors can be made for.
func TestErrors(t *testing.T) {
	_, unknown := Verify("unknown.json", []byte("[{}]"), nil)
	_, empty := Verify("treekem.json", []byte("[]"), nil)
	_, missing := VerifyFile(os.DirFS(t.TempDir()), "treekem.json", nil)
	_, suite := Make(nil, []mlscore.CipherSuite{1, 8})
	for _, c := range []struct{ err, kind error }{
		{unknown, mlscore.ErrUnsupported}, {empty, mlscore.ErrMalformed}, {missing, mlscore.ErrMissing}, {suite, mlscore.ErrUnsupported},
	} {
		if !errors.Is(c.err, c.kind) {
			t.Errorf("%v, want %v", c.err, c.kind)
		}
	}
}
