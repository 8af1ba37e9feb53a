//go:build unix

package platform

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// ProcessorTime returns the processor time of all threads of this process; 0 if it is not known.
func ProcessorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Detach makes a command outlive this process and its terminal.
func Detach(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// NotifyResized makes c receive a signal each time the terminal's size changes. Windows has no such signal.
func NotifyResized(c chan<- os.Signal) { signal.Notify(c, syscall.SIGWINCH) }

// Refused reports whether err means that no process listens at the address of a connection.
func Refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
