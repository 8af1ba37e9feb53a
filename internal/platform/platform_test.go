package platform_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mlsfed/mlsfed/internal/platform"
)

const lockEnv = "MLSFED_TEST_LOCK"

// TestMain can also run the program that holds a lock until its standard input ends.
func TestMain(m *testing.M) {
	path := os.Getenv(lockEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = platform.Lock(f)
	}
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("locked\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestLock checks that a lock of another process excludes both kinds, ends with that process, and that readers do not
// exclude each other.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f := open(t, path)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), lockEnv+"="+path)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if err := platform.TryLock(f); !errors.Is(err, platform.ErrLocked) {
		t.Errorf("TryLock of a locked file: %v", err)
	}
	if err := platform.TryShare(f); !errors.Is(err, platform.ErrLocked) {
		t.Errorf("TryShare of a locked file: %v", err)
	}
	if err := errors.Join(in.Close(), child.Wait()); err != nil {
		t.Fatal(err)
	}
	other := open(t, path)
	if err := errors.Join(platform.TryShare(f), platform.TryShare(other)); err != nil {
		t.Errorf("two readers: %v", err)
	}
	if err := platform.TryLock(other); !errors.Is(err, platform.ErrLocked) {
		t.Errorf("TryLock of a file that is read: %v", err)
	}
	if err := errors.Join(f.Close(), platform.Lock(other)); err != nil {
		t.Errorf("Lock after the reader: %v", err)
	}
}

func TestSpace(t *testing.T) {
	free, size, err := platform.Space(t.TempDir())
	if err != nil || free == 0 || free > size {
		t.Errorf("%d bytes free of %d: %v", free, size, err)
	}
	if _, _, err := platform.Space(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a folder that is missing has space")
	}
}

func TestOwnerAndSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f := open(t, path)
	if err := platform.SyncData(f); err != nil {
		t.Error(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if o, known := platform.OwnerOf(info); known && (o.User != os.Geteuid() || o.Links != 1) {
		t.Errorf("a file of this user: %+v", o)
	}
}

// TestRefused checks that Refused reports that no process listens at a closed address or at a socket file that was
// left behind.
func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if _, err := net.Dial("tcp", address); !platform.Refused(err) {
		t.Errorf("dial %s: %v", address, err)
	}
	if platform.Refused(os.ErrNotExist) {
		t.Error("a missing file is a refused connection")
	}
}
