package node

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wantCode(t *testing.T, err error, code wire.Code) {
	t.Helper()
	if wire.CodeOf(err) != code {
		t.Fatalf("%v, wanted %q", err, code)
	}
}

func submissionKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) wire.SubmissionKey {
	return wire.SubmissionKey(submissionKey(n).Public().(ed25519.PublicKey))
}

// TestMayTake checks that a message is taken when a member of the current epoch or of the one before signed it.
func TestMayTake(t *testing.T) {
	heads := []machine.Head{
		{Epoch: 5, Sequence: 9, Key: public(5), Previous: public(4)},
		{Epoch: 6, Sequence: 11, Key: public(16), Previous: public(15)}, // a contested branch that is ahead
	}
	for _, c := range []struct {
		name  string
		heads []machine.Head
		epoch wire.Epoch
		key   byte
		want  wire.Code
	}{
		{"the current epoch", heads[:1], 5, 5, ""},
		{"the one before", heads[:1], 4, 4, ""},
		{"a branch", heads, 6, 16, ""},
		{"the epoch before on a branch", heads, 5, 15, ""},
		{"another's key", heads[:1], 5, 4, wire.Forged},
		{"the wrong epoch's key", heads[:1], 4, 5, wire.Forged},
		{"two epochs before", heads[:1], 3, 3, wire.StaleEpoch},
		{"an epoch to come", heads[:1], 6, 6, wire.Unavailable},
		{"nothing is known", nil, 5, 5, wire.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &wire.Message{Version: 1, Conversation: "conversation-one", ID: wire.SubmissionID{1}, Epoch: c.epoch, Content: []byte("x")}
			if err := m.Sign(submissionKey(c.key)); err != nil {
				t.Fatal(err)
			}
			after, err := mayTake(m, c.heads)
			if c.want == "" && err == nil {
				if after != 9 && after != 11 {
					t.Fatalf("behind entry %d, wanted that of a head", after)
				}
				return
			}
			wantCode(t, err, c.want)
		})
	}
}

// TestMayAccept checks that a removal ends the epoch before it for devices, but not for messages that an organization
// had accepted.
func TestMayAccept(t *testing.T) {
	heads := []machine.Head{
		{Epoch: 5, Sequence: 9, Key: public(5), Previous: public(4), Removal: true},
		{Epoch: 5, Sequence: 11, Key: public(15), Previous: public(14)}, // a branch whose commit removed no member
	}
	for _, c := range []struct {
		name  string
		epoch wire.Epoch
		key   byte
		want  wire.Code
		takes bool // from another organization
	}{
		{"the epoch of the removal", 5, 5, "", true},
		{"the one before", 4, 4, wire.StaleEpoch, true},
		{"the one before on a branch", 4, 14, "", true},
		{"forged", 4, 5, wire.Forged, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &wire.Message{Version: 1, Conversation: "conversation-one", ID: wire.SubmissionID{1}, Epoch: c.epoch, Content: []byte("x")}
			if err := m.Sign(submissionKey(c.key)); err != nil {
				t.Fatal(err)
			}
			_, err := mayAccept(m, heads)
			wantCode(t, err, c.want)
			if _, err := mayTake(m, heads); (err == nil) != c.takes {
				t.Fatalf("from an organization: %v", err)
			}
		})
	}
}

// memoryStore returns a running store in memory.
func memoryStore(t *testing.T) store.Store {
	t.Helper()
	s, _ := pebbletest.Memory().Running(t, mailbox.Config{})
	return s
}

func TestStreamsOfDevices(t *testing.T) {
	const phone, tablet = wire.DeviceID("mimi://a.example/d/alice/phone"), wire.DeviceID("mimi://a.example/d/alice/phone2")
	now := time.Unix(1_000_000, 0)
	kept := memoryStore(t)
	s := newReaders(kept.Readers(), func() time.Time { return now })
	one, two := store.Reader{Conversation: "conversation-one", Token: wire.Token{1}}, store.Reader{Conversation: "conversation-two", Token: wire.Token{2}}
	since := wire.TimeOf(now)
	_, err := kept.Write(t.Context(), store.Write{Readers: []store.Joined{{Device: phone, Reader: one, Since: since}, {Device: phone, Reader: two, Since: since}, {Device: tablet, Reader: one, Since: since}}})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := s.kept.Of(t.Context(), phone); err != nil || len(list) != 2 || list[0] != one || list[1] != two {
		t.Fatalf("%v, %v", list, err) // and not the tokens of the device whose name begins with this name
	}
	// A reader is not forgotten because its stream does not know it yet.
	if err := s.gone(t.Context(), phone, one); err != nil {
		t.Fatal(err)
	}
	if _, err := s.since(t.Context(), phone, one); err != nil {
		t.Fatal(err)
	}
	now = now.Add(settleTime)
	if err := s.gone(t.Context(), phone, one); err != nil {
		t.Fatal(err)
	}
	_, err = s.since(t.Context(), phone, one)
	wantCode(t, err, wire.UnknownConversation)
	wantCode(t, s.gone(t.Context(), phone, one), wire.UnknownConversation)
	if list, err := s.kept.Of(t.Context(), tablet); err != nil || len(list) != 1 || list[0] != one {
		t.Fatalf("another device reads %v (%v)", list, err)
	}
}

func TestChangesOfEntries(t *testing.T) {
	a, b := wire.Address{Organization: "a.example", Token: wire.Token{1}}, wire.Address{Organization: "b.example", Token: wire.Token{2}}
	create := &wire.Entry{Envelope: &wire.Envelope{Create: &wire.Create{Delivery: []wire.Address{a, b}}}}
	commit := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Delivery: wire.DeliveryChange{Add: []wire.Address{a}, Remove: []wire.Address{b}}}}}
	if add, remove := changes(create); len(add) != 2 || len(remove) != 0 {
		t.Errorf("create: %v, %v", add, remove)
	}
	if add, remove := changes(commit); len(add) != 1 || len(remove) != 1 {
		t.Errorf("commit: %v, %v", add, remove)
	}
	for name, e := range map[string]*wire.Entry{
		"replicas": {Replicas: &wire.Replicas{}}, "proposal": {Envelope: &wire.Envelope{Proposal: []byte("p")}},
	} {
		if add, remove := changes(e); add != nil || remove != nil {
			t.Errorf("%s: %v, %v", name, add, remove)
		}
	}
	if got := tokens("b.example", []wire.Address{a, b}); len(got) != 1 || got[0] != b.Token {
		t.Errorf("tokens of b.example: %v", got)
	}
	if entryID(1) == messageID("", wire.SubmissionID{}) || entryID(1) == entryID(2) {
		t.Error("ids of items collide")
	}
}

// TestMessagesOfALaneKeepTheirOrder checks that no message behind a waiting message is taken.
func TestMessagesOfALaneKeepTheirOrder(t *testing.T) {
	answers := []error{nil, wire.Errorf(wire.Forged, "x", "no"), nil, wire.Errorf(wire.Unavailable, "x", "early"), nil, nil}
	var taken []int
	results := takeInOrder(len(answers), func(i int) error {
		taken = append(taken, i)
		return answers[i]
	})
	if len(taken) != 4 {
		t.Fatalf("took %v, wanted to stop behind message 3", taken)
	}
	for i, want := range []wire.Code{"", wire.Forged, "", wire.Unavailable, wire.Unavailable, wire.Unavailable} {
		var got wire.Code
		if results[i] != nil {
			got = results[i].Code
		}
		if got != want {
			t.Errorf("message %d: %q, wanted %q", i, got, want)
		}
	}
}
