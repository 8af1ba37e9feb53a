package test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

func await(t *testing.T, ctx context.Context, id wire.ConversationID, n int, list ...*client.Device) {
	t.Helper()
	for _, d := range list {
		if err := cluster.Await(ctx, d, func() (bool, error) {
			m, err := d.Members(ctx, id)
			return len(m) == n, ignore(err, wire.UnknownConversation)
		}); err != nil {
			t.Fatalf("members: %v", err)
		}
	}
}

// createWith creates a conversation with a delivery list, by hand.
func (s *rawSession) createWith(ctx context.Context, id wire.ConversationID, list ...wire.Address) error {
	_, key, _ := ed25519.GenerateKey(nil)
	slices.SortFunc(list, wire.Address.Compare)
	e := &wire.Envelope{Version: 1, Conversation: id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCreate,
		Create: &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: wire.SubmissionKey(key.Public().(ed25519.PublicKey)), Delivery: list}}
	if err := e.Sign(key); err != nil {
		return err
	}
	return s.ask(ctx, wire.MethodUpdate, e, new(wire.Receipt))
}

// shareFile sends a file and returns the description that members get.
func shareFile(ctx context.Context, d *client.Device, id wire.ConversationID, content []byte) (*client.File, error) {
	sent, err := d.SendFile(ctx, id, "file", bytes.NewReader(content), int64(len(content)), "")
	if err != nil {
		return nil, err
	}
	page, err := d.History(ctx, id, client.Query{Limit: 100})
	if err != nil {
		return nil, err
	}
	for _, m := range page.Messages {
		if m.Content.ID == sent {
			return m.Content.File, nil
		}
	}
	return nil, wire.Errorf(wire.NotFound, "file", "message %v is not in the history", sent)
}

// texts returns the texts in a device's history, with their states.
func texts(ctx context.Context, d *client.Device, id wire.ConversationID) map[string]client.Status {
	page, err := d.History(ctx, id, client.Query{Limit: 100})
	if err != nil {
		return nil
	}
	m := map[string]client.Status{}
	for _, x := range page.Messages {
		m[x.Content.Text] = x.Status
	}
	return m
}
