package mlscore

import (
	"bytes"
	"testing"
)

// joinCase is a Welcome with one fault, and the GroupInfo of the same epoch.
type joinCase struct {
	name  string
	want  want // result of Join
	forge func(l *lab, f *statement)
	info  *want // result for a joiner by external commit and for a server; nil for the same result, no kind for no error
	lab   labOptions
	path  bool // the commit with the Add has a path
}

// run makes alice add frank. For trees with parents the group has five members.
func (c joinCase) run(t *testing.T) {
	t.Run(c.name, func(t *testing.T) {
		if c.lab.names == nil {
			c.lab.names = fiveNames
		}
		l := newLab(t, false, c.lab)
		frank := l.person("frank")
		f := statement{by: l.people[0], added: frank.keyPackage(t), joiner: frank, withPath: c.path}
		c.forge(l, &f)
		f.withPath = f.withPath || c.path
		msg, info, tree := f.messages(t)
		opts := JoinOptions{}
		if f.separate {
			opts.Tree = tree
		}
		l.refuseJoin(frank, msg, opts, c.want)
		switch {
		case c.info == nil:
			l.refuseInfo(l.person("gina"), info, opts.Tree, c.want)
		case c.info.kind != nil:
			l.refuseInfo(l.person("gina"), info, opts.Tree, *c.info)
		}
		if f.honest {
			l.joins(frank, f)
		}
	})
}

