//go:build integration

package integration

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// suite holds what all scenarios share.
type suite struct {
	root    string // of the repository
	image   string
	compose string // its version
	reaper  io.WriteCloser

	mu       sync.Mutex // guards what follows
	projects int
	rows     [][2]string // of the table at the end
}

// the is set by TestMain before a test runs.
var the *suite

// project returns a unique name.
func (s *suite) project() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.projects++
	name := fmt.Sprintf("mlsfed-it-%d-%d", os.Getpid(), s.projects)
	return name, s.report(name)
}

// This method registers a project, an image or a mount with the reaper, which removes it even if this process dies.
func (s *suite) report(what string) error {
	_, err := io.WriteString(s.reaper, what+"\n")
	return err
}

// report adds a row to the table that is printed at the end.
func report(t *testing.T, format string, args ...any) {
	t.Helper()
	text := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
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
	form := "short"
	if full() {
		form = "long"
	}
	fmt.Printf("\nThe %s form on %s, with Compose %s:\n\n", form, time.Now().UTC().Format(time.DateOnly), s.compose)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range s.rows {
		fmt.Fprintf(w, "%s\t%s\n", r[0], r[1])
	}
	_ = w.Flush() // standard output
}

// full reports whether the long form runs.
func full() bool { return os.Getenv("MLSFED_LONG") == "full" }

// patience returns how much longer everything may take, MLSFED_PATIENCE: for a machine that does other work too.
func patience() time.Duration {
	n, err := strconv.Atoi(os.Getenv("MLSFED_PATIENCE"))
	if err != nil || n < 1 {
		return 1
	}
	return time.Duration(n)
}

// scale returns a count that depends on the form.
func scale(short, long int) int {
	if full() {
		return long
	}
	return short
}
