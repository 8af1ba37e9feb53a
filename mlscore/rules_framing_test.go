package mlscore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// allMessages returns one honest message of each wire format, and the newcomer for whom the Welcome is.
func allMessages(t *testing.T) (map[WireFormat][]byte, *lab, *person) {
	t.Helper()
	l := newLab(t, true, labOptions{})
	alice, dave := l.people[0], l.person("dave")
	kp := dave.keyPackage(t)
	c := must[*Commit](t)(alice.group.Commit(CommitOptions{
		Proposals:   []Proposal{AddProposal(kp)},
		WelcomeInfo: GroupInfoOptions{Tree: true},
		GroupInfo:   GroupInfoOptions{Tree: true, External: true},
	}))
	return map[WireFormat][]byte{
		WireFormatPublicMessage:  c.Message,
		WireFormatPrivateMessage: must[[]byte](t)(alice.group.Protect([]byte("hello"), MessageOptions{})),
		WireFormatWelcome:        c.Welcome,
		WireFormatGroupInfo:      c.GroupInfo,
		WireFormatKeyPackage:     must[[]byte](t)(kp.Message()),
	}, l, dave
}

// TestRulesEncoding checks the strict rules of the presentation language (RFC 9420 §2.1).
func TestRulesEncoding(t *testing.T) {
	messages, l, _ := allMessages(t)
	kp := messages[WireFormatKeyPackage]
	const initKey = 8 // offset of the length of init_key: after two versions, format and suite
	if kp[initKey] != 32 {
		t.Fatalf("init_key has length octet %#x", kp[initKey])
	}
	for _, c := range []struct {
		name string
		msg  []byte
		want want
	}{
		{
			"§2.1.2 a vector length that is not in its shortest form, 2 octets",
			slices.Concat(kp[:initKey], []byte{0x40, 32}, kp[initKey+1:]),
			want{kind: ErrMalformed, clause: "§2.1.2", say: "shortest form"},
		},
		{
			"§2.1.2 a vector length that is not in its shortest form, 4 octets",
			slices.Concat(kp[:initKey], []byte{0x80, 0, 0, 32}, kp[initKey+1:]),
			want{kind: ErrMalformed, clause: "§2.1.2", say: "shortest form"},
		},
		{
			"§2.1.2 a vector length with the prefix 11",
			slices.Concat(kp[:initKey], []byte{0xc0, 0, 0, 0, 0, 0, 0, 32}, kp[initKey+1:]),
			want{kind: ErrMalformed, clause: "§2.1.2", say: "prefix 11"},
		},
		{
			"§2.1.2 a vector longer than the message",
			slices.Concat(kp[:initKey], []byte{0xbf, 0xff, 0xff, 0xff}, kp[initKey+1:]),
			want{kind: ErrMalformed, say: "input ends early"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseKeyPackage(c.msg)
			c.want.match(t, err)
		})
	}
	t.Run("§2.1.1 a presence octet that is neither 0 nor 1", func(t *testing.T) {
		tree := must[[]byte](t)(l.people[0].group.public().tree.marshal())
		r := codec.NewReader(tree, codec.Limits{})
		r.Varint()
		at := len(tree) - r.Len()
		if tree[at] != 1 {
			t.Fatal("leaf 0 is not there")
		}
		for _, octet := range []byte{2, 0x80, 0xff} {
			bad := bytes.Clone(tree)
			bad[at] = octet
			_, err := parseTree(l.people[0].group.suite, labAuth{}, bad, codec.DefaultLimits)
			want{kind: ErrMalformed, clause: "§2.1.1", say: "presence octet"}.match(t, err)
		}
	})
	t.Run("§6 bytes after a message", func(t *testing.T) {
		for _, msg := range messages {
			_, err := parseMessage(append(bytes.Clone(msg), 0), codec.DefaultLimits)
			want{kind: ErrMalformed, say: "bytes follow the value"}.match(t, err)
		}
	})
	t.Run("§6 a message that ends early", func(t *testing.T) {
		for _, msg := range messages {
			for n := range len(msg) {
				_, err := parseMessage(msg[:n], codec.DefaultLimits)
				requireKind(t, err, ErrMalformed)
			}
		}
	})
}

