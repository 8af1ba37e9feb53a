package wire

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
)

func message() *Message {
	return &Message{Version: 1, Conversation: "conversation-one", ID: SubmissionID{7}, Epoch: 4, Content: []byte("ciphertext"), Signature: make([]byte, 64)}
}

// sessionSamples returns valid values of the types that sessions and calls between organizations carry.
func sessionSamples() map[string]any {
	id := ConversationID("conversation-one")
	ref := BlobRef{Hash: Hash{7}, Size: 9}
	return map[string]any{
		"message":    message(),
		"frame":      &Frame{Type: FrameRequest, ID: 3, Method: MethodCount, Body: []byte{0xa0}},
		"challenge":  &Challenge{Version: 1, Domain: "a.example", Nonce: Hash{1}, Time: 5},
		"login":      &Login{Device: "mimi://a.example/d/alice/phone", Signature: []byte{1}, Receive: true},
		"session":    &Session{Node: "n1.a.example", MaxFrame: MaxSessionFrame, Window: 64, Requests: 16},
		"item":       &Push{Conversation: &id, Token: Token{2}, Sequence: 8, Kind: ItemEntry, ID: SubmissionID{1}, Time: 5, Payload: []byte("x")},
		"inbox item": &Push{Sequence: 1, Kind: ItemNotice, Payload: []byte("x")},
		"gap":        &Push{Conversation: &id, Sequence: 8, GapFrom: 3},
		"limits": &LimitsAnswer{FrameBurst: 800, FrameMicros: 5000, ByteBurst: 1 << 26, ByteRate: 1 << 24, Fragments: 1024, Held: 1 << 24, Overloads: 64,
			Sessions: 8, Request: 60_000, Ping: 45_000, Idle: 112_500, Content: MaxMessage},
		"issuer":             &Issuer{URL: "https://login.a.example", Client: "mlsfed", Scopes: []string{"openid", "profile"}, Claim: "preferred_username", Flows: true},
		"flow":               &FlowRequest{Key: []byte{1}},
		"flow answer":        &FlowAnswer{Flow: Token{1}, Code: "BCDF-GHJK", URL: "https://login.a.example/device", Complete: "https://login.a.example/device?user_code=BCDF-GHJK", Interval: 5000, Ends: 9},
		"flow poll":          &FlowPoll{Flow: Token{1}},
		"flow state":         &FlowState{User: "mimi://a.example/u/alice", Interval: 5000},
		"ack":                &Ack{Conversation: &id, Token: Token{2}, Sequence: 8},
		"joined":             &Joined{Conversation: id, Token: Token{2}, Sequence: 4},
		"notice":             &Notice{Type: NoticeKeyPackages, Suite: 1, Left: 3},
		"missed":             &Missed{Conversation: id, Organization: "c.example", More: true},
		"undelivered":        &Undelivered{Organization: "b.example", Reason: LossExpired, IDs: []SubmissionID{{1}, {2}}},
		"upload":             &UploadRequest{KeyPackages: []UploadedKeyPackage{{Message: []byte("m"), Token: Token{1}}}},
		"address":            &AddressRequest{Token: Token{4}},
		"count":              &CountAnswer{Counts: []KeyPackageCount{{Suite: 1, Left: 3, LastResort: true}}},
		"keyMaterial":        &KeyMaterialRequest{ID: SubmissionID{1}, User: "mimi://a.example/u/alice", Suite: 1},
		"material":           &KeyMaterialAnswer{Devices: []KeyMaterial{{Device: "mimi://a.example/d/alice/phone", Address: address("a.example", 1), Message: []byte("m")}}},
		"entries":            &EntriesAnswer{Entries: []Committed{{Sequence: 2, Entry: []byte("x")}}, Gap: true},
		"groupInfo":          &GroupInfoAnswer{Heads: []GroupInfo{{Epoch: 1, Parent: 2, Info: &Payload{Inline: []byte("i")}, Tree: &Payload{Blob: &ref}}}},
		"download":           &DownloadRequest{Conversation: id, Organization: "a.example", Blob: ref, Offset: 4},
		"putBlob":            &PutBlobRequest{Conversation: id, Blob: ref, Data: []byte("x")},
		"states":             &ConversationsAnswer{Conversations: []ConversationState{{Conversation: id, Token: Token{1}, Acknowledged: 2, End: 3}}},
		"devices":            &DevicesAnswer{Devices: []DeviceInfo{{ID: "mimi://a.example/d/alice/phone", Key: []byte("k")}}},
		"policyOf":           &PolicyRequest{Conversation: &id},
		"policy":             &PolicyAnswer{Policy: Policy{Handshakes: HandshakesPrivate, Voters: 3, Witness: "w.example"}},
		"waitingOf":          &WaitingRequest{Conversation: id},
		"waiting":            &WaitingAnswer{Lanes: []WaitingLane{{Organization: "b.example", Items: 2, Oldest: 3, First: []SubmissionID{{1}, {2}}, Last: 4, Code: Unavailable}}},
		"organizationsOf":    &OrganizationsPageRequest{After: "a.example", Known: Hash{1}},
		"organizations page": &OrganizationsPage{List: Hash{1}, Organizations: []Organization{{Domain: "a.example", Root: []byte("r")}, {Domain: "b.example", Root: []byte("r")}}, More: true},
		"revocationsOf":      &RevocationsPageRequest{Domain: "a.example", List: Hash{1}, Offset: 3},
		"revocations page":   &RevocationsPage{List: Hash{1}, Size: 4, Offset: 3, Part: []byte("x")},
		"chain":              &ChainAnswer{Chain: [][]byte{[]byte("leaf"), []byte("root")}},
		"roots":              &OrganizationsAnswer{Organizations: []Organization{{Domain: "a.example", Root: []byte("r")}}},
		"enrol":              &EnrolRequest{Device: "mimi://a.example/d/alice/phone", Key: []byte("k"), Proof: []byte("p"), Code: "c"},
		"notify":             &NotifyRequest{Messages: []Message{*message()}},
		"notified":           &NotifyAnswer{Results: []*Error{nil, {Code: Busy}}},
	}
}

