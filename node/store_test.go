package node

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// rootKey implements directory.CA.
type rootKey struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
}

func newRootKey(t *testing.T) *rootKey {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	return &rootKey{key, c}
}

func (r *rootKey) Certificate() *x509.Certificate { return r.cert }
func (r *rootKey) Signer() crypto.Signer          { return r.key }

// deliveryWorld delivers entries and messages to the streams of a.example, over a store in memory, with one device
// that receives at two addresses.
type deliveryWorld struct {
	t         *testing.T
	disk      *pebbletest.Disk
	store     *pebblestore.Store
	directory *directory.Directory
	delivery  *delivery
	router    *router
	phone     wire.DeviceID
	at        [2]wire.Address
}

func newDeliveryWorld(t *testing.T) *deliveryWorld {
	t.Helper()
	w := &deliveryWorld{t: t, disk: pebbletest.Memory(), phone: "mimi://a.example/d/alice/phone"}
	w.store, _ = w.disk.Running(t, mailbox.Config{})
	var err error
	if w.directory, err = directory.New(w.store.Records(), directory.Config{Domain: "a.example", CA: newRootKey(t)}); err != nil {
		t.Fatal(err)
	}
	code, err := w.directory.Invite(t.Context(), w.phone.User(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(slices.Repeat([]byte{7}, ed25519.SeedSize))
	public := []byte(key.Public().(ed25519.PublicKey))
	e := directory.Enrolment{Device: w.phone, Key: public, Proof: ed25519.Sign(key, wire.EnrolInput(w.phone, public))}
	if _, err := w.directory.Enrol(t.Context(), code, e); err != nil {
		t.Fatal(err)
	}
	for i := range w.at {
		w.at[i] = wire.Address{Organization: "a.example", Token: wire.Token{byte(i + 1)}}
		if err := w.directory.Attach(t.Context(), w.phone, w.at[i].Token); err != nil {
			t.Fatal(err)
		}
	}
	readers := newReaders(w.store.Readers(), time.Now)
	past := &pastKeys{kept: w.store.Epochs(), most: 10}
	log := slog.New(slog.DiscardHandler)
	blobs, err := blob.Open(t.TempDir(), blob.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	w.delivery = &delivery{
		org: "a.example", store: w.store, mailbox: w.store.Mailbox(), directory: w.directory, readers: readers, past: past, log: log,
		removals: &removals{kept: w.store.Removals(), mailbox: w.store.Mailbox(), owners: w.directory.DevicesAt, keys: past.keys, now: time.Now},
		held:     newHeld(blobs, w.store.Mailbox(), log),
	}
	w.router = &router{org: "a.example", store: w.store, mailbox: w.store.Mailbox(), directory: w.directory, readers: readers, now: time.Now, log: log}
	return w
}

// entry delivers an entry: number 1 creates the conversation with some addresses, a later one adds them.
func (w *deliveryWorld) entry(n wire.SequenceNumber, add ...wire.Address) {
	w.t.Helper()
	e := &wire.Envelope{Conversation: talkOne, Kind: wire.KindCreate, Create: &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: public(1), Delivery: add}}
	if n > 1 {
		e = &wire.Envelope{Conversation: talkOne, Kind: wire.KindCommit, Epoch: wire.Epoch(n - 2), Parent: n - 1,
			Commit: &wire.CommitBundle{Commit: []byte("x"), Key: public(byte(n)), Delivery: wire.DeliveryChange{Add: add}}}
	}
	e.Version, e.Submission, e.Signature = 1, wire.SubmissionID{byte(n)}, make([]byte, 64)
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Proposer: "n1.a.example", Envelope: e})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.delivery.Consume(w.t.Context(), consensus.Delivery{Conversation: talkOne, Committed: wire.Committed{Sequence: n, Entry: raw}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestEntryThatAddsIsOneSync checks that an entry that adds a device, with the reader, the note in the inbox and the
// list of readers, costs one fsync, as an entry that adds no device does. All of it is there after a crash.
func TestEntryThatAddsIsOneSync(t *testing.T) {
	w := newDeliveryWorld(t)
	if err := w.store.Mailbox().Change(t.Context(), mailbox.Inbox(w.phone), []wire.Token{mailbox.Owner()}, nil); err != nil {
		t.Fatal(err)
	}
	for n, add := range [][]wire.Address{{w.at[0]}, {w.at[1]}, nil} {
		before := w.disk.Syncs()
		w.entry(wire.SequenceNumber(n+1), add...)
		if syncs := w.disk.Syncs() - before; syncs != 1 {
			t.Errorf("entry %d, which adds %d addresses, cost %d fsyncs", n+1, len(add), syncs)
		}
	}
	after, _ := w.disk.Crash().Running(t, mailbox.Config{})
	list, err := after.Readers().Of(t.Context(), w.phone)
	if err != nil || len(list) != 2 {
		t.Fatalf("after a crash the device reads %v (%v)", list, err)
	}
	for i, r := range list {
		at, err := after.Mailbox().ReaderStates(t.Context(), inStream(r))
		if err != nil || at[0] != (mailbox.ReaderState{Known: true, Acknowledged: uint64(i), End: 3}) {
			t.Errorf("reader %d: %+v (%v)", i, at, err)
		}
	}
	notes, err := after.Mailbox().Read(t.Context(), mailbox.Inbox(w.phone), mailbox.Owner(), 0, mailbox.Limit{})
	if err != nil || len(notes.Items) != 2 {
		t.Fatalf("%d notes in the inbox (%v)", len(notes.Items), err)
	}
}

// TestMessageWaitsForItsEntry checks that a message whose entry is not in the stream yet waits for it, and is then
// stored and queued for other organizations together.
func TestMessageWaitsForItsEntry(t *testing.T) {
	w := newDeliveryWorld(t)
	o, err := outbox.New(w.store.Lanes(), outbox.Config{Link: unreachable{}})
	if err != nil {
		t.Fatal(err)
	}
	runOutbox(t, o)
	w.entry(1, w.at[0])
	m := &wire.Message{Version: wire.MessageVersion, Conversation: talkOne, ID: wire.SubmissionID{9}, Epoch: 1, Content: []byte("x")}
	heads := []machine.Head{{Sequence: 2, Delivery: []wire.Address{w.at[0]}}}
	v := arrival{after: 2, heads: heads, message: m, payload: []byte("message"), queue: queue("mimi://a.example/u/alice", []wire.Domain{"b.example"}, m, []byte("message"))}
	if _, err := w.router.keep(t.Context(), v); wire.CodeOf(err) != wire.Unavailable {
		t.Fatalf("stored before its entry: %v", err)
	}
	if lanes := o.Lanes(); len(lanes) != 0 {
		t.Fatalf("queued before its entry: %v", lanes)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.router.storeSoon(t.Context(), v)
		done <- err
	}()
	w.entry(2)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	page, err := w.store.Mailbox().Read(t.Context(), mailbox.Conversation(talkOne), w.at[0].Token, 0, mailbox.Limit{})
	if err != nil || len(page.Items) != 3 || page.Items[2].Kind != mailbox.KindMessage {
		t.Fatalf("stream %+v (%v)", page.Items, err)
	}
	if lanes := o.Lanes(); len(lanes) != 1 || lanes[0].Items != 1 {
		t.Fatalf("lanes %v", lanes)
	}
}

// TestWriteIsWhole checks that after a crash all parts of one Write are on disk, or none.
func TestWriteIsWhole(t *testing.T) {
	w := newDeliveryWorld(t)
	o, err := outbox.New(w.store.Lanes(), outbox.Config{Link: unreachable{}, MaxItems: 1})
	if err != nil {
		t.Fatal(err)
	}
	runOutbox(t, o)
	reader := store.Reader{Conversation: talkOne, Token: wire.Token{5}}
	queued := func(n byte) []lanestore.Item {
		return []lanestore.Item{{Organization: "b.example", Conversation: talkOne, ID: wire.SubmissionID{n}, Payload: []byte("x")}}
	}
	change := store.Write{
		Puts:    []mailbox.Put{{Stream: mailbox.Conversation(talkOne), ID: mailbox.ID{1}, Kind: mailbox.KindMessage, Payload: []byte("x"), Join: []wire.Token{reader.Token}}},
		Queue:   queued(1),
		Readers: []store.Joined{{Device: w.phone, Reader: reader, Since: 1}},
	}
	before := w.disk.Syncs()
	written, err := w.store.Write(t.Context(), change)
	if err != nil || written.Results[0].Err != nil || len(written.Full) != 0 {
		t.Fatalf("%+v (%v)", written, err)
	}
	if syncs := w.disk.Syncs() - before; syncs != 1 {
		t.Errorf("%d fsyncs", syncs)
	}
	if written, err = w.store.Write(t.Context(), store.Write{Queue: queued(2)}); err != nil || !written.Full["b.example"] {
		t.Fatalf("over the quota of an organization: %+v (%v)", written, err)
	}
	after, _ := w.disk.Crash().Running(t, mailbox.Config{})
	again, err := outbox.New(after.Lanes(), outbox.Config{Link: unreachable{}})
	if err != nil {
		t.Fatal(err)
	}
	runOutbox(t, again)
	if written, err := after.Write(t.Context(), change); err != nil || !written.Results[0].Duplicate {
		t.Fatalf("a repetition after a crash: %+v (%v)", written, err)
	}
	if lanes := again.Lanes(); len(lanes) != 1 || lanes[0].Items != 1 {
		t.Errorf("lanes %v", lanes)
	}
	if since, ok, err := after.Readers().Since(t.Context(), w.phone, reader); since != 1 || !ok || err != nil {
		t.Errorf("reader %v, %v (%v)", since, ok, err)
	}
}

// unreachable is an outbox.Link that reaches no organization.
type unreachable struct{}

// Notify implements outbox.Link.
func (unreachable) Notify(context.Context, wire.Domain, wire.ConversationID, [][]byte) ([]error, error) {
	return nil, errors.New("connection refused")
}

func runOutbox(t *testing.T, o *outbox.Outbox) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
