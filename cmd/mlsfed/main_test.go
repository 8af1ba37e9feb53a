package main

import (
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli/clitest"
)

// sampleRoot returns the real root with commands that fail in each way.
func sampleRoot() *cobra.Command {
	root := newRoot()
	sample := &cobra.Command{Use: "sample", Short: "Admit organizations", GroupID: cli.GroupPeople}
	add := &cobra.Command{Use: "add FILE", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error {
		return errors.New("read bundle: it is not there")
	}}
	add.Flags().String("domain", "", "")
	if err := add.MarkFlagRequired("domain"); err != nil {
		panic(err)
	}
	add.Flags().Bool("quiet", false, "")
	add.Flags().Bool("loud", false, "")
	add.MarkFlagsMutuallyExclusive("quiet", "loud")
	sample.AddCommand(add)
	plain := &cobra.Command{Use: "plain", GroupID: cli.GroupPeople, RunE: func(*cobra.Command, []string) error { return nil }}
	root.AddCommand(sample, plain)
	return root
}

func TestExitCodes(t *testing.T) {
	cases := []struct {
		args   string
		code   int
		stderr string // a part of standard error, which must be empty if this is empty
	}{
		{"", 0, ""},
		{"--help", 0, ""},
		{"help", 0, ""},
		{"help sample", 0, ""},
		{"version", 0, ""},
		{"--version", 0, ""},
		{"plain", 0, ""},
		{"sample", 0, ""},
		{"sample add --domain a.example f", 1, "mlsfed: read bundle: it is not there\n"},
		{"nothing", 2, "mlsfed: unknown command \"nothing\"\nRun 'mlsfed --help'"},
		{"versoin", 2, "did you mean version?"},
		{"--nothing", 2, "Run 'mlsfed --help'"},
		{"version extra", 2, "Run 'mlsfed version --help'"},
		{"version --nothing", 2, "unknown flag: --nothing"},
		{"plain extra", 2, "Run 'mlsfed plain --help'"},
		{"sample nothing", 2, "unknown command \"nothing\"\nRun 'mlsfed sample --help'"},
		{"sample add --domain a.example", 2, "accepts 1 arg"},
		{"sample add f", 2, "required flag(s) \"domain\""},
		{"sample add --domain a.example --quiet --loud f", 2, "--loud and --quiet exclude each other"},
	}
	for _, c := range cases {
		code, _, stderr := clitest.Call(t, sampleRoot, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("mlsfed %s: exit code %d, want %d; standard error: %s", c.args, code, c.code, stderr)
		}
		if c.stderr == "" && stderr != "" || !strings.Contains(stderr, c.stderr) {
			t.Errorf("mlsfed %s: standard error %q, want %q", c.args, stderr, c.stderr)
		}
		if n := strings.Count(stderr, "mlsfed: "); c.code != 0 && n != 1 {
			t.Errorf("mlsfed %s: error printed %d times, want once: %q", c.args, n, stderr)
		}
		if strings.Contains(stderr, "Usage:") {
			t.Errorf("mlsfed %s: prints the whole usage with the error: %q", c.args, stderr)
		}
	}
}

func TestHelpGroups(t *testing.T) {
	_, help, _ := clitest.Call(t, func() *cobra.Command {
		root := sampleRoot()
		for _, c := range root.Commands() {
			if c.GroupID == cli.GroupDevelopers {
				root.RemoveCommand(c)
			}
		}
		return root
	}, "--help")
	people, operators, found := strings.Cut(help, "Commands for operators:\n")
	_, people, listed := strings.Cut(people, "Commands for people:\n")
	if !found || !listed || !strings.Contains(people, "\n  sample ") || !strings.Contains(operators, "\n  version ") {
		t.Errorf("help does not list sample under people, then version under operators:\n%s", help)
	}
	if strings.Contains(help, "Commands for developers:") {
		t.Errorf("help has a title without commands:\n%s", help)
	}
}

// TestEveryCommandHasAGroup checks the group of each command. It also catches a group that does not exist, which
// cobra answers with a panic.
func TestEveryCommandHasAGroup(t *testing.T) {
	root := newRoot()
	if code := cli.Run(t.Context(), func() *cobra.Command { return root }, []string{"--help"}, io.Discard, io.Discard); code != 0 {
		t.Fatalf("mlsfed --help: exit code %d", code)
	}
	for _, c := range root.Commands() {
		builtIn := c.Name() == "help" || c.Name() == "completion"
		if !builtIn && !root.ContainsGroup(c.GroupID) {
			t.Errorf("command %s has the group %q: give it one of those in main.go", c.Name(), c.GroupID)
		}
		if !builtIn && c.Short == "" {
			t.Errorf("command %s has no Short text for the help", c.Name())
		}
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := clitest.Call(t, newRoot, "version")
	if code != 0 || !strings.HasPrefix(stdout, "mlsfed ") || !strings.HasSuffix(stdout, " "+runtime.GOOS+"/"+runtime.GOARCH+"\n") {
		t.Errorf("mlsfed version: exit code %d, output %q", code, stdout)
	}
	code, stdout, _ = clitest.Call(t, newRoot, "version", "--json")
	var printed build
	if err := json.Unmarshal([]byte(stdout), &printed); code != 0 || err != nil || printed.Go != runtime.Version() {
		t.Errorf("mlsfed version --json: exit code %d, output %q: %v", code, stdout, err)
	}
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"}}
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if got, want := readBuild(info).String(), "v1.2.3 go1.26.8 "+platform; got != want {
		t.Errorf("without a commit: %q, want %q", got, want)
	}
	info.Settings = []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2030-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}
	if got, want := readBuild(info).String(), "v1.2.3 (commit abc of 2030-01-02T03:04:05Z, with local changes) go1.26.8 "+platform; got != want {
		t.Errorf("with a commit: %q, want %q", got, want)
	}
	defer func() { linkedVersion, linkedCommit, linkedDate, linkedDirty = "", "", "", "" }()
	linkedVersion, linkedCommit, linkedDate = "v0.1.0", strings.Repeat("1f", 20), "2031-01-02T03:04:05Z"
	if got, want := readBuild(info).String(), "v0.1.0 (commit "+linkedCommit+" of 2031-01-02T03:04:05Z) go1.26.8 "+platform; got != want {
		t.Errorf("linked by internal/release: %q, want %q", got, want)
	}
	if got := readBuild(info).short(); got != "v0.1.0" {
		t.Errorf("the short version is %q", got)
	}
}
