//go:build integration

package integration

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// once runs a command of the binary on an organization's volume, without a network.
func (f *federation) once(org, in string, args ...string) string {
	f.t.Helper()
	f.note("%s once: %s", org, strings.Join(args, " "))
	out, err := dockerIn(f.ctx, strings.NewReader(in), append([]string{"run", "--rm", "--interactive", "--network", "none",
		"--label", projectLabel + "=" + f.project, "--volume", f.container(org) + ":/var/lib/mlsfed", f.image}, args...)...)
	f.must(err)
	return out
}

// lose destroys an organization's container and its disk.
func (f *federation) lose(org string) {
	f.t.Helper()
	f.note("%s is lost with its disk", org)
	_, err := docker(f.ctx, "rm", "--force", f.container(org))
	f.must(err)
	_, err = docker(f.ctx, "volume", "rm", f.container(org))
	f.must(err)
}

// TestLostWithBackup destroys an organization with its disk, restores it from a backup, and checks that everything
// continues. One conversation had its majority there.
func TestLostWithBackup(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	three := f.converse(client.CreateOptions{Name: "Three"}, alice, bob, carol)
	two := f.converse(client.CreateOptions{Name: "Two"}, carol, alice)
	three.voters("a", "b", "c")
	two.voters("c")
	for _, c := range []*conversation{three, two} {
		for _, d := range c.members {
			c.say(d, "before the backup")
		}
	}
	three.judge(exceptions{})
	backup, err := f.mlsfed("c", "backup", "-")
	f.must(err)
	configuration, err := docker(f.ctx, "cp", f.container("c")+":/var/lib/mlsfed/mlsfed.yaml", "-")
	f.must(err)
	f.ends("after the backup", three.begin(carol))
	f.ends("after the backup", two.begin(alice))
	for _, c := range []*conversation{three, two} {
		for _, d := range c.members {
			c.say(d, "after the backup")
		}
	}
	three.judge(exceptions{})
	two.judge(exceptions{})

	f.lose("c")
	lost := time.Now()
	f.ends("the majority goes on", three.begin(bob))
	missed := three.say(alice, "while c is lost")
	two.recover("a") // a holds all that c had accepted
	f.ends("the conversation whose only vote was lost goes on", two.begin(alice))
	f.compose("up", "--no-start", "c")
	_, err = dockerIn(f.ctx, strings.NewReader(configuration), "cp", "-", f.container("c")+":/var/lib/mlsfed")
	f.must(err)
	f.once("c", backup, "restore", "/dev/stdin")
	f.compose("up", "--detach", "c")
	f.waitHealthy("c")
	three.caughtUp("c", "b")
	two.caughtUp("c", "a")
	back := time.Since(lost)
	for _, c := range []*conversation{three, two} {
		for _, d := range c.members {
			f.ends("after the restoration", c.begin(d))
			c.say(d, "after the restoration")
		}
	}
	three.has(carol, missed)
	gaps := exceptions{gaps: []*device{carol}}
	three.judge(gaps)
	two.judge(gaps)
	report(t, "a backup of %d bytes; restored and level after %v; nothing accepted is missing at those who were there", len(backup), back.Round(10*time.Millisecond))
}

// TestLostWithoutBackup destroys an organization with its disk, founds it again, and lets its people rejoin their
// conversations. The operator of the other organization recovers the conversation that had its majority there.
func TestLostWithoutBackup(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	three := f.converse(client.CreateOptions{Name: "Three", Admins: []wire.UserID{bob.id.User()}}, alice, bob, carol)
	two := f.converse(client.CreateOptions{Name: "Two", Admins: []wire.UserID{alice.id.User()}}, carol, alice)
	three.voters("a", "b", "c")
	two.voters("c")
	for _, c := range []*conversation{three, two} {
		for _, d := range c.members {
			c.say(d, "before")
		}
	}
	three.judge(exceptions{})
	two.judge(exceptions{})

	f.lose("c")
	carol.goOffline()
	three.forATime(carol)
	two.forATime(carol)
	for _, org := range []string{"a", "b"} {
		_, err := f.mlsfed(org, "peer", "remove", "c.example")
		f.must(err)
	}
	f.up("a", "b", "c") // c is founded again, with another root, and admitted
	root := f.root("c")
	for _, d := range []*device{alice, bob} {
		d.goOffline()
		d.comeBack() // a device asks for the organizations' roots when it connects
		f.eventually("the alarm about another root", func() error {
			if d.events(client.EventTrust) == 0 {
				return errors.New("none was raised")
			}
			return d.AcceptRoot(f.ctx, domain("c"), root)
		})
		d.forgive(client.EventTrust)
	}
	two.recover("a")
	fresh := f.enrol("c", "carol", "new")
	for _, c := range []*conversation{three, two} {
		f.must(alice.RemoveDevices(f.ctx, c.id, carol.id))
		c.repair(alice)
		c.add(alice, carol.id.User())
		c.forATime(fresh)
		c.has(fresh, c.say(alice, "welcome back"))
		f.ends("the new device commits", c.begin(fresh))
		c.has(alice, c.say(fresh, "here I am"))
	}
	three.judge(exceptions{orgs: []string{"a", "b", "c"}})
	two.judge(exceptions{orgs: []string{"a", "c"}})
	report(t, "founded again; the operator's act brought back the conversation whose only vote was lost")
}

// recover runs the operator's recovery, at an organization whose node has all accepted entries. The node refuses it
// while it believes that there is a quorum.
func (c *conversation) recover(org string) {
	c.f.t.Helper()
	c.f.note("recover %v at %s", c.id, org)
	c.f.eventually("the operator may force the conversation on", func() error {
		_, err := c.f.mlsfed(org, "recover", c.id.String(), "--note", "c.example has lost its only node")
		return err
	})
}

// repair waits until a conversation continues, without an operator or by an act of the operator of a device's
// organization.
func (c *conversation) repair(d *device) {
	c.f.t.Helper()
	ended := c.begin(d)
	select {
	case err := <-ended:
		c.f.must(err)
		return
	case <-time.After(10 * time.Second):
	}
	c.recover(d.org)
	c.f.ends("the conversation goes on after the operator's act", ended)
}

// root returns the hash of an organization's root certificate, as its operator would publish it.
func (f *federation) root(org string) wire.Hash {
	f.t.Helper()
	f.bundle(org)
	b, err := organization.ReadBundle(f.bundlePath(org))
	f.must(err)
	c, err := b.Certificate()
	f.must(err)
	return sha256.Sum256(c.Raw)
}

func (f *federation) bundlePath(org string) string { return filepath.Join(f.dir, org+"-bundle.json") }

// bundle returns the bundle that an organization's operator gives to others.
func (f *federation) bundle(org string) string {
	f.t.Helper()
	path := f.bundlePath(org)
	_, err := docker(f.ctx, "cp", f.container(org)+":/var/lib/mlsfed/bundle.json", path)
	f.must(err)
	b, err := os.ReadFile(path)
	f.must(err)
	return string(b)
}
