package disktest

import (
	"fmt"
	"syscall"
	"testing"
)

// Mount mounts a disk of size bytes on a folder until the test ends. The test is skipped if it has no right to mount,
// and fails if a file of the disk is still open at its end.
func Mount(t testing.TB, dir string, size int) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Skipf("NOT RUN: a small disk needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}
