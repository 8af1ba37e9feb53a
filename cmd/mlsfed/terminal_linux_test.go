package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/rogpeppe/go-internal/testscript"
)

// openTerminal creates a pseudo terminal of a size. Output that a program writes to tty is read from master.
func openTerminal(width, height uint16) (master, tty *os.File, err error) {
	// A descriptor that does not block is polled, so that a read ends when it is closed.
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	number, unlock := uint32(0), int32(0)
	size := [4]uint16{height, width}
	for request, value := range map[uintptr]unsafe.Pointer{
		syscall.TIOCGPTN: unsafe.Pointer(&number), syscall.TIOCSPTLCK: unsafe.Pointer(&unlock), syscall.TIOCSWINSZ: unsafe.Pointer(&size),
	} {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(value)); e != 0 {
			return nil, nil, e
		}
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	return master, tty, err
}

// terminal starts a program on a terminal of 80×24 and types: each argument before -- is a text to wait for on the
// screen, or, with > before it, keys, in which ^M is Enter, or, with ! before it, a command of the shell. The program
// must end with 0 then. Its output goes to terminal.out.
func (s *scripts) terminal(ts *testscript.TestScript, _ bool, args []string) {
	var steps []string
	for len(args) > 0 && args[0] != "--" {
		steps, args = append(steps, args[0]), args[1:]
	}
	master, tty, err := openTerminal(80, 24)
	ts.Check(err)
	defer master.Close()
	path, err := lookPath(args[1], ts.Getenv("PATH"))
	ts.Check(err)
	c := exec.Command(path, args[2:]...)
	c.Args[0], c.Dir = args[1], ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "MLSFED_HOME", "MLSFED_PROFILE", "DBUS_SESSION_BUS_ADDRESS"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	c.Env = append(c.Env, "TERM=xterm-256color", "TMPDIR="+os.Getenv("TMPDIR"))
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(c.Start())
	ts.Check(tty.Close())
	var shown shownText
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 32<<10)
		for {
			n, err := master.Read(b)
			shown.add(b[:n])
			if err != nil { // EIO when the program has ended
				return
			}
		}
	}()
	late := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
	defer late.Stop()
	for _, step := range steps {
		if keys, ok := strings.CutPrefix(step, ">"); ok {
			_, err := master.WriteString(strings.ReplaceAll(keys, "^M", "\r"))
			ts.Check(err)
			continue
		}
		if command, ok := strings.CutPrefix(step, "!"); ok {
			other := exec.Command("sh", "-c", command)
			other.Dir, other.Env = c.Dir, c.Env
			out, err := other.CombinedOutput()
			ts.Logf("[%s]\n%s", command, out)
			ts.Check(err)
			continue
		}
		for !strings.Contains(shown.text(), step) {
			select {
			case <-read:
				ts.Fatalf("%q never is on the screen:\n%q", step, shown.text())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	err = c.Wait()
	<-read
	ts.Check(os.WriteFile(ts.MkAbs("terminal.out"), []byte(shown.text()), 0o600))
	if err != nil {
		ts.Fatalf("%v:\n%q", err, shown.text())
	}
}

// shownText holds what a program has written.
type shownText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shownText) add(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Write(b)
}

func (s *shownText) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestTerminalIsNotAsked checks that a command writes no sequences to a terminal and reads nothing that was typed
// ahead, and that the environment is unchanged.
func TestTerminalIsNotAsked(t *testing.T) {
	if os.Getenv("MLSFED_TEST_SHOW") != "" {
		fmt.Printf("CI=%q\n", os.Getenv("CI"))
		return
	}
	master, tty, err := openTerminal(80, 24)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if _, err := master.WriteString("the next command\n"); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-c", `"$0" -test.run=TestTerminalIsNotAsked$; read line; echo "read: $line"`, self)
	c.Env = []string{"MLSFED_TEST_SHOW=1", "TERM=xterm-256color", "PATH=" + os.Getenv("PATH")}
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := tty.Close(); err != nil {
		t.Fatal(err)
	}
	shown, _ := io.ReadAll(master) // EIO when the program has ended
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if s := string(shown); strings.Contains(s, "\x1b") || !strings.Contains(s, "CI=\"\"") || !strings.Contains(s, "read: the next command") {
		t.Errorf("on the terminal: %q", s)
	}
}
