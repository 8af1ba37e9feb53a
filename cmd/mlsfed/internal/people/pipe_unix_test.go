//go:build unix

package people

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPipeIsNotSent checks that a named pipe is refused before it is opened, which would wait for a writer.
func TestPipeIsNotSent(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p := new(Person)
	if _, err := p.Post(t.Context(), "conversation-one", "", pipe); err == nil || !strings.Contains(err.Error(), "only files can be sent") {
		t.Errorf("sent a pipe: %v", err)
	}
}
