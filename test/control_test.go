package test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestOperatorsRevokeAndRemove checks that a revoked device is cut off at once, and so are all devices of a removed
// user.
func TestOperatorsRevokeAndRemove(t *testing.T) {
	c := newCluster(t, "a.example")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	phone := rawDevice(ctx, t, c, "a.example", "alice", func(*wire.Push) {})
	if err := phone.ask(ctx, wire.MethodCount, nil, new(wire.CountAnswer)); err != nil {
		t.Fatal(err)
	}
	var users []struct {
		ID      wire.UserID
		Devices []struct{ ID wire.DeviceID }
	}
	var none struct{}
	if err := c.Control(ctx, "a.example", "/devices/revoke", map[string]any{"device": phone.device}, &none); err != nil {
		t.Fatal(err)
	}
	select {
	case <-phone.ended:
	case <-ctx.Done():
		t.Fatal("the session of a revoked device goes on")
	}
	if err := phone.conn.Close(); err != nil && !errors.Is(err, context.Canceled) {
		t.Logf("close: %v", err)
	}
	tablet := rawDevice(ctx, t, c, "a.example", "alice", func(*wire.Push) {}) // the name is free again
	if err := c.Control(ctx, "a.example", "/users/remove", map[string]any{"user": "mimi://a.example/u/alice"}, &none); err != nil {
		t.Fatal(err)
	}
	select {
	case <-tablet.ended:
	case <-ctx.Done():
		t.Fatal("the session of a removed user goes on")
	}
	_ = tablet.conn.Close()
	for name, q := range map[string]struct {
		path    string
		request map[string]any
		want    wire.Code
	}{
		"invite into another organization": {"/users/invite", map[string]any{"user": "mimi://b.example/u/bob"}, wire.Invalid},
		"invite a bad name":                {"/users/invite", map[string]any{"user": "mimi://a.example/u/Bob"}, wire.Malformed},
		"unknown field":                    {"/users/invite", map[string]any{"usr": "mimi://a.example/u/bob"}, wire.Malformed},
		"remove nobody":                    {"/users/remove", map[string]any{"user": "mimi://a.example/u/nobody"}, wire.NotFound},
		"revoke nothing":                   {"/devices/revoke", map[string]any{"device": "mimi://a.example/d/alice/none"}, wire.NotFound},
		"revoke a bad name":                {"/devices/revoke", map[string]any{"device": "alice"}, wire.Malformed},
		"recover what is not here":         {"/conversations/recover", map[string]any{"conversation": "00112233445566778899aabbccddeeff", "note": "x"}, wire.UnknownConversation},
		"drop what is not kept":            {"/conversations/drop", map[string]any{"conversation": "00112233445566778899aabbccddeeff", "number": 3}, wire.Invalid},
		"recover a bad id":                 {"/conversations/recover", map[string]any{"conversation": "xyz", "note": "x"}, wire.Malformed},
	} {
		if err := c.Control(ctx, "a.example", q.path, q.request, &users); wire.CodeOf(err) != q.want {
			t.Errorf("%s: %v, wanted %q", name, err, q.want)
		}
	}
}

