package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// hands holds the clocks of a machine, which a test moves.
type hands struct {
	mu      sync.Mutex
	start   time.Time
	elapsed time.Duration
	ahead   time.Duration
}

func (h *hands) wall() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.start.Add(h.elapsed + h.ahead)
}

func (h *hands) elapse() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.elapsed
}

func (h *hands) move(elapsed, ahead time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.elapsed, h.ahead = h.elapsed+elapsed, ahead
}

// clockedNode returns a node whose clocks a test moves.
func clockedNode(t *testing.T, log *bytes.Buffer) (*Node, *hands) {
	t.Helper()
	cfg := config.Default()
	cfg.Domain, cfg.Node = "a.example", "n1.a.example"
	cfg.Gateway.Listen, cfg.Federation.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.Identity = filepath.Join(cfg.Data, "identity")
	cfg.Admin.Socket = filepath.Join(cfg.Data, "control.sock")
	if err := organization.Init(cfg.Identity, organization.InitOptions{Domain: cfg.Domain, Node: cfg.Node}); err != nil {
		t.Fatal(err)
	}
	h := &hands{start: time.Now()}
	o := Options{Now: h.wall, Elapse: h.elapse}
	if log != nil {
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	n, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	<-n.ready
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return n, h
}

// stored names one of each thing that a node keeps for a limited time.
type stored struct {
	stream mailbox.Stream
	token  wire.Token
	code   string
	user   wire.UserID
	file   []byte
	items  int
}

func (n *Node) storeAll(t *testing.T, r *rand.Rand) *stored {
	t.Helper()
	s := &stored{stream: mailbox.Conversation(wire.ConversationID(randomBytes(r, 16)))}
	copy(s.token[:], randomBytes(r, 16))
	if err := n.mailbox.Change(t.Context(), s.stream, []wire.Token{s.token}, nil); err != nil {
		t.Fatal(err)
	}
	s.put(t, n, r)
	s.user = wire.UserID("mimi://a.example/u/u" + hex.EncodeToString(randomBytes(r, 6)))
	var err error
	if s.code, err = n.directory.Invite(t.Context(), s.user, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	s.file = randomBytes(r, 100)
	if _, err := n.stores.files.put(t.Context(), mallory, &wire.PutBlobRequest{Blob: refOf(s.file), Data: s.file}); err != nil {
		t.Fatal(err)
	}
	return s
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.UintN(256))
	}
	return b
}

func (s *stored) put(t *testing.T, n *Node, r *rand.Rand) {
	t.Helper()
	p := mailbox.Put{Stream: s.stream, Kind: mailbox.Kind(wire.ItemMessage), Payload: []byte("x")}
	copy(p.ID[:], randomBytes(r, 16))
	if _, err := n.mailbox.Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	s.items++
}

