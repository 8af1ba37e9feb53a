package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// Variables that internal/release sets by the linker (-X). That program builds without the history of the work tree,
// so that a clone, a copy and an archive of the sources result in the same bytes.
var (
	linkedVersion string // v0.1.0
	linkedCommit  string // 40 hexadecimal digits
	linkedDate    string // of the commit, RFC 3339
	linkedDirty   string // true: the work tree differed from the commit
)

func newVersion() *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print what this binary was built from",
		Long:    "version prints the module's version, the commit and its date, the toolchain and the platform of this binary.",
		GroupID: cli.GroupOperators,
		Args:    cobra.NoArgs,
	}
	cli.WithJSON(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		b, ok := builtFrom()
		if !ok {
			return errors.New("version: the binary carries no build information: build it with the go command, in module mode")
		}
		if asJSON, _ := c.Flags().GetBool("json"); asJSON {
			return cli.PrintJSON(c.OutOrStdout(), b)
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), "mlsfed "+b.String())
		return err
	}
	return c
}

// build describes what a binary was built from.
type build struct {
	Version  string `json:"version"` // of the module; (devel) outside of a release
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"` // of the commit
	Dirty    bool   `json:"dirty"`          // the work tree had changes that are in no commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func builtFrom() (build, bool) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build{}, false
	}
	return readBuild(info), true
}

// readBuild reads the record of the go command. Values that internal/release has linked in replace it.
func readBuild(info *debug.BuildInfo) build {
	setting := make(map[string]string, len(info.Settings))
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	b := build{
		Version:  cmp.Or(linkedVersion, info.Main.Version, "(devel)"),
		Commit:   setting["vcs.revision"],
		Date:     setting["vcs.time"],
		Dirty:    setting["vcs.modified"] == "true",
		Go:       info.GoVersion,
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if linkedCommit != "" {
		b.Commit, b.Date, b.Dirty = linkedCommit, linkedDate, linkedDirty == "true"
	}
	return b
}

// String returns one line.
func (b build) String() string {
	parts := []string{b.Version}
	if b.Commit != "" {
		commit := "commit " + b.Commit
		if b.Date != "" {
			commit += " of " + b.Date
		}
		if b.Dirty {
			commit += ", with local changes"
		}
		parts = append(parts, "("+commit+")")
	}
	return strings.Join(append(parts, b.Go, b.Platform), " ")
}

// short returns the version, with the commit if the version does not contain it.
func (b build) short() string {
	if len(b.Commit) < 12 || strings.Contains(b.Version, b.Commit[:12]) || linkedVersion != "" {
		return b.Version
	}
	return b.Version + "+" + b.Commit[:12]
}

// version returns the version of this binary, or the commit that it was built from.
func version() string {
	b, ok := builtFrom()
	if !ok {
		return "unknown"
	}
	return b.short()
}