// TestRulesWelcome checks the parts of a Welcome that only its receiver sees (§12.4.3.1).
func TestRulesWelcome(t *testing.T) {
	sealed := want{kind: ErrForged, clause: "§12.4.3.1", say: "group secrets do not decrypt"}
	info := want{kind: ErrForged, clause: "§12.4.3.1", say: "GroupInfo does not decrypt"}
	nothing := &want{}
	length := want{kind: ErrInvalid, clause: "§7.4", say: "secret"}
	for _, c := range []joinCase{
		{name: "§12.4.3.1 a Welcome for somebody else", want: want{kind: ErrNotForUs, clause: "§12.4.3.1", say: "is for 1 KeyPackages"}, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.secrets[0].newMember = flip(m.secrets[0].newMember) }
		}},
		{name: "§12.4.3.1 a Welcome for nobody", want: want{kind: ErrNotForUs, clause: "§12.4.3.1", say: "is for 0 KeyPackages"}, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.secrets = nil }
		}},
		{name: "§12.4.3.1 a Welcome of another cipher suite than the KeyPackage", want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "the KeyPackage for"}, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.suite = MLS128X25519ChaCha20Ed25519 }
		}},
		{name: "§12.4.3.1 a Welcome of an unknown cipher suite", want: want{kind: ErrUnsupported, clause: "§17.1", say: "not a cipher suite"}, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.suite = 0x7777 }
		}},
		{name: "§12.4.3.1 group secrets that do not decrypt", want: sealed, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.secrets[0].secrets.ciphertext = flip(m.secrets[0].secrets.ciphertext) }
		}},
		{name: "§12.4.3.1 group secrets with a KEM output that is none", want: sealed, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.secrets[0].secrets.kemOutput = nil }
		}},
		{name: "§12.4.3.1 group secrets for another encrypted GroupInfo", want: sealed, forge: func(_ *lab, f *statement) {
			f.welcome = func(m *welcome) { m.encryptedGroupInfo = flip(m.encryptedGroupInfo) }
		}},
		{name: "§12.4.3.1 group secrets with bytes after them", want: want{kind: ErrMalformed, say: "group secrets: does not decode"}, forge: func(_ *lab, f *statement) {
			f.grouped = func(b []byte) []byte { return append(b, 0) }
		}},
		{name: "§12.4.3.1 group secrets that end early", want: want{kind: ErrMalformed, say: "group secrets: does not decode"}, forge: func(_ *lab, f *statement) {
			f.grouped = func(b []byte) []byte { return b[:len(b)-1] }
		}},
		{name: "§12.4.3.1 another joiner secret", want: info, forge: func(_ *lab, f *statement) {
			f.secrets = func(g *groupSecrets) { g.joiner = NewSecret(flip(g.joiner.Bytes())) }
		}},
		{name: "§7.4 a joiner secret of another length than a hash", want: length, forge: func(_ *lab, f *statement) {
			f.secrets = func(g *groupSecrets) { g.joiner = NewSecret(g.joiner.Bytes()[1:]) }
		}},
		{name: "§7.4 an empty path secret in a Welcome", want: length, path: true, forge: func(_ *lab, f *statement) {
			f.secrets = func(g *groupSecrets) { g.pathSecret = new(Secret) }
		}},
		{name: "§12.4.3.1 a path secret that does not give the ancestor's key", path: true, want: want{kind: ErrForged, clause: "§12.4.3.1", say: "path secret does not give the key of node 7"}, forge: func(_ *lab, f *statement) {
			f.secrets = func(g *groupSecrets) {
				s := NewSecret(flip(g.pathSecret.Bytes()))
				g.pathSecret = &s
			}
		}},
		{name: "§12.4.3.1 a path secret that is left out", path: true, want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "gives no path secret for node 7"}, forge: func(_ *lab, f *statement) {
			f.secrets = func(g *groupSecrets) { g.pathSecret = nil }
		}},
		{name: "§12.4.3.1 a path secret for an ancestor that is blank", lab: labOptions{flat: true}, want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "path secret for blank node 7"}, forge: func(_ *lab, f *statement) {
			f.secrets = func(g *groupSecrets) {
				s := NewSecret(make([]byte, 32))
				g.pathSecret = &s
			}
		}},
		{name: "§12.4.3.1 a PSK that the joiner does not hold", want: want{kind: ErrMissing, clause: "§8.4", say: "external psk 61"}, forge: func(l *lab, f *statement) {
			f.psks = []PreSharedKeyID{l.psk("a", l.people...)}
		}},
		{name: "§8.4 a Welcome that leaves out a PSK of the commit", want: info, forge: func(l *lab, f *statement) {
			f.psks = []PreSharedKeyID{l.psk("a", l.people...)}
			f.secrets = func(g *groupSecrets) { g.psks = nil }
		}},
		{name: "§12.4.3.1 two PSKs of usage reinit or branch", want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "2 PSKs with usage reinit or branch"}, forge: func(l *lab, f *statement) {
			f.psks = []PreSharedKeyID{l.resumption(UsageReInit), l.resumption(UsageBranch)}
		}},
		{name: "§12.4.3.1 a GroupInfo with bytes after it", want: want{kind: ErrMalformed, say: "GroupInfo: does not decode"}, forge: func(_ *lab, f *statement) {
			f.stated = func(b []byte) []byte { return append(b, 0) }
		}},
		{name: "§12.4.3.1 a GroupInfo of another cipher suite than the Welcome", want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "the Welcome for"}, forge: func(_ *lab, f *statement) {
			f.context = func(c *GroupContext) { c.CipherSuite = MLS128X25519ChaCha20Ed25519 }
		}},
		{name: "§12.4.3.1 no leaf is that of the KeyPackage", want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "no leaf identical"}, forge: func(l *lab, f *statement) {
			f.bodies = func(b []string) []string {
				other := l.person("frank").keyPackage(l.TB).LeafNode
				b[10] = string(must[[]byte](l.TB)(other.marshal()))
				return b
			}
		}},
		{name: "§12.4.3.1 a leaf with the KeyPackage's key that is not the same", want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "no leaf identical"}, forge: func(l *lab, f *statement) {
			f.bodies = func(b []string) []string {
				stranger := l.person("frank")
				leaf := *f.added.LeafNode
				leaf.SignatureKey = must[[]byte](l.TB)(f.by.group.suite.signaturePublicKey(stranger.id.SignatureKey.Bytes()))
				if err := leaf.sign(f.by.group.suite, stranger.id.SignatureKey, nil, 0); err != nil {
					l.Fatal(err)
				}
				b[10] = string(must[[]byte](l.TB)(leaf.marshal()))
				return b
			}
		}},
		{name: "§12.4.3.1 a GroupInfo that the joiner seems to have signed", want: want{kind: ErrInvalid, clause: "§12.4.3.1", say: "signed by ourselves"}, forge: func(l *lab, f *statement) {
			f.info = func(g *groupInfo) { g.signer = 5 }
			f.joinerSigns = true
		}},
		{name: "§12.4.3.1 the confirmation tag does not verify", want: want{kind: ErrForged, clause: "§12.4.3.1", say: "confirmation tag"}, forge: func(_ *lab, f *statement) {
			f.info = func(g *groupInfo) { g.confirmationTag = flip(g.confirmationTag) }
		}},
		{name: "§12.4.3.1 the confirmation tag is empty", want: want{kind: ErrForged, clause: "§12.4.3.1", say: "confirmation tag"}, forge: func(_ *lab, f *statement) {
			f.info = func(g *groupInfo) { g.confirmationTag = nil }
		}},
		{name: "§12.4.3.1 the confirmation tag is cut short", want: want{kind: ErrForged, clause: "§12.4.3.1", say: "confirmation tag"}, forge: func(_ *lab, f *statement) {
			f.info = func(g *groupInfo) { g.confirmationTag = g.confirmationTag[:31] }
		}},
	} {
		c.info = nothing // the GroupInfo alone is valid, or checked by other rules
		forge := c.forge
		c.forge = func(l *lab, f *statement) { forge(l, f); f.honest = f.psks == nil }
		c.run(t)
	}
	t.Run("§12.4.3 a group of the same id as one of the joiner's", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice, dave := l.people[0], l.person("dave")
		must[*Group](t)(dave.CreateGroup(dave.id, alice.group.GroupID(), CreateOptions{}))
		f := statement{by: alice, added: dave.keyPackage(t)}
		msg, info, _ := f.messages(t)
		w := want{kind: ErrInvalid, clause: "§12.4.3.1", say: "has a group of that id already"}
		l.refuseJoin(dave, msg, JoinOptions{}, w)
		before := dave.snapshot(t)
		_, err := dave.ExternalJoin(dave.id, info, ExternalOptions{})
		w.match(t, err)
		_, err = dave.CreateGroup(dave.id, alice.group.GroupID(), CreateOptions{})
		w.match(t, err)
		before.requireSame(t, dave)
		if err := must[*Group](t)(dave.LoadGroup(alice.group.GroupID())).Erase(); err != nil {
			t.Fatal(err)
		}
		l.joins(dave, f)
	})
	t.Run("§12.4.3.1 two entries for one KeyPackage", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		dave := l.person("dave")
		f := statement{by: l.people[0], added: dave.keyPackage(t)}
		bad := encryptedGroupSecrets{must[[]byte](t)(f.added.Ref()), hpkeCiphertext{make([]byte, 32), make([]byte, 99)}}
		f.welcome = func(m *welcome) { m.secrets = append([]encryptedGroupSecrets{bad}, m.secrets...) }
		msg, _, _ := f.messages(t)
		l.refuseJoin(dave, msg, JoinOptions{}, sealed)
		f.welcome = func(m *welcome) { m.secrets = append(m.secrets, bad) }
		msg, _, _ = f.messages(t)
		if g := must[*Group](t)(dave.Join(msg, JoinOptions{})); g.Self() != 3 {
			t.Fatalf("dave is at %d", g.Self())
		}
	})
	t.Run("§12.4.3.1 a KeyPackage is used once, but for one of last resort", func(t *testing.T) {
		for _, last := range []bool{false, true} {
			l := newLab(t, false, labOptions{})
			dave := l.person("dave")
			kp := must[*KeyPackage](t)(dave.NewKeyPackage(dave.id, KeyPackageOptions{LastResort: last}))
			f := statement{by: l.people[0], added: kp}
			msg, _, _ := f.messages(t)
			g := must[*Group](t)(dave.Join(msg, JoinOptions{}))
			if err := g.Erase(); err != nil {
				t.Fatal(err)
			}
			_, err := dave.Join(msg, JoinOptions{})
			if last && err != nil {
				t.Fatal(err)
			}
			if !last {
				want{kind: ErrNotForUs, clause: "§12.4.3.1", say: "none of which is in the store"}.match(t, err)
			}
		}
	})
}

