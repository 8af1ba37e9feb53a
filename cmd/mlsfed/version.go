package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version, the commit and the toolchain of this binary",
		GroupID: groupOperators,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("version: the binary carries no build information: build it with the go command, in module mode")
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), describeBuild(info))
			return err
		},
	}
}

// describeBuild returns one line: the module's version, the commit if the
// binary was built in a work tree, the toolchain and the platform.
func describeBuild(info *debug.BuildInfo) string {
	setting := make(map[string]string, len(info.Settings))
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	parts := []string{"mlsfed", cmp.Or(info.Main.Version, "(devel)")}
	if revision := setting["vcs.revision"]; revision != "" {
		commit := "commit " + revision
		if at := setting["vcs.time"]; at != "" {
			commit += " of " + at
		}
		if setting["vcs.modified"] == "true" {
			commit += ", with local changes"
		}
		parts = append(parts, "("+commit+")")
	}
	parts = append(parts, info.GoVersion, runtime.GOOS+"/"+runtime.GOARCH)
	return strings.Join(parts, " ")
}