// TestRulesMessage checks the allowed content of an MLSMessage and its recipients (§6).
func TestRulesMessage(t *testing.T) {
	messages, l, dave := allMessages(t)
	alice, bob := l.people[0], l.people[1]
	t.Run("§6 another protocol version", func(t *testing.T) {
		for _, msg := range messages {
			for _, version := range []uint16{0, 2, 0xffff} {
				bad := bytes.Clone(msg)
				binary.BigEndian.PutUint16(bad, version)
				w := want{kind: ErrUnsupported, clause: "§6", say: "protocol version"}
				l.refuseAs([]*person{bob}, bad, w)
				l.refuseJoin(dave, bad, JoinOptions{}, w)
				_, err := Peek(bad)
				w.match(t, err)
			}
		}
	})
	t.Run("§6 an unknown wire format", func(t *testing.T) {
		for _, format := range []uint16{0, 6, 0xffff} {
			bad := bytes.Clone(messages[WireFormatPublicMessage])
			binary.BigEndian.PutUint16(bad[2:], format)
			l.refuseAs([]*person{bob}, bad, want{kind: ErrUnsupported, clause: "§6", say: "wire format"})
		}
	})
	t.Run("§6 a message that is not for members", func(t *testing.T) {
		for _, format := range []WireFormat{WireFormatWelcome, WireFormatGroupInfo, WireFormatKeyPackage} {
			l.refuseAs([]*person{bob}, messages[format], want{kind: ErrNotForUs, clause: "§6", say: "not for a group's members", keyed: true})
		}
		for _, format := range []WireFormat{WireFormatWelcome, WireFormatGroupInfo, WireFormatKeyPackage, WireFormatPrivateMessage} {
			_, _, err := l.server.Process(messages[format])
			want{kind: ErrUnsupported, clause: "§6", say: "only PublicMessages"}.match(t, err)
		}
	})
	t.Run("§6 a message that is no Welcome, GroupInfo or KeyPackage where one is due", func(t *testing.T) {
		for format, msg := range messages {
			if format != WireFormatWelcome {
				l.refuseJoin(dave, msg, JoinOptions{}, want{kind: ErrMalformed, clause: "§6", say: "not a Welcome"})
			}
			if format != WireFormatGroupInfo {
				l.refuseInfo(dave, msg, nil, want{kind: ErrMalformed, clause: "§6", say: "not a GroupInfo"})
			}
			if format != WireFormatKeyPackage {
				_, err := ParseKeyPackage(msg)
				want{kind: ErrMalformed, clause: "§6", say: "not a KeyPackage"}.match(t, err)
			}
		}
	})
	t.Run("§10 a KeyPackage of another version than its message", func(t *testing.T) {
		bad := bytes.Clone(messages[WireFormatKeyPackage])
		binary.BigEndian.PutUint16(bad[4:], 2)
		_, err := ParseKeyPackage(bad)
		want{kind: ErrMalformed, clause: "§10", say: "of version 2 in a message of version 1"}.match(t, err)
	})
	t.Run("§6 an undefined sender type", func(t *testing.T) {
		for _, sender := range []SenderType{0, 5, 255} {
			f := &forgery{by: alice, content: func(c *framedContent) { c.sender = Sender{Type: sender} }}
			l.refuse(alice, f.proposal(t, RemoveProposal(1)), want{kind: ErrMalformed, clause: "§6", say: "is not defined"})
		}
	})
	t.Run("§6 an undefined content type", func(t *testing.T) {
		for _, kind := range []ContentType{0, 4, 255} {
			f := &forgery{by: alice, content: func(c *framedContent) { c.kind = kind }}
			l.refuse(alice, f.proposal(t, RemoveProposal(1)), want{kind: ErrMalformed, clause: "§6", say: "is not defined"})
			f = &forgery{by: alice, private: func(m *privateMessage) { m.kind = kind }}
			l.refuse(alice, f.application(t, "x"), want{kind: ErrMalformed, clause: "§6", say: "is not defined"})
		}
	})
	t.Run("§6 an application message as a PublicMessage", func(t *testing.T) {
		f := &forgery{by: alice, format: WireFormatPublicMessage}
		l.refuse(alice, f.application(t, "for all to read"), want{kind: ErrInvalid, clause: "§6", say: "must be a PrivateMessage"})
	})
	l.goesOn()
}

// eachKind makes a proposal, a commit and an application message with the same forgery.
func (f *forgery) eachKind(t *testing.T, check func(msg []byte)) {
	t.Helper()
	check(f.proposal(t, RemoveProposal(2)))
	check(f.message(t))
	if !f.by.group.options.PublicHandshakes {
		check(f.application(t, "x"))
	}
}

