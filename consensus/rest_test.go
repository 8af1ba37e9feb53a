package consensus

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// orderWithBlob orders a commit that is transferred separately from its entry.
func (c *cluster) orderWithBlob(at wire.NodeID, p author.Place, size int) (author.Place, wire.BlobRef, error) {
	c.t.Helper()
	e, content := p.WithBlob(c.id(), size, wire.DeliveryChange{})
	if err := c.nodes[at].m.PutBlob("", *e.Commit.Rest, bytes.NewReader(content)); err != nil {
		c.t.Fatal(err)
	}
	r, err := c.nodes[at].m.Order(c.context(20*time.Second), e)
	return author.After(e, r), *e.Commit.Rest, err
}

// reads reads a blob of the conversation at a node.
func (c *cluster) reads(at wire.NodeID, ref wire.BlobRef) error {
	in, err := c.nodes[at].m.Blob(c.context(20*time.Second), conv, ref)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.Copy(io.Discard, in)
	if err == nil && uint64(n) != ref.Size {
		c.t.Errorf("%s: %d of %d bytes", at, n, ref.Size)
	}
	return err
}

// TestCommitAsBlob checks that a commit's blob is on a majority before its entry is ordered. All replicas serve the
// blob, also one that has installed a snapshot and one that was restarted, and the blob is available as long as one
// reachable replica has it.
func TestCommitAsBlob(t *testing.T) {
	stores := map[wire.NodeID]BlobStore{}
	edit := withBlobs(t, stores)
	simulate(t, func(cfg *Config) { edit(cfg); cfg.Timers.Snapshot = time.Second }, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.stop(c.nodes[nodeC])
		var refs []wire.BlobRef
		for range 30 { // more than the log keeps before a snapshot
			next, ref, err := c.orderWithBlob(nodeA, p, 5000)
			if err != nil {
				t.Fatal(err)
			}
			p, refs = next, append(refs, ref)
		}
		for _, ref := range refs {
			for _, n := range []wire.NodeID{nodeA, nodeB} { // a majority
				if have, err := stores[n].Has(ref); err != nil || !have {
					t.Fatalf("%s does not have %v (%v)", n, ref, err)
				}
			}
		}
		c.eventually("a snapshot", func() bool { list, err := c.nodes[nodeA].snaps.sizes(); return err == nil && len(list) > 0 })
		c.start(c.nodes[nodeC])
		c.level(conv, three...)
		if s := c.nodes[nodeC].snaps.by; len(s) == 0 {
			t.Error("no snapshot was installed")
		}
		c.crash(c.nodes[nodeB], false)
		c.start(c.nodes[nodeB])
		c.level(conv, three...)
		for _, n := range three {
			for _, ref := range refs {
				if err := c.reads(n, ref); err != nil {
					t.Fatalf("%s: %v", n, err)
				}
			}
		}
		drop := func(n wire.NodeID, ref wire.BlobRef) {
			if err := stores[n].(blob.Wire).Store.Delete(blob.Ref{Hash: ref.Hash, Size: ref.Size}); err != nil {
				t.Fatal(err)
			}
		}
		last := refs[len(refs)-1]
		drop(nodeA, last)
		c.stop(c.nodes[nodeB])
		c.stop(c.nodes[nodeC])
		if err := c.reads(nodeA, last); wire.CodeOf(err) != wire.Unavailable {
			t.Errorf("those that have it cannot be reached: %v", err)
		}
		drop(nodeC, last)
		c.start(c.nodes[nodeC])
		c.eventually("A and C do not have it", func() bool { return wire.CodeOf(c.reads(nodeA, last)) == wire.BlobMissing })
		c.start(c.nodes[nodeB])
		c.eventually("B has it", func() bool { return c.reads(nodeA, last) == nil })
	})
}

