package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
}

func public(seed byte) SubmissionKey { return SubmissionKey(key(seed).Public().(ed25519.PublicKey)) }

func address(domain Domain, n byte) Address { return Address{Organization: domain, Token: Token{n}} }

func createEnvelope() *Envelope {
	return &Envelope{
		Version: EnvelopeVersion, Conversation: "conversation-one", Submission: SubmissionID{1}, Kind: KindCreate,
		Create: &Create{
			Policy:   Policy{Handshakes: HandshakesPrivate, Voters: 5, Witness: "w.example"},
			Key:      public(1),
			Delivery: []Address{address("a.example", 1), address("b.example", 1)},
		},
	}
}

func commitEnvelope() *Envelope {
	return &Envelope{
		Version: EnvelopeVersion, Conversation: "conversation-one", Submission: SubmissionID{2}, Kind: KindCommit,
		Epoch: 3, Parent: 9,
		Commit: &CommitBundle{
			Commit: []byte("commit"), Key: public(2), Contest: true,
			Welcome:  &Payload{Inline: []byte("welcome")},
			Tree:     &Payload{Blob: &BlobRef{Hash: Hash{7}, Size: 2 << 20}},
			Delivery: DeliveryChange{Add: []Address{address("a.example", 9)}, Remove: []Address{address("b.example", 1)}},
		},
		Signature: make([]byte, 64),
	}
}

// samples returns valid values of every structure that is decoded.
func samples() map[string]any {
	proposal := &Envelope{Version: 1, Conversation: "conversation-one", Submission: SubmissionID{3}, Kind: KindProposal, Parent: 1, Proposal: []byte("p")}
	closing := &Envelope{Version: 1, Conversation: "conversation-one", Submission: SubmissionID{4}, Kind: KindClose, Parent: 1, Epoch: 2}
	replicas := &Replicas{Generation: 1, Voters: []NodeID{"n1.a.example"}, Learners: []NodeID{"n1.b.example"},
		Recovery: &Recovery{Lost: []NodeID{"n2.a.example"}, Note: "disk"}}
	all := map[string]any{
		"create": createEnvelope(), "commit": commitEnvelope(), "proposal": proposal, "close": closing,
		"entry":    &Entry{Version: 1, Time: 5, Proposer: "n1.a.example", Envelope: commitEnvelope()},
		"replicas": &Entry{Version: 1, Time: 5, Proposer: "n1.a.example", Replicas: replicas},
		"error": &Error{Code: StaleEpoch, Op: "submit", Text: "lost", Nodes: []NodeID{"n1.a.example"},
			Stale: &Stale{Epoch: 4, Head: 2, Winner: &Committed{Sequence: 2, Entry: []byte("x")}}},
	}
	maps.Copy(all, sessionSamples())
	return all
}

// empty returns a new value of v's type.
func empty(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }

func TestRoundTripAndPrefixes(t *testing.T) {
	for name, v := range samples() {
		t.Run(name, func(t *testing.T) {
			b, err := Encode(v)
			if err != nil {
				t.Fatal(err)
			}
			back := empty(v)
			if err := Decode(b, MaxEntry, back); err != nil {
				t.Fatal(err)
			}
			again, err := Encode(back)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("decoded value encodes to %x (%v), wanted %x", again, err, b)
			}
			for n := range b {
				if err := Decode(b[:n], MaxEntry, empty(v)); CodeOf(err) != Malformed {
					t.Fatalf("prefix of %d bytes: %v, wanted malformed", n, err)
				}
			}
			if err := Decode(append(b, 0), MaxEntry, empty(v)); CodeOf(err) != Malformed {
				t.Fatalf("trailing byte: %v", err)
			}
			if err := Decode(b, len(b)-1, empty(v)); CodeOf(err) != TooLarge {
				t.Fatalf("over the limit: %v", err)
			}
		})
	}
}

