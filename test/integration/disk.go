//go:build integration

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// bindVolume returns the lines for Compose that make an organization's volume a folder of this machine.
func bindVolume(org, dir string) string {
	return fmt.Sprintf("volumes: {%s: {name: \"${COMPOSE_PROJECT_NAME}-%s\", driver: local, driver_opts: {type: none, o: bind, device: %q}}}\n", org, org, dir)
}

// mountPoint creates a folder for a mount that lasts until the end of the test.
func mountPoint(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Mkdir(dir, 0o755), the.report(dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unmountAtEnd registers a mount to be removed at the end of the test.
func unmountAtEnd(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// diskSize is the size of the disk that is filled, in bytes.
const diskSize = 64 << 20

// smallDisk creates a file system of diskSize bytes for an organization's volume. It needs root.
func smallDisk(t *testing.T, org string) (dir, compose string) {
	t.Helper()
	dir = mountPoint(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700,uid=65532,gid=65532", diskSize)); err != nil {
		report(t, "NOT RUN: a small disk needs the right to mount a tmpfs: %v", err)
		t.Skip("NOT RUN: no right to mount")
	}
	unmountAtEnd(t, dir)
	return dir, bindVolume(org, dir)
}

// A blockDisk is a file system on a block device of its own: it can be made slow, and frozen.
type blockDisk struct {
	dir    string
	device string // its numbers: 7:0
}

// blockDiskSize is in bytes. The file is sparse.
const blockDiskSize = 512 << 20

// newBlockDisk creates a block disk for an organization's volume, in a file. It needs root, loop devices and ext4.
func newBlockDisk(t *testing.T, org string) (d *blockDisk, compose string) {
	t.Helper()
	d = &blockDisk{dir: mountPoint(t)}
	file := d.dir + ".img"
	err := os.WriteFile(file, nil, 0o600)
	if err == nil {
		err = os.Truncate(file, blockDiskSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-F", file}, {"mount", "-o", "loop", file, d.dir}} {
		if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			report(t, "NOT RUN: a disk of its own needs loop devices and root: %s: %v: %s", c[0], err, out)
			t.Skip("NOT RUN: no disk of its own")
		}
	}
	unmountAtEnd(t, d.dir)
	var s syscall.Stat_t
	if err := errors.Join(os.Chmod(d.dir, 0o700), os.Chown(d.dir, 65532, 65532), syscall.Stat(d.dir, &s)); err != nil {
		t.Fatal(err)
	}
	d.device = fmt.Sprintf("%d:%d", s.Dev>>8&0xfff, s.Dev&0xff)
	return d, bindVolume(org, d.dir)
}

// slow limits the writes a second of an organization's container to the disk, 0 for no limit. Docker sets such limits
// only when a container is created, so this function sets them in the kernel's control group.
func (f *federation) slow(org string, d *blockDisk, writes int) error {
	f.t.Helper()
	f.note("the disk of %s takes %d writes a second", org, writes)
	pid, err := docker(f.ctx, "inspect", "--format", "{{.State.Pid}}", f.container(org))
	if err != nil {
		return err
	}
	groups, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // 7:blkio:/docker/…, or 0::/…
		switch {
		case len(part) != 3:
		case part[1] == "blkio":
			return limit(filepath.Join("/sys/fs/cgroup/blkio", part[2], "blkio.throttle.write_iops_device"), d.device+" "+strconv.Itoa(writes))
		case part[0] == "0" && part[1] == "" && exists(filepath.Join("/sys/fs/cgroup", part[2], "io.max")):
			most := "max"
			if writes > 0 {
				most = strconv.Itoa(writes)
			}
			return limit(filepath.Join("/sys/fs/cgroup", part[2], "io.max"), d.device+" wiops="+most)
		}
	}
	return errors.New("the kernel has no control group for the container's disk")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func limit(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// freeze freezes a disk: each writer waits until thaw.
func freeze(dir string) error { return fsfreeze("--freeze", dir) }

func thaw(dir string) error { return fsfreeze("--unfreeze", dir) }

func fsfreeze(what, dir string) error {
	if out, err := exec.Command("fsfreeze", what, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("fsfreeze %s %s: %w: %s", what, dir, err, out)
	}
	return nil
}
