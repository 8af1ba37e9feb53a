//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// diskSize is that of the disk which is filled, in bytes.
const diskSize = 64 << 20

// smallDisk makes a file system of diskSize bytes for an organization's volume. It needs root.
func smallDisk(t *testing.T, org string) (dir, compose string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700,uid=65532,gid=65532", diskSize)); err != nil {
		report(t, "NOT RUN: a small disk needs the right to mount a tmpfs: %v", err)
		t.Skip("NOT RUN: no right to mount")
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir, fmt.Sprintf("volumes: {%s: {name: \"${COMPOSE_PROJECT_NAME}-%s\", driver: local, driver_opts: {type: none, o: bind, device: %q}}}\n", org, org, dir)
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size := 1 << 20; size >= 1; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				return errors.Join(err, f.Close())
			}
			size /= 16
		}
	}
	return f.Close()
}

// TestDiskFull fills one organization's disk, and makes room again.
func TestDiskFull(t *testing.T) {
	disk, compose := smallDisk(t, "c")
	f := start(t, setup{compose: compose})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Full"}, alice, bob, carol)
	for _, d := range c.members {
		c.say(d, "before")
	}
	c.judge(exceptions{})
	ballast := filepath.Join(disk, "ballast")
	f.must(fill(ballast))
	f.note("the disk of c is full")
	for i := range 20 {
		c.say(carol, "while her organization's disk is full %d", i)
		c.say(alice, "while carol's organization's disk is full %d", i)
	}
	f.ends("the others go on", c.begin(alice))
	f.ends("the others go on", c.begin(bob))
	f.within("the node of c says that its disk is full", 2*time.Minute, func() error {
		if !bytes.Contains(output(f.ctx, "logs", f.container("c")), []byte("no space left on device")) {
			return errors.New("its log does not say so")
		}
		return nil
	})
	f.must(os.Remove(ballast))
	f.note("there is room again")
	f.waitHealthy("c")
	for _, d := range c.members {
		c.say(d, "after")
	}
	c.judge(exceptions{crashes: true})
	restarts, err := docker(f.ctx, "inspect", "--format", "{{.RestartCount}}", f.container("c"))
	f.must(err)
	report(t, "the node said that its disk is full; the others went on; nothing is lost. Restarts by Docker: %s", bytes.TrimSpace([]byte(restarts)))
}
