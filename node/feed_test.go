package node

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestAcknowledgeTogether checks that each acknowledgement of a call has its own outcome: those of others are stored when
// one is refused, and a device acknowledges only streams that it reads.
func TestAcknowledgeTogether(t *testing.T) {
	kept, _ := pebbletest.Memory().Running(t, mailbox.Config{})
	m := &feeds{box: kept.Mailbox(), readers: newReaders(kept.Readers(), time.Now)}
	const id wire.ConversationID = "conversation-one"
	devices := []wire.DeviceID{"mimi://a.example/d/alice/phone", "mimi://a.example/d/bob/phone", "mimi://a.example/d/carol/phone"}
	put := mailbox.Put{Stream: mailbox.Conversation(id), ID: mailbox.ID{1}, Kind: mailbox.KindEntry, Payload: []byte("entry"), Position: 1}
	var joined []store.Joined
	for i, d := range devices {
		token := wire.Token{byte(i + 1)}
		put.Join = append(put.Join, token)
		joined = append(joined, store.Joined{Device: d, Reader: store.Reader{Conversation: id, Token: token}, Since: 1})
	}
	if _, err := kept.Write(t.Context(), store.Write{Puts: []mailbox.Put{put}, Readers: joined}); err != nil {
		t.Fatal(err)
	}
	open, err := m.Open(t.Context(), devices[2])
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	of := func(d wire.DeviceID, token byte, sequence uint64) gateway.Acknowledgement {
		conversation := id
		return gateway.Acknowledgement{Device: d, Ack: wire.Ack{Conversation: &conversation, Token: wire.Token{token}, Sequence: sequence}}
	}
	errs := m.Acknowledge(t.Context(), []gateway.Acknowledgement{
		of(devices[0], 1, 1), of(devices[1], 2, 9), of(devices[1], 1, 1), of(devices[2], 3, 1), of(devices[2], 2, 1),
	})
	for i, want := range []wire.Code{"", wire.Invalid, wire.UnknownConversation, "", wire.UnknownConversation} {
		if code := wire.CodeOf(errs[i]); code != want {
			t.Errorf("acknowledgement %d: %v, want %q", i, errs[i], want)
		}
	}
	for i, want := range []uint64{1, 0, 1} {
		at, err := kept.Mailbox().ReaderStates(t.Context(), mailbox.Reader{Stream: put.Stream, Token: wire.Token{byte(i + 1)}})
		if err != nil || at[0].Acknowledged != want {
			t.Errorf("reader %d is at %+v, want %d: %v", i+1, at, want, err)
		}
	}
	if errs := m.Acknowledge(t.Context(), []gateway.Acknowledgement{of(devices[0], 9, 1)}); wire.CodeOf(errs[0]) != wire.UnknownConversation {
		t.Errorf("an unknown address: %v", errs[0])
	}
}

// slowBox refuses the acknowledgements of one reader and takes some time for each call.
type slowBox struct {
	mailbox.Box
	refused wire.Token
}

func (b slowBox) Acknowledge(ctx context.Context, acks ...mailbox.Ack) error {
	time.Sleep(10 * time.Millisecond)
	for _, a := range acks {
		if a.Token == b.refused {
			return wire.Errorf(wire.UnknownConversation, "acknowledge", "the address does not read the stream")
		}
	}
	return nil
}

// TestRefusedAcknowledgementDelaysNoOther checks that the acknowledgements of a call are not stored one after the other
// when one of them is refused.
func TestRefusedAcknowledgementDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &feeds{box: slowBox{refused: wire.Token{9}}, readers: newReaders(nil, time.Now)}
		list := make([]gateway.Acknowledgement, 256)
		for i := range list {
			conversation, token := wire.ConversationID("c"), wire.Token{byte(i % 8)}
			if i == 7 {
				token = wire.Token{9}
			}
			f := &feed{by: map[mailbox.Stream][]gateway.Stream{mailbox.Conversation("c"): {{Conversation: "c", Token: token}}}}
			list[i] = gateway.Acknowledgement{Device: wire.DeviceID(fmt.Sprint(i)), Ack: wire.Ack{Conversation: &conversation, Token: token, Sequence: 1}}
			m.readers.open(list[i].Device, f)
		}
		start := time.Now()
		for i, err := range m.Acknowledge(t.Context(), list) {
			if (i == 7) != (wire.CodeOf(err) == wire.UnknownConversation) {
				t.Errorf("acknowledgement %d: %v", i, err)
			}
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("256 acknowledgements took %v", took)
		}
	})
}
