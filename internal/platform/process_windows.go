package platform

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

// ProcessorTime returns the processor time of all threads of this process; 0 if it is not known.
func ProcessorTime() time.Duration { return 0 }

// Detach makes a command outlive this process and its terminal.
func Detach(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP}
}

// NotifyResized makes c receive a signal each time the terminal's size changes. Windows has no such signal.
func NotifyResized(chan<- os.Signal) {}

// Refused reports whether err means that no process listens at the address of a connection.
func Refused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }
