package platform

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// Lock waits until no other process holds the file. The lock ends when the file is closed.
func Lock(f *os.File) error { return lock(f, windows.LOCKFILE_EXCLUSIVE_LOCK) }

// TryLock locks the file, or returns ErrLocked. The lock ends when the file is closed.
func TryLock(f *os.File) error {
	return lock(f, windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY)
}

// TryShare is TryLock for a reader: readers do not exclude each other. bbolt takes the same lock.
func TryShare(f *os.File) error { return lock(f, windows.LOCKFILE_FAIL_IMMEDIATELY) }

// lock locks the byte that bbolt locks, which is after every stored byte: a lock of this system blocks access to the
// locked bytes themselves.
func lock(f *os.File, flags uint32) error {
	at := &windows.Overlapped{Offset: 0xFFFFFFFF, OffsetHigh: 0xFFFFFFFF}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}
