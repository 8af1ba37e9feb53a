package boltstore

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// device is a client with its state in a file. It can restart at any time.
type device struct {
	t     *testing.T
	path  string
	store *Store
	id    mlscore.Identity
	*mlscore.Client
	group *mlscore.Group
}

func newDevice(t *testing.T, name string, cs mlscore.CipherSuite) *device {
	key, _, err := mlscore.GenerateSignatureKey(nil, cs)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, path: newPath(t), id: mlscore.Identity{CipherSuite: cs, Credential: mlscore.BasicCredential([]byte(name)), SignatureKey: key}}
	d.open()
	t.Cleanup(func() { mustClose(t, d.store) })
	return d
}

func (d *device) open() {
	d.t.Helper()
	var err error
	if d.store, err = Open(d.path, testKey(1), Options{}); err != nil {
		d.t.Fatal(err)
	}
	now := func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }
	if d.Client, err = mlscore.NewClient(mlscore.Config{Auth: mlscore.TrustBasic{}, Store: d.store, Now: now}); err != nil {
		d.t.Fatal(err)
	}
}

// restart closes the file, opens it and loads the group.
func (d *device) restart() {
	d.t.Helper()
	id := d.group.GroupID()
	mustClose(d.t, d.store)
	d.open()
	groups, err := d.Groups()
	if err != nil || len(groups) != 1 || !bytes.Equal(groups[0], id) {
		d.t.Fatalf("groups %x, want %x: %v", groups, id, err)
	}
	if d.group, err = d.LoadGroup(id); err != nil {
		d.t.Fatal(err)
	}
}

// receive processes a message and merges it if it is a commit.
func (d *device) receive(msg []byte) *mlscore.Received {
	d.t.Helper()
	r, err := d.group.Process(msg)
	if err == nil && r.Commit != nil {
		err = d.group.Merge(r.Commit)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// TestGroupLife runs a group of three members who restart between the steps.
func TestGroupLife(t *testing.T) {
	for _, cs := range []mlscore.CipherSuite{mlscore.MLS128X25519AES128Ed25519, mlscore.MLS256P384AES256P384} {
		t.Run(cs.String(), func(t *testing.T) { groupLife(t, cs) })
	}
}

func groupLife(t *testing.T, cs mlscore.CipherSuite) {
	alice, bob, carol := newDevice(t, "alice", cs), newDevice(t, "bob", cs), newDevice(t, "carol", cs)
	all := []*device{alice, bob, carol}
	g, err := alice.CreateGroup(alice.id, nil, mlscore.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	alice.group = g
	alice.restart()
	var adds []mlscore.Proposal
	for _, d := range all[1:] {
		kp, err := d.NewKeyPackage(d.id, mlscore.KeyPackageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		adds = append(adds, mlscore.AddProposal(kp))
	}
	c, err := alice.group.Commit(mlscore.CommitOptions{Proposals: adds, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}})
	if err != nil {
		t.Fatal(err)
	}
	alice.restart() // the commit waits in the store
	pending, ok := alice.group.Pending()
	if !ok {
		t.Fatal("the commit that waited is gone")
	}
	if err := alice.group.Merge(pending); err != nil {
		t.Fatal(err)
	}
	for _, d := range all[1:] {
		mustClose(t, d.store)
		d.open()
		if d.group, err = d.Join(c.Welcome, mlscore.JoinOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		for _, from := range all {
			msg, err := from.group.Protect([]byte("hello"), mlscore.MessageOptions{})
			if err != nil {
				t.Fatal(err)
			}
			from.restart()
			for _, to := range all {
				if to == from {
					continue
				}
				if got := to.receive(msg).Application; string(got.Data) != "hello" {
					t.Fatalf("got %q", got.Data)
				}
				to.restart()
				if _, err := to.group.Process(msg); !errors.Is(err, mlscore.ErrReplay) {
					t.Fatalf("a key used before the restart: %v", err)
				}
			}
		}
		committer := all[round]
		c, err := committer.group.Commit(mlscore.CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			if d != committer {
				d.receive(c.Message)
			}
		}
		if err := committer.group.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			d.restart()
			if !bytes.Equal(d.group.EpochAuthenticator(), alice.group.EpochAuthenticator()) {
				t.Fatalf("%s is in another state", d.id.Credential.Identity)
			}
		}
	}
	if err := bob.group.Erase(); err != nil {
		t.Fatal(err)
	}
	if left := content(t, bob.store, "g"); len(left) != 0 {
		t.Errorf("%d records left of an erased group", len(left))
	}
}

func BenchmarkApply(b *testing.B) {
	for name, opts := range map[string]Options{"wiping": {}, "KeepFreed": {KeepFreed: true}} {
		b.Run(name, func(b *testing.B) {
			s := openTest(b, newPath(b), opts)
			value := bytes.Repeat([]byte("v"), 50)
			for i := 0; b.Loop(); i++ {
				k := []byte{'k', byte(i), byte(i >> 8)}
				if err := s.Apply(batchOf(mlscore.Write{Key: k, Value: value})); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
