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

// noReserve lets a node use a disk that is smaller than the default reserve.
var noReserve = map[string]string{"MLSFED_QUOTA_RESERVE": "8MiB", "MLSFED_QUOTA_RESERVE_PERCENT": "0"}

// TestDiskFull fills one organization's disk, and makes room again.
func TestDiskFull(t *testing.T) {
	disk, compose := smallDisk(t, "c")
	f := start(t, setup{compose: compose, environment: noReserve})
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
		if !bytes.Contains(output(f.ctx, "logs", f.container("c")), []byte("the disk is full")) {
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

// slowWrites is the number of writes a second of a slow disk. A sync takes several writes.
const slowWrites = 40

// TestSlowDisk makes the disk of the organization whose node leads a conversation slow, and then freezes it. It
// checks that another node becomes the leader.
func TestSlowDisk(t *testing.T) {
	disk, compose := newBlockDisk(t, "c")
	f := start(t, setup{compose: compose, environment: noReserve})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Slow"}, carol, alice, bob) // the creator's node leads at first
	near, far := c.latencies(alice, bob, scale(10, 100)), c.latencies(carol, bob, scale(10, 100))
	if err := f.slow("c", disk, slowWrites); err != nil {
		report(t, "a slow disk NOT RUN: %v", err)
	} else {
		began := time.Now()
		// The devices commit and send no messages, which would come faster than such a disk can store them, and wait.
		load := c.busy(time.Second, nil, c.members)
		slowNear, slowFar := c.latencies(alice, bob, scale(10, 100)), c.latencies(carol, bob, scale(5, 20))
		n := 0
		f.eventually("commits go on where the leader's disk is slow", func() error {
			if n, _ = f.history.commits(c.id, began); n < scale(5, 50) {
				return fmt.Errorf("commits: %d", n)
			}
			return nil
		})
		load.stop()
		took := time.Since(began)
		c.judge(exceptions{})
		f.must(f.slow("c", disk, 0))
		report(t, "with %d writes a second at one organization, which leads, a message takes %v from there and %v elsewhere; before %v and %v (medians); %d commits in %v",
			slowWrites, median(slowFar).Round(time.Millisecond), median(slowNear).Round(time.Millisecond), median(far).Round(time.Millisecond), median(near).Round(time.Millisecond), n, took.Round(time.Second))
	}
	load := c.busy(100*time.Millisecond, c.members, c.members)
	var gaps []time.Duration
	for range scale(1, 4) {
		c.leads("c")
		f.note("the disk of c is frozen")
		if err := freeze(disk.dir); err != nil {
			report(t, "a frozen disk NOT RUN: %v", err)
			break
		}
		t.Cleanup(func() { _ = thaw(disk.dir) }) // if the test ends before the thaw below
		gap := c.goesOn([]string{"a", "b"})
		c.has(bob, c.say(alice, "while the disk of c is frozen"))
		f.note("the disk of c goes on")
		f.must(thaw(disk.dir))
		c.caughtUp("c", "a")
		gaps = append(gaps, gap)
	}
	load.stop()
	c.judge(exceptions{})
	n, _ := f.history.commits(c.id, f.began())
	report(t, "the disk froze: commits of the others go on %v later; %d commits in all; nothing is lost", rounded(gaps), n)
}

// leads makes an organization's node lead the conversation: it restarts another leader, which transfers its
// leadership at the stop.
func (c *conversation) leads(org string) {
	c.f.t.Helper()
	c.f.within("the node of "+org+" leads", 2*time.Minute, func() error {
		leader := c.f.leader(c.id, c.f.orgs...)
		if leader == org {
			return nil
		}
		c.f.stop(leader)
		c.f.run(leader)
		c.caughtUp(leader, others(c.f.orgs, leader)[0])
		return fmt.Errorf("%s led", leader)
	})
}
