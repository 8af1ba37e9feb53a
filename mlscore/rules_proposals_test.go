package mlscore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// listCase is a list of proposals that a commit must not hold.
type listCase struct {
	name string
	want want
	lab  labOptions
	// list returns the proposals that alice commits by value. Others may have sent proposals before: all waiting
	// proposals are committed by reference.
	list func(l *lab) []Proposal
	// api is the error that alice gets when she tries the same through the API; nil for the same error as the others.
	api *want
}

func (c listCase) run(t *testing.T) {
	bothWays(t, c.name, func(t *testing.T, public bool) {
		l := newLab(t, public, c.lab)
		alice := l.people[0]
		list := c.list(l)
		f := (&forgery{by: alice}).value(list...).reference()
		l.refuse(alice, f.message(t), c.want)
		if len(list) > 0 {
			w := c.want
			if c.api != nil {
				w = *c.api
			}
			before := alice.snapshot(t)
			_, err := alice.group.Commit(CommitOptions{Proposals: list})
			w.match(t, err)
			before.requireSame(t, alice)
		}
		l.goesOn()
	})
}

// propose makes a member propose any proposal, valid or not, and the others process it.
func (l *lab) propose(by *person, p Proposal) {
	l.Helper()
	f := &forgery{by: by}
	msg := f.proposal(l.TB, p)
	l.deliver(by, msg)
	// Add the proposal to the proposer's own state, and advance its ratchet.
	m := must[*message](l.TB)(parseMessage(msg, by.cfg.Limits.Codec))
	if m.public != nil {
		by.group.state.public = must[*PublicState](l.TB)(by.group.public().cache(&m.public.authenticatedContent))
		return
	}
	st := by.group.state
	name := ratchetFor(st.self, ContentProposal)
	r := reading{by.group.suite, st.public.tree, st.public.encoded, st.secrets.senderData, st.messages, ^LeafIndex(0), by.cfg.Limits}
	ac, step, err := r.open(m.private)
	if err != nil {
		l.Fatal(err)
	}
	if step.name != name {
		l.Fatal("another ratchet")
	}
	st.messages.apply(step)
	st.public = must[*PublicState](l.TB)(st.public.cache(ac))
}

// proposeSignedFor makes bob propose an Update whose leaf is signed for a given group and place.
func (l *lab) proposeSignedFor(groupID []byte, i LeafIndex) {
	l.Helper()
	bob := l.people[1]
	p := l.update(bob)
	if err := p.Update.sign(bob.group.suite, bob.group.state.signer, groupID, i); err != nil {
		l.Fatal(err)
	}
	l.propose(bob, p)
}

// psk returns the id of an external PSK that the given people hold.
func (l *lab) psk(id string, holders ...*person) PreSharedKeyID {
	l.Helper()
	for _, p := range holders {
		if err := p.StorePSK([]byte(id), NewSecret([]byte("psk "+id))); err != nil {
			l.Fatal(err)
		}
	}
	p := l.people[0]
	return *must[Proposal](l.TB)(PSKProposal(p.cfg.Rand, p.group.suite.id, PreSharedKeyID{Type: PSKExternal, ID: []byte(id)})).PSK
}

func pskProposal(id PreSharedKeyID) Proposal { return Proposal{Type: ProposalPSK, PSK: &id} }

// resumption returns the id of this group's resumption PSK of the present epoch.
func (l *lab) resumption(usage ResumptionUsage) PreSharedKeyID {
	l.Helper()
	p := l.people[0]
	return *must[Proposal](l.TB)(PSKProposal(p.cfg.Rand, p.group.suite.id, PreSharedKeyID{
		Type: PSKResumption, Usage: usage, GroupID: p.group.GroupID(), Epoch: p.group.Epoch(),
	})).PSK
}

