package consensus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// counted counts the streams that a node opens, by the other node and by purpose.
type counted struct {
	Link
	mu sync.Mutex // guards by
	by map[streamTo]int
}

type streamTo struct {
	to      wire.NodeID
	purpose byte
}

func (l *counted) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	conn, err := l.Link.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return &tallied{Conn: conn, l: l, to: to}, nil
}

func (l *counted) blobs(to wire.NodeID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[streamTo{to, streamBlob}]
}

type tallied struct {
	net.Conn
	l    *counted
	to   wire.NodeID
	once sync.Once
}

func (c *tallied) Write(b []byte) (int, error) {
	c.once.Do(func() {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
		c.l.by[streamTo{c.to, b[len(b)-1]}]++
	})
	return c.Conn.Write(b)
}

// watched returns withBlobs with a count of the streams that each node opens, and of refusals by code.
type watched struct {
	stores  map[wire.NodeID]BlobStore
	links   map[wire.NodeID]*counted
	mu      sync.Mutex // guards refused
	refused map[wire.Code]int
}

func (w *watched) edit(t *testing.T) func(*Config) {
	w.stores, w.links, w.refused = map[wire.NodeID]BlobStore{}, map[wire.NodeID]*counted{}, map[wire.Code]int{}
	blobs := withBlobs(t, w.stores)
	return func(cfg *Config) {
		blobs(cfg)
		l := &counted{Link: cfg.Link, by: make(map[streamTo]int)}
		w.links[cfg.Node], cfg.Link = l, l
		cfg.Refused = func(c wire.Code) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refused[c]++
		}
	}
}

func (w *watched) opened() int {
	n := 0
	for _, l := range w.links {
		for to := range w.links {
			n += l.blobs(to)
		}
	}
	return n
}

func blobOf(content []byte) wire.BlobRef {
	return wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
}

// TestSecBlobsBeforeSignature checks that nothing is stored, searched for or copied for a submitter without the
// submission key: neither by the first node that receives the submission, nor by the leader when a member's node
// forwards it.
func TestSecBlobsBeforeSignature(t *testing.T) {
	var w watched
	simulate(t, w.edit(t), three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		content := bytes.Repeat([]byte{7}, 8<<20)
		ref := blobOf(content)
		forged := p.Commit(c.id(), 8, wire.DeliveryChange{})
		forged.Commit.Welcome = &wire.Payload{Blob: &ref}
		forged.Signature = make([]byte, 64)
		for _, at := range three {
			lend := func() error { t.Errorf("%s stores a blob before the signature", at); return nil }
			if _, err := c.nodes[at].m.OrderWith(c.context(20*time.Second), forged, Caller{Lend: lend}); wire.CodeOf(err) != wire.Forged {
				t.Errorf("at %s: %v", at, err)
			}
			if _, err := c.nodes[at].m.Take(c.context(20*time.Second), "n1.z.example", forged); wire.CodeOf(err) != wire.Forged {
				t.Errorf("handed in at %s: %v", at, err)
			}
		}
		payload, err := wire.Encode(forged)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[nodeA].m.PutBlob("", ref, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		for _, from := range three {
			for _, to := range three {
				if from == to {
					continue
				}
				f := &frame{kind: kindOrder, conversation: conv, payload: payload}
				if _, err := c.nodes[from].m.mesh.ask(c.context(20*time.Second), to, f); wire.CodeOf(err) != wire.Forged {
					t.Errorf("forwarded by %s to %s: %v", from, to, err)
				}
			}
		}
		for _, n := range three {
			if has, err := w.stores[n].Has(ref); err != nil || has != (n == nodeA) {
				t.Errorf("%s stores it: %v (%v)", n, has, err)
			}
		}
		if n := w.opened(); n != 0 {
			t.Errorf("%d streams for blobs were opened", n)
		}
		if n := w.refused[wire.Forged]; n != 12 {
			t.Errorf("%d refusals were counted, wanted 12", n)
		}
	})
}

// TestSubmissionOfAStranger checks that a node without a part is refused before its message is decoded.
func TestSubmissionOfAStranger(t *testing.T) {
	outsider := wire.NodeID("n1.x.example")
	simulate(t, nil, append([]wire.NodeID{outsider}, three...), func(c *cluster) {
		c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		f := &frame{kind: kindOrder, conversation: conv, payload: []byte("no envelope")}
		if _, err := c.nodes[outsider].m.mesh.ask(c.context(5*time.Second), nodeA, f); wire.CodeOf(err) != wire.NotReplica {
			t.Fatalf("the stranger is answered: %v", err)
		}
		if _, err := c.nodes[nodeB].m.mesh.ask(c.context(5*time.Second), nodeA, f); wire.CodeOf(err) != wire.Malformed {
			t.Fatalf("a member is answered: %v", err)
		}
	})
}