func waitingOf(change func(*WaitingLane)) *WaitingAnswer {
	l := WaitingLane{Organization: "b.example", Items: 1, First: []SubmissionID{{1}}}
	change(&l)
	return &WaitingAnswer{Lanes: []WaitingLane{l}}
}

func TestSessionRules(t *testing.T) {
	sign := func(change func(*Message)) *Message { m := message(); change(m); return m }
	cases := map[string]struct {
		v    Checker
		want Code
	}{
		"message of a later version":    {sign(func(m *Message) { m.Version++ }), Version},
		"message with a short id":       {sign(func(m *Message) { m.Conversation = "short" }), Malformed},
		"message without id":            {sign(func(m *Message) { m.ID = SubmissionID{} }), Malformed},
		"empty message":                 {sign(func(m *Message) { m.Content = nil }), Malformed},
		"largest message":               {sign(func(m *Message) { m.Content = make([]byte, MaxMessage) }), ""},
		"message over the limit":        {sign(func(m *Message) { m.Content = make([]byte, MaxMessage+1) }), TooLarge},
		"unsigned message":              {sign(func(m *Message) { m.Signature = nil }), Malformed},
		"most ids that wait":            {waitingOf(func(l *WaitingLane) { l.Items, l.First = MaxWaiting, make([]SubmissionID, MaxWaiting) }), ""},
		"too many ids that wait":        {waitingOf(func(l *WaitingLane) { l.Items, l.First = MaxWaiting+1, make([]SubmissionID, MaxWaiting+1) }), Malformed},
		"more ids than items":           {waitingOf(func(l *WaitingLane) { l.Items, l.First = 1, make([]SubmissionID, 2) }), Malformed},
		"waiting for nobody":            {waitingOf(func(l *WaitingLane) { l.Organization = "" }), Malformed},
		"waiting with a bad code":       {waitingOf(func(l *WaitingLane) { l.Code = "a b" }), Malformed},
		"most organizations that wait":  {&WaitingAnswer{Lanes: slices.Repeat([]WaitingLane{{Organization: "b.example"}}, maxWaitingLanes)}, ""},
		"too many that wait":            {&WaitingAnswer{Lanes: slices.Repeat([]WaitingLane{{Organization: "b.example"}}, maxWaitingLanes+1)}, TooLarge},
		"policy of even voters":         {&PolicyAnswer{Policy: Policy{Handshakes: HandshakesPrivate, Voters: 2}}, Malformed},
		"frame of no type":              {&Frame{}, Malformed},
		"frame of an unknown type":      {&Frame{Type: FrameAlarm + 1}, Malformed},
		"request without a method":      {&Frame{Type: FrameRequest, ID: 1}, Malformed},
		"request without an id":         {&Frame{Type: FrameRequest, Method: MethodCount}, Malformed},
		"push with a method":            {&Frame{Type: FramePush, Method: MethodCount}, Malformed},
		"long method":                   {&Frame{Type: FrameRequest, ID: 1, Method: Method(strings.Repeat("x", maxMethod+1))}, Malformed},
		"challenge of a later version":  {&Challenge{Version: 2, Domain: "a.example"}, Version},
		"challenge of nobody":           {&Challenge{Version: 1}, Malformed},
		"login of nobody":               {&Login{Signature: []byte{1}}, Malformed},
		"login without signature":       {&Login{Device: "mimi://a.example/d/alice/phone"}, Malformed},
		"session without room":          {&Session{MaxFrame: 1, Window: 1}, Malformed},
		"item without a place":          {&Push{Kind: ItemEntry}, Malformed},
		"item and gap":                  {&Push{Sequence: 2, Kind: ItemEntry, GapFrom: 1}, Malformed},
		"gap that ends before it began": {&Push{Sequence: 2, GapFrom: 3}, Malformed},
		"gap with content":              {&Push{Sequence: 2, GapFrom: 1, Payload: []byte{1}}, Malformed},
		"ack of nothing":                {&Ack{}, Malformed},
		"alarm about nothing":           {&Alarm{Reason: "diverged"}, Malformed},
		"alarm of an escape sequence":   {&Alarm{Conversation: "conversation-one", Reason: "\x1b[2J"}, Malformed},
		"alarm with a long text":        {&Alarm{Conversation: "conversation-one", Reason: "diverged", Text: strings.Repeat("x", MaxAlarm+1)}, Malformed},
		"joined by nothing":             {&Joined{Conversation: "conversation-one"}, Malformed},
		"notice of nothing":             {&Notice{}, Malformed},
		"nothing undelivered":           {&Undelivered{Organization: "b.example", Reason: LossExpired}, Malformed},
		"too much undelivered":          {&Undelivered{Organization: "b.example", Reason: LossExpired, IDs: make([]SubmissionID, MaxUndelivered+1)}, Malformed},
		"undelivered for no reason":     {&Undelivered{Organization: "b.example", IDs: make([]SubmissionID, MaxUndelivered)}, Malformed},
		"undelivered for a new reason":  {&Undelivered{Organization: "b.example", Reason: LossDamaged + 1, IDs: make([]SubmissionID, 1)}, Malformed},
		"address of the inbox":          {&AddressRequest{}, Malformed},
		"claim without id":              {&KeyMaterialRequest{User: "mimi://a.example/u/alice"}, Malformed},
		"claim of another's":            {&KeyMaterialRequest{ID: SubmissionID{1}, User: "mimi://a.example/u/alice", Devices: []DeviceID{"mimi://a.example/d/bob/phone"}}, Malformed},
		"claim of one twice":            {&KeyMaterialRequest{ID: SubmissionID{1}, User: "mimi://a.example/u/alice", Devices: []DeviceID{"mimi://a.example/d/alice/phone", "mimi://a.example/d/alice/phone"}}, Malformed},
		"claim of nobody":               {&KeyMaterialRequest{ID: SubmissionID{1}}, Malformed},
		"organizations behind no name":  {&OrganizationsPageRequest{After: "no name"}, Malformed},
		"an empty page before others":   {&OrganizationsPage{More: true}, Malformed},
		"organizations out of order":    {&OrganizationsPage{Organizations: []Organization{{Domain: "b.example"}, {Domain: "a.example"}}}, Malformed},
		"an organization twice":         {&OrganizationsPage{Organizations: []Organization{{Domain: "b.example"}, {Domain: "b.example"}}}, Malformed},
		"revocations of nobody":         {&RevocationsPageRequest{}, Malformed},
		"revocations behind any list":   {&RevocationsPageRequest{Domain: "a.example", List: Hash{1}, Offset: MaxRevocationList + 1}, Malformed},
		"revocations behind no list":    {&RevocationsPageRequest{Domain: "a.example", Offset: 1}, Malformed},
		"the last revocations":          {&RevocationsPage{Size: MaxRevocationList, Offset: MaxRevocationList - 1, Part: []byte{1}}, ""},
		"revocations that are there":    {&RevocationsPage{Size: 1, Offset: 1}, ""},
		"an empty list of revocations":  {&RevocationsPage{}, Malformed},
		"no revocations before others":  {&RevocationsPage{Size: 2, Offset: 1}, Malformed},
		"revocations behind the list":   {&RevocationsPage{Size: 2, Offset: 1, Part: make([]byte, 2)}, Malformed},
		"revocations over the limit":    {&RevocationsPage{Size: MaxRevocationList + 1, Part: []byte{1}}, Malformed},
		"enrolment without a code":      {&EnrolRequest{Device: "mimi://a.example/d/alice/phone"}, Malformed},
		"enrolment in two ways":         {&EnrolRequest{Device: "mimi://a.example/d/alice/phone", Code: "c", Token: "t"}, Malformed},
		"notify with a bad message":     {&NotifyRequest{Messages: []Message{{}}}, Version},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		if err := cases[name].v.Check(); CodeOf(err) != cases[name].want {
			t.Errorf("%s: %v, wanted %q", name, err, cases[name].want)
		}
	}
}