func TestDecodeRefusesWhatEncodeWouldNotWrite(t *testing.T) {
	cases := map[string][]byte{
		"empty":              {},
		"null":               {0xf6},
		"array for a map":    {0x80},
		"unknown key":        {0xa2, 0x01, 0x61, 'x', 0x18, 0x63, 0x00},
		"duplicate key":      {0xa2, 0x01, 0x61, 'x', 0x01, 0x61, 'y'},
		"indefinite map":     {0xbf, 0x01, 0x61, 'x', 0xff},
		"indefinite text":    {0xa1, 0x01, 0x7f, 0x61, 'x', 0xff},
		"long integer":       {0xa1, 0x18, 0x01, 0x61, 'x'},
		"long length":        {0xa1, 0x01, 0x78, 0x01, 'x'},
		"keys out of order":  {0xa2, 0x02, 0x61, 'o', 0x01, 0x61, 'x'},
		"tag":                {0xa1, 0x01, 0xc1, 0x61, 'x'},
		"float":              {0xa1, 0xf9, 0x3c, 0x00, 0x61, 'x'},
		"invalid UTF-8":      {0xa1, 0x01, 0x61, 0xff},
		"present but empty":  {0xa2, 0x01, 0x61, 'x', 0x02, 0x60},
		"huge array":         {0xa2, 0x01, 0x61, 'x', 0x05, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0},
		"huge text":          {0xa1, 0x01, 0x7b, 0, 0, 0, 1, 0, 0, 0, 0},
		"deep":               append([]byte{0xa1, 0x05}, bytes.Repeat([]byte{0x81}, 100)...),
		"text for bytes":     {0xa1, 0x01, 0x41, 'x'},
		"key of text":        {0xa1, 0x61, '1', 0x61, 'x'},
		"no code":            {0xa0},
		"case-folded string": {0xa2, 0x01, 0x61, 'x', 0x05, 0x81, 0x6c, 'N', '1', '.', 'a', '.', 'e', 'x', 'a', 'm', 'p', 'l', 'e'},
	}
	for name, b := range cases {
		if err := Decode(b, MaxError, new(Error)); CodeOf(err) != Malformed {
			t.Errorf("%s: %v, wanted malformed", name, err)
		}
	}
	if err := Decode([]byte{0xa1, 0x01, 0x61, 'x'}, MaxError, new(Error)); err != nil {
		t.Errorf("the plain form: %v", err)
	}
}

