//go:build unix

package platform

import (
	"errors"
	"os"
	"syscall"
)

// Lock waits until no other process holds the file. The lock ends when the file is closed.
func Lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// TryLock locks the file, or returns ErrLocked. The lock ends when the file is closed.
func TryLock(f *os.File) error { return try(f, syscall.LOCK_EX) }

// TryShare is TryLock for a reader: readers do not exclude each other. bbolt takes the same lock.
func TryShare(f *os.File) error { return try(f, syscall.LOCK_SH) }

func try(f *os.File, how int) error {
	err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