func TestMessageSignatureCoversEveryField(t *testing.T) {
	for name, change := range map[string]func(*Message){
		"conversation": func(m *Message) { m.Conversation = "conversation-two" }, "id": func(m *Message) { m.ID[0]++ },
		"epoch": func(m *Message) { m.Epoch++ }, "content": func(m *Message) { m.Content[0]++ },
		"signature": func(m *Message) { m.Signature[3]++ }, "no signature": func(m *Message) { m.Signature = nil },
	} {
		m := message()
		if err := m.Sign(key(1)); err != nil {
			t.Fatal(err)
		}
		if !m.Verify(public(2), public(1)) || m.Verify(public(2)) || m.Verify() {
			t.Fatal("a signature verifies under its own key and no other")
		}
		if change(m); m.Verify(public(1)) {
			t.Errorf("%s: the signature still verifies", name)
		}
	}
}

func TestLoginInputIsOfOneConnection(t *testing.T) {
	const phone = DeviceID("mimi://a.example/d/alice/phone")
	c := Challenge{Version: 1, Domain: "a.example", Nonce: Hash{1}}
	base, err := c.LoginInput(phone)
	if err != nil {
		t.Fatal(err)
	}
	other := c
	other.Domain = "b.example"
	again := c
	again.Nonce[31]++
	for name, got := range map[string]func() ([]byte, error){
		"organization": func() ([]byte, error) { return other.LoginInput(phone) },
		"connection":   func() ([]byte, error) { return again.LoginInput(phone) },
		"device":       func() ([]byte, error) { return c.LoginInput("mimi://a.example/d/alice/laptop") },
	} {
		if b, err := got(); err != nil || bytes.Equal(b, base) {
			t.Errorf("another %s is signed alike (%v)", name, err)
		}
	}
}

// FuzzSession decodes each structure of a session; the first byte selects the structure.
func FuzzSession(f *testing.F) {
	all := sessionSamples()
	names := slices.Sorted(maps.Keys(all))
	for i, name := range names {
		b, err := Encode(all[name])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte{byte(i)}, b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		v := empty(all[names[int(b[0])%len(names)]])
		if b = b[1:]; Decode(b, MaxSessionFrame, v) != nil {
			return
		}
		again, err := Encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decoded from %x, encodes to %x (%v)", b, again, err)
		}
	})
}
