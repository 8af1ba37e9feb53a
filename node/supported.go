package node

import (
	"fmt"
	"runtime"
)

// Supported returns an error on a system where no node runs. On Windows the owners of files cannot be checked, a
// folder cannot be synced to the disk, and an open file cannot be replaced: a node relies on all three.
func Supported() error { return supported(runtime.GOOS) }

func supported(system string) error {
	switch system {
	case "linux", "darwin":
		return nil
	}
	return fmt.Errorf("a node does not run on %s: use Linux, or macOS for development; the commands for people work here", system)
}