// TestRulesAddress checks that a message belongs to one group and epoch (§6, §12.1, §12.4.2).
func TestRulesAddress(t *testing.T) {
	for _, c := range []struct {
		name    string
		want    want
		content func(*framedContent)
	}{
		{
			"§6 a message of another group", want{kind: ErrNotForUs, clause: "§6", say: "is for group"},
			func(c *framedContent) { c.groupID = flip(c.groupID) },
		},
		{
			"§12.4.2 a message of an epoch that has ended", want{kind: ErrStale, clause: "§12.4.2", say: "the group is at"},
			func(c *framedContent) { c.epoch = 1 },
		},
		{
			"§12.4.2 a message of an epoch that has not begun", want{kind: ErrFuture, clause: "§12.4.2", say: "the group is at"},
			func(c *framedContent) { c.epoch++ },
		},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, labOptions{config: func(_ string, c *Config) { c.Limits.PastEpochs = 1 }})
			f := &forgery{by: l.people[0], content: c.content}
			f.eachKind(t, func(msg []byte) { l.refuse(l.people[0], msg, c.want) })
			l.goesOn()
		})
	}
	bothWays(t, "§12.4.2 a handshake of a past epoch that application messages can still be read of", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		f := &forgery{by: l.people[0]}
		proposal, commit := f.proposal(t, RemoveProposal(2)), f.message(t)
		l.commit(l.people[1], CommitOptions{})
		for _, msg := range [][]byte{proposal, commit} {
			l.refuse(l.people[0], msg, want{kind: ErrStale, clause: "§12.4.2", say: "the group is at"})
		}
		l.goesOn()
	})
}

// TestRulesSignature checks the rules on the signature of a message (§6.1).
func TestRulesSignature(t *testing.T) {
	bad := want{kind: ErrForged, clause: "§6.1", say: "signature does not verify"}
	for _, c := range []struct {
		name  string
		want  want
		forge func(l *lab, f *forgery)
	}{
		{"§6.1 the signature does not verify", bad, func(_ *lab, f *forgery) {
			f.sign = func(ac *authenticatedContent) { ac.signature = flip(ac.signature) }
		}},
		{"§6.1 the signature is empty", bad, func(_ *lab, f *forgery) {
			f.sign = func(ac *authenticatedContent) { ac.signature = nil }
		}},
		{"§6.1 the signature is cut short", bad, func(_ *lab, f *forgery) {
			f.sign = func(ac *authenticatedContent) { ac.signature = ac.signature[:32] }
		}},
		{"§6.1 signed with another member's key", bad, func(l *lab, f *forgery) {
			f.sign = func(ac *authenticatedContent) {
				if err := ac.sign(f.by.group.suite, l.people[1].group.state.signer, f.by.group.public().encoded); err != nil {
					l.Fatal(err)
				}
			}
		}},
		{"§6.1 signed for another wire format", bad, func(l *lab, f *forgery) {
			f.sign = func(ac *authenticatedContent) {
				other := *ac
				other.format = WireFormatPublicMessage + WireFormatPrivateMessage - ac.format
				if err := other.sign(f.by.group.suite, f.by.group.state.signer, f.by.group.public().encoded); err != nil {
					l.Fatal(err)
				}
				ac.signature = other.signature
			}
		}},
		{"§6.1 signed with the label of another use", bad, func(l *lab, f *forgery) {
			f.sign = func(ac *authenticatedContent) {
				tbs := ac.tbs(f.by.group.public().encoded)
				ac.signature = must[[]byte](l.TB)(f.by.group.suite.signWithLabel(f.by.group.state.signer.Bytes(), "GroupInfoTBS", slices.Concat(tbs...)))
			}
		}},
		{"§6.1 the sender is a leaf that is blank", want{kind: ErrForged, say: "is not a member"}, func(l *lab, f *forgery) {
			f.content = func(c *framedContent) { c.sender = member(3) }
		}},
		{"§6.1 the sender is a leaf outside of the tree", want{kind: ErrForged, say: "is not a member"}, func(l *lab, f *forgery) {
			f.content = func(c *framedContent) { c.sender = member(1 << 31) }
		}},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, labOptions{})
			f := &forgery{by: l.people[0]}
			c.forge(l, f)
			w := c.want
			if w.clause == "" { // the same rule, from two clauses
				w.clause = map[bool]string{true: "§6.1", false: "§6.3.2"}[public]
			}
			f.eachKindFrom(t, func(msg []byte) { l.refuse(l.people[0], msg, w) })
			l.goesOn()
		})
	}
	bothWays(t, "§6.1 signed in another GroupContext", func(t *testing.T, public bool) {
		for _, change := range []func(*GroupContext){
			func(c *GroupContext) { c.Epoch++ },
			func(c *GroupContext) { c.TreeHash = flip(c.TreeHash) },
			func(c *GroupContext) { c.ConfirmedTranscriptHash = flip(c.ConfirmedTranscriptHash) },
			func(c *GroupContext) { c.Extensions = Extensions{{testExtension, nil}} },
		} {
			l := newLab(t, public, labOptions{})
			f := &forgery{by: l.people[0], sign: func(ac *authenticatedContent) {
				context := l.people[0].group.public().context.clone()
				change(&context)
				if err := ac.sign(l.people[0].group.suite, l.people[0].group.state.signer, context.marshal()); err != nil {
					t.Fatal(err)
				}
			}}
			f.eachKind(t, func(msg []byte) { l.refuse(l.people[0], msg, bad) })
			l.goesOn()
		}
	})
}

