//go:build unix

package federation

import (
	"os"
	"syscall"
)

// inode numbers a file within its disk.
func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Ino)
	}
	return 0
}