// sweep makes the node remove everything that is old.
func (n *Node) sweep(t *testing.T) {
	t.Helper()
	if err := n.mailbox.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.directory.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.stores.files.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// there returns how many of the items still exist, and whether the file and the invitation exist.
func (s *stored) there(t *testing.T, n *Node) (items int, file, invited bool) {
	t.Helper()
	page, err := n.mailbox.Read(t.Context(), s.stream, s.token, 0, mailbox.Limit{Items: 100, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ref := refOf(s.file)
	has, err := n.stores.files.kept.Has(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Items), has, s.invited(t, n)
}

func (s *stored) invited(t *testing.T, n *Node) bool {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	d, err := wire.NewDeviceID(s.user, "phone")
	if err != nil {
		t.Fatal(err)
	}
	public := []byte(key.Public().(ed25519.PublicKey))
	_, err = n.directory.Enrol(t.Context(), s.code, directory.Enrolment{Device: d, Key: public, Proof: ed25519.Sign(key, wire.EnrolInput(d, public))})
	return err == nil
}

const days = 24 * time.Hour

// TestClockJumpLeavesNoTrace checks that a clock which is years ahead for a second has no lasting effect: what is
// stored in that second is not kept permanently, and nothing is lost.
func TestClockJumpLeavesNoTrace(t *testing.T) {
	log := new(bytes.Buffer)
	n, h := clockedNode(t, log)
	r := rand.New(rand.NewPCG(1, 1))
	ends, before := n.identity.Certificate().NotAfter, n.storeAll(t, r)
	h.move(time.Second, 10*365*days)
	during := n.storeAll(t, r)
	before.put(t, n, r)
	n.sweep(t)
	if s := n.Status(); s.ClockOff < 10*365*24*3600-1 {
		t.Errorf("status says that the clock is off by %d s", s.ClockOff)
	}
	if err := healthy(n.identity, n.now()); err != nil {
		t.Errorf("the node's own certificate: %v", err)
	}
	h.move(time.Second, 0)
	before.put(t, n, r)
	n.sweep(t)
	if s := n.Status(); s.ClockOff != 0 {
		t.Errorf("after the jump the clock is off by %d s", s.ClockOff)
	}
	if !n.identity.Certificate().NotAfter.Equal(ends) {
		t.Error("the jump has renewed the node's certificate")
	}
	for name, s := range map[string]*stored{"before": before, "during": during} {
		if items, file, invited := s.there(t, n); items != s.items || !file || !invited {
			t.Errorf("stored %s the jump: %d of %d items, file %v, invitation %v", name, items, s.items, file, invited)
		}
	}
	h.move(31*days, 0)
	n.sweep(t)
	for name, s := range map[string]*stored{"before": before, "during": during} {
		if items, file, _ := s.there(t, n); items != 0 || file {
			t.Errorf("stored %s the jump, a month later: %d items, file %v", name, items, file)
		}
	}
	after := n.storeAll(t, r)
	if items, file, invited := after.there(t, n); items != 1 || !file || !invited {
		t.Errorf("stored after the jump: %d items, file %v, invitation %v", items, file, invited)
	}
	if !strings.Contains(log.String(), "clock jumped") {
		t.Error("the log has no line of it")
	}
}

// TestClockSetAhead checks that a clock which is set a month ahead permanently makes nothing old at once.
func TestClockSetAhead(t *testing.T) {
	n, h := clockedNode(t, nil)
	r := rand.New(rand.NewPCG(2, 1))
	s := n.storeAll(t, r)
	h.move(time.Second, 30*days)
	n.now()
	for range 4 {
		h.move(time.Hour, 30*days)
		n.sweep(t)
	}
	if got := n.now().Sub(h.wall()).Abs(); got > time.Second {
		t.Errorf("the new time was not taken: %v off", got)
	}
	s.put(t, n, r)
	if items, file, invited := s.there(t, n); items != 2 || !file || !invited {
		t.Errorf("%d items, file %v, invitation %v", items, file, invited)
	}
	page, err := n.mailbox.Read(t.Context(), s.stream, s.token, 0, mailbox.Limit{Items: 100, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(n.stores.clock, page.Items[1].Time).Std().Sub(h.wall()).Abs(); got > time.Minute {
		t.Errorf("an item of now is shown %v off", got)
	}
	h.move(29*days, 30*days)
	n.sweep(t)
	if items, _, _ := s.there(t, n); items != 2 {
		t.Errorf("%d items after 29 days", items)
	}
	h.move(2*days, 30*days)
	n.sweep(t)
	if items, file, _ := s.there(t, n); items != 0 || file {
		t.Errorf("%d items, file %v after 31 days", items, file)
	}
}

// TestOldUploads checks that a part of an upload whose time is far ahead, which a former build may have left, is
// removed too.
func TestOldUploads(t *testing.T) {
	n, _ := clockedNode(t, nil)
	q := &wire.PutBlobRequest{Blob: wire.BlobRef{Size: 10}, Data: []byte("one")}
	if _, err := n.stores.files.put(t.Context(), mallory, q); err != nil {
		t.Fatal(err)
	}
	n.sweep(t)
	if left := partsOf(t, n.stores.files, mallory); left != 1 {
		t.Fatalf("%d uploads are under way, wanted 1", left)
	}
	p, release, err := n.stores.files.parts.hold(mallory, q.Blob, q.Conversation)
	if err != nil {
		t.Fatal(err)
	}
	release()
	far := time.Now().Add(3650 * days)
	if err := os.Chtimes(p.path, far, far); err != nil {
		t.Fatal(err)
	}
	n.sweep(t)
	if partsOf(t, n.stores.files, mallory) != 0 {
		t.Error("it stays for good")
	}
}
