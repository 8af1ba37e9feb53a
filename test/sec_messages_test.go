package test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// notify sends messages of mallory.example to an organization, and counts the answers by their code.
func (e *evil) notify(ctx context.Context, to wire.Domain, list ...wire.Message) map[wire.Code]int {
	e.t.Helper()
	var a wire.NotifyAnswer
	if err := e.f.CallOrganization(ctx, to, wire.CallNotify, &wire.NotifyRequest{Messages: list}, &a); err != nil {
		e.t.Fatal(err)
	}
	codes := make(map[wire.Code]int)
	for _, r := range a.Results {
		if r == nil {
			codes[""]++
			continue
		}
		codes[r.Code]++
	}
	return codes
}

// TestSecUnsigned checks that an organization that takes part cannot store an unsigned message in another
// organization's streams, for any epoch that the message names, and that the others' messages continue.
func TestSecUnsigned(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Admin.Listen, cfg.Mailbox.PastEpochs = "127.0.0.1:0", 3 }}, "a.example", "b.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	alice, bob, dave := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "mallory.example", "dave", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	add(ctx, t, alice, id, "mimi://mallory.example/u/dave")
	await(t, ctx, id, 3, alice, bob, dave)
	for _, name := range []string{"x", "y", "z"} {
		if err := alice.Rename(ctx, id, name); err != nil {
			t.Fatal(err)
		}
	}
	epoch := func() wire.Epoch {
		v, err := bob.Conversation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return v.Epoch
	}
	if err := cluster.Await(ctx, bob, func() (bool, error) { return epoch() >= 5, nil }); err != nil {
		t.Fatal(err)
	}
	ev := newEvil(t, c, "mallory.example")
	for _, x := range []struct {
		name  string
		epoch wire.Epoch
		want  wire.Code
	}{
		{"the first epoch", 0, wire.StaleEpoch},
		{"the last one whose key is not kept", epoch() - 3, wire.StaleEpoch},
		{"the first one whose key is kept", epoch() - 2, wire.Forged},
		{"the epoch before", epoch() - 1, wire.Forged},
		{"the current epoch", epoch(), wire.Forged},
	} {
		var list []wire.Message
		for range 100 {
			list = append(list, wire.Message{Version: 1, Conversation: id, ID: wire.SubmissionID(random16()), Epoch: x.epoch, Content: []byte("junk that nobody signed"), Signature: make([]byte, 64)})
		}
		if got := ev.notify(ctx, "b.example", list...); got[x.want] != 100 {
			t.Errorf("%s: %v, wanted %v", x.name, got, x.want)
		}
	}
	at := c.Node("b.example").AdminAddress()
	for reason, want := range map[wire.Code]float64{wire.Forged: 300, wire.StaleEpoch: 200} {
		if n := counter(t, at, `mlsfed_messages_refused_total{reason="`+string(reason)+`"}`); n != want {
			t.Errorf("%v refusals for %q are counted, wanted %v", n, reason, want)
		}
	}
	if _, err := alice.SendText(ctx, id, "to bob"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Await(ctx, bob, func() (bool, error) { return texts(ctx, bob, id)["to bob"] == client.StatusReceived, nil }); err != nil {
		t.Fatal(err)
	}
}

