package test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// attempt is a request that a modified client or node sends.
type attempt struct {
	request any
	want    wire.Code
}

// TestEachMethodByAStranger sends a request of each method of a session about a conversation and a user that are not
// the device's own, and each call between nodes as an organization that takes no part in the conversation. A method
// without an attempt here fails the test. The victim's data stay.
func TestEachMethodByAStranger(t *testing.T) {
	c := newCluster(t, "a.example", "b.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := newTalk(ctx, t, c, "a.example", "b.example")
	alice := w.of["a.example"]
	mallory := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer mallory.close()
	var state wire.ConversationsAnswer
	if err := alice.ask(ctx, wire.MethodConversations, nil, &state); err != nil || len(state.Conversations) != 1 {
		t.Fatal(state, err)
	}
	token := state.Conversations[0].Token
	forged := func(kind wire.Kind) *wire.Envelope {
		e := w.closing(t, 1)
		e.Signature = make([]byte, 64)
		if e.Kind = kind; kind == wire.KindCreate {
			e.Create = &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: wire.SubmissionKey{1}, Delivery: []wire.Address{{Organization: "a.example", Token: token}}}
			e.Parent = 0
		}
		return e
	}
	message := w.message(t, "of nobody")
	message.Signature = make([]byte, 64)
	ref := wire.BlobRef{Hash: wire.Hash{1}, Size: 1 << 20}
	claim := &wire.KeyMaterialRequest{ID: wire.SubmissionID(random16()), User: alice.device.User(), Suite: 1, Devices: []wire.DeviceID{alice.device}}
	of := func(list ...attempt) []attempt { return list }
	attempts := map[wire.Method][]attempt{
		wire.MethodUpload: of(
			attempt{&wire.UploadRequest{KeyPackages: []wire.UploadedKeyPackage{{Message: []byte("no KeyPackage"), Token: token}}}, wire.Malformed},
			attempt{&wire.UploadRequest{KeyPackages: make([]wire.UploadedKeyPackage, 1000)}, wire.Quota}),
		wire.MethodAddress: of(attempt{&wire.AddressRequest{Token: token}, wire.Exists}),
		wire.MethodRefuse:  of(attempt{&wire.RefuseRequest{Conversation: w.id, Token: token}, wire.NotFound}),
		wire.MethodCount:   of(attempt{nil, ""}),
		wire.MethodDiscard: of(attempt{nil, ""}),
		wire.MethodKeyMaterial: of(
			attempt{claim, wire.Denied},
			attempt{&wire.KeyMaterialRequest{ID: wire.SubmissionID(random16()), User: alice.device.User(), Suite: math.MaxUint16}, wire.NoneLeft}),
		wire.MethodUpdate:    of(attempt{forged(wire.KindClose), wire.Forged}, attempt{forged(wire.KindCreate), wire.Exists}),
		wire.MethodSubmit:    of(attempt{&message, wire.Forged}),
		wire.MethodEntries:   of(attempt{&wire.EntriesRequest{Conversation: w.id, Since: math.MaxUint64, Count: math.MaxUint32, Bytes: math.MaxUint32}, wire.UnknownConversation}),
		wire.MethodGroupInfo: of(attempt{&wire.GroupInfoRequest{Conversation: w.id}, wire.UnknownConversation}),
		wire.MethodDownload: of(
			attempt{&wire.DownloadRequest{Conversation: w.id, Blob: ref}, wire.UnknownConversation},
			attempt{&wire.DownloadRequest{Conversation: w.id, Organization: "b.example", Blob: ref, Offset: math.MaxUint64}, wire.UnknownConversation}),
		wire.MethodPutBlob:       of(attempt{&wire.PutBlobRequest{Conversation: w.id, Blob: ref, Data: []byte("x")}, wire.UnknownConversation}),
		wire.MethodConversations: of(attempt{nil, ""}),
		wire.MethodDevices:       of(attempt{nil, ""}),
		wire.MethodInvite:        of(attempt{&wire.InviteRequest{Seconds: math.MaxUint32}, wire.Invalid}),
		wire.MethodRevoke:        of(attempt{&wire.RevokeRequest{Device: alice.device}, wire.Denied}),
		wire.MethodRenew:         of(attempt{nil, ""}),
		wire.MethodOrganizations: of(attempt{nil, ""}),
		wire.MethodFeatures:      of(attempt{&wire.FeaturesRequest{Features: wire.NewFeatures("invented")}, ""}),
		wire.MethodDelivery:      of(attempt{&wire.DeliveryRequest{Conversation: w.id}, wire.UnknownConversation}),
		wire.MethodPolicy:        of(attempt{&wire.PolicyRequest{Conversation: &w.id}, wire.UnknownConversation}),
		wire.MethodWaiting:       of(attempt{&wire.WaitingRequest{Conversation: w.id}, wire.UnknownConversation}),
		wire.MethodLimits:        of(attempt{nil, ""}),
		wire.MethodRevocations:   of(attempt{&wire.RevocationsRequest{Domain: "z.example"}, wire.NotAdmitted}),
		wire.MethodOrganizationsPage: of(
			attempt{&wire.OrganizationsPageRequest{After: "zzz.example"}, ""}),
		wire.MethodRevocationsPage: of(
			attempt{&wire.RevocationsPageRequest{Domain: "a.example", Offset: math.MaxUint64, List: wire.Hash{1}}, wire.Malformed},
			attempt{&wire.RevocationsPageRequest{Domain: "z.example"}, wire.NotAdmitted}),
	}
	for _, method := range wire.Methods() {
		if len(attempts[method]) == 0 {
			t.Errorf("method %s: no attempt", method)
		}
		for i, a := range attempts[method] {
			if err := mallory.ask(ctx, method, a.request, nil); wire.CodeOf(err) != a.want {
				t.Errorf("%s, attempt %d: %v, wanted %q", method, i, err, a.want)
			}
		}
	}

	// The same as an organization without a part in the conversation.
	ev := newEvil(t, c, "mallory.example")
	later := w.message(t, "of another epoch")
	later.Epoch = math.MaxUint64
	if err := later.Sign(w.key); err != nil {
		t.Fatal(err)
	}
	for method, list := range map[wire.Method][]attempt{
		wire.CallKeyMaterial: of(
			attempt{claim, wire.Denied},
			attempt{&wire.KeyMaterialRequest{ID: wire.SubmissionID(random16()), User: "mimi://b.example/u/member", Suite: 1}, wire.NotFound}),
		wire.CallUpdate:    of(attempt{forged(wire.KindClose), wire.NotReplica}, attempt{w.closing(t, 1), wire.NotReplica}, attempt{forged(wire.KindCreate), wire.Invalid}),
		wire.CallGroupInfo: of(attempt{&wire.GroupInfoRequest{Conversation: w.id}, wire.NotReplica}),
		wire.CallDownload:  of(attempt{&wire.DownloadRequest{Conversation: w.id, Organization: "a.example", Blob: ref, Offset: math.MaxUint64}, wire.NotReplica}),
		wire.CallRevocationsPage: of(
			attempt{&wire.RevocationsPageRequest{Domain: "b.example"}, wire.NotFound},
			attempt{&wire.RevocationsPageRequest{Domain: "a.example", Offset: 1 << 62, List: wire.Hash{1}}, wire.Malformed}),
		wire.CallFeatures:    of(attempt{nil, ""}),
		wire.CallRevocations: of(attempt{nil, ""}),
		"invented":           of(attempt{nil, wire.Malformed}),
	} {
		for i, a := range list {
			if err := ev.f.CallOrganization(ctx, "a.example", method, a.request, nil); wire.CodeOf(err) != a.want {
				t.Errorf("call %s, attempt %d: %v, wanted %q", method, i, err, a.want)
			}
		}
	}
	signed := w.message(t, "of a member, by a stranger")
	if got := ev.notify(ctx, "a.example", message, signed, later); got[wire.Forged] != 1 || got[wire.NotReplica] != 1 || got[wire.Unavailable] != 1 {
		t.Errorf("messages: %v", got)
	}

	var after wire.ConversationsAnswer
	if err := alice.ask(ctx, wire.MethodConversations, nil, &after); err != nil || len(after.Conversations) != 1 || after.Conversations[0] != state.Conversations[0] {
		t.Errorf("the victim's conversations: %+v, %v; before %+v", after, err, state)
	}
	own := w.message(t, "on we go")
	if err := alice.ask(ctx, wire.MethodSubmit, &own, new(wire.Accepted)); err != nil {
		t.Error(err)
	}
	w.until(ctx, t, "the other organization has the message", func() bool { return w.got("b.example", "on we go") })
}