// TestWhatADeviceMayNot checks that requests about other devices are refused, each with its code.
func TestWhatADeviceMayNot(t *testing.T) {
	c := newCluster(t, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	alice := rawDevice(ctx, t, c, "a.example", "alice", func(*wire.Push) {})
	defer alice.close()
	mallory := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer mallory.close()
	p := &pair{from: alice, arrived: make(chan time.Time, 1)}
	p.to = rawDevice(ctx, t, c, "b.example", "bob", p.receive)
	defer p.to.close()
	if err := p.converse(ctx); err != nil {
		t.Fatal(err)
	}
	token := wire.Token(random16())
	if err := alice.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
		t.Fatal(err)
	}
	message := &wire.Message{Version: 1, Conversation: p.id, ID: wire.SubmissionID(random16()), Content: []byte("x")}
	if err := message.Sign(submitter()); err != nil {
		t.Fatal(err)
	}
	ref := wire.BlobRef{Hash: wire.Hash{1}, Size: 1}
	for name, q := range map[string]struct {
		method  wire.Method
		request any
		want    wire.Code
	}{
		"entries of others":              {wire.MethodEntries, &wire.EntriesRequest{Conversation: p.id}, wire.UnknownConversation},
		"GroupInfo of others":            {wire.MethodGroupInfo, &wire.GroupInfoRequest{Conversation: p.id}, wire.UnknownConversation},
		"file of others":                 {wire.MethodDownload, &wire.DownloadRequest{Conversation: p.id, Organization: "a.example", Blob: ref}, wire.UnknownConversation},
		"address of another":             {wire.MethodAddress, &wire.AddressRequest{Token: token}, wire.Exists},
		"device of another":              {wire.MethodRevoke, &wire.RevokeRequest{Device: alice.device}, wire.Denied},
		"forged message":                 {wire.MethodSubmit, message, wire.Forged},
		"KeyPackages of nobody":          {wire.MethodKeyMaterial, &wire.KeyMaterialRequest{ID: wire.SubmissionID(random16()), User: "mimi://b.example/u/nobody", Suite: 1}, wire.NotFound},
		"KeyPackages of nowhere":         {wire.MethodKeyMaterial, &wire.KeyMaterialRequest{ID: wire.SubmissionID(random16()), User: "mimi://z.example/u/zoe", Suite: 1}, wire.NotAdmitted},
		"revocations of nowhere":         {wire.MethodRevocations, &wire.RevocationsRequest{Domain: "z.example"}, wire.NotAdmitted},
		"a code for too long":            {wire.MethodInvite, &wire.InviteRequest{Seconds: 25 * 3600}, wire.Invalid},
		"blob for others":                {wire.MethodPutBlob, &wire.PutBlobRequest{Conversation: p.id, Blob: wire.BlobRef{Size: wire.MaxBlob + 1}}, wire.UnknownConversation},
		"a method that is not there":     {"nothing", nil, wire.Version},
		"message of an unknown talk":     {wire.MethodSubmit, unknownMessage(t), wire.UnknownConversation},
		"revocations of an organization": {wire.MethodRevocations, &wire.RevocationsRequest{Domain: "b.example"}, ""},
		"organizations":                  {wire.MethodOrganizations, nil, ""},
		"own devices":                    {wire.MethodDevices, nil, ""},
	} {
		if err := mallory.ask(ctx, q.method, q.request, nil); wire.CodeOf(err) != q.want {
			t.Errorf("%s: %v, wanted %q", name, err, q.want)
		}
	}
}

// submitter returns a submission key of no conversation.
func submitter() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
}

func unknownMessage(t *testing.T) *wire.Message {
	t.Helper()
	m := &wire.Message{Version: 1, Conversation: "conversation-unknown", ID: wire.SubmissionID(random16()), Content: []byte("x")}
	if err := m.Sign(submitter()); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRevokedDeviceHearsWhy checks that the SDK of a revoked device ends with the reason, in its session and at its
// next login, and does not retry without end.
func TestRevokedDeviceHearsWhy(t *testing.T) {
	c := newCluster(t, "a.example")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	link, err := c.Invite(ctx, "a.example", "alice")
	if err != nil {
		t.Fatal(err)
	}
	id, err := link.DeviceID("phone")
	if err != nil {
		t.Fatal(err)
	}
	d, err := client.Open(client.Options{Store: mlscore.NewMemoryStore(), Transport: client.WebSocket(link, nil)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Enrol(ctx, client.Enrolment{Device: id, Code: link.Code, Root: link.Root}); err != nil {
		t.Fatal(err)
	}
	events := d.Subscribe(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	for e := range events {
		if e.Type == client.EventConnected {
			break
		}
	}
	var none struct{}
	if err := c.Control(ctx, "a.example", "/devices/revoke", map[string]any{"device": id}, &none); err != nil {
		t.Fatal(err)
	}
	for _, want := range []wire.CloseCode{wire.CloseRevoked, wire.CloseLogin} {
		err := <-ended
		var closed *client.CloseError
		if !errors.As(err, &closed) || closed.Code != want {
			t.Fatalf("Run ended with %v, wanted close code %d", err, want)
		}
		go func() { ended <- d.Run(ctx) }()
	}
	cancel()
	<-ended
}