// TestRulesProposal checks the rules on each proposal by itself (§12.1).
func TestRulesProposal(t *testing.T) {
	notMember := want{kind: ErrInvalid, clause: "§12.1.3", say: "is not a member"}
	misuse := func(clause, say string) *want { return &want{kind: ErrMisuse, clause: clause, say: say} }
	remove := func(i LeafIndex) func(*lab) []Proposal {
		return func(*lab) []Proposal { return []Proposal{RemoveProposal(i)} }
	}
	nonce := want{kind: ErrInvalid, clause: "§12.1.4", say: "nonce of"}
	usage := want{kind: ErrInvalid, clause: "§12.1.4", say: "belongs to the founding"}
	for _, c := range []listCase{
		{name: "§12.1.3 a Remove of a blank leaf", want: notMember, list: remove(3)},
		{name: "§12.1.3 a Remove of a leaf just outside of the tree", want: notMember, list: remove(4)},
		{name: "§12.1.3 a Remove of leaf 2^31", want: notMember, list: remove(1 << 31)},
		{name: "§12.1.3 a Remove of leaf 2^32-1", want: notMember, list: remove(1<<32 - 1)},
		{name: "§12.1.4 a PSK of usage reinit", want: usage, list: func(l *lab) []Proposal {
			return []Proposal{pskProposal(l.resumption(UsageReInit))}
		}},
		{name: "§12.1.4 a PSK of usage branch", want: usage, list: func(l *lab) []Proposal {
			return []Proposal{pskProposal(l.resumption(UsageBranch))}
		}},
		{name: "§12.1.4 a PSK nonce that is too short", want: nonce, list: func(l *lab) []Proposal {
			id := l.psk("a", l.people...)
			id.Nonce = id.Nonce[1:]
			return []Proposal{pskProposal(id)}
		}},
		{name: "§12.1.4 a PSK nonce that is too long", want: nonce, list: func(l *lab) []Proposal {
			id := l.psk("a", l.people...)
			id.Nonce = append(id.Nonce, 0)
			return []Proposal{pskProposal(id)}
		}},
		{name: "§12.1.4 an empty PSK nonce", want: nonce, list: func(l *lab) []Proposal {
			id := l.resumption(UsageApplication)
			id.Nonce = nil
			return []Proposal{pskProposal(id)}
		}},
		{
			name: "§7.2 an Update's leaf signed for another place",
			want: want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"},
			list: func(l *lab) []Proposal {
				l.proposeSignedFor(l.people[0].group.GroupID(), 2)
				return nil
			},
		},
		{
			name: "§7.2 an Update's leaf signed for another group",
			want: want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"},
			list: func(l *lab) []Proposal {
				l.proposeSignedFor([]byte("another"), 1)
				return nil
			},
		},
		{
			name: "§12.1.5 a ReInit to an earlier version",
			want: want{kind: ErrInvalid, clause: "§12.1.5", say: "version 0 is below"},
			list: func(*lab) []Proposal {
				return []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), CipherSuite: labSuite})}
			},
		},
		{
			name: "§12.1.6 an ExternalInit by a member",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "ExternalInit in a commit by a member"},
			api:  misuse("§12.4", "cannot be committed by value"),
			list: func(l *lab) []Proposal {
				return []Proposal{{Type: ProposalExternalInit, ExternalInit: make([]byte, 32)}}
			},
		},
		{
			name: "§12.1.6 an ExternalInit by a member, by reference",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "ExternalInit in a commit by a member"},
			list: func(l *lab) []Proposal {
				l.propose(l.people[1], Proposal{Type: ProposalExternalInit, ExternalInit: make([]byte, 32)})
				return nil
			},
		},
	} {
		c.run(t)
	}
	t.Run("§8.4 an undefined PSK type or usage", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		f := &forgery{by: l.people[0]}
		for _, usage := range []ResumptionUsage{0, 4} {
			l.refuse(l.people[0], f.proposal(t, pskProposal(l.resumption(usage))), want{kind: ErrMalformed, clause: "§8.4", say: fmt.Sprintf("usage %d is not defined", usage)})
		}
		for _, kind := range []PSKType{0, 3} {
			bad := l.resumption(UsageApplication)
			bad.Type = kind
			l.refuse(l.people[0], f.proposal(t, pskProposal(bad)), want{kind: ErrMalformed, clause: "§8.4", say: fmt.Sprintf("type %d is not defined", kind)})
		}
		l.goesOn()
	})
	t.Run("§17.4 proposal type 0", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		f := &forgery{by: l.people[0]}
		l.refuse(l.people[0], f.proposal(t, Proposal{}), want{kind: ErrMalformed, clause: "§17.4", say: "type 0 is reserved"})
		l.goesOn()
	})
	bothWays(t, "§12.1 a proposal that was received before", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		msg := must[[]byte](t)(l.people[0].group.Propose(RemoveProposal(2), ProposeOptions{}))
		l.deliver(l.people[0], msg)
		clause := map[bool]string{true: "§12.1", false: "§9.2"}[public]
		l.refuse(l.people[0], msg, want{kind: ErrReplay, clause: clause, say: ""})
	})
}

