package node

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

func testBindings(t *testing.T) store.Bindings { return memoryStore(t).Bindings() }

const (
	talkOne wire.ConversationID = "conversation-one"
	talkTwo wire.ConversationID = "conversation-two"
)

// TestFileIsOneConversations checks that a node returns a file only for the conversation for which it was uploaded. A
// device that knows only the name of a file cannot bind it to another conversation; a device that has the content
// can.
func TestFileIsOneConversations(t *testing.T) {
	f := openTestFiles(t, 1<<20, 1<<30)
	content := bytes.Repeat([]byte("file"), 1000)
	ref := refOf(content)
	put := func(id wire.ConversationID, data []byte, offset uint64) (*wire.PutBlobAnswer, error) {
		return f.put(t.Context(), mallory, &wire.PutBlobRequest{Conversation: id, Blob: ref, Data: data, Offset: offset})
	}
	if a, err := put(talkOne, content, 0); err != nil || a.Stored != ref.Size {
		t.Fatalf("upload: %+v (%v)", a, err)
	}
	if _, err := f.get(t.Context(), talkOne, ref, 0); err != nil {
		t.Fatal(err)
	}
	_, err := f.get(t.Context(), talkTwo, ref, 0)
	wantCode(t, err, wire.BlobMissing)
	if a, err := put(talkTwo, nil, 0); err != nil || a.Stored != 0 {
		t.Fatalf("without the content: %+v (%v)", a, err)
	}
	_, err = put(talkTwo, bytes.Repeat([]byte("lie!"), 1000), 0)
	wantCode(t, err, wire.Invalid)
	_, err = f.get(t.Context(), talkTwo, ref, 0)
	wantCode(t, err, wire.BlobMissing)
	if a, err := put(talkOne, nil, 0); err != nil || a.Stored != ref.Size {
		t.Fatalf("again for the first conversation: %+v (%v)", a, err)
	}
	if a, err := put(talkTwo, content[:1000], 0); err != nil || a.Stored != 1000 {
		t.Fatalf("a part of the content: %+v (%v)", a, err)
	}
	_, err = f.get(t.Context(), talkTwo, ref, 0)
	wantCode(t, err, wire.BlobMissing)
	if a, err := put(talkTwo, content[1000:], 1000); err != nil || a.Stored != ref.Size {
		t.Fatalf("the rest of it: %+v (%v)", a, err)
	}
	for _, id := range []wire.ConversationID{talkOne, talkTwo} {
		if _, err := f.get(t.Context(), id, ref, 0); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestNoForeignFileIsLent checks that an entry cannot name a file of another conversation to obtain it.
func TestNoForeignFileIsLent(t *testing.T) {
	f := openTestFiles(t, 1<<20, 1<<30)
	content := []byte("file of conversation one")
	ref := refOf(content)
	if _, err := f.put(t.Context(), mallory, &wire.PutBlobRequest{Conversation: talkOne, Blob: ref, Data: content}); err != nil {
		t.Fatal(err)
	}
	e := &wire.Envelope{Conversation: talkTwo, Kind: wire.KindCommit, Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}
	wantCode(t, f.lend(t.Context(), nil, mallory, e), wire.BlobMissing)
}

// TestFileOfTheFormerBuild checks that a node returns a file without a binding as before, and does not bind it.
func TestFileOfTheFormerBuild(t *testing.T) {
	f := openTestFiles(t, 1<<20, 1<<30)
	content := []byte("stored by the build before")
	ref := refOf(content)
	if err := f.kept.Put(t.Context(), "", ref, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []wire.ConversationID{talkOne, talkTwo} {
		if _, err := f.get(t.Context(), id, ref, 0); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if a, err := f.put(t.Context(), mallory, &wire.PutBlobRequest{Conversation: id, Blob: ref}); err != nil || a.Stored != ref.Size {
			t.Errorf("upload for %s: %+v (%v)", id, a, err)
		}
	}
}