// TestSecShareOfAStream checks that an organization with a member that signs arbitrary messages can fill only its
// share of another organization's stream: the others' messages continue.
func TestSecShareOfAStream(t *testing.T) {
	const items = 60
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Mailbox.Items = items }}, "a.example", "b.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := wire.ConversationID("a conversation of three")
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var list []wire.Address
	raw := map[wire.Domain]*rawSession{}
	for _, d := range []wire.Domain{"a.example", "b.example", "mallory.example"} {
		s := rawDevice(ctx, t, c, d, "user", func(*wire.Push) {})
		s.greedy = true
		defer s.close()
		raw[d] = s
		a := wire.Address{Organization: d, Token: wire.Token(random16())}
		if err := s.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: a.Token}, nil); err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	slices.SortFunc(list, wire.Address.Compare)
	e := &wire.Envelope{Version: 1, Conversation: id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCreate,
		Create: &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: wire.SubmissionKey(key.Public().(ed25519.PublicKey)), Delivery: list}}
	if err := e.Sign(key); err != nil {
		t.Fatal(err)
	}
	if err := raw["a.example"].ask(ctx, wire.MethodUpdate, e, new(wire.Receipt)); err != nil {
		t.Fatal(err)
	}
	end := func(d wire.Domain) uint64 {
		var a wire.ConversationsAnswer
		if err := raw[d].ask(ctx, wire.MethodConversations, nil, &a); err != nil {
			t.Fatal(err)
		}
		if len(a.Conversations) == 0 {
			return 0
		}
		return a.Conversations[0].End
	}
	// polled polls: raw devices have no events. It stays below the session's rate of frames.
	polled := func(what string, f func() bool) {
		t.Helper()
		until(ctx, t, what, func() error {
			if !f() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	polled("b.example has the first entry", func() bool { return end("b.example") > 0 })
	began := end("b.example")
	message := func() wire.Message {
		m := wire.Message{Version: 1, Conversation: id, ID: wire.SubmissionID(random16()), Content: []byte("signed by a member")}
		if err := m.Sign(key); err != nil {
			t.Fatal(err)
		}
		return m
	}
	ev := newEvil(t, c, "mallory.example")
	var flood []wire.Message
	for range 3 * items {
		flood = append(flood, message())
	}
	got := ev.notify(ctx, "b.example", flood...)
	if got[""] != items/3 || got[wire.Busy] != 3*items-items/3 {
		t.Errorf("of %d messages: %v, wanted %d taken", len(flood), got, items/3)
	}
	for range items / 4 {
		m := message()
		if err := raw["a.example"].ask(ctx, wire.MethodSubmit, &m, new(wire.Accepted)); err != nil {
			t.Fatal(err)
		}
	}
	polled("b.example has a.example's messages", func() bool { return end("b.example") >= began+items/3+items/4 })
}

// TestLateMessageIsTaken checks that an organization which comes back many epochs later accepts a message that
// another organization had accepted: the signature is verified with the key of its epoch, which the log's state has
// forgotten.
func TestLateMessageIsTaken(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Admin.Listen = "127.0.0.1:0" }}, "a.example", "b.example", "c.example")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	alice, bob, carol := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	await(t, ctx, id, 3, alice, bob, carol)
	awaitReplicas(t, ctx, c, id, []wire.Domain{"a.example"}, 3, 0) // else the others have no majority without b
	if err := c.Stop("b.example"); err != nil {
		t.Fatal(err)
	}
	sent := map[string]client.Status{}
	for _, text := range []string{"one", "two", "three", "four", "five"} {
		if _, err := alice.SendText(ctx, id, text); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Await(ctx, alice, func() (bool, error) { return texts(ctx, alice, id)[text] == client.StatusAccepted, nil }); err != nil {
			t.Fatal(err)
		}
		if err := alice.Rename(ctx, id, text); err != nil {
			t.Fatal(err)
		}
		sent[text] = client.StatusReceived
	}
	if err := c.Start(ctx, "b.example"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Await(ctx, bob, func() (bool, error) {
		have := texts(ctx, bob, id)
		for text, status := range sent {
			if have[text] != status {
				return false, nil
			}
		}
		return true, nil
	}); err != nil {
		t.Fatalf("bob has %v: %v", texts(ctx, bob, id), err)
	}
	for _, reason := range []wire.Code{wire.Forged, wire.StaleEpoch} {
		if n := counter(t, c.Node("b.example").AdminAddress(), `mlsfed_messages_refused_total{reason="`+string(reason)+`"}`); n != 0 {
			t.Errorf("%v messages were refused for %q", n, reason)
		}
	}
}
