package mlscore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// fuzzScene is a moment in the life of a group: bob's stored state, all later messages of the others, and the state
// that an insider needs to send more messages.
type fuzzScene struct {
	public   bool
	bob      *person // with his store of that moment
	groupID  []byte
	messages []fuzzMessage // in the order in which they were sent
	lost     [][]byte      // commits for epochs in which others were accepted
	final    []byte        // epoch authenticator after all messages
}

// fuzzMessage is a message that the others processed.
type fuzzMessage struct {
	bytes   []byte
	kind    ContentType
	past    bool   // of an epoch that had ended
	body    []byte // the content, decrypted
	tag     []byte // confirmation tag of a commit
	insider *Group // a member in the epoch of the message, with the sender's state after the message
}

// newFuzzScene runs a group through two commits after the moment of bob's store.
func newFuzzScene(t testing.TB, public bool) *fuzzScene {
	t.Helper()
	cs := MLS128X25519AES128Ed25519
	names := []string{"alice", "bob", "carol", "dave", "erin"}
	people := make([]*person, len(names))
	for i, name := range names {
		people[i] = newPerson(t, name, cs)
	}
	alice, bob, carol, dave, erin := people[0], people[1], people[2], people[3], people[4]
	members := people[:4]
	alice.create(t, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: public, Padding: PadToMultiple(32)}})
	alice.commit(t, CommitOptions{}, nil, bob, carol, dave)
	bob.commit(t, CommitOptions{}, members)
	s := &fuzzScene{public: public, bob: bob, groupID: bob.group.GroupID()}
	sent := func(from *person, msg []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		m := fuzzMessage{bytes: msg}
		reader := dave
		if from == dave {
			reader = carol
		}
		m.open(t, reader, msg)
		m.insider = must[*Group](t)(withStore(from.Client, from.store.Clone()).LoadGroup(s.groupID))
		s.messages = append(s.messages, m)
		for _, p := range members {
			if p != from && p != bob {
				p.receive(t, msg)
			}
		}
	}
	say := func(from *person) {
		t.Helper()
		msg, err := from.group.Protect([]byte("from "+string(from.id.Credential.Identity)), MessageOptions{AuthenticatedData: []byte("ad"), DespiteProposals: true})
		sent(from, msg, err)
	}
	late := must[[]byte](t)(alice.group.Protect([]byte("late"), MessageOptions{}))
	was := must[*Group](t)(withStore(alice.Client, alice.store.Clone()).LoadGroup(s.groupID))
	lateMessage := fuzzMessage{bytes: late, past: true, insider: was}
	lateMessage.open(t, dave, late)
	carol.commit(t, CommitOptions{}, members)
	s.bob = &person{Client: bob.Client, id: bob.id, store: bob.store.Clone()}
	s.messages = append(s.messages, lateMessage)
	say(alice)
	say(alice)
	say(carol)
	msg, err := carol.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	sent(carol, msg, err)
	say(alice)
	for _, from := range []*person{alice, carol} {
		loser := must[*Group](t)(withStore(dave.Client, dave.store.Clone()).LoadGroup(s.groupID))
		s.lost = append(s.lost, must[*Commit](t)(loser.Commit(CommitOptions{})).Message)
		opts := CommitOptions{}
		if from == carol {
			opts.Proposals = []Proposal{AddProposal(erin.keyPackage(t))}
		}
		c, err := from.group.Commit(opts)
		if err != nil {
			t.Fatal(err)
		}
		sent(from, c.Message, nil)
		if err := from.group.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		say(alice)
		say(dave)
	}
	s.final = alice.group.EpochAuthenticator()
	return s
}

// withStore returns a copy of a client with another store.
func withStore(c *Client, store Store) *Client {
	other := *c
	other.cfg.Store = store
	return &other
}

