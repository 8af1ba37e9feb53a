package platform

import (
	"os"
	"syscall"
)

// SyncData syncs a file's content to the disk, without its times.
func SyncData(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
