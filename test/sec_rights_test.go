package test

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestSecAmplify checks that a stranger's call opens no connection. An unsigned call of a member opens none either,
// and is counted.
func TestSecAmplify(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Admin.Listen = "127.0.0.1:0" }}, "a.example", "b.example", "c.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob, carol := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
	dave := device(t, c, "mallory.example", "dave", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	await(t, ctx, id, 3, alice, bob, carol)
	with, err := alice.Create(ctx, client.CreateOptions{Name: "with dave"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, with, "mimi://b.example/u/bob", "mimi://c.example/u/carol", "mimi://mallory.example/u/dave")
	await(t, ctx, with, 4, alice, bob, carol, dave)
	ev := newEvil(t, c, "mallory.example")
	const calls = 50
	var info wire.GroupInfoAnswer
	if err := ev.f.CallOrganization(ctx, "a.example", wire.CallGroupInfo, &wire.GroupInfoRequest{Conversation: with}, &info); err != nil {
		t.Fatal(err)
	}
	forged := func(id wire.ConversationID, parent wire.SequenceNumber, i int) *wire.Envelope {
		ref := func(n byte) *wire.Payload {
			return &wire.Payload{Blob: &wire.BlobRef{Hash: sha256.Sum256([]byte{byte(i), n}), Size: 1}}
		}
		return &wire.Envelope{Version: 1, Conversation: id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCommit, Epoch: info.Heads[0].Epoch, Parent: parent, Signature: make([]byte, 64),
			Commit: &wire.CommitBundle{Commit: []byte("x"), Key: wire.SubmissionKey{1}, Welcome: ref(1), Info: ref(2), Tree: ref(3)}}
	}
	for _, to := range []struct {
		id     wire.ConversationID
		parent wire.SequenceNumber
		want   wire.Code
	}{
		{id, info.Heads[0].Parent, wire.NotReplica},
		{with, info.Heads[0].Parent, wire.Forged},
		{with, 1000, wire.Invalid}, // a node that leads knows that there is no such entry
	} {
		for i := range calls {
			if err := ev.f.CallOrganization(ctx, "a.example", wire.CallUpdate, forged(to.id, to.parent, i), new(wire.Receipt)); wire.CodeOf(err) != to.want && (to.want != wire.Invalid || wire.CodeOf(err) != wire.Unavailable) {
				t.Fatalf("call %d: %v, wanted %v", i, err, to.want)
			}
		}
	}
	if n := counter(t, c.Node("a.example").AdminAddress(), `mlsfed_submissions_refused_total{reason="forged"}`); n != 50 {
		t.Errorf("%v refusals are counted, wanted 50", n)
	}
	for _, d := range []wire.Domain{"a.example", "b.example", "c.example"} {
		if n := counter(t, c.Node(d).AdminAddress(), `mlsfed_blob_streams_total`); n != 0 {
			t.Errorf("%v has opened %v streams for blobs", d, n)
		}
	}
	if err := alice.Rename(ctx, id, "y"); err != nil {
		t.Errorf("honest commits do not go on: %v", err)
	}
}

// TestSecFilesOfOthers checks that only readers of the conversation for which a file was uploaded get the file: not a
// device of the same organization that reads another conversation, and not the organization of a former member.
func TestSecFilesOfOthers(t *testing.T) {
	c := newCluster(t, "a.example", "b.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	dave := device(t, c, "mallory.example", "dave", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	add(ctx, t, alice, id, "mimi://mallory.example/u/dave")
	await(t, ctx, id, 3, alice, bob, dave)

	mallory := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer mallory.close()
	content := []byte("a file of alice's conversation")
	ref := wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
	put := func(s *rawSession, id wire.ConversationID, data []byte) (wire.PutBlobAnswer, error) {
		var a wire.PutBlobAnswer
		return a, s.ask(ctx, wire.MethodPutBlob, &wire.PutBlobRequest{Conversation: id, Blob: ref, Data: data}, &a)
	}
	if _, err := put(mallory, id, content); wire.CodeOf(err) != wire.UnknownConversation {
		t.Errorf("an upload for a conversation of others: %v", err)
	}
	// A user shares a file in a conversation; mallory has another conversation.
	own := wire.ConversationID("mallory's own talk")
	reads := func(s *rawSession, id wire.ConversationID) {
		t.Helper()
		token := wire.Token(random16())
		if err := s.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.createWith(ctx, id, wire.Address{Organization: "a.example", Token: token}); err != nil {
			t.Fatal(err)
		}
		for { // until the stream has its first entry
			err := s.ask(ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: id}, new(wire.EntriesAnswer))
			if err == nil {
				return
			}
			if wire.CodeOf(err) != wire.UnknownConversation {
				t.Fatal(err)
			}
		}
	}
	reads(mallory, own)
	eve := rawDevice(ctx, t, c, "a.example", "eve", func(*wire.Push) {})
	defer eve.close()
	talk := wire.ConversationID("eve's own talk")
	reads(eve, talk)
	if a, err := put(eve, talk, content); err != nil || a.Stored != ref.Size {
		t.Fatalf("upload: %+v (%v)", a, err)
	}
	get := func(s *rawSession, q wire.DownloadRequest) error {
		q.Blob = ref
		return s.ask(ctx, wire.MethodDownload, &q, new(wire.DownloadAnswer))
	}
	if err := get(eve, wire.DownloadRequest{Conversation: talk, Organization: "a.example"}); err != nil {
		t.Errorf("a reader: %v", err)
	}
	for name, q := range map[string]wire.DownloadRequest{
		"by its conversation":     {Conversation: talk, Organization: "a.example"},
		"by another conversation": {Conversation: own, Organization: "a.example"},
		"as what an entry names":  {Conversation: own},
	} {
		if err := get(mallory, q); wire.CodeOf(err) != wire.BlobMissing && wire.CodeOf(err) != wire.UnknownConversation {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, err := put(mallory, own, nil); err != nil || a.Stored != 0 {
		t.Errorf("the name alone binds it: %+v (%v)", a, err)
	}

	// Between organizations: a member's organization gets the file, only by its conversation; a former member's does
	// not.
	ev := newEvil(t, c, "mallory.example")
	ask := func(id wire.ConversationID, ref wire.BlobRef) error {
		return ev.f.CallOrganization(ctx, "a.example", wire.CallDownload, &wire.DownloadRequest{Conversation: id, Organization: "a.example", Blob: ref}, new(wire.DownloadAnswer))
	}
	file, err := shareFile(ctx, alice, id, []byte("for members"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(id, file.Blob); err != nil {
		t.Errorf("a member's organization: %v", err)
	}
	if err := ask(id, ref); wire.CodeOf(err) != wire.BlobMissing {
		t.Errorf("a file of another conversation: %v", err)
	}
	if err := ask(talk, ref); wire.CodeOf(err) != wire.NotReplica {
		t.Errorf("by a conversation of others: %v", err)
	}
	if err := alice.Remove(ctx, id, "mimi://mallory.example/u/dave"); err != nil {
		t.Fatal(err)
	}
	if err := ask(id, file.Blob); wire.CodeOf(err) != wire.NotReplica {
		t.Errorf("the organization of a former member: %v", err)
	}
	var back writer
	if err := bob.SaveFile(ctx, id, file, &back, 0); err != nil || string(back) != "for members" {
		t.Errorf("bob has %q (%v)", back, err)
	}
}

type writer []byte

func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
