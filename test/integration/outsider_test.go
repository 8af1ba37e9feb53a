//go:build integration

package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// address is a container's on the network between organizations. The machine reaches it too.
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

// hammer attacks a port until ctx ends, and counts the attempts and those that were served.
type hammer struct{ attempts, served atomic.Int64 }

func (h *hammer) run(ctx context.Context, address string, attack func(net.Conn) error) {
	for ctx.Err() == nil {
		h.attempts.Add(1)
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(2 * time.Second)) // a connection that is open
			if attack(conn) == nil {
				h.served.Add(1)
			}
			conn.Close()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// without speaks TLS without a certificate, and asks something.
func without(conn net.Conn) error {
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // who attacks trusts anybody
	if err := c.Handshake(); err != nil {
		return err
	}
	if _, err := c.Write([]byte(strings.Repeat("x", 1000))); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1)) // with TLS 1.3 the refusal comes here
	return err
}

// garbage sends bytes that are no TLS. A node answers with an alert, and no more.
func garbage(conn net.Conn) error {
	if _, err := conn.Write([]byte(strings.Repeat("\x00\xff", 5000))); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) <= 7 {
		return fmt.Errorf("refused: %w", io.EOF)
	}
	return nil
}

// TestOutsiders lets a node that nobody has admitted, one that was removed, and a crowd without
// certificates hammer all nodes.
func TestOutsiders(t *testing.T) {
	f := start(t, setup{orgs: []string{"a", "b", "c", "d"}})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	dave := f.enrol("d", "dave", "phone")
	c := f.converse(client.CreateOptions{Name: "Undisturbed"}, alice, bob, carol)
	c.latencies(alice, bob, 10) // so that everything is warm
	before := c.latencies(alice, bob, scale(50, 500))

	for _, org := range []string{"a", "b", "c"} {
		_, err := f.mlsfed(org, "peer", "remove", "d.example")
		f.must(err)
	}
	f.outsider()
	ctx, cancel := context.WithCancel(f.ctx)
	var all sync.WaitGroup
	h := new(hammer)
	for _, org := range []string{"a", "b", "c"} {
		links := net.JoinHostPort(f.address(org), "7443")
		gateway := net.JoinHostPort("127.0.0.1", f.ports[org])
		all.Go(func() { h.run(ctx, links, without) })
		all.Go(func() { h.run(ctx, links, garbage) })
		all.Go(func() { h.run(ctx, gateway, garbage) })
	}
	during := c.latencies(alice, bob, scale(50, 500))
	refused := dave.Add // the removed organization is asked for nothing any more
	id, err := dave.Create(f.ctx, client.CreateOptions{Name: "Nobody comes"})
	f.must(err)
	if err := refused(f.ctx, id, alice.id.User()); err == nil {
		t.Error("a user of a removed organization has added somebody")
	}
	if err := alice.Add(f.ctx, c.id, dave.id.User()); err == nil {
		t.Error("a user of a removed organization was added")
	}
	cancel()
	all.Wait()
	for _, org := range []string{"a", "b", "c"} {
		s, err := f.status(org)
		f.must(err)
		for _, p := range s.Peers.Peers {
			if p.Domain == "d.example" || p.Domain == "e.example" {
				t.Errorf("the node of %s lists %s", org, p.Domain)
			}
		}
	}
	if n := h.served.Load(); n > 0 {
		t.Errorf("%d attempts of %d were served", n, h.attempts.Load())
	}
	c.judge(exceptions{})
	was, is := median(before), median(during)
	report(t, "%d attempts, none served; latency of a message, median: %v before, %v meanwhile (%+.0f%%; this process attacks on the same processors)",
		h.attempts.Load(), was.Round(10*time.Microsecond), is.Round(10*time.Microsecond), 100*(float64(is)/float64(was)-1))
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