// open decrypts a message as a member, without consuming its key.
func (f *fuzzMessage) open(t testing.TB, as *person, msg []byte) {
	t.Helper()
	m := must[*message](t)(parseMessage(msg, codec.DefaultLimits))
	var ac *authenticatedContent
	if m.public != nil {
		ac = &m.public.authenticatedContent
	} else {
		g := as.group
		r := reading{g.suite, g.public().tree, g.public().encoded, g.state.secrets.senderData, g.state.messages, ^LeafIndex(0), g.client.cfg.Limits}
		var step *treeStep
		var err error
		if ac, step, err = r.open(m.private); err != nil {
			t.Fatal(err)
		}
		step.discard()
	}
	var w codec.Writer
	ac.content.encodeBody(&w)
	f.kind, f.body, f.tag = ac.content.kind, bytes.Clone(w.Buffer()), bytes.Clone(ac.confirmationTag)
}

// forge makes a message with any body, signed and encrypted by a member, a number of generations after the last one
// that the member has used.
func (f *fuzzMessage) forge(t testing.TB, kind ContentType, body, tag, padding []byte, after uint32, public bool) []byte {
	t.Helper()
	g := f.insider
	s, st := g.suite, g.state
	c := g.content(kind, []byte("ad"))
	var w codec.Writer
	w.Bytes(c.groupID)
	w.Uint64(c.epoch)
	c.sender.encode(&w)
	w.Bytes(c.authenticatedData)
	w.Uint8(uint8(kind))
	w.Fixed(body)
	c.encoded = w.Buffer()
	ac := &authenticatedContent{format: WireFormatPrivateMessage, content: c, confirmationTag: tag}
	if public {
		ac.format = WireFormatPublicMessage
	}
	if err := ac.sign(s, st.signer, g.public().encoded); err != nil {
		t.Fatal(err)
	}
	if public {
		m := &publicMessage{authenticatedContent: *ac}
		m.membershipTag = m.tag(s, st.secrets.membership, g.public().encoded)
		return must[[]byte](t)(encodeMessage(WireFormatPublicMessage, m.encode))
	}
	plain := codec.NewWriter(bytes.Clone(body))
	ac.encodeAuth(plain)
	plain.Fixed(padding)
	name := ratchetFor(st.self, kind)
	step := must[*treeStep](t)(st.messages.peek(name, st.messages.next(name)+after, g.client.cfg.Limits.Ratchet))
	defer step.discard()
	m := &privateMessage{groupID: c.groupID, epoch: c.epoch, kind: kind, authenticatedData: c.authenticatedData}
	var header, aad, data codec.Writer
	m.encodeHeader(&header)
	m.encodeHeader(&aad)
	aad.Bytes(m.authenticatedData)
	m.ciphertext = s.aeadSeal(step.key.key.Bytes(), step.key.nonce.Bytes(), aad.Buffer(), plain.Buffer())
	data.Uint32(uint32(st.self))
	data.Uint32(step.key.generation)
	data.Fixed(make([]byte, 4))
	key, nonce := s.senderDataKey(st.secrets.senderData, m.ciphertext)
	m.encryptedSenderData = s.aeadSeal(key.Bytes(), nonce.Bytes(), header.Buffer(), data.Buffer())
	return must[[]byte](t)(encodeMessage(WireFormatPrivateMessage, m.encode))
}

// fuzzProgram is the fuzzer's input: instructions of one byte each.
type fuzzProgram struct{ rest []byte }

func (p *fuzzProgram) byte() byte {
	if len(p.rest) == 0 {
		return 0
	}
	b := p.rest[0]
	p.rest = p.rest[1:]
	return b
}

// upTo returns a number below n.
func (p *fuzzProgram) upTo(n int) int {
	if n <= 1 {
		return 0
	}
	return int(binary.BigEndian.Uint16([]byte{p.byte(), p.byte()})) % n
}