// TestRulesGroupInfo checks the rules on a GroupInfo, in a Welcome and outside of one (§12.4.3).
func TestRulesGroupInfo(t *testing.T) {
	misplaced := want{kind: ErrInvalid, clause: "§13.4", say: "does not belong in a GroupContext"}
	signature := want{kind: ErrForged, clause: "§12.4.3.1", say: "does not verify"}
	blank := want{kind: ErrForged, clause: "§12.4.3.1", say: "signed by blank leaf"}
	hash := want{kind: ErrForged, clause: "§12.4.3.1", say: "its hash is not the one in the GroupInfo"}
	uneven := labOptions{config: func(name string, c *Config) {
		if name != "frank" {
			c.Extensions = both(otherExtension)
		}
	}}
	extensions := func(x ...Extension) func(*lab, *statement) {
		return func(_ *lab, f *statement) { f.context = func(c *GroupContext) { c.Extensions = x } }
	}
	for _, c := range []joinCase{
		{name: "§12.4.3 the signature does not verify", want: signature, forge: func(_ *lab, f *statement) {
			f.signed = func(g *groupInfo) { g.signature = flip(g.signature) }
		}},
		{name: "§12.4.3 the signature is empty", want: signature, forge: func(_ *lab, f *statement) {
			f.signed = func(g *groupInfo) { g.signature = nil }
		}},
		{name: "§12.4.3 signed by another member than signer", want: signature, forge: func(l *lab, f *statement) {
			f.key = &l.people[1].group.state.signer
		}},
		{name: "§12.4.3 the extensions were changed after signing", want: signature, forge: func(_ *lab, f *statement) {
			f.signed = func(g *groupInfo) { g.extensions = append(g.extensions, Extension{otherExtension, nil}) }
		}},
		{name: "§12.4.3.1 signer is a blank leaf", want: blank, forge: func(_ *lab, f *statement) {
			f.info = func(g *groupInfo) { g.signer = 6 }
		}},
		{name: "§12.4.3.1 signer is outside of the tree", want: blank, forge: func(_ *lab, f *statement) {
			f.info = func(g *groupInfo) { g.signer = 1<<32 - 1 }
		}},
		{name: "§12.4.3.1 another protocol version", want: want{kind: ErrUnsupported, clause: "§12.4.3.1", say: "protocol version 2"}, forge: func(_ *lab, f *statement) {
			f.context = func(c *GroupContext) { c.Version = 2 }
		}},
		{name: "§12.4.3.1 the tree hash is another", want: hash, forge: func(_ *lab, f *statement) {
			f.context = func(c *GroupContext) { c.TreeHash = flip(c.TreeHash) }
		}},
		{name: "§12.4.3.3 the tree given separately is another", want: hash, forge: func(l *lab, f *statement) {
			f.outside, f.separate = true, true
			f.tree = func([]byte) []byte { return must[[]byte](l.TB)(l.people[0].group.public().tree.marshal()) }
		}},
		{name: "§12.4.3.3 there is no tree", want: want{kind: ErrMissing, clause: "§12.4.3.3", say: "neither in the GroupInfo nor given"}, forge: func(_ *lab, f *statement) {
			f.outside = true
		}},
		{
			name: "§13.4 the joiner does not support an extension of the GroupContext", lab: uneven,
			want:  want{kind: ErrInvalid, clause: "§13.4", say: "leaf 5: GroupContext extension 0xf003 is not supported"},
			forge: extensions(Extension{otherExtension, nil}),
			info:  &want{kind: ErrInvalid, clause: "§13.4", say: "leaf 5"},
		},
		{name: "§13.4 the extension ratchet_tree in the GroupContext of a GroupInfo", lab: strict, want: misplaced, forge: extensions(Extension{ExtensionRatchetTree, nil})},
		{name: "§13.4 the extension external_pub in the GroupContext of a GroupInfo", lab: strict, want: misplaced, forge: extensions(Extension{ExtensionExternalPub, nil})},
		{
			name:  "§13.4 an extension type twice in the GroupContext of a GroupInfo",
			want:  want{kind: ErrMalformed, clause: "§13.4", say: "occurs twice in one list"},
			forge: extensions(RequiredCapabilities{}.Extension(), RequiredCapabilities{}.Extension()),
		},
		{
			name: "§13.4 an extension type twice in a GroupInfo",
			want: want{kind: ErrMalformed, clause: "§13.4", say: "occurs twice in one list"},
			forge: func(_ *lab, f *statement) {
				f.info = func(g *groupInfo) {
					g.extensions = append(g.extensions, Extension{otherExtension, nil}, Extension{otherExtension, nil})
				}
			},
		},
		{
			name: "§5.3.1 the application refuses an external sender of the group",
			want: want{kind: ErrPolicy, clause: "§5.3.1", say: "external sender 0"},
			forge: func(l *lab, f *statement) {
				p := l.person("refused service")
				key := must[[]byte](l.TB)(f.by.group.suite.signaturePublicKey(p.id.SignatureKey.Bytes()))
				x := must[Extension](l.TB)(ExternalSendersExtension([]ExternalSender{{key, p.id.Credential}}))
				f.context = func(c *GroupContext) { c.Extensions = Extensions{x} }
			},
		},
	} {
		forge := c.forge
		c.forge = func(l *lab, f *statement) { forge(l, f); f.honest = true }
		c.run(t)
	}
	t.Run("§12.4.3.3 the tree is given separately from the Welcome", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		dave := l.person("dave")
		f := statement{by: l.people[0], added: dave.keyPackage(t), outside: true}
		msg, info, tree := f.messages(t)
		if _, err := NewPublicState(info, tree, l.publicConfig()); err != nil {
			t.Fatal(err)
		}
		must[*ExternalCommit](t)(l.person("erin").ExternalJoin(l.person("erin").id, info, ExternalOptions{Tree: tree}))
		if g := must[*Group](t)(dave.Join(msg, JoinOptions{Tree: tree})); g.Self() != 3 {
			t.Fatalf("dave is at %d", g.Self())
		}
	})
}