func TestEnvelopeRules(t *testing.T) {
	change := func(base *Envelope, f func(*Envelope)) *Envelope { f(base); return base }
	cases := []struct {
		name string
		e    *Envelope
		want Code
	}{
		{"later version", change(createEnvelope(), func(e *Envelope) { e.Version = 2 }), Version},
		{"short id", change(createEnvelope(), func(e *Envelope) { e.Conversation = "short" }), Malformed},
		{"long id", change(createEnvelope(), func(e *Envelope) { e.Conversation = ConversationID(strings.Repeat("x", 65)) }), Malformed},
		{"zero submission", change(createEnvelope(), func(e *Envelope) { e.Submission = SubmissionID{} }), Malformed},
		{"unknown kind", change(createEnvelope(), func(e *Envelope) { e.Kind = 9; e.Create = nil; e.Parent = 1 }), Malformed},
		{"no fields", change(createEnvelope(), func(e *Envelope) { e.Create = nil }), Malformed},
		{"fields of another kind", change(createEnvelope(), func(e *Envelope) { e.Proposal = []byte{1} }), Malformed},
		{"create in an epoch", change(createEnvelope(), func(e *Envelope) { e.Epoch = 1 }), Malformed},
		{"create after an entry", change(createEnvelope(), func(e *Envelope) { e.Parent = 1 }), Malformed},
		{"create without a key", change(createEnvelope(), func(e *Envelope) { e.Create.Key = SubmissionKey{} }), Malformed},
		{"create for nobody", change(createEnvelope(), func(e *Envelope) { e.Create.Delivery = nil }), Malformed},
		{"unsorted list", change(createEnvelope(), func(e *Envelope) { slices.Reverse(e.Create.Delivery) }), Malformed},
		{"address twice", change(createEnvelope(), func(e *Envelope) { e.Create.Delivery[1] = e.Create.Delivery[0] }), Malformed},
		{"bad domain", change(createEnvelope(), func(e *Envelope) { e.Create.Delivery[1].Organization = "z_z" }), Malformed},
		{"no policy", change(createEnvelope(), func(e *Envelope) { e.Create.Policy.Handshakes = 0 }), Malformed},
		{"even voters", change(createEnvelope(), func(e *Envelope) { e.Create.Policy.Voters = 4 }), Malformed},
		{"many voters", change(createEnvelope(), func(e *Envelope) { e.Create.Policy.Voters = 11 }), Malformed},
		{"bad witness", change(createEnvelope(), func(e *Envelope) { e.Create.Policy.Witness = "W" }), Malformed},
		{"keeps too much", change(createEnvelope(), func(e *Envelope) { e.Create.Policy.RecentBytes = 1 << 30 }), Malformed},
		{"public without GroupInfo", change(createEnvelope(), func(e *Envelope) { e.Create.Policy.Handshakes = HandshakesPublic }), Malformed},
		{"short signature", change(createEnvelope(), func(e *Envelope) { e.Signature = make([]byte, 63) }), Malformed},
		{"commit without parent", change(commitEnvelope(), func(e *Envelope) { e.Parent = 0 }), Malformed},
		{"bundle without commit", change(commitEnvelope(), func(e *Envelope) { e.Commit.Commit = nil }), Malformed},
		{"bundle without key", change(commitEnvelope(), func(e *Envelope) { e.Commit.Key = SubmissionKey{} }), Malformed},
		{"empty payload", change(commitEnvelope(), func(e *Envelope) { e.Commit.Welcome = &Payload{} }), Malformed},
		{"payload twice", change(commitEnvelope(), func(e *Envelope) { e.Commit.Tree.Inline = []byte{1} }), Malformed},
		{"empty blob", change(commitEnvelope(), func(e *Envelope) { e.Commit.Tree.Blob.Size = 0 }), TooLarge},
		{"large blob", change(commitEnvelope(), func(e *Envelope) { e.Commit.Tree.Blob.Size = MaxBlob + 1 }), TooLarge},
		{"added and removed", change(commitEnvelope(), func(e *Envelope) { e.Commit.Delivery.Remove = e.Commit.Delivery.Add }), Malformed},
	}
	for _, c := range cases {
		if err := c.e.Check(); CodeOf(err) != c.want {
			t.Errorf("%s: %v, wanted %v", c.name, err, c.want)
		}
	}
}

func TestReplicasRules(t *testing.T) {
	many := make([]NodeID, MaxReplicas+1)
	for i := range many {
		many[i] = NodeID(fmt.Sprintf("n%d.a.example", i))
	}
	for name, r := range map[string]*Replicas{
		"no voter":  {Learners: many[:1]},
		"too many":  {Voters: many},
		"twice":     {Voters: many[:1], Learners: many[:1]},
		"bad name":  {Voters: []NodeID{"n1"}},
		"long note": {Voters: many[:1], Recovery: &Recovery{Note: strings.Repeat("x", MaxNote+1)}},
	} {
		if err := r.Check(); CodeOf(err) != Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	both := &Entry{Version: 1, Proposer: "n1.a.example", Envelope: createEnvelope(), Replicas: &Replicas{Voters: many[:1]}}
	if err := both.Check(); CodeOf(err) != Malformed {
		t.Errorf("entry with both: %v", err)
	}
}

func TestSignatureCoversEveryField(t *testing.T) {
	for name, change := range map[string]func(*Envelope){
		"conversation": func(e *Envelope) { e.Conversation = "conversation-two" },
		"submission":   func(e *Envelope) { e.Submission[0]++ },
		"kind":         func(e *Envelope) { e.Kind = KindProposal },
		"epoch":        func(e *Envelope) { e.Epoch++ },
		"parent":       func(e *Envelope) { e.Parent++ },
		"commit":       func(e *Envelope) { e.Commit.Commit[0]++ },
		"welcome":      func(e *Envelope) { e.Commit.Welcome = nil },
		"tree":         func(e *Envelope) { e.Commit.Tree.Blob.Size++ },
		"key":          func(e *Envelope) { e.Commit.Key[0]++ },
		"delivery":     func(e *Envelope) { e.Commit.Delivery.Add = nil },
		"contest":      func(e *Envelope) { e.Commit.Contest = false },
		"signature":    func(e *Envelope) { e.Signature[3]++ },
		"no signature": func(e *Envelope) { e.Signature = nil },
	} {
		e := commitEnvelope()
		if err := e.Sign(key(1)); err != nil {
			t.Fatal(err)
		}
		if !e.Verify(public(1)) || e.Verify(public(2)) {
			t.Fatal("a signature verifies under its own key and no other")
		}
		if change(e); e.Verify(public(1)) {
			t.Errorf("%s: the signature still verifies", name)
		}
	}
}

func TestBindingCoversDelivery(t *testing.T) {
	base, err := commitEnvelope().Commit.Binding()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*CommitBundle){
		"add":  func(b *CommitBundle) { b.Delivery.Add[0].Token[5]++ },
		"swap": func(b *CommitBundle) { b.Delivery.Add, b.Delivery.Remove = b.Delivery.Remove, b.Delivery.Add },
	} {
		b := commitEnvelope().Commit
		change(b)
		if got, err := b.Binding(); err != nil || got == base {
			t.Errorf("%s: binding unchanged (%v)", name, err)
		}
	}
}