// TestRulesExtensionsProposal checks the rules on GroupContextExtensions (§12.1.7).
func TestRulesExtensionsProposal(t *testing.T) {
	extensions := func(x ...Extension) func(*lab) []Proposal {
		return func(*lab) []Proposal { return []Proposal{ExtensionsProposal(x)} }
	}
	// Carol supports less than the others.
	uneven := func(o *labOptions) labOptions {
		o.config = func(name string, c *Config) {
			if name != "carol" {
				c.Extensions, c.Proposals, c.Credentials = both(testExtension, otherExtension), both(testProposal), both(CredentialX509)
			}
		}
		return *o
	}(&labOptions{})
	sender := func(l *lab, name string) ExternalSender {
		p := l.person(name)
		return ExternalSender{must[[]byte](l.TB)(l.people[0].group.suite.signaturePublicKey(p.id.SignatureKey.Bytes())), p.id.Credential}
	}
	senders := func(l *lab, list ...ExternalSender) []Proposal {
		return []Proposal{ExtensionsProposal(Extensions{must[Extension](l.TB)(ExternalSendersExtension(list))})}
	}
	trailing := func(x Extension) Extension { return Extension{x.Type, append(bytes.Clone(x.Data), 0)} }
	misplaced := want{kind: ErrInvalid, clause: "§13.4", say: "does not belong in a GroupContext"}
	for _, c := range []listCase{
		{
			name: "§12.1.7 a required extension that a member does not support", lab: uneven,
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required extension 0xf001"},
			list: extensions(RequiredCapabilities{Extensions: both(testExtension)}.Extension()),
		},
		{
			name: "§12.1.7 a required proposal type that a member does not support", lab: uneven,
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required proposal type 0xf002"},
			list: extensions(RequiredCapabilities{Proposals: both(testProposal)}.Extension()),
		},
		{
			name: "§12.1.7 a required credential type that a member does not support", lab: uneven,
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required credential type 0x0002"},
			list: extensions(RequiredCapabilities{Credentials: both(CredentialX509)}.Extension()),
		},
		{
			name: "§12.1.7 a required extension that a newcomer does not support",
			lab: labOptions{config: func(name string, c *Config) {
				if name != "dave" {
					c.Extensions = both(testExtension)
				}
			}},
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required extension 0xf001"},
			list: func(l *lab) []Proposal {
				x := RequiredCapabilities{Extensions: both(testExtension)}.Extension()
				return []Proposal{AddProposal(l.person("dave").keyPackage(l.TB)), ExtensionsProposal(Extensions{x})}
			},
		},
		{
			name: "§13.4 an extension that a member does not support", lab: uneven,
			want: want{kind: ErrInvalid, clause: "§13.4", say: "GroupContext extension 0xf003 is not supported"},
			list: extensions(Extension{otherExtension, []byte("x")}),
		},
		{
			name: "§13.5 an extension of a GREASE type that all members list",
			lab:  labOptions{config: func(_ string, c *Config) { c.Extensions, c.GREASE = both(ExtensionType(0x0a0a)), GREASENowhere }},
			want: want{kind: ErrInvalid, clause: "§13.4", say: "GroupContext extension 0x0a0a is not supported"},
			list: extensions(Extension{0x0a0a, nil}),
		},
		{
			name: "§13.5 a GREASE type among the required ones",
			lab:  labOptions{config: func(_ string, c *Config) { c.Proposals, c.GREASE = both(ProposalType(0x1a1a)), GREASENowhere }},
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required proposal type 0x1a1a"},
			list: extensions(RequiredCapabilities{Proposals: both(ProposalType(0x1a1a))}.Extension()),
		},
		{
			name: "§13.4 the extension ratchet_tree in a GroupContext", lab: strict, want: misplaced,
			list: extensions(Extension{ExtensionRatchetTree, nil}),
		},
		{
			name: "§13.4 the extension external_pub in a GroupContext", lab: strict, want: misplaced,
			list: extensions(Extension{ExtensionExternalPub, []byte{0}}),
		},
		{
			name: "§13.4 the extension application_id in a GroupContext", lab: strict, want: misplaced,
			list: extensions(Extension{ExtensionApplicationID, []byte{0}}),
		},
		{
			name: "§11.1 required_capabilities with bytes after it",
			want: want{kind: ErrMalformed, say: "required_capabilities: does not decode"},
			list: extensions(trailing(RequiredCapabilities{}.Extension())),
		},
		{
			name: "§11.1 required_capabilities that end early",
			want: want{kind: ErrMalformed, say: "required_capabilities: does not decode"},
			list: extensions(Extension{ExtensionRequiredCapabilities, []byte{1, 0, 0, 0}}),
		},
		{
			name: "§12.1.8.1 external_senders with bytes after it",
			want: want{kind: ErrMalformed, say: "external_senders: does not decode"},
			list: func(l *lab) []Proposal {
				list := senders(l, sender(l, "service"))
				list[0].Extensions[0] = trailing(list[0].Extensions[0])
				return list
			},
		},
		{
			name: "§12.1.8.1 an external sender with an unknown credential type", lab: strict,
			want: want{kind: ErrUnsupported, clause: "§5.3", say: "type 0xf005"},
			list: func(l *lab) []Proposal {
				s := sender(l, "service")
				s.Credential = Credential{Type: 0xf005, Data: []byte("service")}
				return senders(l, s)
			},
		},
		{
			name: "§12.1.8.1 an external sender whose key is none of the suite", lab: strict,
			want: want{kind: ErrMalformed, clause: "§5.1.1", say: "external sender 1"},
			list: func(l *lab) []Proposal {
				bad := sender(l, "other")
				bad.SignatureKey = bad.SignatureKey[:31]
				return senders(l, sender(l, "service"), bad)
			},
		},
		{
			name: "§5.3.1 an external sender whom the application refuses",
			want: want{kind: ErrPolicy, clause: "§5.3.1", say: "external sender 1"},
			list: func(l *lab) []Proposal { return senders(l, sender(l, "service"), sender(l, "refused service")) },
		},
	} {
		c.run(t)
	}
	t.Run("§13.4 an extension type twice in a GroupContextExtensions proposal", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		x := RequiredCapabilities{}.Extension()
		f := &forgery{by: l.people[0]}
		l.refuse(l.people[0], f.proposal(t, ExtensionsProposal(Extensions{x, x})), want{kind: ErrMalformed, clause: "§13.4", say: "occurs twice"})
		l.goesOn()
	})
	bothWays(t, "§12.1.7 a member who is removed at once need not support what is required", func(t *testing.T, public bool) {
		l := newLab(t, public, uneven)
		x := Extensions{RequiredCapabilities{both(testExtension), both(testProposal), both(CredentialX509)}.Extension(), {otherExtension, nil}}
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ExtensionsProposal(x), RemoveProposal(2)}})
		l.goesOn()
	})
	bothWays(t, "§12.1.7 default types may be required, and external senders set, without being listed", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		x := Extensions{
			RequiredCapabilities{both(ExtensionExternalSenders), both(ProposalAdd), both(CredentialBasic)}.Extension(),
			must[Extension](t)(ExternalSendersExtension([]ExternalSender{sender(l, "service")})),
		}
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ExtensionsProposal(x)}})
		l.commit(l.people[1], CommitOptions{}, l.person("dave"))
		l.goesOn()
	})
	bothWays(t, "§12.3 the new extensions are what the other proposals of the list are judged by", func(t *testing.T, public bool) {
		// Dave does not support the extension that was required until now.
		o := labOptions{
			extensions: Extensions{RequiredCapabilities{Extensions: both(testExtension)}.Extension()},
			config: func(name string, c *Config) {
				if name != "dave" {
					c.Extensions = both(testExtension)
				}
			},
		}
		l := newLab(t, public, o)
		dave := l.person("dave")
		_, err := l.people[0].group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(dave.keyPackage(t))}})
		want{kind: ErrInvalid, clause: "§11.1", say: "required extension 0xf001"}.match(t, err)
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ExtensionsProposal(nil)}}, dave)
		l.goesOn()
	})
	bothWays(t, "§12.1.7 the list is replaced, not merged", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{
			extensions: Extensions{{testExtension, []byte("1")}, {otherExtension, []byte("2")}},
			config:     func(_ string, c *Config) { c.Extensions = both(testExtension, otherExtension) },
		})
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ExtensionsProposal(Extensions{{otherExtension, []byte("3")}})}})
		for _, p := range l.people {
			if x := p.group.public().context.Extensions; !x.equal(Extensions{{otherExtension, []byte("3")}}) {
				t.Fatalf("extensions %v", x)
			}
		}
		l.goesOn()
	})
}

