package test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestDeviceActsForNoOther checks that a device cannot acknowledge items of another device, take over its session, or
// enrol a device of its user.
func TestDeviceActsForNoOther(t *testing.T) {
	c := newCluster(t, "a.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const talk = wire.ConversationID("the victim's own talk")
	link, err := c.Invite(ctx, "a.example", "victim")
	if err != nil {
		t.Fatal(err)
	}
	victim, err := link.DeviceID("raw")
	if err != nil {
		t.Fatal(err)
	}
	enrol := func(link client.Invitation, id wire.DeviceID) (ed25519.PrivateKey, error) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.WebSocket(link, nil).Enrol(ctx, &wire.EnrolRequest{Device: id, Key: public, Code: link.Code, Proof: ed25519.Sign(private, wire.EnrolInput(id, public))})
		return private, err
	}
	key, err := enrol(link, victim)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*rawSession, chan *wire.Push) {
		pushed := make(chan *wire.Push, 16) // of the conversation
		s, err := connectRaw(ctx, link, victim, key, func(p *wire.Push) {
			if p.Conversation != nil && *p.Conversation == talk {
				pushed <- p
			}
		}, true)
		if err != nil {
			t.Fatal(err)
		}
		return s, pushed
	}
	first := func(pushed chan *wire.Push) *wire.Push {
		select {
		case p := <-pushed:
			return p
		case <-ctx.Done():
			t.Fatal("nothing is pushed")
			return nil
		}
	}
	session, pushed := open()
	token := wire.Token(random16())
	if err := session.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
		t.Fatal(err)
	}
	if err := session.createWith(ctx, talk, wire.Address{Organization: "a.example", Token: token}); err != nil {
		t.Fatal(err)
	}
	before := first(pushed)

	mallory := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer mallory.close()
	if err := mallory.send(ctx, &wire.Frame{Type: wire.FrameAck}, &wire.Ack{Conversation: before.Conversation, Token: before.Token, Sequence: before.Sequence}); err != nil {
		t.Fatal(err)
	}
	if err := mallory.ask(ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: talk}, nil); wire.CodeOf(err) != wire.UnknownConversation {
		t.Errorf("entries: %v", err) // the answer comes after the acknowledgement was processed
	}
	session.close()
	session, pushed = open()
	defer session.close()
	if again := first(pushed); again.Sequence != before.Sequence || again.Token != before.Token {
		t.Errorf("item %d of %v is pushed again, it was item %d of %v: somebody else has acknowledged it", again.Sequence, again.Token, before.Sequence, before.Token)
	}

	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connectRaw(ctx, link, victim, other, func(*wire.Push) {}, true); err == nil {
		t.Error("another key logs in as the victim")
	}
	invited, err := c.Invite(ctx, "a.example", "mallory")
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[wire.DeviceID]wire.Code{
		"mimi://a.example/d/victim/evil":         wire.Denied,
		"mimi://a.example/d/mallory/../victim/x": wire.Malformed,
		"mimi://b.example/d/mallory/x":           wire.NotFound,
	} {
		if _, err := enrol(invited, id); wire.CodeOf(err) != want {
			t.Errorf("a code of mallory's enrols %s: %v, wanted %q", id, err, want)
		}
	}
	if _, err := enrol(invited, "mimi://a.example/d/mallory/x"); err != nil {
		t.Errorf("none of the refusals may have used the code: %v", err)
	}
}

// TestLongCommitsAgainstTheRules checks that no member accepts a commit that violates the conversation's rules.
// Members get an alarm, keep members and admins, and continue.
func TestLongCommitsAgainstTheRules(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("runs real nodes: set MLSFED_LONG to short or full")
	}
	for name, proposals := range map[string]func(x mlscore.Extensions) []mlscore.Proposal{
		"becomes admin by other rules": func(x mlscore.Extensions) []mlscore.Proposal {
			raw, _ := x.Find(rulesExtension)
			rules := new(client.Rules)
			if err := wire.Decode(raw, 1<<16, rules); err != nil {
				t.Fatal(err)
			}
			rules.Admins = append(rules.Admins, "mimi://c.example/u/carol")
			b, err := wire.Encode(rules)
			if err != nil {
				t.Fatal(err)
			}
			return []mlscore.Proposal{mlscore.ExtensionsProposal(x.With(mlscore.Extension{Type: rulesExtension, Data: b}))}
		},
		"drops the rules": func(x mlscore.Extensions) []mlscore.Proposal {
			var kept mlscore.Extensions
			for _, e := range x {
				if e.Type != rulesExtension {
					kept = append(kept, e)
				}
			}
			return []mlscore.Proposal{mlscore.ExtensionsProposal(kept)}
		},
		"removes the admin": func(mlscore.Extensions) []mlscore.Proposal {
			return []mlscore.Proposal{{Type: mlscore.ProposalRemove, Remove: 0}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newCircle(t)
			notices := make(chan error, 64)
			events := k.bob.Subscribe(k.ctx)
			go func() {
				for e := range events {
					if e.Type == client.EventPoison {
						notices <- e.Err
					}
				}
			}()
			carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
			binding, err := (&wire.CommitBundle{}).Binding()
			if err != nil {
				t.Fatal(err)
			}
			said, err := wire.Encode(&statement{Binding: binding, Last: carol.last, Order: carol.order})
			if err != nil {
				t.Fatal(err)
			}
			made, err := carol.group.Commit(mlscore.CommitOptions{Proposals: proposals(carol.group.Public().Context().Extensions),
				AuthenticatedData: said, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}})
			if err != nil {
				t.Fatalf("the commit cannot be made, and shows nothing: %v", err)
			}
			e := carol.envelope(wire.KindCommit)
			e.Commit = &wire.CommitBundle{Commit: made.Message, Key: wire.SubmissionKey(submissionKey(t, made.Staged).Public().(ed25519.PublicKey))}
			if _, err := carol.update(k.ctx, t, e); err != nil {
				t.Fatalf("the nodes refuse it, and it shows nothing: %v", err)
			}
			select {
			case err := <-notices:
				t.Logf("bob gets the notice: %v", err)
			case <-k.ctx.Done():
				t.Fatal("bob gets no notice")
			}
			if err := k.alice.Rename(k.ctx, k.id, "On we go"); err != nil {
				t.Fatal(err)
			}
			honest, err := k.Resume("c.example", "carol", "phone") // with what she knew before
			if err != nil {
				t.Fatal(err)
			}
			at := k.share(k.alice, k.bob, k.dave, honest)
			if at.Members != 4 || len(at.Rules.Admins) != 1 || at.Rules.Admins[0] != "mimi://a.example/u/alice" {
				t.Errorf("%d members, admins %v", at.Members, at.Rules.Admins)
			}
			if err := cluster.Await(k.ctx, k.bob, func() (bool, error) {
				v, err := k.bob.Conversation(k.ctx, k.id)
				return err == nil && v.Rules.Name == "On we go", err
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// rulesExtension is the type of the extension with a conversation's rules (docs/spec/client.md).
const rulesExtension mlscore.ExtensionType = 0xf0a0
