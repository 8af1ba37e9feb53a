package consensus

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// withBlobs gives every node a real store of blobs.
func withBlobs(t *testing.T, stores map[wire.NodeID]BlobStore) func(*Config) {
	return func(cfg *Config) {
		if stores[cfg.Node] == nil {
			s, err := blob.Open(t.TempDir(), blob.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			stores[cfg.Node] = blob.Wire{Store: s}
		}
		cfg.Blobs = stores[cfg.Node]
	}
}

func TestBlobs(t *testing.T) {
	stores := map[wire.NodeID]BlobStore{}
	outsider := wire.NodeID("n1.x.example")
	simulate(t, withBlobs(t, stores), append([]wire.NodeID{outsider}, three...), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		content := bytes.Repeat([]byte("welcome "), 100_000)
		ref := wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
		with := func(ref wire.BlobRef) *wire.Envelope {
			e := p.Commit(c.id(), 16, wire.DeliveryChange{})
			e.Commit.Welcome = &wire.Payload{Blob: &ref}
			return author.Sign(e, p.Opener)
		}
		if _, err := c.nodes[nodeC].m.Order(c.context(5*time.Second), with(ref)); wire.CodeOf(err) != wire.BlobMissing {
			t.Fatalf("an entry that names what nobody has: %v", err)
		}
		if err := c.nodes[nodeC].m.PutBlob("", ref, bytes.NewReader(content[1:])); err == nil {
			t.Fatal("content of another hash is stored")
		}
		if err := c.nodes[nodeC].m.PutBlob("", ref, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		e := with(ref)
		r, err := c.nodes[nodeC].m.Order(c.context(20*time.Second), e)
		if err != nil {
			t.Fatal(err)
		}
		p = author.After(e, r)
		holders := 0
		for _, n := range three {
			if have, err := stores[n].Has(ref); err != nil {
				t.Fatal(err)
			} else if have {
				holders++
			}
		}
		if holders < 2 {
			t.Fatalf("accepted, and on %d of 3 voters", holders)
		}
		c.level(conv, three...)
		// A replica that lacks the blob fetches it from another one, which checks that its log names the blob.
		gone := blob.Ref{Hash: ref.Hash, Size: ref.Size}
		if err := stores[nodeB].(blob.Wire).Store.Delete(gone); err != nil {
			t.Fatal(err)
		}
		for _, n := range three {
			got, err := c.nodes[n].m.Blob(c.context(20*time.Second), conv, ref)
			if err != nil {
				t.Fatalf("%s: %v", n, err)
			}
			if b, err := io.ReadAll(got); err != nil || !bytes.Equal(b, content) {
				t.Fatalf("%s: %d bytes, %v", n, len(b), err)
			}
			got.Close()
		}
		// A member gets only blobs that its conversation names; a node that is no member gets nothing.
		secret := []byte("of another conversation")
		other := wire.BlobRef{Hash: sha256.Sum256(secret), Size: uint64(len(secret))}
		if err := c.nodes[nodeA].m.PutBlob("", other, bytes.NewReader(secret)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.nodes[nodeB].m.Blob(c.context(20*time.Second), conv, other); wire.CodeOf(err) != wire.BlobMissing {
			t.Fatalf("a blob that the conversation does not name: %v", err)
		}
		x := c.nodes[outsider].m
		for _, op := range []blobOp{blobGet, blobPut, blobHas} {
			err := x.withBlobStream(c.context(5*time.Second), nodeA, &blobRequest{Op: op, Conversation: conv, Ref: ref}, nil)
			if wire.CodeOf(err) != wire.NotReplica {
				t.Fatalf("operation %d of an outsider: %v", op, err)
			}
		}
		// A blob that nothing names is deleted after a while; a named blob stays.
		if err := c.nodes[nodeA].m.sweepBlobsOnce(time.Now().Add(2 * blobLife)); err != nil {
			t.Fatal(err)
		}
		if have, err := stores[nodeA].Has(ref); err != nil || !have {
			t.Fatalf("a named blob was swept (%v)", err)
		}
	})
}

func TestBlobNeedsAMajority(t *testing.T) {
	stores := map[wire.NodeID]BlobStore{}
	simulate(t, withBlobs(t, stores), three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		content := []byte("tree")
		ref := wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
		if err := c.nodes[nodeA].m.PutBlob("", ref, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		c.stop(c.nodes[nodeB])
		c.stop(c.nodes[nodeC])
		e := p.Commit(c.id(), 16, wire.DeliveryChange{})
		e.Commit.Tree = &wire.Payload{Blob: &ref}
		if _, err := c.nodes[nodeA].m.Order(c.context(8*time.Second), author.Sign(e, p.Opener)); wire.CodeOf(err) != wire.NoQuorum {
			t.Fatalf("without a majority: %v", err)
		}
	})
}

// TestHeldBlobs checks that a node serves a blob that the log no longer names to the devices for which it holds the
// blob, and to other replicas, and that a node which does not hold the blob serves it to nobody.
func TestHeldBlobs(t *testing.T) {
	stores := map[wire.NodeID]BlobStore{}
	var held sync.Map // offer and node → true
	type hold struct {
		node wire.NodeID
		offer
	}
	edit := withBlobs(t, stores)
	simulate(t, func(cfg *Config) {
		edit(cfg)
		node := cfg.Node
		cfg.Holds = func(id wire.ConversationID, ref wire.BlobRef) bool {
			_, ok := held.Load(hold{node, offer{id, ref}})
			return ok
		}
	}, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{RecentCount: 2}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		content := bytes.Repeat([]byte("welcome "), 1000)
		ref := wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
		order := func(e *wire.Envelope) {
			t.Helper()
			e = author.Sign(e, p.Opener)
			r, err := c.nodes[nodeA].m.Order(c.context(20*time.Second), e)
			if err != nil {
				t.Fatal(err)
			}
			p = author.After(e, r)
		}
		if err := c.nodes[nodeA].m.PutBlob("", ref, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		first := p.Commit(c.id(), 16, wire.DeliveryChange{})
		first.Commit.Welcome = &wire.Payload{Blob: &ref}
		order(first)
		for range 4 { // the log drops the entry with the blob
			order(p.Commit(c.id(), 16, wire.DeliveryChange{}))
		}
		c.level(conv, three...)
		read := func(n wire.NodeID) error {
			in, err := c.nodes[n].m.Blob(c.context(20*time.Second), conv, ref)
			if err != nil {
				return err
			}
			defer in.Close()
			if b, err := io.ReadAll(in); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%s: %d bytes, %v", n, len(b), err)
			}
			return nil
		}
		for _, n := range three {
			if err := read(n); wire.CodeOf(err) != wire.BlobMissing {
				t.Errorf("%s serves what its log has forgotten: %v", n, err)
			}
			held.Store(hold{n, offer{conv, ref}}, true)
		}
		gone := blob.Ref{Hash: ref.Hash, Size: ref.Size}
		if err := stores[nodeB].(blob.Wire).Store.Delete(gone); err != nil && !errors.Is(err, blob.ErrNotFound) {
			t.Fatal(err)
		}
		for _, n := range three { // B gets the blob from another replica that holds it
			if err := read(n); err != nil {
				t.Errorf("%s holds it: %v", n, err)
			}
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{Remove: author.Addresses(1, nodeC.Organization())})
		for range 4 { // confirms the removal
			time.Sleep(10 * time.Second)
			p = c.commit(nodeB, p, wire.DeliveryChange{})
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.eventually("C leaves", func() bool {
			_, err := c.nodes[nodeC].m.Heads(conv)
			return wire.CodeOf(err) == wire.UnknownConversation
		})
		if err := read(nodeC); err != nil {
			t.Errorf("%s has left, and a device there has not joined yet: %v", nodeC, err)
		}
		held.Delete(hold{nodeC, offer{conv, ref}})
		if err := read(nodeC); wire.CodeOf(err) != wire.UnknownConversation {
			t.Errorf("%s has left, and holds nothing: %v", nodeC, err)
		}
	})
}