// TestRulesProposalList checks the rules on the proposals of a commit together (§12.2).
func TestRulesProposalList(t *testing.T) {
	custom := func(name string, c *Config) {
		if name != "carol" && name != "dave" {
			c.Proposals = both(testProposal)
		}
	}
	twice := want{kind: ErrInvalid, clause: "§12.2", say: "is updated or removed more than once"}
	client := want{kind: ErrInvalid, clause: "§12.2", say: "represents the same client as leaf"}
	reinit := want{kind: ErrInvalid, clause: "§12.2", say: "a proposal of type reinit together with others"}
	next := func() Proposal {
		return ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite})
	}
	for _, c := range []listCase{
		{
			name: "§12.2 an Update by the committer, by value",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "made by the committer itself"},
			api:  &want{kind: ErrMisuse, clause: "§12.4", say: "cannot be committed by value"},
			list: func(l *lab) []Proposal {
				return []Proposal{l.update(l.people[0])}
			},
		},
		{
			name: "§12.2 an Update by the committer, by reference",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "made by the committer itself"},
			list: func(l *lab) []Proposal {
				l.proposeUpdate(l.people[0])
				return nil
			},
		},
		{
			name: "§12.2 a Remove that removes the committer",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "removes the committer"},
			list: func(*lab) []Proposal { return []Proposal{RemoveProposal(0)} },
		},
		{
			name: "§12.2 a Remove that removes the committer, by reference",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "removes the committer"},
			list: func(l *lab) []Proposal {
				l.propose(l.people[1], RemoveProposal(0))
				return nil
			},
		},
		{
			name: "§12.2 two Removes of one leaf", want: twice,
			list: func(*lab) []Proposal { return []Proposal{RemoveProposal(2), RemoveProposal(2)} },
		},
		{
			name: "§12.2 an Update and a Remove of one leaf", want: twice,
			list: func(l *lab) []Proposal {
				l.proposeUpdate(l.people[1])
				l.propose(l.people[2], RemoveProposal(1))
				return nil
			},
		},
		{
			name: "§12.2 two Updates of one leaf", want: twice,
			list: func(l *lab) []Proposal {
				l.proposeUpdate(l.people[1])
				l.proposeUpdate(l.people[1])
				return nil
			},
		},
		{
			name: "§12.2 two Adds of one KeyPackage",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "encryption_key is also used at"},
			list: func(l *lab) []Proposal {
				kp := l.person("dave").keyPackage(l.TB)
				return []Proposal{AddProposal(kp), AddProposal(kp)}
			},
		},
		{
			name: "§12.2 two Adds with one signature key",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "signature_key is also used at"},
			list: func(l *lab) []Proposal {
				dave, erin := l.person("dave"), l.person("erin")
				erin.id.SignatureKey = dave.id.SignatureKey
				return []Proposal{AddProposal(dave.keyPackage(l.TB)), AddProposal(erin.keyPackage(l.TB))}
			},
		},
		{
			name: "§12.2 two Adds of one client with different keys", want: client,
			list: func(l *lab) []Proposal {
				return []Proposal{AddProposal(l.person("dave").keyPackage(l.TB)), AddProposal(l.person("dave").keyPackage(l.TB))}
			},
		},
		{
			name: "§12.2 an Add of a client who is a member", want: client,
			list: func(l *lab) []Proposal { return []Proposal{AddProposal(l.person("carol").keyPackage(l.TB))} },
		},
		{
			name: "§12.2 an Add of the committer", want: client,
			list: func(l *lab) []Proposal { return []Proposal{AddProposal(l.person("alice").keyPackage(l.TB))} },
		},
		{
			name: "§12.2 a PSK twice",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "is injected twice"},
			list: func(l *lab) []Proposal {
				id := l.psk("a", l.people...)
				return []Proposal{pskProposal(id), pskProposal(l.psk("b", l.people...)), pskProposal(id)}
			},
		},
		{
			name: "§12.2 two GroupContextExtensions proposals",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "2 proposals of type group_context_extensions, at most one"},
			list: func(*lab) []Proposal { return []Proposal{ExtensionsProposal(nil), ExtensionsProposal(nil)} },
		},
		{
			name: "§12.2 a ReInit with another proposal", want: reinit,
			list: func(l *lab) []Proposal {
				return []Proposal{next(), AddProposal(l.person("dave").keyPackage(l.TB))}
			},
		},
		{
			name: "§12.2 a ReInit with an empty list of extensions", want: reinit,
			list: func(*lab) []Proposal { return []Proposal{ExtensionsProposal(nil), next()} },
		},
		{
			name: "§12.2 two ReInits", want: reinit,
			list: func(*lab) []Proposal { return []Proposal{next(), next()} },
		},
		{
			name: "§12.2 a proposal type that a member does not support",
			lab:  labOptions{config: custom},
			want: want{kind: ErrInvalid, clause: "§12.2", say: "not supported by all members"},
			list: func(*lab) []Proposal { return []Proposal{CustomProposal(testProposal, []byte("x"))} },
		},
		{
			name: "§13.5 a proposal of a GREASE type that all members list",
			lab:  labOptions{config: func(_ string, c *Config) { c.Proposals, c.GREASE = both(ProposalType(0x2a2a)), GREASENowhere }},
			want: want{kind: ErrInvalid, clause: "§12.2", say: "not supported by all members"},
			list: func(*lab) []Proposal { return []Proposal{CustomProposal(0x2a2a, []byte("x"))} },
		},
		{
			name: "§12.2 a proposal that the application refuses",
			lab:  labOptions{config: func(_ string, c *Config) { c.Policy = noRemoves{} }},
			want: want{kind: ErrPolicy, clause: "§12.2", say: "refused by the application"},
			list: func(*lab) []Proposal { return []Proposal{RemoveProposal(2)} },
		},
	} {
		c.run(t)
	}
	bothWays(t, "§12.2 a client is added whom the same commit removes", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		again := l.person("carol")
		again.id = l.people[2].id // with the same keys
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{RemoveProposal(2)}}, again)
		if again.group.Self() != 2 || l.people[2].group.Active() {
			t.Fatalf("carol is at %d, and was removed: %v", again.group.Self(), !l.people[2].group.Active())
		}
		l.goesOn()
	})
	bothWays(t, "§12.2 who is added or removed need not support a proposal type of the commit", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: custom})
		list := []Proposal{CustomProposal(testProposal, []byte("x")), RemoveProposal(2)}
		c := l.commit(l.people[0], CommitOptions{Proposals: list}, l.person("dave"))
		if got := c.Staged.Effects().Proposals; len(got) != 3 || string(got[0].Custom) != "x" {
			t.Fatalf("committed %v", got)
		}
		l.goesOn()
	})
	bothWays(t, "§12.3 Removes and Updates first, then the tree shrinks, then Adds in their order", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: fiveNames})
		l.proposeUpdate(l.people[1])
		frank, gina, hal := l.person("frank"), l.person("gina"), l.person("hal")
		list := []Proposal{AddProposal(frank.keyPackage(t)), RemoveProposal(4), AddProposal(gina.keyPackage(t)), RemoveProposal(2), AddProposal(hal.keyPackage(t)), RemoveProposal(3)}
		c := l.commit(l.people[0], CommitOptions{Proposals: list})
		e := c.Staged.Effects()
		if len(e.Added) != 3 || e.Added[0].Leaf != 2 || e.Added[1].Leaf != 3 || e.Added[2].Leaf != 4 || len(e.Updated) != 1 || len(e.Removed) != 3 {
			t.Fatalf("%+v, skipped %v", e, c.Skipped)
		}
		for at, p := range []*person{frank, gina, hal} {
			p.group = must[*Group](t)(p.Join(c.Welcome, JoinOptions{GroupOptions: l.people[0].group.options}))
			if p.group.Self() != e.Added[at].Leaf {
				t.Fatalf("came to leaf %d", p.group.Self())
			}
			l.people = append(l.people, p)
		}
		l.agree()
		l.goesOn()
		c = l.commit(l.people[0], CommitOptions{Proposals: []Proposal{RemoveProposal(4), RemoveProposal(3), RemoveProposal(2)}})
		if h := c.Staged.Public().tree.height(); h != 1 {
			t.Fatalf("a tree of height %d for two members", h)
		}
		l.goesOn()
	})
	bothWays(t, "§12.2 one PSK under two nonces is two PSKs", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		list := []Proposal{pskProposal(l.psk("a", l.people...)), pskProposal(l.psk("a", l.people...))}
		l.commit(l.people[0], CommitOptions{Proposals: list})
		l.goesOn()
	})
	bothWays(t, "§12.1.2 an Update of leaf 0", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		l.proposeUpdate(l.people[0])
		c := l.commit(l.people[1], CommitOptions{})
		if updated := c.Staged.Effects().Updated; len(updated) != 1 || updated[0].Leaf != 0 {
			t.Fatalf("updated %v, skipped %v", updated, c.Skipped)
		}
		l.goesOn()
		l.commit(l.people[0], CommitOptions{})
	})
}