// TestForgedWakesNobody checks that a sleeping conversation stays asleep when somebody without the key submits.
func TestForgedWakesNobody(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.asleep(conv, three...)
		wakes := func() (n int64) {
			for _, at := range three {
				n += c.nodes[at].m.Counts().Wakes
			}
			return n
		}
		before := wakes()
		forger := p
		forger.Opener = author.Submission(99999)
		e := forger.Commit(c.id(), 8, wire.DeliveryChange{})
		payload, err := wire.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range three {
			if _, err := c.nodes[at].m.Order(c.context(20*time.Second), e); wire.CodeOf(err) != wire.Forged {
				t.Errorf("at %s: %v", at, err)
			}
			f := &frame{kind: kindOrder, conversation: conv, payload: payload}
			if _, err := c.nodes[at].m.mesh.ask(c.context(20*time.Second), three[(i+1)%3], f); wire.CodeOf(err) != wire.Forged {
				t.Errorf("forwarded by %s: %v", at, err)
			}
		}
		if after := wakes(); after != before {
			t.Errorf("%d replicas were woken", after-before)
		}
		c.commit(nodeB, p, wire.DeliveryChange{})
	})
}

// TestOneBlobStream checks that all questions about blobs to one node, and the content, share one stream, one after
// the other, also for concurrent submissions.
func TestOneBlobStream(t *testing.T) {
	var w watched
	simulate(t, w.edit(t), three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		const commits = 10
		for i := range commits {
			content := bytes.Repeat([]byte{byte(i)}, 100_000+i)
			ref := blobOf(content)
			e := p.Commit(c.id(), 16, wire.DeliveryChange{})
			e.Commit.Welcome = &wire.Payload{Blob: &ref}
			author.Sign(e, p.Opener)
			r, err := c.nodes[nodeC].m.OrderWith(c.context(20*time.Second), e, Caller{Lend: func() error {
				return c.nodes[nodeC].m.PutBlob("", ref, bytes.NewReader(content))
			}})
			if err != nil {
				t.Fatal(err)
			}
			p = author.After(e, r)
			c.level(conv, three...)
			var all sync.WaitGroup
			for _, n := range three {
				all.Go(func() {
					in, err := c.nodes[n].m.Blob(c.context(20*time.Second), conv, ref)
					if err != nil {
						t.Errorf("%s: %v", n, err)
						return
					}
					defer in.Close()
					if b, err := io.ReadAll(in); err != nil || !bytes.Equal(b, content) {
						t.Errorf("%s has %d bytes (%v)", n, len(b), err)
					}
				})
			}
			all.Wait()
		}
		for _, from := range three {
			for _, to := range three {
				if n := w.links[from].blobs(to); n > 1 {
					t.Errorf("%s opened %d streams for blobs to %s", from, n, to)
				}
			}
		}
		if w.opened() == 0 {
			t.Error("no stream was counted")
		}
	})
}

// once is a link to a node of an older build, which ends each stream for blobs after one request.
type once struct {
	net.Listener
	dials int
}

func (l *once) serve() {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if _, err := readPurpose(conn, time.Second); err == nil {
			if _, err := readSized(conn, 1024); err == nil {
				_, _ = conn.Write([]byte{blobHave})
			}
		}
		conn.Close()
	}
}

func (l *once) Dial(ctx context.Context, _ wire.NodeID) (net.Conn, error) {
	l.dials++
	return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
}

// TestBlobStreamOfAnOlderBuild checks that a stream which the other node ends after a request is opened again for the
// next one.
func TestBlobStreamOfAnOlderBuild(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &once{Listener: listener}
	ended := make(chan struct{})
	go func() { defer close(ended); l.serve() }()
	defer func() { listener.Close(); <-ended }()
	m := &Manager{cfg: Config{Node: nodeA, Timers: Timers{Call: time.Second}}, mesh: &mesh{node: nodeA, link: l}}
	defer m.blobs.close()
	for i := range 3 {
		req := &blobRequest{Op: blobHas, Conversation: conv, Ref: wire.BlobRef{Hash: wire.Hash{1}, Size: 1}}
		err := m.withBlobStream(t.Context(), nodeB, req, func(_ net.Conn, answer byte) error {
			if answer != blobHave {
				return errors.New("another answer")
			}
			return nil
		})
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if l.dials != 3 {
		t.Errorf("%d streams were opened", l.dials)
	}
}

// TestBlobWithoutAConversation checks that a node stores no blob for an invented conversation.
func TestBlobWithoutAConversation(t *testing.T) {
	var w watched
	inventor := wire.NodeID("n1.x.example")
	simulate(t, w.edit(t), []wire.NodeID{inventor, nodeA}, func(c *cluster) {
		id := wire.ConversationID("made up by x.example")
		payload, err := wire.Encode(&invitation{Members: []wire.NodeID{inventor}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.nodes[inventor].m.mesh.ask(c.context(10*time.Second), nodeA, &frame{kind: kindInvite, conversation: id, payload: payload}); err != nil {
			t.Fatal(err)
		}
		content := []byte("what no entry names")
		req := &blobRequest{Op: blobPut, Conversation: id, Ref: blobOf(content)}
		err = c.nodes[inventor].m.withBlobStream(c.context(5*time.Second), nodeA, req, nil)
		if wire.CodeOf(err) != wire.NotReplica {
			t.Errorf("it is asked for: %v", err)
		}
		if has, err := w.stores[nodeA].Has(req.Ref); err != nil || has {
			t.Errorf("it is stored: %v (%v)", has, err)
		}
	})
}