// eachKindFrom is eachKind without a commit if the sender does not exist: its path would have no place.
func (f *forgery) eachKindFrom(t *testing.T, check func(msg []byte)) {
	t.Helper()
	if f.content == nil {
		f.eachKind(t, check)
		return
	}
	check(f.proposal(t, RemoveProposal(2)))
}

// TestRulesMembershipTag checks the rules on the tag of a PublicMessage (§6.2). A server has no key to check the tag.
func TestRulesMembershipTag(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(tag []byte) []byte
	}{
		{"§6.2 the membership tag does not verify", flip},
		{"§6.2 the membership tag is empty", func([]byte) []byte { return nil }},
		{"§6.2 the membership tag is cut short", func(tag []byte) []byte { return tag[:len(tag)-1] }},
		{"§6.2 the membership tag is too long", func(tag []byte) []byte { return append(tag, 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, true, labOptions{})
			f := &forgery{by: l.people[0], public: func(m *publicMessage) { m.membershipTag = c.change(m.membershipTag) }}
			f.eachKind(t, func(msg []byte) {
				l.refuse(l.people[0], msg, want{kind: ErrForged, clause: "§6.2", say: "membership tag", keyed: true})
			})
			l.goesOn()
		})
	}
	t.Run("§6.2 the membership tag is of another epoch", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		old := l.people[0].group.state.secrets.membership.Clone()
		l.commit(l.people[1], CommitOptions{})
		f := &forgery{by: l.people[0]}
		f.public = func(m *publicMessage) { m.membershipTag = m.tag(f.by.group.suite, old, f.by.group.public().encoded) }
		f.eachKind(t, func(msg []byte) {
			l.refuse(l.people[0], msg, want{kind: ErrForged, clause: "§6.2", say: "membership tag", keyed: true})
		})
		l.goesOn()
	})
}

