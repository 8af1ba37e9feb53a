//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// address returns a container's address on the network between organizations. The machine reaches it too.
func (f *federation) address(org string) string {
	f.t.Helper()
	out, err := docker(f.ctx, "inspect", "--format", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", f.project+"-federation"), f.container(org))
	f.must(err)
	return strings.TrimSpace(out)
}

// latencies measures how long messages take from one device to another, one after the other.
func (c *conversation) latencies(from, to *device, count int) []time.Duration {
	c.f.t.Helper()
	ctx, cancel := context.WithCancel(c.f.ctx)
	defer cancel()
	arrived := make(chan client.MessageID, 64)
	next := to.Subscribe(ctx)
	go func() {
		for e := range next {
			if e.Type == client.EventMessage && e.Conversation == c.id {
				arrived <- e.Message.ID
			}
		}
	}()
	var list []time.Duration
	for i := range count {
		began := time.Now()
		id := c.say(from, "timed %d", i)
		for got := (client.MessageID{}); got != id; {
			select {
			case got = <-arrived:
			case <-time.After(time.Minute):
				c.f.must(fmt.Errorf("message %v has not arrived within a minute", id))
			}
		}
		list = append(list, time.Since(began))
	}
	return list
}

// commits measures how long a device's commits take, one after the other.
func (c *conversation) commits(by *device, count int) []time.Duration {
	c.f.t.Helper()
	var list []time.Duration
	for range count {
		began := time.Now()
		c.f.must(by.UpdateKeys(c.f.ctx, c.id))
		list = append(list, time.Since(began))
	}
	return list
}

func shortly(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// strangerShare is the share of the processors that a crowd may use. Real attackers have machines of their own; here
// they share the processors with the nodes, and have the same limit in both phases. The attacked program has no
// limit.
const strangerShare = "0.25"

// stranger runs test/integration/stranger in a container on the network between organizations.
func (f *federation) stranger(name, binary string, args ...string) {
	f.t.Helper()
	share := strangerShare
	if args[0] == "sink" {
		share = "0" // all
	}
	_, err := docker(f.ctx, append([]string{"run", "--detach", "--name", f.container(name), "--label", projectLabel + "=" + f.project,
		"--network", f.project + "-federation", "--network-alias", name, "--cpus", share, "--no-healthcheck",
		"--volume", binary + ":/stranger:ro", "--entrypoint", "/stranger", the.image}, args...)...)
	f.must(err)
}

// attempts returns the attempts of a crowd, and how many were served.
func (f *federation) attempts(name string) (made, served int) {
	f.t.Helper()
	f.eventually(name+" has hammered", func() error {
		out, err := docker(f.ctx, "logs", "--tail", "1", f.container(name))
		if err == nil {
			_, err = fmt.Sscan(out, &made, &served)
		}
		return err
	})
	return made, served
}

// TestOutsiders attacks all nodes by a node that no organization has admitted, a node that was removed, and a crowd
// without certificates. These phases alternate with phases in which a crowd of the same size and with the same share
// of the processors attacks a port that accepts and closes connections: the difference is the cost for our nodes.
func TestOutsiders(t *testing.T) {
	f := start(t, setup{orgs: []string{"a", "b", "c", "d"}})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	dave := f.enrol("d", "dave", "phone")
	c := f.converse(client.CreateOptions{Name: "Undisturbed"}, alice, bob, carol)
	for _, org := range []string{"a", "b", "c"} {
		_, err := f.mlsfed(org, "peer", "remove", "d.example")
		f.must(err)
	}
	f.outsider()

	binary := filepath.Join(f.dir, "stranger")
	build := exec.CommandContext(f.ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./test/integration/stranger") // as the image's binary
	build.Dir, build.Env = the.root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the crowd: %v\n%s", err, out)
	}
	f.stranger("sink", binary, "sink", ":7443", ":8443")
	attack, control := []string{"crowd"}, []string{"crowd"}
	for _, org := range []string{"a", "b", "c"} {
		for _, kind := range []string{"bare", "garbage"} {
			attack = append(attack, kind+"@"+string(nodeOf(org))+":7443")
			control = append(control, kind+"@sink:7443")
		}
		for _, kind := range []string{"http", "garbage"} {
			attack = append(attack, kind+"@"+string(nodeOf(org))+":8443")
			control = append(control, kind+"@sink:8443")
		}
	}
	hostile := []string{"crowd", "d", "e"}
	f.stranger("crowd", binary, attack...)
	f.stranger("others", binary, control...)
	for _, name := range []string{"crowd", "others"} {
		f.attempts(name)
	}
	for _, name := range append(slices.Clone(hostile), "others") {
		f.pause(name)
	}

	c.latencies(alice, bob, 10) // so that everything is warm
	messages, commits := make(map[string][]time.Duration), make(map[string][]time.Duration)
	var messageRatios, commitRatios []float64
	phase := func(who ...string) (message, commit float64) {
		for _, name := range who {
			f.unpause(name)
		}
		said, committed := c.latencies(alice, bob, scale(40, 200)), c.commits(alice, scale(20, 100))
		for _, name := range who {
			f.pause(name)
		}
		messages[who[0]] = append(messages[who[0]], said...)
		commits[who[0]] = append(commits[who[0]], committed...)
		return median(said).Seconds(), median(committed).Seconds()
	}
	for range scale(3, 15) {
		m, k := phase("others")
		hm, hk := phase(hostile...)
		messageRatios, commitRatios = append(messageRatios, hm/m), append(commitRatios, hk/k)
	}

	for _, name := range hostile {
		f.unpause(name)
	}
	refused := dave.Add // no node asks the removed organization for anything
	id, err := dave.Create(f.ctx, client.CreateOptions{Name: "Nobody comes"})
	f.must(err)
	if err := refused(f.ctx, id, alice.id.User()); err == nil {
		t.Error("a user of a removed organization has added somebody")
	}
	if err := alice.Add(f.ctx, c.id, dave.id.User()); err == nil {
		t.Error("a user of a removed organization was added")
	}
	for _, org := range []string{"a", "b", "c"} {
		s, err := f.status(org)
		f.must(err)
		for _, p := range s.Peers.Peers {
			if p.Domain == "d.example" || p.Domain == "e.example" {
				t.Errorf("the node of %s lists %s", org, p.Domain)
			}
		}
	}
	made, served := f.attempts("crowd")
	elsewhere, _ := f.attempts("others")
	if served > 0 {
		t.Errorf("%d attempts of %d were served", served, made)
	}
	c.judge(exceptions{})
	slices.Sort(messageRatios)
	slices.Sort(commitRatios)
	n := len(messageRatios)
	report(t, "%d attempts on the nodes, none served, and %d elsewhere; median of a message: %v while the crowd was elsewhere, %v while it hammered, ratio %.2f in the median of %d pairs of phases (%.2f to %.2f); of a commit: %v and %v, %.2f (%.2f to %.2f)",
		made, elsewhere, shortly(median(messages["others"])), shortly(median(messages["crowd"])), messageRatios[n/2], n, messageRatios[0], messageRatios[n-1],
		shortly(median(commits["others"])), shortly(median(commits["crowd"])), commitRatios[n/2], commitRatios[0], commitRatios[n-1])
}

// outsider runs the node of an organization that the others have not admitted, though it has admitted them.
func (f *federation) outsider() {
	f.t.Helper()
	name := f.project + "-e"
	run := func(in string, args ...string) {
		_, err := dockerIn(f.ctx, strings.NewReader(in), append([]string{"run", "--rm", "--interactive", "--label", projectLabel + "=" + f.project,
			"--volume", name + ":/var/lib/mlsfed", the.image}, args...)...)
		f.must(err)
	}
	_, err := docker(f.ctx, "volume", "create", "--label", projectLabel+"="+f.project, name)
	f.must(err)
	run("", "init", "--domain", "e.example", "--dir", "/var/lib/mlsfed", "--gateway", ":8443", "--federation", ":7443", "--advertise", "n1.e.example:7443")
	for _, org := range []string{"a", "b", "c"} {
		run(f.bundle(org), "peer", "add", "/dev/stdin")
	}
	_, err = docker(f.ctx, "run", "--detach", "--name", name, "--label", projectLabel+"="+f.project, "--network", f.project+"-federation",
		"--network-alias", "n1.e.example", "--volume", name+":/var/lib/mlsfed", the.image)
	f.must(err)
	f.eventually("the outsider has tried and was refused", func() error {
		_, err := f.mlsfed("e", "status")
		return err
	})
}
