//go:build unix

package platform

import (
	"io/fs"
	"syscall"
)

// NoFollow is a flag of os.OpenFile that refuses a symbolic link. It is 0 if the system has no such flag.
const NoFollow = syscall.O_NOFOLLOW

// OwnerOf returns what the system knows about a file; known is false if files have no numbered owners.
func OwnerOf(info fs.FileInfo) (o Owner, known bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}, false
	}
	return Owner{User: int(s.Uid), Group: int(s.Gid), Links: int(s.Nlink)}, true
}
