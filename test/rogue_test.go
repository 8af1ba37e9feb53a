package test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
	"github.com/mlsfed/mlsfed/wire"
)

// rogue is a modified client: it has a copy of a device's folder, with the keys and the groups in it, and sends
// arbitrary requests.
type rogue struct {
	*rawSession
	group  *mlscore.Group
	id     wire.ConversationID
	last   wire.SequenceNumber // the last entry that the device had processed
	order  wire.Hash           // the order hash up to it
	parent wire.SequenceNumber // the entry that opened the group's epoch

	mu     sync.Mutex
	pushes []*wire.Push // of the conversation
}

// copyFolder copies a device's folder while the device does not run.
func copyFolder(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// folderOf returns where a cluster in dir keeps a device.
func folderOf(dir string, d wire.Domain, user, name string) string {
	return filepath.Join(dir, string(d), "devices", user, name)
}

// storedDevice is the record of docs/spec/client.md, 'On the disk', under C d.
type storedDevice struct {
	Version    uint8           `cbor:"1,keyasint"`
	Device     wire.DeviceID   `cbor:"2,keyasint"`
	Suite      uint16          `cbor:"3,keyasint"`
	Key        []byte          `cbor:"4,keyasint"`
	Public     []byte          `cbor:"5,keyasint"`
	Chain      [][]byte        `cbor:"6,keyasint,omitempty"`
	Ends       wire.Time       `cbor:"7,keyasint,omitempty"`
	LastResort wire.Time       `cbor:"8,keyasint,omitempty"`
	Revoked    []wire.DeviceID `cbor:"9,keyasint,omitempty"`
	Number     uint64          `cbor:"10,keyasint,omitempty"`
	Others     []struct {
		_     struct{} `cbor:",toarray"`
		Suite uint16
		Made  wire.Time
	} `cbor:"11,keyasint,omitempty"`
}

// newRogue opens a folder and logs in as its device, which is still a member, in a session that acknowledges nothing.
// at is the device's view of the conversation.
func newRogue(ctx context.Context, t *testing.T, c *cluster.Cluster, folder string, at *client.Conversation) *rogue {
	t.Helper()
	key, err := client.KeyFile(filepath.Join(folder, "key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := client.OpenStore(folder, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	self := readDevice(t, store)
	m, err := mlscore.NewClient(mlscore.Config{
		Auth:  &mlscore.X509Authenticator{Roots: func(domain string) *x509.CertPool { return rootsOf(t, c, wire.Domain(domain)) }},
		Store: store, Now: time.Now, Limits: mlscore.Limits{PastEpochs: 64}, // as many as an honest client's
		Extensions: []mlscore.ExtensionType{0xf0a0, 0xf0a2}, Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rogue{id: at.ID, last: at.Sequence, order: at.Order}
	if r.group, err = m.LoadGroup([]byte(at.ID)); err != nil {
		t.Fatal(err)
	}
	org := self.Device.Organization()
	link, err := c.Invite(ctx, org, self.Device.User().Name()) // only for the address and the root
	if err != nil {
		t.Fatal(err)
	}
	if r.rawSession, err = connectRaw(ctx, link, self.Device, ed25519.NewKeyFromSeed(self.Key), r.take, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	var info wire.GroupInfoAnswer
	if err := r.ask(ctx, wire.MethodGroupInfo, &wire.GroupInfoRequest{Conversation: at.ID}, &info); err != nil {
		t.Fatal(err)
	}
	for _, h := range info.Heads {
		if h.Epoch == wire.Epoch(r.group.Epoch()) {
			r.parent = h.Parent
		}
	}
	if r.parent == 0 {
		t.Fatalf("the group is in epoch %d, the log has %+v", r.group.Epoch(), info.Heads)
	}
	return r
}

func readDevice(t *testing.T, store *boltstore.Store) *storedDevice {
	t.Helper()
	raw, ok, err := store.Get([]byte("Cd"))
	if err != nil || !ok {
		t.Fatalf("no device in the folder (%v)", err)
	}
	d := new(storedDevice)
	if err := wire.Decode(raw, wire.MaxFrame, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// rootsOf returns the pool with an organization's root.
func rootsOf(t *testing.T, c *cluster.Cluster, d wire.Domain) *x509.CertPool {
	t.Helper()
	id, err := organization.LoadIdentity(c.Config(d).Identity)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(id.Root)
	return pool
}

func (r *rogue) take(p *wire.Push) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Conversation != nil && *p.Conversation == r.id {
		r.pushes = append(r.pushes, p)
	}
}

// got returns the pushes of the conversation so far.
func (r *rogue) got() []*wire.Push {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*wire.Push{}, r.pushes...)
}

// submissionKey returns the submission key of the group's epoch, or of the epoch that a commit leads to.
func submissionKey(t *testing.T, e interface {
	Export(string, []byte, int) (mlscore.Secret, error)
}) ed25519.PrivateKey {
	t.Helper()
	seed, err := e.Export("mlsfed submission", nil, ed25519.SeedSize)
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed.Bytes())
}

// message protects a text and signs it with the submission key that the group has.
func (r *rogue) message(t *testing.T, text string) *wire.Message {
	t.Helper()
	body, err := client.EncodeContent(&client.Content{Type: client.ContentText, Text: text, ID: client.MessageID(random16()), Time: wire.TimeOf(time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := r.group.Protect(body, mlscore.MessageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &wire.Message{Version: wire.MessageVersion, Conversation: r.id, ID: wire.SubmissionID(random16()), Epoch: wire.Epoch(r.group.Epoch()), Content: sealed}
	r.signMessage(t, m)
	return m
}

func (r *rogue) signMessage(t *testing.T, m *wire.Message) {
	t.Helper()
	if err := m.Sign(submissionKey(t, r.group)); err != nil {
		t.Fatal(err)
	}
}

// statement is the content of a Commit's authenticated_data: docs/spec/client.md, 'Commits'.
type statement struct {
	Binding wire.Hash           `cbor:"1,keyasint"`
	Last    wire.SequenceNumber `cbor:"2,keyasint"`
	Order   wire.Hash           `cbor:"3,keyasint"`
}

// commit returns an empty commit of the group's epoch, which every honest member can process, and the state of the
// group after it.
func (r *rogue) commit(t *testing.T) (*wire.Envelope, *mlscore.StagedCommit) {
	t.Helper()
	bundle := &wire.CommitBundle{}
	binding, err := bundle.Binding()
	if err != nil {
		t.Fatal(err)
	}
	said, err := wire.Encode(&statement{Binding: binding, Last: r.last, Order: r.order})
	if err != nil {
		t.Fatal(err)
	}
	made, err := r.group.Commit(mlscore.CommitOptions{AuthenticatedData: said, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}})
	if err != nil {
		t.Fatal(err)
	}
	bundle.Commit, bundle.Key = made.Message, wire.SubmissionKey(submissionKey(t, made.Staged).Public().(ed25519.PublicKey))
	e := r.envelope(wire.KindCommit)
	e.Commit = bundle
	return e, made.Staged
}

func (r *rogue) envelope(kind wire.Kind) *wire.Envelope {
	return &wire.Envelope{
		Version: wire.EnvelopeVersion, Conversation: r.id, Submission: wire.SubmissionID(random16()), Kind: kind,
		Epoch: wire.Epoch(r.group.Epoch()), Parent: r.parent,
	}
}

// update signs an envelope with the submission key that the group has, and submits it.
func (r *rogue) update(ctx context.Context, t *testing.T, e *wire.Envelope) (*wire.Receipt, error) {
	t.Helper()
	if err := e.Sign(submissionKey(t, r.group)); err != nil {
		t.Fatal(err)
	}
	receipt := new(wire.Receipt)
	return receipt, r.ask(ctx, wire.MethodUpdate, e, receipt)
}

// reads reports whether the group can decrypt a message.
func (r *rogue) reads(m *wire.Message) (text string, ok bool) {
	got, err := r.group.Process(m.Content)
	if err != nil || got.Application == nil {
		return "", false
	}
	if c, err := client.DecodeContent(got.Application.Data); err == nil { // the first format
		return c.Text, true
	}
	c, err := content.Decode(got.Application.Data, content.Limits{})
	if err != nil {
		return "", false
	}
	return string(c.Body.Content), true
}

// wiretap records the application messages that a device sends, as a server sees them.
type wiretap struct {
	client.Transport
	mu       sync.Mutex
	messages []*wire.Message
	removals []wire.SequenceNumber // entries that remove an address
}

func (w *wiretap) apply(o *client.Options) {
	w.Transport = o.Transport
	o.Transport = w
}

// Dial implements client.Transport.
func (w *wiretap) Dial(ctx context.Context) (client.Conn, error) {
	conn, err := w.Transport.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &tappedConn{conn, w}, nil
}

type tappedConn struct {
	client.Conn
	w *wiretap
}

// Write implements client.Conn.
func (c *tappedConn) Write(ctx context.Context, frame []byte) error {
	f, m := new(wire.Frame), new(wire.Message)
	err := wire.Decode(frame, wire.MaxSessionFrame, f)
	if err == nil && f.Method == wire.MethodSubmit {
		if err = wire.Decode(f.Body, wire.MaxSessionFrame, m); err == nil {
			c.w.mu.Lock()
			c.w.messages = append(c.w.messages, m)
			c.w.mu.Unlock()
		}
	}
	return errors.Join(err, c.Conn.Write(ctx, frame))
}

// Read implements client.Conn.
func (c *tappedConn) Read(ctx context.Context) ([]byte, error) {
	frame, err := c.Conn.Read(ctx)
	f, p, e := new(wire.Frame), new(wire.Push), new(wire.Committed)
	if err != nil || wire.Decode(frame, wire.MaxSessionFrame, f) != nil || f.Type != wire.FramePush ||
		wire.Decode(f.Body, wire.MaxSessionFrame, p) != nil || p.Kind != wire.ItemEntry || wire.Decode(p.Payload, wire.MaxSessionFrame, e) != nil {
		return frame, err
	}
	if v, openErr := e.Open(); openErr == nil && v.Envelope != nil && v.Envelope.Commit != nil && len(v.Envelope.Commit.Delivery.Remove) > 0 {
		c.w.mu.Lock()
		c.w.removals = append(c.w.removals, e.Sequence)
		c.w.mu.Unlock()
	}
	return frame, nil
}

// removal waits for the first entry that removes an address, and returns its number: entries of the servers can
// follow it.
func (k *circle) removal() (n wire.SequenceNumber) {
	k.t.Helper()
	if err := cluster.Await(k.ctx, k.alice, func() (bool, error) {
		k.tap.mu.Lock()
		defer k.tap.mu.Unlock()
		if len(k.tap.removals) > 0 {
			n = k.tap.removals[0]
		}
		return n > 0, nil
	}); err != nil {
		k.t.Fatal(err)
	}
	return n
}

// last returns the newest message.
func (w *wiretap) last(t *testing.T) *wire.Message {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.messages) == 0 {
		t.Fatal("nothing was sent")
	}
	return w.messages[len(w.messages)-1]
}
