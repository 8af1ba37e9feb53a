package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// other is the other network's end of one connection of the bridge.
type other struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Scanner
}

// accept waits for the bridge.
func accept(t *testing.T, l net.Listener) *other {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &other{t, conn, bufio.NewScanner(conn)}
}

func (o *other) read() (m message) {
	o.t.Helper()
	if !o.lines.Scan() {
		o.t.Fatalf("the bridge has gone: %v", o.lines.Err())
	}
	if err := json.Unmarshal(o.lines.Bytes(), &m); err != nil {
		o.t.Fatal(err)
	}
	return m
}

func (o *other) write(m message) {
	o.t.Helper()
	b, err := json.Marshal(m)
	if err == nil {
		_, err = o.conn.Write(append(b, '\n'))
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// TestBridge carries a message each way. It checks that a message that the other network has read and not
// acknowledged comes again, under the same id, and that an acknowledged message does not, also after a restart of the
// bridge.
func TestBridge(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.New(t.TempDir(), cluster.Options{}, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	link, err := c.Invite(ctx, "a.example", "bridge")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	folder := filepath.Join(t.TempDir(), "bridge")
	start := func(link string) (stop func()) {
		running, end := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- run(running, l.Addr().String(), folder, link) }()
		return func() {
			t.Helper()
			end()
			if err := <-ended; err != nil {
				t.Errorf("the bridge: %v", err)
			}
		}
	}
	stop := start(link.String())
	o := accept(t, l)
	alice, err := c.Device(ctx, "a.example", "alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.Await(ctx, alice, func() (bool, error) { // until the bridge has uploaded KeyPackages
		err := alice.Add(ctx, id, "mimi://a.example/u/bridge")
		if code := client.CodeOf(err); code == client.NotFound || code == client.NoneLeft {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.SendText(ctx, id, "Soup?"); err != nil {
		t.Fatal(err)
	}
	first := o.read()
	if first.Text != "Soup?" || first.From != "alice@a.example" || first.Conversation != id.String() {
		t.Fatalf("the other network reads %+v", first)
	}
	o.conn.Close() // without an acknowledgement

	o = accept(t, l)
	if again := o.read(); again != first {
		t.Fatalf("again it reads %+v, wanted %+v", again, first)
	}
	o.write(message{Ack: first.ID})
	o.write(message{ID: "7", Conversation: id.String(), From: "ben", Text: "With bread."})
	if m := o.read(); m.Ack != "7" {
		t.Fatalf("wanted an acknowledgement, read %+v", m)
	}
	err = cluster.Await(ctx, alice, func() (bool, error) {
		page, err := alice.History(ctx, id, client.Query{Search: "ben: With bread."})
		return err == nil && len(page.Messages) == 1, err
	})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := alice.SendText(ctx, id, "At noon."); err != nil {
		t.Fatal(err)
	}
	stop = start("")
	o = accept(t, l)
	if m := o.read(); m.Text != "At noon." {
		t.Fatalf("after a restart it reads %+v", m)
	}
	stop()
}
