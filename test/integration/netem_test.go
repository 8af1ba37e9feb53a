//go:build integration

package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// shape sets a queueing discipline on the link of an organization to the others. It enters the container's network by
// nsenter, which needs root.
func (f *federation) shape(org string, discipline ...string) error {
	pid, err := docker(f.ctx, "inspect", "--format", "{{.State.Pid}}", f.container(org))
	if err != nil {
		return err
	}
	inside := func(args ...string) (string, error) {
		out, err := exec.CommandContext(f.ctx, "nsenter", append([]string{"--target", strings.TrimSpace(pid), "--net"}, args...)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return string(out), err
	}
	list, err := inside("ip", "-o", "-4", "address")
	if err != nil {
		return err
	}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line) // 2: eth0 inet 172.18.0.2/16 …
		if len(fields) > 3 && strings.HasPrefix(fields[3], f.address(org)+"/") {
			_, err := inside(append([]string{"tc", "qdisc", "replace", "dev", fields[1], "root"}, discipline...)...)
			return err
		}
	}
	return fmt.Errorf("the container of %s has no interface with address %s", org, f.address(org))
}

// TestSlowLine gives one organization a bad link: with delay, jitter and loss if the kernel has netem, and otherwise
// with a rate so small that queues form and overflow.
func TestSlowLine(t *testing.T) {
	f := start(t, setup{})
	line := "100±20 ms and 3% loss"
	if err := f.shape("c", "netem", "delay", "100ms", "20ms", "loss", "3%"); err != nil {
		report(t, "delay and loss NOT RUN: %v", err)
		line = "500 kbit/s"
		if err := f.shape("c", "tbf", "rate", "500kbit", "burst", "8kb", "latency", "500ms"); err != nil {
			report(t, "NOT RUN: %v", err)
			t.Skipf("NOT RUN: %v", err)
		}
	}
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Far"}, alice, bob, carol)
	near, far := c.latencies(alice, bob, scale(20, 200)), c.latencies(carol, bob, scale(20, 200))
	load := c.busy(200*time.Millisecond, c.members, c.members)
	for range scale(10, 100) {
		c.has(bob, c.say(carol, "%s", strings.Repeat("over a bad line ", 500)))
	}
	load.stop()
	c.judge(exceptions{})
	n, _ := f.history.commits(c.id, f.began())
	report(t, "with %s: a message takes %v from the far organization and %v from the near one (medians); %d commits under load",
		line, median(far).Round(100*time.Microsecond), median(near).Round(100*time.Microsecond), n)
}
