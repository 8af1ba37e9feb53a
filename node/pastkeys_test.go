package node

import (
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// keptKeys holds a conversation's entries, and the past keys that were stored for them.
type keptKeys struct {
	*pastKeys
	t       *testing.T
	entries []wire.Committed
	seq     wire.SequenceNumber
	asked   int
}

func newKeptKeys(t *testing.T, most uint64) *keptKeys {
	k := &keptKeys{t: t}
	k.pastKeys = &pastKeys{kept: memoryStore(t).Epochs(), most: most}
	return k
}

// logged is an entriesOf.
func (k *keptKeys) logged(wire.ConversationID) ([]wire.Committed, error) {
	k.asked++
	return k.entries, nil
}

// opened returns an entry that opens an epoch under the key with number key.
func (k *keptKeys) opened(epoch wire.Epoch, key int) *wire.Entry {
	e := &wire.Envelope{Conversation: talkOne, Kind: wire.KindCreate, Create: &wire.Create{Key: public(byte(key))}}
	if epoch > 0 {
		e = &wire.Envelope{Conversation: talkOne, Kind: wire.KindCommit, Epoch: epoch - 1, Parent: 1, Commit: &wire.CommitBundle{Commit: []byte("x"), Key: public(byte(key))}}
	}
	e.Version, e.Submission, e.Signature = 1, wire.SubmissionID{1}, make([]byte, 64)
	return &wire.Entry{Version: wire.EntryVersion, Proposer: "n1.a.example", Envelope: e}
}

func (k *keptKeys) add(epoch wire.Epoch, key int) {
	k.t.Helper()
	k.seq++
	if err := k.note(k.t.Context(), talkOne, k.seq, k.opened(epoch, key)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keptKeys) wants(epoch wire.Epoch, key int, known, signed bool) {
	k.t.Helper()
	m := &wire.Message{Version: 1, Conversation: talkOne, ID: wire.SubmissionID{1}, Epoch: epoch, Content: []byte("x")}
	if err := m.Sign(submissionKey(byte(key))); err != nil {
		k.t.Fatal(err)
	}
	gotKnown, gotSigned, err := k.verify(k.t.Context(), k.logged, m)
	if err != nil || gotKnown != known || gotSigned != signed {
		k.t.Errorf("epoch %d under key %d: known %v, signed %v (%v), wanted %v and %v", epoch, key, gotKnown, gotSigned, err, known, signed)
	}
}

// TestPastKeys checks that the keys of the configured number of epochs are kept, for each epoch the keys of its
// newest branches, and which messages they verify.
func TestPastKeys(t *testing.T) {
	const most = 5
	k := newKeptKeys(t, most)
	for epoch := range wire.Epoch(20) {
		k.add(epoch, 100+int(epoch))
	}
	for epoch := range wire.Epoch(20) {
		kept := epoch >= 20-most
		k.wants(epoch, 100+int(epoch), kept, kept)
		k.wants(epoch, 101+int(epoch), kept, false)
	}
	k.wants(20, 120, false, false)
	for n := range maxBranches {
		k.add(19, 200+n)
	}
	k.wants(19, 119, true, false) // the key of the oldest branch was dropped
	for n := range maxBranches {
		k.wants(19, 200+n, true, true)
	}
	if k.asked != 0 {
		t.Errorf("the log was searched %d times, though the conversation began in this build", k.asked)
	}
	if err := k.sweep(t.Context(), []wire.ConversationID{talkOne}); err != nil {
		t.Fatal(err)
	}
	k.wants(18, 118, true, true)
	if err := k.sweep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	k.wants(18, 118, false, false)
}

// TestPastKeysOfTheLog checks that the log of a conversation from before this build is searched once for keys.
func TestPastKeysOfTheLog(t *testing.T) {
	k := newKeptKeys(t, 100)
	for epoch := wire.Epoch(10); epoch < 13; epoch++ {
		raw, err := wire.Encode(k.opened(epoch, int(epoch)))
		if err != nil {
			t.Fatal(err)
		}
		k.entries = append(k.entries, wire.Committed{Sequence: wire.SequenceNumber(epoch), Entry: raw})
	}
	k.wants(9, 9, false, false)
	for epoch := wire.Epoch(10); epoch < 13; epoch++ {
		k.wants(epoch, int(epoch), true, true)
	}
	k.wants(8, 8, false, false)
	if k.asked != 1 {
		t.Errorf("the log was searched %d times", k.asked)
	}
}