// mutate changes bytes, and may splice in bytes of other.
func (p *fuzzProgram) mutate(b, other []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + p.upTo(3) {
		at := p.upTo(len(b) + 1)
		switch op := p.byte(); op % 6 {
		case 0, 1:
			if at < len(b) {
				b[at] ^= 1 << (op >> 5)
			}
		case 2:
			b = b[:at]
		case 3:
			b = append(b[:at], other[min(at, len(other)):]...)
		case 4:
			end := min(at+1+p.upTo(8), len(b))
			b = slices.Delete(b, min(at, len(b)), end)
		case 5:
			b = slices.Insert(b, at, p.byte(), p.byte())
		}
	}
	return b
}

// fuzzRun is the run of a program with bob as the receiver.
type fuzzRun struct {
	testing.TB
	scene *fuzzScene
	store *MemoryStore
	bob   *person
	known string       // digest after the last step
	done  map[int]bool // genuine messages that bob accepted
	forge uint32       // generations that the insider has used in addition to its own
	count map[string]int
}

// run loads bob and executes a program.
func (s *fuzzScene) run(t testing.TB, p *fuzzProgram) *fuzzRun {
	t.Helper()
	store := s.bob.store.Clone()
	r := &fuzzRun{TB: t, scene: s, store: store, done: map[int]bool{}, count: map[string]int{},
		bob: &person{Client: withStore(s.bob.Client, store), id: s.bob.id, store: store}}
	r.load()
	for len(p.rest) > 0 {
		r.step(p)
	}
	r.finish()
	return r
}

func (r *fuzzRun) load() {
	r.Helper()
	r.bob.group = must[*Group](r.TB)(r.bob.LoadGroup(r.scene.groupID))
	r.known = r.digest()
}