// TestRulesPrivateMessage checks the rules on padding, ciphertexts and sender data (§6.3).
func TestRulesPrivateMessage(t *testing.T) {
	sealed := want{kind: ErrForged, clause: "§6.3.1", say: "ciphertext does not decrypt", keyed: true}
	data := want{kind: ErrForged, clause: "§6.3.2", say: "sender data does not decrypt", keyed: true}
	padded := want{kind: ErrMalformed, clause: "§6.3.1", say: "padding: is not all zero", keyed: true}
	for _, c := range []struct {
		name  string
		want  want
		forge func(l *lab, f *forgery)
	}{
		{"§6.3.1 padding that begins with a 1", padded, func(_ *lab, f *forgery) {
			f.plain = func(b []byte) []byte { return append(b, 1, 0, 0) }
		}},
		{"§6.3.1 padding that ends with a 1", padded, func(_ *lab, f *forgery) {
			f.plain = func(b []byte) []byte { return append(append(b, make([]byte, 1000)...), 1) }
		}},
		{"§6.3.1 content that ends early", want{kind: ErrMalformed, say: "input ends early", keyed: true}, func(_ *lab, f *forgery) {
			f.plain = func(b []byte) []byte { return b[:len(b)-1] }
		}},
		{"§6.3.1 an empty content", want{kind: ErrMalformed, say: "input ends early", keyed: true}, func(_ *lab, f *forgery) {
			f.plain = func([]byte) []byte { return nil }
		}},
		{"§6.3.1 the ciphertext was changed", data, func(_ *lab, f *forgery) { // the key of the sender data depends on the ciphertext, too
			f.private = func(m *privateMessage) { m.ciphertext[0] ^= 1 }
		}},
		{"§6.3.1 the end of the ciphertext was changed", sealed, func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.ciphertext = flip(m.ciphertext) }
		}},
		{"§6.3.1 the authenticated data was changed", sealed, func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.authenticatedData = []byte("other") }
		}},
		{"§6.3.1 another reuse guard than was used", sealed, func(_ *lab, f *forgery) {
			f.sender = func(d *senderData) { d.guard[3] ^= 1 }
		}},
		{"§6.3.1 another generation than was used", sealed, func(_ *lab, f *forgery) {
			f.sender = func(d *senderData) { d.generation++ }
		}},
		{"§6.3.1 another member's key", sealed, func(_ *lab, f *forgery) {
			f.sender = func(d *senderData) { d.leaf = 3 } // leaf 3 is erin's
		}},
		{"§6.3.2 the sender data was changed", data, func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.encryptedSenderData = flip(m.encryptedSenderData) }
		}},
		{"§6.3.2 the sender data is empty", data, func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.encryptedSenderData = nil }
		}},
		{"§6.3.2 the content type was changed", data, func(_ *lab, f *forgery) {
			f.private = func(m *privateMessage) { m.kind = ContentApplication + ContentProposal - min(m.kind, ContentProposal) }
		}},
		{"§6.3.2 sender data that is too short", want{kind: ErrMalformed, say: "input ends early", keyed: true}, func(_ *lab, f *forgery) {
			f.data = func(b []byte) []byte { return b[:11] }
		}},
		{"§6.3.2 sender data that is too long", want{kind: ErrMalformed, say: "bytes follow the value", keyed: true}, func(_ *lab, f *forgery) {
			f.data = func(b []byte) []byte { return append(b, 0) }
		}},
		{"§6.3.2 sender data of a leaf that is blank", want{kind: ErrForged, clause: "§6.3.2", say: "is not a member", keyed: true}, func(_ *lab, f *forgery) {
			f.sender = func(d *senderData) { d.leaf = 4 }
		}},
		{"§6.3.2 sender data of a leaf outside of the tree", want{kind: ErrForged, clause: "§6.3.2", say: "is not a member", keyed: true}, func(_ *lab, f *forgery) {
			f.sender = func(d *senderData) { d.leaf = 1<<32 - 1 }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, false, labOptions{names: both("alice", "bob", "carol", "erin", "frank")})
			l.commit(l.people[0], CommitOptions{Proposals: []Proposal{RemoveProposal(4)}, OnlyThese: true})
			f := &forgery{by: l.people[0]}
			c.forge(l, f)
			readers := []*person{l.people[1], l.people[2]}
			f.eachKind(t, func(msg []byte) { l.refuseAs(readers, msg, c.want) })
			l.goesOn()
		})
	}
	t.Run("§6.3.1 any amount of zero padding is accepted", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		for _, n := range []int{0, 1, 63, 64, 20000} {
			f := &forgery{by: l.people[0], plain: func(b []byte) []byte { return append(b, make([]byte, n)...) }}
			msg := f.application(t, "x")
			for _, p := range l.others(l.people[0]) {
				if got := p.receive(t, msg).Application; string(got.Data) != "x" {
					t.Fatalf("got %q", got.Data)
				}
			}
			// The forger's own ratchet has not advanced: advance it.
			if _, err := l.people[0].group.Protect(nil, MessageOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		l.goesOn()
	})
	t.Run("§6.3.1 a sender whose state was rolled back does not use a nonce twice", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice, bob := l.people[0], l.people[1]
		lost := alice.store.Clone()
		first := must[[]byte](t)(alice.group.Protect([]byte("one"), MessageOptions{}))
		cfg := alice.cfg
		cfg.Store = lost
		old := must[*Group](t)(must[*Client](t)(NewClient(cfg)).LoadGroup(alice.group.GroupID()))
		second := must[[]byte](t)(old.Protect([]byte("two"), MessageOptions{}))
		open := func(msg []byte) senderData {
			m := must[*message](t)(parseMessage(msg, codec.DefaultLimits)).private
			return must[senderData](t)(bob.group.suite.openSenderData(m, bob.group.state.secrets.senderData))
		}
		a, b := open(first), open(second)
		if a.generation != b.generation || a.guard == b.guard {
			t.Fatalf("generations %d and %d, guards %x and %x", a.generation, b.generation, a.guard, b.guard)
		}
	})
}