// noRemoves is a Policy that refuses Remove proposals.
type noRemoves struct{}

func (noRemoves) AllowProposal(c ProposalContext) error {
	if c.Proposal.Type == ProposalRemove {
		return errNoRemoves
	}
	return nil
}

var errNoRemoves = errors.New("nobody is removed here")

// proposeUpdate makes a member propose an Update whose keys it keeps.
func (l *lab) proposeUpdate(p *person) {
	l.Helper()
	l.deliver(p, must[[]byte](l.TB)(p.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})))
}

// update makes an Update proposal by a member, whose keys nobody keeps.
func (l *lab) update(p *person) Proposal {
	l.Helper()
	leaf, signer, err := p.group.newLeaf(LeafUpdate{})
	if err != nil {
		l.Fatal(err)
	}
	if _, leaf.EncryptionKey, err = p.group.suite.generateKeyPair(p.cfg.Rand); err != nil {
		l.Fatal(err)
	}
	leaf.Source = SourceUpdate
	if err := leaf.sign(p.group.suite, signer, p.group.GroupID(), p.group.Self()); err != nil {
		l.Fatal(err)
	}
	return Proposal{Type: ProposalUpdate, Update: &leaf}
}

// TestRulesReferences checks that a commit refers to proposals that were received in the same epoch (§12.4, erratum
// 8815).
func TestRulesReferences(t *testing.T) {
	missing := want{kind: ErrMissing, clause: "§12.2", say: "proposal was not received"}
	bothWays(t, "§12.2 a reference to a proposal that was not received (erratum 8815)", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice := l.people[0]
		unknown := &forgery{by: alice}
		unknown.list = []sentProposal{{Proposal: RemoveProposal(2), sender: member(1), ref: slices.Repeat([]byte{7}, 32)}}
		l.refuse(alice, unknown.message(t), missing)
		unknown.list[0].ref = nil
		empty := &forgery{by: alice, commit: func(c *commitContent) { c.proposals = []proposalOrRef{{ref: []byte{}}} }}
		l.refuse(alice, empty.message(t), missing)
		l.goesOn()
	})
	bothWays(t, "§12.2 a reference to a proposal of an earlier epoch", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, bob := l.people[0], l.people[1]
		l.propose(bob, RemoveProposal(2))
		old := alice.group.public().proposals[0].sentProposal
		l.commit(bob, CommitOptions{OnlyThese: true})
		f := &forgery{by: alice, list: []sentProposal{old}}
		l.refuse(alice, f.message(t), missing)
		l.goesOn()
	})
	bothWays(t, "§12.4 an undefined kind of reference", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice := l.people[0]
		for _, octet := range []byte{0, 3, 255} {
			f := (&forgery{by: alice}).value(CustomProposal(testProposal, slices.Repeat([]byte{octet}, 40)))
			f.content = func(c *framedContent) {
				encoded := c.marshal()
				mark := []byte{1, 0xf0, 0x02, 40} // type proposal, testProposal, length
				at := bytes.Index(encoded, mark)
				if at < 0 {
					t.Fatal("the proposal is not there")
				}
				c.encoded = bytes.Clone(encoded)
				c.encoded[at] = octet
			}
			f.plain = func(b []byte) []byte {
				b[bytes.Index(b, []byte{1, 0xf0, 0x02, 40})] = octet
				return b
			}
			l.refuse(alice, f.message(t), want{kind: ErrMalformed, clause: "§12.4", say: "is not defined"})
		}
		l.goesOn()
	})
}

