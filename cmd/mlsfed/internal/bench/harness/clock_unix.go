//go:build unix

package harness

import (
	"syscall"
	"time"
)

const HasProcessorTime = true

// ProcessorTime returns the processor time of all threads of this process.
func ProcessorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
