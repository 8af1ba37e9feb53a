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

// shape makes the line of an organization to the others slow and lossy. It enters the container's network
// by nsenter, which needs root, and uses netem, which the kernel must have.
func (f *federation) shape(org string, netem ...string) error {
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
			_, err := inside(append([]string{"tc", "qdisc", "replace", "dev", fields[1], "root", "netem"}, netem...)...)
			return err
		}
	}
	return fmt.Errorf("the container of %s has no interface with address %s", org, f.address(org))
}

// TestSlowLine gives one organization a line with delay, jitter and loss.
func TestSlowLine(t *testing.T) {
	f := start(t, setup{})
	if err := f.shape("c", "delay", "100ms", "20ms", "loss", "3%"); err != nil {
		report(t, "NOT RUN: %v", err)
		t.Skipf("NOT RUN: %v", err)
	}
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Far"}, alice, bob, carol)
	near, far := c.latencies(alice, bob, scale(20, 200)), c.latencies(alice, carol, scale(20, 200))
	for i := range scale(5, 50) {
		for _, d := range c.members {
			c.say(d, "%d", i)
			f.ends("a commit over a bad line", c.begin(d))
		}
	}
	c.judge(exceptions{})
	report(t, "with 100±20 ms and 3%% loss: a message takes %v to the far organization and %v to the near one (medians)",
		median(far).Round(time.Millisecond), median(near).Round(time.Millisecond))
}