func TestErrorAcrossTheNetwork(t *testing.T) {
	sent := fmt.Errorf("while committing: %w", Errorf(NoQuorum, "submit", "waited %d s", 3))
	e := AsError("submit", sent)
	e.Nodes = []NodeID{"n2.b.example"}
	b, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	var got Error
	if err := Decode(b, MaxError, &got); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(&got, NoQuorum) || errors.Is(&got, Busy) || got.Error() != e.Error() || !strings.Contains(got.Error(), "n2.b.example") {
		t.Fatalf("arrived as %v, sent %v", &got, e)
	}
	if leak := AsError("submit", errors.New("/var/lib/secret")); leak.Code != Internal || strings.Contains(leak.Error(), "secret") {
		t.Fatalf("an inner error crosses as %v", leak)
	}
	if CodeOf(nil) != "" || CodeOf(fmt.Errorf("x: %w", Busy)) != Busy || AsError("x", Busy).Code != Busy {
		t.Fatal("codes of plain errors")
	}
	if long := Errorf(Busy, "x", "%s", strings.Repeat("é", maxText)); len(long.Text) > maxText || long.Check() != nil {
		t.Fatalf("long text of %d bytes: %v", len(long.Text), long.Check())
	}
}

func TestIdentifiers(t *testing.T) {
	good := []interface{ Check() error }{
		Domain("a.example"), Domain("xn--bcher-kva.example"), Domain("localhost"), NodeID("n1.a.example"),
		UserID("mimi://a.example/u/alice"), DeviceID("mimi://a.example/d/alice/phone-2"),
	}
	for _, id := range good {
		if err := id.Check(); err != nil {
			t.Errorf("%v: %v", id, err)
		}
	}
	bad := []interface{ Check() error }{
		Domain(""), Domain("A.example"), Domain("a..example"), Domain(".a"), Domain("a."), Domain("-a.b"), Domain("a-.b"), Domain("a b"),
		Domain("ä.example"), Domain(strings.Repeat("a.", 127) + "a"), Domain(strings.Repeat("a", 64)),
		NodeID("n1"), NodeID(""), NodeID("N1.a.example"),
		UserID("mimi://a.example/u/"), UserID("mimi://a.example/u/a/b"), UserID("mimi://a.example/d/alice"), UserID("http://a.example/u/alice"),
		UserID("mimi://a.example/u/Alice"), UserID("mimi://a.example/u/al%69ce"), UserID("mimi://a.example/u/.."), UserID("mimi://a.example/u/a?b"),
		UserID("mimi://a.example/u/" + strings.Repeat("x", 65)), UserID("mimi://a.example:80/u/alice"), UserID("mimi://a.example/u/a@b"),
		DeviceID("mimi://a.example/d/alice"), DeviceID("mimi://a.example/u/alice/phone"), DeviceID("mimi://a.example/d//phone"),
	}
	for _, id := range bad {
		if err := id.Check(); err == nil {
			t.Errorf("%T %q is accepted", id, id)
		}
	}
	d := DeviceID("mimi://a.example/d/alice/phone")
	if d.Organization() != "a.example" || d.User() != "mimi://a.example/u/alice" || d.Name() != "phone" || d.User().Name() != "alice" {
		t.Errorf("parts of %s: %s, %s, %s", d, d.Organization(), d.User(), d.Name())
	}
	u, err := NewUserID("a.example", "alice")
	made, err2 := NewDeviceID(u, "phone")
	if err != nil || err2 != nil || made != d {
		t.Errorf("made %s (%v, %v), wanted %s", made, err, err2, d)
	}
	if NodeID("n1.a.example").Organization() != "a.example" {
		t.Error("organization of a node")
	}
}

func TestTextFormsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Address{Organization: "a.example", Token: Token(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "token"))}
		if back, err := ParseAddress(a.String()); err != nil || back != a {
			t.Fatalf("%v became %v (%v)", a, back, err)
		}
		raw := rapid.SliceOfN(rapid.Byte(), MinConversationID, MaxConversationID).Draw(t, "id")
		id, err := NewConversationID(raw)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseConversationID(id.String()); err != nil || back != id {
			t.Fatalf("%v became %v (%v)", id, back, err)
		}
		var back ConversationID
		text, err := json.Marshal(id)
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if err != nil || back != id || string(text) != `"`+id.String()+`"` {
			t.Fatalf("%v became %v by way of %s (%v)", id, back, text, err)
		}
	})
	for _, s := range []string{"", "@a.example", "00@a.example", strings.Repeat("0", 32), strings.Repeat("g", 32) + "@a.example", strings.Repeat("A", 32) + "@a.example"} {
		if _, err := ParseAddress(s); err == nil {
			t.Errorf("address %q is accepted", s)
		}
	}
	for _, s := range []string{"", "00", strings.Repeat("0", 15), strings.Repeat("AB", 8), strings.Repeat("0", 200)} {
		if _, err := ParseConversationID(s); err == nil {
			t.Errorf("conversation id %q is accepted", s)
		}
	}
}

func TestOrderHashChains(t *testing.T) {
	a, b := []byte("a"), []byte("b")
	ab := NextOrder(NextOrder(Hash{}, a), b)
	ba := NextOrder(NextOrder(Hash{}, b), a)
	joined := NextOrder(Hash{}, []byte("ab"))
	if ab == ba || ab == joined || ba == joined {
		t.Fatal("two orders have one hash")
	}
}

func FuzzEnvelope(f *testing.F) { fuzz(f, func() any { return new(Envelope) }) }
func FuzzEntry(f *testing.F)    { fuzz(f, func() any { return new(Entry) }) }
func FuzzError(f *testing.F)    { fuzz(f, func() any { return new(Error) }) }

func fuzz(f *testing.F, fresh func() any) {
	for _, v := range samples() {
		b, err := Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := fresh()
		if Decode(b, MaxEntry, v) != nil {
			return
		}
		again, err := Encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decoded from %x, encodes to %x (%v)", b, again, err)
		}
		for n := range min(len(b), 256) {
			if Decode(b[:n], MaxEntry, fresh()) == nil {
				t.Fatalf("prefix of %d bytes of %x decodes", n, b)
			}
		}
	})
}

func BenchmarkDecodeEntry(b *testing.B) {
	e := &Entry{Version: 1, Proposer: "n1.a.example", Envelope: commitEnvelope()}
	e.Envelope.Commit.Commit = make([]byte, 4096)
	raw, err := Encode(e)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := Decode(raw, MaxEntry, new(Entry)); err != nil {
			b.Fatal(err)
		}
	}
}
