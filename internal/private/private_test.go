//go:build unix

package private

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestNarrow(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		mode, want fs.FileMode
		dir        bool
	}{
		{0o700, 0o700, true}, {0o755, 0o700, true}, {0o777, 0o700, true}, {0o710, 0o700, true}, {0o701, 0o700, true},
		{0o600, 0o600, false}, {0o644, 0o600, false}, {0o640, 0o600, false}, {0o400, 0o400, false}, {0o604, 0o600, false},
	} {
		path := filepath.Join(dir, "x")
		if c.dir {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		checked := Check(path)
		was, err := Narrow(path)
		info, _ := os.Stat(path)
		if open := c.mode != c.want; err != nil || (was != nil) != open || (checked != nil) != open || info.Mode().Perm() != c.want {
			t.Errorf("%04o: was %v, checked %v, is %v, %v", c.mode, was, checked, info.Mode(), err)
		}
		if was != nil && !strings.Contains(was.Error(), "chmod") {
			t.Errorf("%v", was)
		}
		if Check(path) != nil {
			t.Errorf("%04o: still open", c.mode)
		}
		_ = os.Remove(path)
	}
	if was, err := Narrow(filepath.Join(dir, "nothing")); was != nil || err != nil {
		t.Errorf("nothing: %v, %v", was, err)
	}
}

func TestCheckWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	for mode, open := range map[fs.FileMode]bool{0o600: false, 0o644: false, 0o664: true, 0o602: true} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if err := CheckWritable(path); (err != nil) != open {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}

// TestForeignOwnerRefused: what another user owns, that user can change.
func TestForeignOwnerRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 4711, -1), os.Chmod(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := Check(path); err != nil {
		t.Errorf("root may use it: %v", err)
	}
	if err := syscall.Setreuid(-1, 4712); err != nil {
		t.Skipf("NOT RUN: this process cannot become another user: %v", err)
	}
	defer func() { _ = syscall.Setreuid(-1, 0) }()
	var open *Open
	if was, err := Narrow(path); !errors.As(err, &open) || open.Foreign != 4711 || was != nil {
		t.Errorf("another user may not: %v, %v", was, err)
	}
}

// TestListenIsNeverOpen: at no moment can others reach the socket, whatever the umask.
func TestListenIsNeverOpen(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	for range 2 { // a second one takes the place of what the first has left
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Type() != fs.ModeSocket || info.Mode().Perm() != 0o600 || l.Addr().String() != path {
			t.Errorf("%v at %v, %v", info.Mode(), l.Addr(), err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("left %v", names)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left the socket: %v", err)
		}
	}
}

// TestListenMakesItInside holds that the socket is made where nobody else can enter: with a folder that cannot be
// made, there is none.
func TestListenMakesItInside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "control.sock")
	if l, err := Listen(path); err == nil {
		_ = l.Close()
		t.Error("listened in a folder that is not there")
	}
}

// TestListenAtLongPath: a folder whose name is longer than a socket's address has its socket too.
func TestListenAtLongPath(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", "/tmp")
	for _, n := range []int{1, maxSocketPath - len(temporary) - len("/control.sock") - 1, maxSocketPath - len(temporary) - len("/control.sock"), 120, 250} {
		if n < 1 {
			continue
		}
		dir := filepath.Join(temporary, strings.Repeat("x", n))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "control.sock")
		l, err := Listen(path)
		if err != nil {
			t.Fatalf("%d bytes: %v", len(path), err)
		}
		c, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatalf("%d bytes: %v", len(path), err)
		}
		_ = c.Close()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Errorf("left %v, %v", names, err)
		}
	}
	t.Setenv("TMPDIR", filepath.Join(temporary, strings.Repeat("x", 250)))
	if l, err := Listen(filepath.Join(temporary, strings.Repeat("x", 250), "control.sock")); !errors.Is(err, errLongPath) {
		t.Errorf("listened at %v: %v, want to hear that there is no short path", l, err)
	}
}

// TestOthersCannotConnect: the mode of the socket keeps other users out, also in a folder that they can enter.
func TestOthersCannotConnect(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := syscall.Setreuid(-1, 4712); err != nil {
		t.Skipf("NOT RUN: this process cannot become another user: %v", err)
	}
	c, err := Dial(t.Context(), path)
	if back := syscall.Setreuid(-1, 0); back != nil {
		t.Fatal(back)
	}
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another user: %v, %v, want to be refused", c, err)
	}
}