// TestHostileRest checks that nothing is copied for a refused commit: one without the key, without the blob, larger
// than a node accepts, or from a node without a part.
func TestHostileRest(t *testing.T) {
	stores := map[wire.NodeID]BlobStore{}
	edit := withBlobs(t, stores)
	simulate(t, func(cfg *Config) { edit(cfg); cfg.Limits.Commit = 6000 }, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		for _, v := range []struct {
			name string
			size int
			edit func(*wire.Envelope)
			has  bool
			want wire.Code
		}{
			{"forged", 5000, func(e *wire.Envelope) { e.Signature[3]++ }, true, wire.Forged},
			{"at the limit and without the blob", 6000, func(*wire.Envelope) {}, false, wire.BlobMissing},
			{"over the limit", 6001, func(*wire.Envelope) {}, true, wire.TooLarge},
			{"another size than the ciphertext's", 5000, func(e *wire.Envelope) { e.Commit.Rest.Size++; author.Sign(e, p.Opener) }, true, wire.Invalid},
		} {
			e, content := p.WithBlob(c.id(), v.size, wire.DeliveryChange{})
			ref := *e.Commit.Rest
			v.edit(e)
			if v.has {
				if err := c.nodes[nodeB].m.PutBlob("", ref, bytes.NewReader(content)); err != nil {
					t.Fatal(err)
				}
			}
			for _, n := range []wire.NodeID{nodeB, nodeA} {
				if _, err := c.nodes[n].m.Order(c.context(10*time.Second), e); wire.CodeOf(err) != v.want {
					t.Errorf("%s, at %s: %v, wanted %s", v.name, n, err, v.want)
				}
			}
			for _, n := range []wire.NodeID{nodeA, nodeC} {
				if have, err := stores[n].Has(ref); err != nil || have {
					t.Errorf("%s: %s has the blob (%v)", v.name, n, err)
				}
			}
		}
		if err := c.nodes[nodeA].m.PutBlob("", wire.BlobRef{Hash: wire.Hash{1}, Size: 5}, strings.NewReader("other")); err == nil {
			t.Error("content of another hash is stored")
		}
		next, _, err := c.orderWithBlob(nodeB, p, 6000)
		if err != nil {
			t.Fatal(err)
		}
		c.commit(nodeC, next, wire.DeliveryChange{}) // the conversation continues
	})
}

// TestRestNeedsAllReplicas checks that while a replica does not know the rules, a commit that is separate from its
// entry is refused with the name of that replica, and other commits are ordered. After the upgrade of the replica the
// commit is ordered.
func TestRestNeedsAllReplicas(t *testing.T) {
	for _, old := range []string{"first release", "level 2"} {
		t.Run(old, func(t *testing.T) {
			stores := map[wire.NodeID]BlobStore{}
			simulate(t, withBlobs(t, stores), three, func(c *cluster) {
				age := c.roster.secondRelease
				if old == "first release" {
					age = c.roster.downgrade
				}
				age(nodeC, true)
				p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
				c.settled(conv, 3, 0)
				for _, n := range []wire.NodeID{nodeA, nodeB} {
					_, _, err := c.orderWithBlob(n, p, 5000)
					if e := wire.AsError("", err); e.Code != wire.Version || !slices.Equal(e.Nodes, []wire.NodeID{nodeC}) {
						t.Fatalf("%s, with an old replica: %v", n, err)
					}
				}
				p = c.commit(nodeB, p, wire.DeliveryChange{})
				age(nodeC, false)
				p, _, err := c.orderWithBlob(nodeB, p, 5000)
				if err != nil {
					t.Fatal(err)
				}
				c.commit(nodeC, p, wire.DeliveryChange{})
				c.level(conv, three...)
			})
		})
	}
}

// TestRestOfOneOrganization checks that a conversation of one organization keeps the first level until a commit is
// transferred separately from its entry.
func TestRestOfOneOrganization(t *testing.T) {
	stores := map[wire.NodeID]BlobStore{}
	simulate(t, withBlobs(t, stores), three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		for range 3 {
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.asleep(conv, nodeA)
		if l := c.rules(nodeA); l != wire.FirstLevel {
			t.Fatalf("level %d", l)
		}
		p, ref, err := c.orderWithBlob(nodeA, p, 5000)
		if err != nil {
			t.Fatal(err)
		}
		if l := c.rules(nodeA); l != 3 {
			t.Fatalf("level %d", l)
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(1, "b.example")})
		c.settled(conv, 1, 1)
		c.commit(nodeB, p, wire.DeliveryChange{})
		if err := c.reads(nodeB, ref); err != nil {
			t.Error(err)
		}
	})
}
