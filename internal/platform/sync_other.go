//go:build !linux

package platform

import "os"

// SyncData syncs a file's content to the disk.
func SyncData(f *os.File) error { return f.Sync() }
