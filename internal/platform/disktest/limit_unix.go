//go:build unix

package disktest

import (
	"os/signal"
	"syscall"
)

// LimitFiles prevents that a file of this process grows beyond size bytes until restore is called.
func LimitFiles(size uint64) (restore func() error, err error) {
	signal.Ignore(syscall.SIGXFSZ) // the write fails instead
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return nil, err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: old.Max}); err != nil {
		return nil, err
	}
	return func() error { return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old) }, nil
}