// digest returns a digest of bob's state, in memory and in the store.
func (r *fuzzRun) digest() string {
	r.Helper()
	h := sha256.New()
	err := r.store.Scan(nil, func(k, v []byte) error {
		fmt.Fprintf(h, "%d %d ", len(k), len(v))
		h.Write(k)
		h.Write(v)
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return fmt.Sprintf("%s\nstore %x", describeGroup(r.bob.group), h.Sum(nil))
}

// process passes bob a message. A message that fails, and a commit that is not merged, must change nothing.
func (r *fuzzRun) process(msg []byte) (*Received, error) {
	r.Helper()
	mine := bytes.Clone(msg)
	got, err := r.bob.group.Process(mine)
	if !bytes.Equal(mine, msg) {
		r.Fatal("the message was changed")
	}
	var e *Error
	if err != nil && !errors.As(err, &e) && !errors.Is(err, ErrOwnMessage) {
		r.Fatalf("an error of no kind: %v", err)
	}
	if now := r.digest(); now == r.known {
		return got, err
	} else if err != nil || got.Commit != nil {
		r.Fatalf("a message that was not taken changed the group: %v\n%s\n%s", err, r.known, now)
	} else {
		r.known = now
	}
	return got, err
}

// genuine passes bob the i-th message unchanged.
func (r *fuzzRun) genuine(i int) {
	r.Helper()
	m := r.scene.messages[i]
	got, err := r.process(m.bytes)
	switch {
	case r.done[i]:
		if err == nil && got.Commit == nil {
			r.Fatalf("message %d was taken twice", i)
		}
		return
	case err != nil:
		r.count["genuine, refused"]++
		return
	case got.Commit != nil:
		if err := r.bob.group.Merge(got.Commit); err != nil {
			r.Fatalf("message %d: %v", i, err)
		}
		r.known = r.digest()
	case got.Application != nil && !bytes.HasSuffix(m.body, got.Application.Data):
		r.Fatalf("message %d: got %q", i, got.Application.Data)
	}
	r.done[i] = true
	r.count["genuine, taken"]++
}

// step executes the next instruction of the program.
func (r *fuzzRun) step(p *fuzzProgram) {
	r.Helper()
	list := r.scene.messages
	i, j := p.upTo(len(list)), p.upTo(len(list))
	lost := r.scene.lost[j%len(r.scene.lost)]
	switch p.byte() % 9 {
	case 0, 1:
		r.genuine(i)
	case 8:
		got, err := r.process(lost)
		if err == nil && got.Commit == nil {
			r.Fatal("a commit is taken for something else")
		}
		if err == nil {
			r.count["lost commit, staged"]++
		}
	case 2, 3:
		original := list[i].bytes
		if p.byte()%4 == 0 {
			original = lost
		}
		msg := p.mutate(original, list[j].bytes)
		if bytes.Equal(msg, original) || bytes.Equal(msg, list[j].bytes) {
			return
		}
		if _, err := r.process(msg); err == nil {
			r.Fatalf("taken, and sent by nobody: %x, from message %d", msg, i)
		}
		r.count["mutated, refused"]++
	case 4, 5:
		r.insider(p, i, j)
	case 6:
		r.act(p)
	case 7:
		before := r.known
		if r.load(); r.known != before {
			r.Fatalf("another group after a restart:\n%s\n%s", before, r.known)
		}
		r.count["restart"]++
	}
}

// insider makes a member send a message like message i of the present epoch, or of a past one, with a body that is a
// mutation of a message's body.
func (r *fuzzRun) insider(p *fuzzProgram, i, j int) {
	r.Helper()
	list := r.scene.messages
	kind := list[j].kind
	if p.byte()%16 == 0 {
		kind = ContentType(p.byte())
	}
	body, tag := list[j].body, list[j].tag
	switch p.byte() % 4 {
	case 0: // the body of another message, or of the same one again
	default:
		body = p.mutate(body, list[i].body)
	}
	if p.byte()%8 == 0 {
		tag = p.mutate(append([]byte{0}, tag...), body)
	}
	public := r.scene.public
	if p.byte()%8 == 0 {
		public = !public
	}
	r.forge++
	const behind = 8 // generations of the genuine messages that follow
	msg := list[i].forge(r.TB, kind, body, tag, make([]byte, p.upTo(64)), behind+r.forge, public)
	got, err := r.process(msg)
	switch {
	case err != nil:
		r.count["forged, refused"]++
	case got.Commit == nil:
		r.count["forged "+kind.String()+", taken"]++
	case got.Commit.Own():
		r.Fatal("a forged commit is taken for bob's own")
	default:
		r.count["forged commit, staged"]++
	}
}

// act makes bob run an operation.
func (r *fuzzRun) act(p *fuzzProgram) {
	r.Helper()
	g := r.bob.group
	var err error
	switch p.byte() % 5 {
	case 0:
		_, err = g.Protect([]byte("mine"), MessageOptions{DespiteProposals: true})
	case 1:
		_, err = g.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	case 2:
		_, err = g.Commit(CommitOptions{})
	case 3:
		err = g.Abandon()
	case 4:
		_, err = g.GroupInfo(GroupInfoOptions{Tree: true, External: true})
	}
	if err != nil {
		r.Fatalf("bob can do nothing more: %v", err)
	}
	r.known = r.digest()
}

// finish passes bob all remaining messages, in order: he must reach the state of the others.
func (r *fuzzRun) finish() {
	r.Helper()
	for i, m := range r.scene.messages {
		r.genuine(i)
		if !r.done[i] {
			_, err := r.bob.group.Process(m.bytes)
			r.Fatalf("message %d, a %v, was not taken in the end: %v", i, m.kind, err)
		}
	}
	if got := r.bob.group.EpochAuthenticator(); !bytes.Equal(got, r.scene.final) {
		r.Fatalf("bob arrived at %x, the others at %x", got, r.scene.final)
	}
	r.act(&fuzzProgram{[]byte{0}})
	r.act(&fuzzProgram{[]byte{2}})
}

// FuzzGroup passes a member genuine messages in any order, twice, or not at all, messages that an attacker on the
// path has mutated, and hostile messages that a member has made with its own keys. It checks that no message causes a
// panic, that refused messages change nothing, that the member accepts only messages that a member has sent, and that
// in the end the genuine messages bring it to the state of the others.
func FuzzGroup(f *testing.F) {
	scenes := []*fuzzScene{newFuzzScene(f, false), newFuzzScene(f, true)}
	f.Add([]byte{0})
	f.Add([]byte{1})
	for op := range byte(9) { // one instruction of each kind for each message
		for i := range byte(len(scenes[0].messages)) {
			f.Add([]byte{i & 1, 0, i, 0, i + 1, op, 0, 10, i, 3, 0, i, 0, 1, op, 0, 0, 0, 200, 1})
		}
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		p := &fuzzProgram{program[:min(len(program), 400)]}
		scenes[p.byte()&1].run(t, p)
	})
}

// TestLongHostileMessages runs random programs of FuzzGroup, and checks that they reach the intended cases.
func TestLongHostileMessages(t *testing.T) {
	runs := map[string]int{"": 120, "short": 1500, "full": 30_000}[longRun(t)]
	for _, public := range []bool{false, true} {
		scene := newFuzzScene(t, public)
		random := seeded("hostile")
		total := map[string]int{}
		for range runs {
			for k, n := range scene.run(t, &fuzzProgram{drawn(t, random, 120)}).count {
				total[k] += n
			}
		}
		t.Logf("public=%v: %v", public, total)
		for _, k := range []string{"genuine, taken", "genuine, refused", "mutated, refused", "forged, refused",
			"forged application, taken", "forged proposal, taken", "lost commit, staged", "restart"} {
			if total[k] == 0 {
				t.Errorf("public=%v: no message was %s", public, k)
			}
		}
	}
}

// FuzzStoredGroup loads a group with a changed record and uses it. The result must be an error, or a group that works
// or returns errors.
func FuzzStoredGroup(f *testing.F) {
	scene := newFuzzScene(f, false)
	original := &fuzzRun{TB: f, scene: scene, store: scene.bob.store.Clone(), done: map[int]bool{}, count: map[string]int{}}
	original.bob = &person{Client: withStore(scene.bob.Client, original.store), id: scene.bob.id, store: original.store}
	original.load()
	original.genuine(2) // message 1 is skipped
	original.genuine(4)
	original.act(&fuzzProgram{[]byte{1}})
	original.act(&fuzzProgram{[]byte{2}})
	var keys [][]byte
	_ = original.store.Scan(groupPrefix(groupName{id: scene.groupID}), func(k, _ []byte) error {
		keys = append(keys, k)
		return nil
	})
	for i := range keys {
		f.Add(uint16(i), []byte{0, 0, 0, byte(7 * i), 0})
		f.Add(uint16(i), []byte{0, 1, 0, byte(11 * i), 4, 0, 0, 9, 5, 1, 1})
	}
	f.Fuzz(func(t *testing.T, which uint16, program []byte) {
		p := &fuzzProgram{program}
		store := original.store.Clone()
		key, other := keys[int(which)%len(keys)], keys[p.upTo(len(keys))]
		value, _, _ := store.Get(key)
		spare, _, _ := store.Get(other)
		var b Batch
		if p.byte()%8 == 0 { // another key
			b.delete(key)
			b.put(append(groupPrefix(groupName{id: scene.groupID}), p.mutate(key[len(groupPrefix(groupName{id: scene.groupID})):], other)...), value)
		} else {
			b.put(key, p.mutate(value, spare))
		}
		if err := store.Apply(b); err != nil {
			t.Fatal(err)
		}
		client := withStore(scene.bob.Client, store)
		g, err := client.LoadGroup(scene.groupID)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, m := range scene.messages {
			if got, err := g.Process(m.bytes); err == nil && got.Commit != nil && len(p.rest)%2 == 0 {
				_ = g.Merge(got.Commit)
			}
		}
		if s, ok := g.Pending(); ok {
			_ = g.Merge(s)
		}
		_, _ = g.Protect([]byte("mine"), MessageOptions{DespiteProposals: true})
		_, _ = g.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
		_, _ = g.Commit(CommitOptions{})
		_, _ = g.GroupInfo(GroupInfoOptions{Tree: true, External: true})
		_, _ = g.Export("fuzz", nil, 32)
	})
}
