package test

import (
	"context"
	"crypto/ed25519"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// knownTalk is a conversation of modified clients, one of each organization, who share a submission key that the test has.
type knownTalk struct {
	id  wire.ConversationID
	key ed25519.PrivateKey
	of  map[wire.Domain]*rawSession

	mu    sync.Mutex
	items map[wire.Domain][]wire.Message // application messages that were pushed
}

// newTalk creates a conversation of the organizations. The first one founds it.
func newTalk(ctx context.Context, t *testing.T, c *cluster.Cluster, orgs ...wire.Domain) *knownTalk {
	t.Helper()
	w := &knownTalk{id: wire.ConversationID("a talk of some that the test knows"), of: make(map[wire.Domain]*rawSession), items: make(map[wire.Domain][]wire.Message)}
	var err error
	if _, w.key, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	var list []wire.Address
	for _, d := range orgs {
		s := rawDevice(ctx, t, c, d, "member", func(p *wire.Push) { w.pushed(d, p) })
		t.Cleanup(s.close)
		w.of[d] = s
		a := wire.Address{Organization: d, Token: wire.Token(random16())}
		if err := s.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: a.Token}, nil); err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	slices.SortFunc(list, wire.Address.Compare)
	e := &wire.Envelope{Version: 1, Conversation: w.id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCreate,
		Create: &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: wire.SubmissionKey(w.key.Public().(ed25519.PublicKey)), Delivery: list}}
	if err := e.Sign(w.key); err != nil {
		t.Fatal(err)
	}
	if err := w.of[orgs[0]].ask(ctx, wire.MethodUpdate, e, new(wire.Receipt)); err != nil {
		t.Fatal(err)
	}
	for _, d := range orgs {
		w.until(ctx, t, string(d)+" has the first entry", func() bool {
			var a wire.ConversationsAnswer
			return w.of[d].ask(ctx, wire.MethodConversations, nil, &a) == nil && len(a.Conversations) > 0 && a.Conversations[0].End > 0
		})
	}
	return w
}

func (w *knownTalk) pushed(d wire.Domain, p *wire.Push) {
	m := wire.Message{}
	if p.Kind == wire.ItemMessage && wire.Decode(p.Payload, wire.MaxSessionFrame, &m) == nil {
		w.mu.Lock()
		w.items[d] = append(w.items[d], m)
		w.mu.Unlock()
	}
}

// got reports whether an organization's device has received a message with a text.
func (w *knownTalk) got(d wire.Domain, text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.items[d], func(m wire.Message) bool { return string(m.Content) == text })
}

