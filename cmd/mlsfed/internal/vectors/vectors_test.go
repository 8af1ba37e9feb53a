package vectors

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli/clitest"
)

// runVectors runs a vectors command.
func runVectors(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return clitest.Call(t, func() *cobra.Command { return cli.Root(Command()) }, append([]string{"vectors"}, args...)...)
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, data []byte, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestVectorsMakeAndVerify makes vectors, verifies them, damages one and verifies again.
func TestVectorsMakeAndVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	code, stdout, stderr := runVectors(t, "make", dir, "--seed", "0102", "--suites", "1,3")
	if code != 0 || !strings.Contains(stdout, "seed 0102\n") || !strings.Contains(stdout, "16 files, ") {
		t.Fatalf("make: exit code %d, output %q, %q", code, stdout, stderr)
	}
	code, stdout, stderr = runVectors(t, "verify", dir)
	if code != 0 || stderr != "" {
		t.Fatalf("verify: exit code %d, output %s %s", code, stdout, stderr)
	}
	for _, row := range []string{
		`(?m)^file +suite +passed +failed$`,
		`(?m)^crypto-basics\.json +1 +1 +0$`,
		`(?m)^crypto-basics\.json +3 +1 +0$`,
		`(?m)^messages\.json +- +2 +0$`,
		`(?m)^passive-client-welcome\.json +3 +8 +0$`,
		`(?m)^16 files, [0-9]+ cases: [0-9]+ passed, 0 failed$`,
	} {
		if !regexp.MustCompile(row).MatchString(stdout) {
			t.Errorf("no line %s in\n%s", row, stdout)
		}
	}

	good := read(t, dir, "psk_secret.json")
	write(t, bytes.Replace(good, []byte(`"psk_secret":"`), []byte(`"psk_secret":"00`), 1), dir, "psk_secret.json")
	code, stdout, stderr = runVectors(t, "verify", dir)
	if code != 1 || !regexp.MustCompile(`(?m)^psk_secret\.json +1 +2 +1$\n  case 0: psk_secret: is `).MatchString(stdout) {
		t.Errorf("verify with a damaged case: exit code %d, output\n%s", code, stdout)
	}
	if !strings.Contains(stdout, ", 1 failed\n") || !strings.Contains(stderr, "1 cases failed, 0 files could not be read") {
		t.Errorf("verify with a damaged case: totals %s %s", stdout, stderr)
	}
}

// TestVectorsVerifyBadFiles checks that a file that has no test vectors fails the run, and that the run continues.
func TestVectorsVerifyBadFiles(t *testing.T) {
	dir := t.TempDir()
	code, _, stderr := runVectors(t, "verify", dir)
	if code != 1 || !strings.Contains(stderr, "holds no .json file") {
		t.Errorf("empty folder: exit code %d, %q", code, stderr)
	}
	write(t, []byte("[{}]"), dir, "another.json")
	write(t, []byte(`[{"vlbytes_header":"00","length":0}]`), dir, "deserialization.json")
	write(t, []byte("{"), dir, "treekem.json")
	write(t, []byte("not looked at"), dir, "README.md")
	code, stdout, stderr := runVectors(t, "verify", dir)
	if code != 1 || !strings.Contains(stderr, "0 cases failed, 2 files could not be read") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if !regexp.MustCompile(`(?m)^deserialization\.json +- +1 +0$`).MatchString(stdout) || !strings.Contains(stdout, "3 files, 1 cases: 1 passed") {
		t.Errorf("output\n%s", stdout)
	}
	if code, _, stderr := runVectors(t, "verify", filepath.Join(dir, "missing")); code != 1 || stderr == "" {
		t.Errorf("no folder: exit code %d, %q", code, stderr)
	}
}

// TestVectorsVerifyQuotesThree checks that of many failures three are quoted and the rest counted.
func TestVectorsVerifyQuotesThree(t *testing.T) {
	dir := t.TempDir()
	bad := `{"vlbytes_header":"00","length":1}`
	write(t, []byte("["+strings.Repeat(bad+",", 4)+bad+"]"), dir, "deserialization.json")
	code, stdout, _ := runVectors(t, "verify", dir)
	if code != 1 || strings.Count(stdout, "  case ") != 3 || !strings.Contains(stdout, "  and 2 more\n") {
		t.Errorf("exit code %d, output\n%s", code, stdout)
	}
}

func TestVectorsMakeKeepsFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, []byte("mine"), dir, "welcome.json")
	code, _, stderr := runVectors(t, "make", dir, "--suites", "1")
	if code != 1 || !strings.Contains(stderr, "welcome.json is in "+dir+" already") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || string(read(t, dir, "welcome.json")) != "mine" {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	write(t, nil, dir, "file")
	if code, _, stderr := runVectors(t, "make", filepath.Join(dir, "file"), "--suites", "1"); code != 1 || stderr == "" {
		t.Errorf("a file for a folder: exit code %d, %q", code, stderr)
	}
}

// TestVectorsMakePostQuantum checks a suite given by its number for private use, and a suite given by its name.
func TestVectorsMakePostQuantum(t *testing.T) {
	dir := t.TempDir()
	code, _, stderr := runVectors(t, "make", dir, "--suites", "0xf006,MLS_128_MLKEM768_AES256GCM_SHA384_P256")
	if code != 0 {
		t.Fatalf("make: exit code %d, %q", code, stderr)
	}
	code, stdout, stderr := runVectors(t, "verify", dir)
	if code != 0 || !regexp.MustCompile(`(?m)^treekem\.json +0xf006 +4 +0$\n^treekem\.json +0xfeb6 +4 +0$`).MatchString(stdout) {
		t.Errorf("verify: exit code %d, output %s %s", code, stdout, stderr)
	}
}

// TestVectorsMakeRandomSeed checks that each run without a seed has its own seed, and prints it so that the run can
// be repeated.
func TestVectorsMakeRandomSeed(t *testing.T) {
	first, second, third := t.TempDir(), t.TempDir(), t.TempDir()
	_, stdout, _ := runVectors(t, "make", first, "--suites", "1")
	seed := regexp.MustCompile(`(?m)^seed ([0-9a-f]{64})$`).FindStringSubmatch(stdout)
	if seed == nil {
		t.Fatalf("no seed in %s", stdout)
	}
	runVectors(t, "make", second, "--suites", "1")
	runVectors(t, "make", third, "--suites", "1", "--seed", seed[1])
	if bytes.Equal(read(t, first, "welcome.json"), read(t, second, "welcome.json")) {
		t.Error("two runs without a seed gave the same")
	}
	if !bytes.Equal(read(t, first, "welcome.json"), read(t, third, "welcome.json")) {
		t.Error("the printed seed gives something else")
	}
}

func TestVectorsUsage(t *testing.T) {
	for _, args := range [][]string{
		{"verify"},
		{"verify", "a", "b"},
		{"verify", "--seed", "00", "a"},
		{"make"},
		{"make", "a", "b"},
		{"make", "a", "--seed", "0"},
		{"make", "a", "--seed", "xy"},
		{"make", "a", "--suites", "8"},
		{"make", "a", "--suites", "0"},
		{"make", "a", "--suites", "65537"},
		{"make", "a", "--suites", "1,x"},
		{"mend"},
	} {
		if code, _, stderr := runVectors(t, args...); code != 2 || !strings.Contains(stderr, "--help' for how to call it") {
			t.Errorf("mlsfed vectors %s: exit code %d, %q", strings.Join(args, " "), code, stderr)
		}
	}
}
