//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// suite is what all scenarios share.
type suite struct {
	root   string // of the repository
	image  string
	reaper io.WriteCloser

	mu       sync.Mutex // guards what follows
	projects int
	rows     [][2]string // of the table at the end
}

// the is set by TestMain before a test runs.
var the *suite

func TestMain(m *testing.M) {
	if image := os.Getenv(reaperVariable); image != "" {
		signal.Ignore(os.Interrupt, syscall.SIGTERM) // it ends when the test has
		if reap(image, os.Stdin) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, err := runSuite(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "NOT RUN: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func runSuite(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := docker(ctx, "info"); err != nil {
		return 1, fmt.Errorf("no Docker daemon answers, and these tests are nothing without one: %w", err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return 1, err
	}
	the = &suite{root: root, image: fmt.Sprintf("mlsfed:it-%d", os.Getpid())}
	build := exec.CommandContext(ctx, "sh", filepath.Join(root, "docker", "build.sh"), the.image)
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("docker/build.sh: %w\n%s", err, out)
	}
	tell, wait, err := startReaper(the.image)
	if err != nil {
		return 1, err
	}
	the.reaper = tell
	code = m.Run()
	the.print()
	if err := tell.Close(); err != nil {
		return 1, err
	}
	return code, wait()
}

// project makes a name that nobody else uses.
func (s *suite) project() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.projects++
	name := fmt.Sprintf("mlsfed-it-%d-%d", os.Getpid(), s.projects)
	_, err := io.WriteString(s.reaper, name+"\n")
	return name, err
}

// report puts a row into the table that is printed at the end.
func report(t *testing.T, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	t.Log(text)
	the.mu.Lock()
	defer the.mu.Unlock()
	the.rows = append(the.rows, [2]string{strings.TrimPrefix(t.Name(), "Test"), text})
}

func (s *suite) print() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rows) == 0 {
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range s.rows {
		fmt.Fprintf(w, "%s\t%s\n", r[0], r[1])
	}
	_ = w.Flush() // standard output
}

// full says whether the long form runs.
func full() bool { return os.Getenv("MLSFED_LONG") == "full" }

// scale is a count by the form.
func scale(short, long int) int {
	if full() {
		return long
	}
	return short
}