// until polls: raw devices have no events.
func (w *knownTalk) until(ctx context.Context, t *testing.T, what string, f func() bool) {
	t.Helper()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// message returns a message that a member has signed.
func (w *knownTalk) message(t *testing.T, text string) wire.Message {
	t.Helper()
	return w.messageWith(t, wire.SubmissionID(random16()), text)
}

func (w *knownTalk) messageWith(t *testing.T, id wire.SubmissionID, text string) wire.Message {
	t.Helper()
	m := wire.Message{Version: 1, Conversation: w.id, ID: id, Content: []byte(text)}
	if err := m.Sign(w.key); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestNobodyTakesAMessagesID checks that an organization with a member, which knows the id of another organization's
// message before a third organization has it, cannot put a message of its own in its place: the third organization
// would take the genuine one for a repetition.
func TestNobodyTakesAMessagesID(t *testing.T) {
	c := newCluster(t, "a.example", "b.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := newTalk(ctx, t, c, "a.example", "b.example", "mallory.example")
	ev := newEvil(t, c, "mallory.example")
	genuine := w.message(t, "genuine")
	if got := ev.notify(ctx, "b.example", w.messageWith(t, genuine.ID, "in its place")); got[""] != 1 {
		t.Fatalf("%v", got)
	}
	if err := w.of["a.example"].ask(ctx, wire.MethodSubmit, &genuine, new(wire.Accepted)); err != nil {
		t.Fatal(err)
	}
	later := w.message(t, "later")
	if err := w.of["a.example"].ask(ctx, wire.MethodSubmit, &later, new(wire.Accepted)); err != nil {
		t.Fatal(err)
	}
	w.until(ctx, t, "the later message", func() bool { return w.got("b.example", "later") })
	if !w.got("b.example", "genuine") {
		t.Error("the genuine message was taken for a repetition")
	}
	if got := ev.notify(ctx, "b.example", w.messageWith(t, genuine.ID, "in its place")); got[""] != 1 {
		t.Errorf("a repetition: %v", got)
	}
}

// closing returns the end of the conversation, which any member may order.
func (w *knownTalk) closing(t *testing.T, parent wire.SequenceNumber) *wire.Envelope {
	t.Helper()
	e := &wire.Envelope{Version: 1, Conversation: w.id, Submission: wire.SubmissionID(random16()), Kind: wire.KindClose, Parent: parent}
	if err := e.Sign(w.key); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestStrangersSpendNoRate checks that a device which takes no part in a conversation cannot use up the rate of
// handshakes that its own organization has there: neither here, with submissions that nobody has signed, nor at the
// leader's node, with submissions that follow an entry which the own node does not know.
func TestStrangersSpendNoRate(t *testing.T) {
	const burst = 8
	edit := func(cfg *config.Config) {
		cfg.Rates.ConversationHandshakes = config.Rate{Burst: burst, PerMinute: 0.01}
	}
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: edit}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := newTalk(ctx, t, c, "b.example", "a.example") // the founder's node leads
	mallory := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer mallory.close()
	for _, parent := range []wire.SequenceNumber{1, 1 << 40} {
		for range 2 * burst {
			e := w.closing(t, parent)
			e.Signature = make([]byte, 64)
			if err := mallory.ask(ctx, wire.MethodUpdate, e, new(wire.Receipt)); err == nil {
				t.Fatal("accepted")
			}
		}
	}
	if err := w.of["a.example"].ask(ctx, wire.MethodUpdate, w.closing(t, 1), new(wire.Receipt)); err != nil {
		t.Errorf("a member: %v", err)
	}
}

// TestOneUserSpendsFewCalls checks that one user cannot use up the calls that another organization accepts from this
// one: each user has a rate of calls, for files and for revocation lists.
func TestOneUserSpendsFewCalls(t *testing.T) {
	edit := func(c *config.Config) { c.Rates.Calls.PerMinute = 1 } // slower than the calls of a busy machine
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: edit}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := newTalk(ctx, t, c, "a.example", "b.example")
	mallory := w.of["a.example"]
	download := func(org wire.Domain) error {
		q := &wire.DownloadRequest{Conversation: w.id, Organization: org, Blob: wire.BlobRef{Hash: wire.Hash{1}, Size: 1}}
		return mallory.ask(ctx, wire.MethodDownload, q, new(wire.DownloadAnswer))
	}
	calls := 0
	for calls < 750 { // more frames in a row end the session
		err := download("b.example")
		if wire.CodeOf(err) == wire.Busy {
			break
		}
		if wire.CodeOf(err) != wire.BlobMissing {
			t.Fatal(err)
		}
		calls++
	}
	if calls < 100 || calls >= 750 {
		t.Errorf("%d calls in a row", calls)
	}
	codes := make(map[wire.Code]int)
	for range 20 {
		err := mallory.ask(ctx, wire.MethodRevocationsPage, &wire.RevocationsPageRequest{Domain: "b.example"}, new(wire.RevocationsPage))
		codes[wire.CodeOf(err)]++
	}
	if codes[wire.Busy] == 0 {
		t.Errorf("revocation lists: %v", codes)
	}
	alice := rawDevice(ctx, t, c, "a.example", "alice", func(*wire.Push) {})
	defer alice.close()
	if err := alice.ask(ctx, wire.MethodRevocationsPage, &wire.RevocationsPageRequest{Domain: "b.example"}, new(wire.RevocationsPage)); err != nil {
		t.Errorf("another user: %v", err)
	}
}
