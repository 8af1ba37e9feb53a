package quota

import (
	"fmt"

	"github.com/mlsfed/mlsfed/internal/platform"
)

// Folder is the disk that a folder is on. Of it, Reserve bytes must stay free, or Percent of its size where
// that is more.
type Folder struct {
	Path    string
	Reserve uint64
	Percent float64
}

// Free returns the bytes that are free for the node's user, and those that must stay free.
func (f *Folder) Free() (free, reserved uint64, err error) {
	free, size, err := platform.Space(f.Path)
	if err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", f.Path, err)
	}
	return free, max(f.Reserve, uint64(float64(size)*f.Percent/100)), nil
}