// parentFields reads a parent node.
func parentFields(body string) (key, hash string, unmerged []LeafIndex) {
	n := treeNode{body: body, level: 1}
	return n.encryptionKey(), n.parentHash(), n.unmerged()
}

// changeParent rewrites a parent node.
func changeParent(b []string, n nodeIndex, change func(key, hash string, unmerged []LeafIndex) string) {
	b[n] = change(parentFields(b[n]))
}

// TestRulesTree checks the rules on the ratchet tree for a joiner (§7.1, §7.9.2, §12.4.3.1, §12.4.3.3).
//
//	              7
//	      3               11
//	  1       5       9       13
//	0   2   4   6   8  10   12  14
//	a   b   c   d   e   f    _   _     frank is new and unmerged at 7; 9, 11 and 13 are blank
func TestRulesTree(t *testing.T) {
	form := func(say string) want { return want{kind: ErrMalformed, clause: "§12.4.3.3", say: say} }
	hash := func(n string) want {
		return want{kind: ErrForged, clause: "§7.9.2", say: n + ": not parent-hash valid"}
	}
	unmerged := func(say string) want { return want{kind: ErrInvalid, clause: "§12.4.3.1", say: say} }
	order := want{kind: ErrMalformed, clause: "§7.1", say: "the list must ascend"}
	list := func(n nodeIndex, leaves ...LeafIndex) func(*lab, *statement) {
		return func(_ *lab, f *statement) {
			f.bodies = func(b []string) []string {
				changeParent(b, n, func(key, hash string, _ []LeafIndex) string { return parentBody([]byte(key), []byte(hash), leaves) })
				return b
			}
		}
	}
	bodies := func(change func(b []string) []string) func(*lab, *statement) {
		return func(_ *lab, f *statement) { f.bodies = change }
	}
	raw := func(change func(b []byte) []byte) func(*lab, *statement) {
		return func(_ *lab, f *statement) { f.tree = change }
	}
	key := func(say string) want { return want{kind: ErrInvalid, clause: "§12.4.3.1", say: say} }
	for _, c := range []joinCase{
		{name: "§12.4.3.3 an empty tree", want: form("is empty"), forge: raw(func([]byte) []byte { return []byte{0} })},
		{name: "§12.4.3.3 a tree that ends with a blank node", want: form("ends with a blank node"), forge: bodies(func(b []string) []string {
			return append(b, "", "")
		})},
		{name: "§12.4.3.3 a tree of blank nodes", want: form("ends with a blank node"), forge: bodies(func(b []string) []string {
			return make([]string, len(b))
		})},
		{name: "§12.4.3.3 a tree with an even number of nodes", want: form("last node is a parent"), forge: bodies(func(b []string) []string {
			return append(b, b[7])
		})},
		{name: "§12.4.3.3 a leaf in a parent's place", want: form("node 1: type 1 in a place for type 2"), forge: raw(swapTypes)},
		{name: "§12.4.3.3 bytes after the tree", want: want{kind: ErrMalformed, say: "bytes follow the value"}, forge: raw(func(b []byte) []byte { return append(b, 0) })},
		{name: "§12.4.3.3 a tree that ends early", want: want{kind: ErrMalformed, say: "input ends early"}, forge: raw(func(b []byte) []byte { return b[:len(b)-1] })},
		{name: "§7.1 unmerged leaves that descend", want: order, forge: list(7, 5, 4)},
		{name: "§7.1 an unmerged leaf that is listed twice", want: order, forge: list(7, 5, 5)},
		{name: "§7.1 unmerged leaves of half an entry", want: want{kind: ErrMalformed, say: "input ends early"}, forge: bodies(func(b []string) []string {
			b[7] = b[7][:len(b[7])-5] + "\x03\x00\x00\x00"
			return b
		})},
		{name: "§12.4.3.1 an unmerged leaf that is blank", want: unmerged("unmerged leaf 6 is blank"), forge: list(7, 5, 6)},
		{name: "§12.4.3.1 an unmerged leaf that is blank, next to a member", want: unmerged("unmerged leaf 1 is blank"), forge: bodies(func(b []string) []string {
			changeParent(b, 1, func(key, hash string, _ []LeafIndex) string {
				return parentBody([]byte(key), []byte(hash), []LeafIndex{1})
			})
			b[2] = ""
			return b
		})},
		{name: "§12.4.3.1 an unmerged leaf outside of the tree", want: unmerged("is not below it"), forge: list(7, 5, 8)},
		{name: "§12.4.3.1 an unmerged leaf of index 2^31", want: unmerged("is not below it"), forge: list(7, 5, 1<<31)},
		{name: "§12.4.3.1 an unmerged leaf of another subtree", want: unmerged("node 1 lists an unmerged leaf that is not below it"), forge: list(1, 2)},
		{name: "§12.4.3.1 an unmerged leaf that a parent in between does not list", want: unmerged("unmerged leaf 2 is missing from the list of node 3"), forge: list(7, 2, 5)},
		{name: "§7.9.2 a parent with another key", want: hash("node 7"), forge: bodies(func(b []string) []string {
			changeParent(b, 7, func(key, hash string, u []LeafIndex) string { return parentBody(flip([]byte(key)), []byte(hash), u) })
			return b
		})},
		{name: "§7.9.2 a parent with another parent hash", want: hash("node 7"), forge: bodies(func(b []string) []string {
			changeParent(b, 3, func(key, hash string, u []LeafIndex) string { return parentBody([]byte(key), flip([]byte(hash)), u) })
			return b
		})},
		{name: "§7.9.2 a parent without a parent hash", want: hash("node 7"), forge: bodies(func(b []string) []string {
			changeParent(b, 3, func(key, _ string, u []LeafIndex) string { return parentBody([]byte(key), nil, u) })
			return b
		})},
		{name: "§7.9.2 a root with a parent hash", want: hash("node 7"), forge: bodies(func(b []string) []string {
			changeParent(b, 7, func(key, _ string, u []LeafIndex) string { return parentBody([]byte(key), make([]byte, 32), u) })
			return b
		})},
		{name: "§7.9.2 a parent that nobody's path set", want: hash("node 9"), forge: bodies(func(b []string) []string {
			b[9] = parentBody(flip([]byte(firstVector(b[7]))), nil, []LeafIndex{5})
			b[7] = "" // otherwise the node would vouch for no parent any more
			return b
		})},
		{name: "§7.9.2 an unmerged leaf that is left out of a list", want: hash("node 7"), forge: list(7)},
		{name: "§7.9.2 a member who is listed as unmerged but was there", want: hash("node 7"), forge: func(_ *lab, f *statement) {
			f.bodies = func(b []string) []string {
				for _, n := range []nodeIndex{1, 3, 7} {
					changeParent(b, n, func(key, hash string, u []LeafIndex) string {
						return parentBody([]byte(key), []byte(hash), mergeLeaves(u, []leafChange{{index: 0}, {index: 1}}))
					})
				}
				return b
			}
		}},
		{name: "§7.9.2 a leaf below was replaced", want: hash("node 7"), forge: func(l *lab, f *statement) {
			f.bodies = func(b []string) []string {
				carol := l.people[2]
				leaf := must[*LeafNode](l.TB)(parseLeafNode(b[4]))
				leaf.Extensions = append(leaf.Extensions, Extension{ExtensionApplicationID, []byte{0}})
				if err := leaf.sign(carol.group.suite, carol.group.state.signer, carol.group.GroupID(), 2); err != nil {
					l.Fatal(err)
				}
				b[4] = string(must[[]byte](l.TB)(leaf.marshal()))
				return b
			}
		}},
		{name: "§7.2 a leaf in the tree that is signed for another place", want: want{kind: ErrForged, clause: "§7.3", say: "leaf 4, leaf node: signature does not verify"}, forge: func(l *lab, f *statement) {
			f.bodies = func(b []string) []string { return l.resignErin(b, f.by.group.GroupID(), 0) }
		}},
		{name: "§7.2 a leaf in the tree that is signed for another group", want: want{kind: ErrForged, clause: "§7.3", say: "leaf 4, leaf node: signature does not verify"}, forge: func(l *lab, f *statement) {
			f.bodies = func(b []string) []string { return l.resignErin(b, []byte("another"), 4) }
		}},
		{name: "§7.9.2 a key in a subtree without members", want: want{kind: ErrInvalid, clause: "§7.9.2", say: "node 13: key in a subtree without members"}, forge: bodies(func(b []string) []string {
			b = append(b, "", "", "")
			b[13] = parentBody(flip([]byte(firstVector(b[7]))), nil, nil)
			return append(b, "", "", b[8]) // a leaf further to the right
		})},
		{name: "§12.4.3.1 two parents with one key", path: true, want: key("is also used at node"), forge: func(_ *lab, f *statement) {
			f.forged.keys = func(keys [][]byte, _ *LeafNode) { keys[2] = keys[0] }
		}},
		{name: "§12.4.3.1 a parent with the key of a leaf", path: true, want: key("is also used at leaf 2"), forge: func(l *lab, f *statement) {
			f.forged.keys = func(keys [][]byte, _ *LeafNode) { keys[2] = []byte(l.nodeKey(4)) }
		}},
		{name: "§12.4.3.1 two parents below the root with one key", path: true, want: key("key of node 3 is also used at node 1"), forge: func(_ *lab, f *statement) {
			f.forged.keys = func(keys [][]byte, _ *LeafNode) { keys[1] = keys[0] }
		}},
		{name: "§12.4.3.1 a parent on the right with the key of a leaf on the left", path: true, want: key("key of node 9 is also used at leaf 2"), forge: func(l *lab, f *statement) {
			f.by = l.people[4]
			f.forged.keys = func(keys [][]byte, _ *LeafNode) { keys[0] = []byte(l.nodeKey(4)) }
		}},
	} {
		forge := c.forge
		c.forge = func(l *lab, f *statement) {
			forge(l, f)
			f.honest = f.forged.keys == nil
		}
		c.run(t)
	}
}

