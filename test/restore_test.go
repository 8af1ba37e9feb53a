package test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// TestNodeIsRestoredFromABackup checks a node whose disk is lost and that is restored from an older backup. Later
// messages reach its devices as far as others have them, no place in a stream is given twice, and the conversation
// continues.
func TestNodeIsRestoredFromABackup(t *testing.T) {
	domains := []wire.Domain{"a.example", "b.example", "c.example"}
	c := newCluster(t, domains...)
	ctx := t.Context()
	id, list := gather(t, c, domains, 1)
	say := func(who, n int) {
		t.Helper()
		if _, err := list[who].SendText(ctx, id, numbered(who, n)); err != nil {
			t.Fatal(err)
		}
	}
	for who := range list {
		say(who, 0)
	}
	agree(t, id, list, []int{1, 1, 1})
	var archive bytes.Buffer
	if err := c.Backup(ctx, "b.example", &archive); err != nil {
		t.Fatal(err)
	}
	for who := range list {
		say(who, 1)
	}
	if err := list[0].UpdateKeys(ctx, id); err != nil {
		t.Fatal(err)
	}
	agree(t, id, list, []int{2, 2, 2})

	awaitReplicas(t, ctx, c, id, domains, 3, 0) // otherwise the others have no quorum without b
	if err := c.Stop("b.example"); err != nil {
		t.Fatal(err)
	}
	cfg := c.Config("b.example")
	if _, err := node.Restore(cfg, bytes.NewReader(archive.Bytes())); err == nil || !strings.Contains(err.Error(), "holds something already") {
		t.Fatalf("restored over data: %v", err)
	}
	if err := os.RemoveAll(cfg.Data); err != nil {
		t.Fatal(err)
	}
	for _, n := range append(beginnings(t, archive.Bytes()), archive.Len()/2, 700) {
		if _, err := node.Restore(cfg, bytes.NewReader(archive.Bytes()[:n])); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Fatalf("%d bytes of %d were restored: %v", n, archive.Len(), err)
		}
	}
	if _, err := os.Stat(cfg.Data); err == nil {
		t.Fatal("a restoration that failed left data behind")
	}
	b, err := node.Restore(cfg, bytes.NewReader(archive.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if b.Node != "n1.b.example" || b.Domain != "b.example" {
		t.Fatalf("archive of %+v", b)
	}
	if err := list[2].UpdateKeys(ctx, id); err != nil { // the others continue without it
		t.Fatal(err)
	}
	say(0, 2)
	say(2, 2)
	if err := c.Start(ctx, "b.example"); err != nil {
		t.Fatal(err)
	}
	say(1, 2)
	agree(t, id, list, []int{3, 3, 3})
	if err := list[1].UpdateKeys(ctx, id); err != nil {
		t.Fatal(err)
	}
	say(1, 3)
	agree(t, id, list, []int{3, 4, 3})
	another, err := list[1].Create(ctx, client.CreateOptions{Name: "After"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, list[1], another, "mimi://a.example/u/user0")
}

// beginnings returns the offsets in an archive at which a file begins: tar accepts an archive that is cut off there.
func beginnings(t *testing.T, archive []byte) (list []int) {
	t.Helper()
	const header = 512
	r := bytes.NewReader(archive)
	for in := tar.NewReader(r); ; {
		switch _, err := in.Next(); {
		case errors.Is(err, io.EOF):
			return list
		case err != nil:
			t.Fatal(err)
		}
		list = append(list, len(archive)-r.Len()-header)
	}
}