// TestRulesPreference checks which waiting proposals a committer leaves out (§12.2).
func TestRulesPreference(t *testing.T) {
	bothWays(t, "§12.2 a Remove goes before an Update, a later Update before an earlier one, all before a ReInit", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: both("alice", "bob", "carol", "dave")})
		alice, bob, carol := l.people[0], l.people[1], l.people[2]
		l.proposeUpdate(bob)
		l.propose(carol, ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite}))
		l.propose(carol, RemoveProposal(1))
		l.propose(bob, RemoveProposal(0))
		l.proposeUpdate(carol)
		l.proposeUpdate(carol)
		c := l.commit(alice, CommitOptions{})
		e := c.Staged.Effects()
		if len(e.Updated) != 1 || e.Updated[0].Leaf != 2 || len(e.Removed) != 1 || e.Removed[0].Leaf != 1 || e.ReInit != nil || len(c.Skipped) != 4 {
			t.Fatalf("%+v, skipped %v", e, c.Skipped)
		}
		want2, _ := alice.group.public().tree.leaf(2)
		if !bytes.Equal(want2.EncryptionKey, must[[]byte](t)(alice.group.suite.publicKeyOf(carol.group.state.keys[0].Bytes()))) {
			t.Fatal("carol's leaf is not the one of her second Update")
		}
		l.goesOn()
	})
	bothWays(t, "§12.2 one of two ReInits is committed when nothing else waits", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		for _, p := range l.people[1:] {
			l.propose(p, ReInitProposal(ReInit{GroupID: p.id.Credential.Identity, Version: MLS10, CipherSuite: labSuite}))
		}
		c := l.commit(l.people[0], CommitOptions{})
		if r := c.Staged.Effects().ReInit; r == nil || string(r.GroupID) != "bob" || len(c.Skipped) != 1 {
			t.Fatalf("ReInit %v, skipped %v", r, c.Skipped)
		}
	})
}
