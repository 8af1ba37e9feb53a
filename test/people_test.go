package test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// inConversation waits until a device is in a conversation with a number of members.
func inConversation(ctx context.Context, t *testing.T, id wire.ConversationID, members int, list ...*client.Device) {
	t.Helper()
	for _, d := range list {
		err := cluster.Await(ctx, d, func() (bool, error) {
			v, err := d.Conversation(ctx, id)
			if wire.CodeOf(err) == wire.UnknownConversation {
				return false, nil
			}
			return err == nil && v.State == client.StateActive && v.Members == members, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// reads waits until a device has a text.
func reads(ctx context.Context, t *testing.T, d *client.Device, id wire.ConversationID, text string) *client.Message {
	t.Helper()
	var found *client.Message
	err := cluster.Await(ctx, d, func() (bool, error) {
		page, err := d.History(ctx, id, client.Query{})
		for i := range page.Messages {
			if page.Messages[i].Content.Text == text {
				found = &page.Messages[i]
			}
		}
		return found != nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestOperatorsDeviceReadsNothing checks that a device which the operator of an organization enrols for a user
// through the control socket is in none of the user's conversations before the user confirms it.
func TestOperatorsDeviceReadsNothing(t *testing.T) {
	c := newCluster(t, "a.example", "b.example")
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Private"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	inConversation(ctx, t, id, 2, alice, bob)
	asked := make(chan client.Event, 8)
	events := alice.Subscribe(ctx)
	go func() {
		for e := range events {
			if e.Type == client.EventDeviceWaiting {
				asked <- e
			}
		}
	}()
	ghost := device(t, c, "a.example", "alice", "tablet") // alice does nothing
	select {
	case e := <-asked:
		if e.Device != "mimi://a.example/d/alice/tablet" || e.Number == "" {
			t.Errorf("asked about %+v", e)
		}
	case <-ctx.Done():
		t.Fatal("nobody was asked")
	}
	if _, err := bob.SendText(ctx, id, "a secret for alice alone"); err != nil {
		t.Fatal(err)
	}
	reads(ctx, t, alice, id, "a secret for alice alone")
	// The telephone has not added the device, and its later changes do not add it either.
	if err := alice.UpdateKeys(ctx, id); err != nil {
		t.Fatal(err)
	}
	inConversation(ctx, t, id, 2, alice, bob)
	if list, err := ghost.Conversations(ctx); len(list) != 0 || err != nil {
		t.Errorf("the ghost is in %d conversations, %v", len(list), err)
	}
	if err := cluster.Confirm(ctx, alice, ghost); err != nil {
		t.Fatal(err)
	}
	inConversation(ctx, t, id, 3, alice, bob, ghost)
	page, err := ghost.History(ctx, id, client.Query{})
	if err != nil || slices.ContainsFunc(page.Messages, func(m client.Message) bool { return m.Content.Text != "" }) {
		t.Errorf("what was said before the confirmation is read: %v, %v", page.Messages, err)
	}
}

// strangerCreates makes a device create an invented conversation with the addresses of others in it.
func strangerCreates(ctx context.Context, s *rawSession, id wire.ConversationID, list ...wire.Address) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	e := &wire.Envelope{
		Version: wire.EnvelopeVersion, Conversation: id, Kind: wire.KindCreate,
		Create: &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: wire.SubmissionKey(key.Public().(ed25519.PublicKey)), Delivery: list},
	}
	if _, err := rand.Read(e.Submission[:]); err != nil {
		return err
	}
	if err := e.Sign(key); err != nil {
		return err
	}
	return s.ask(ctx, wire.MethodUpdate, e, new(wire.Receipt))
}

// counter reads a counter of a node, named with its labels as they are printed; 0 for a counter that does not exist
// yet.
func counter(t *testing.T, at, name string) (value float64) {
	t.Helper()
	r, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			if value, err = strconv.ParseFloat(rest, 64); err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return 0
}

// TestAddressTakesOneConversation checks that a stranger who has learned an address can put its owner into only one
// conversation with it, for any number of tries, and that the owner can leave that conversation permanently.
func TestAddressTakesOneConversation(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Admin.Listen = "127.0.0.1:0" }}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	inbox, streams := 0, make(map[wire.ConversationID]int)
	victim := rawDevice(ctx, t, c, "b.example", "bob", func(p *wire.Push) {
		mu.Lock()
		defer mu.Unlock()
		if p.Conversation == nil {
			inbox++
		} else {
			streams[*p.Conversation]++
		}
	})
	defer victim.close()
	token := wire.Token{1: 1}
	if err := victim.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
		t.Fatal(err)
	}
	stranger := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer stranger.close()
	const many = 20
	for n := range many {
		id := wire.ConversationID([]byte{byte(n), 15: 1})
		if err := strangerCreates(ctx, stranger, id, wire.Address{Organization: "b.example", Token: token}); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for counter(t, c.Node("b.example").AdminAddress(), `mlsfed_directory_refused_total{reason="address_used"}`) < many-1 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not every conversation but one was refused")
		}
	}
	var list wire.ConversationsAnswer
	if err := victim.ask(ctx, wire.MethodConversations, nil, &list); err != nil || len(list.Conversations) != 1 {
		t.Fatalf("the victim reads %d conversations, %v", len(list.Conversations), err)
	}
	mu.Lock()
	if inbox > 1 || len(streams) > 1 {
		t.Errorf("%d notes in the inbox, %d streams", inbox, len(streams))
	}
	mu.Unlock()
	refuse := &wire.RefuseRequest{Conversation: list.Conversations[0].Conversation, Token: token}
	if err := stranger.ask(ctx, wire.MethodRefuse, refuse, nil); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("another device refuses in its place: %v", err)
	}
	for range 2 {
		if err := victim.ask(ctx, wire.MethodRefuse, refuse, nil); err != nil {
			t.Fatal(err)
		}
	}
	list = wire.ConversationsAnswer{}
	if err := victim.ask(ctx, wire.MethodConversations, nil, &list); err != nil || len(list.Conversations) != 0 {
		t.Errorf("the victim reads %d conversations after it refused, %v", len(list.Conversations), err)
	}
}