// resignErin signs the leaf of erin, who committed the last path, for another group or place.
func (l *lab) resignErin(b []string, groupID []byte, i LeafIndex) []string {
	l.Helper()
	leaf := must[*LeafNode](l.TB)(parseLeafNode(b[8]))
	if err := leaf.sign(l.people[4].group.suite, l.people[4].group.state.signer, groupID, i); err != nil {
		l.Fatal(err)
	}
	b[8] = string(must[[]byte](l.TB)(leaf.marshal()))
	return b
}

// swapTypes changes the type of node 1 of an encoded tree to leaf.
func swapTypes(b []byte) []byte {
	at := bytes.Index(b, append([]byte{1, nodeTypeParent}, 32))
	b = bytes.Clone(b)
	b[at+1] = nodeTypeLeaf
	return b
}

// TestRulesTreeShapes checks that a joiner accepts trees that are rare and valid.
func TestRulesTreeShapes(t *testing.T) {
	// takes makes a server and a newcomer read the group's state; the newcomer joins by an external commit, which all
	// process.
	takes := func(t *testing.T, l *lab) {
		t.Helper()
		by := l.others(nil)[0]
		info := must[[]byte](t)(by.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		server := must[*PublicState](t)(NewPublicState(info, nil, l.publicConfig()))
		if !bytes.Equal(server.encoded, by.group.public().encoded) {
			t.Fatal("the server has another context")
		}
		p := l.person("newcomer")
		x := must[*ExternalCommit](t)(p.ExternalJoin(p.id, info, ExternalOptions{GroupOptions: by.group.options}))
		l.deliver(p, x.Message)
		p.group = must[*Group](t)(x.Complete())
		l.people = append(l.people, p)
		l.agree()
		// Another client joins by a Welcome, with a path and without one.
		l.commit(p, CommitOptions{}, l.person("second"))
		l.commit(p, CommitOptions{OmitPath: true}, l.person("third"))
		l.goesOn()
	}
	removed := func(t *testing.T, l *lab, by *person, leaves ...LeafIndex) {
		t.Helper()
		var list []Proposal
		for _, i := range leaves {
			list = append(list, RemoveProposal(i))
		}
		l.commit(by, CommitOptions{Proposals: list})
	}
	nine := both("a", "b", "c", "d", "e", "f", "g", "h", "i")
	bothWays(t, "§7.9 the left subtree of the root is empty", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: nine[:6]})
		removed(t, l, l.people[4], 0, 1, 2, 3)
		if leaf, _ := l.people[4].group.public().tree.leaf(4); l.people[4].group.public().tree.height() != 3 || leaf.Source != SourceCommit {
			t.Fatal("not the tree that was meant")
		}
		takes(t, l)
	})
	bothWays(t, "§7.9 a leaf with an empty parent hash: its path has no nodes", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: nine[:3]})
		removed(t, l, l.people[2], 0, 1)
		leaf, _ := l.people[2].group.public().tree.leaf(2)
		if leaf.Source != SourceCommit || len(leaf.ParentHash) != 0 {
			t.Fatalf("source %d, parent hash %x", leaf.Source, leaf.ParentHash)
		}
		takes(t, l)
	})
	bothWays(t, "§7.9 blank nodes between a parent and the next", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: nine})
		removed(t, l, l.people[8], 1, 2, 3, 5)
		l.commit(l.people[0], CommitOptions{})
		takes(t, l)
	})
	bothWays(t, "§7.9 unmerged leaves at several levels", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: nine})
		removed(t, l, l.people[0], 1, 6)
		l.commit(l.people[7], CommitOptions{})
		l.commit(l.people[2], CommitOptions{OmitPath: true}, l.person("j"), l.person("k"), l.person("l"))
		l.commit(l.people[3], CommitOptions{})
		takes(t, l)
	})
	bothWays(t, "§7.9 a path above a parent whose leaves are all unmerged or gone", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: nine[:4]})
		l.commit(l.people[0], CommitOptions{OmitPath: true}, l.person("j"), l.person("k"), l.person("l"))
		removed(t, l, l.people[5], 0, 1, 4)
		l.commit(l.people[2], CommitOptions{})
		takes(t, l)
	})
	bothWays(t, "§7.8 a group of one member, and of two to the power of n and one more", func(t *testing.T, public bool) {
		for _, n := range []int{1, 2, 4, 5, 8, 9} {
			takes(t, newLab(t, public, labOptions{names: nine[:n]}))
		}
	})
}
