package test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// progress returns the delivery state of a device's messages at other organizations: "text: organization state, …".
func progress(ctx context.Context, d *client.Device, id wire.ConversationID) (string, *client.Progress, error) {
	page, err := d.History(ctx, id, client.Query{})
	if err != nil {
		return "", nil, err
	}
	p, err := d.Progress(ctx, id, page.Messages)
	if err != nil {
		return "", nil, err
	}
	text := ""
	for _, m := range page.Messages {
		if of := p.Messages[m.Number]; of != nil {
			text += m.Content.Text + ":"
			for _, v := range of {
				text += fmt.Sprintf(" %s %v", v.Organization, v.State)
			}
			text += "; "
		}
	}
	return text, p, nil
}

// TestProgressNamesOrganizations checks the delivery state while one organization is down and one is suspended.
func TestProgressNamesOrganizations(t *testing.T) {
	c := newCluster(t, "a.example", "b.example", "c.example", "d.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice := device(t, c, "a.example", "alice", "phone")
	others := []*client.Device{device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone"), device(t, c, "d.example", "dave", "phone")}
	id, err := alice.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob", "mimi://c.example/u/carol", "mimi://d.example/u/dave")
	await(t, ctx, id, 4, append(others, alice)...)
	say := func(text string) {
		t.Helper()
		if _, err := alice.SendText(ctx, id, text); err != nil {
			t.Fatal(err)
		}
	}
	var last *client.Progress
	comes := func(want string) {
		t.Helper()
		got := ""
		if err := cluster.Await(ctx, alice, func() (bool, error) {
			var err error
			got, last, err = progress(ctx, alice, id)
			return got == want, err
		}); err != nil {
			t.Fatalf("progress is %q, wanted %q: %v", got, want, err)
		}
	}
	say("one")
	comes("one: b.example delivered c.example delivered d.example delivered; ")
	if len(last.Waiting) > 0 {
		t.Errorf("waits for %+v", last.Waiting)
	}
	before := time.Now()
	peers, err := organization.PeersIn(filepath.Join(c.Config("a.example").Identity, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop("c.example"); err != nil {
		t.Fatal(err)
	}
	if err := peers.Suspend("d.example"); err != nil {
		t.Fatal(err)
	}
	if err := eventuallyWithin(ctx, func() bool { // the node reads its list once a second
		s, err := c.Status(ctx, "a.example")
		return err == nil && slices.ContainsFunc(s.Peers.Peers, func(p federation.PeerStatus) bool {
			return p.Domain == "d.example" && p.State == organization.Suspended
		})
	}); err != nil {
		t.Fatal(err)
	}
	say("two")
	say("three")
	comes("one: b.example delivered c.example delivered d.example delivered; two: b.example delivered c.example waiting d.example waiting; three: b.example delivered c.example waiting d.example waiting; ")
	if err := cluster.Await(ctx, alice, func() (bool, error) { // until both were tried
		_, last, err = progress(ctx, alice, id)
		return err == nil && len(last.Waiting) == 2 && wire.CodeOf(last.Waiting[1].Err) == wire.NotAdmitted && last.Waiting[0].Err != nil, err
	}); err != nil {
		t.Fatalf("waits for %+v: %v", last.Waiting, err)
	}
	if w := last.Waiting[0]; w.Organization != "c.example" || w.Since.Before(before.Add(-time.Second)) || w.Since.After(time.Now().Add(time.Second)) {
		t.Errorf("waits for %+v", w)
	}
	if err := c.Start(ctx, "c.example"); err != nil {
		t.Fatal(err)
	}
	if err := peers.Resume("d.example"); err != nil {
		t.Fatal(err)
	}
	all := "b.example delivered c.example delivered d.example delivered; "
	comes("one: " + all + "two: " + all + "three: " + all)
}

// TestProgressKeepsRefusals checks that an organization that cannot be reached until a message expires is named.
func TestProgressKeepsRefusals(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Federation.OutboxExpire = config.Duration(time.Second)
	}}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	await(t, ctx, id, 2, alice, bob)
	if err := c.Stop("b.example"); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.SendText(ctx, id, "lost"); err != nil {
		t.Fatal(err)
	}
	got := ""
	if err := cluster.Await(ctx, alice, func() (bool, error) {
		var err error
		got, _, err = progress(ctx, alice, id)
		return got == "lost: b.example refused; ", err
	}); err != nil {
		t.Fatalf("progress is %q: %v", got, err)
	}
}
