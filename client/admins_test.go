package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// admins waits until devices see these users as admins.
func admins(t testing.TB, id wire.ConversationID, want []wire.UserID, peers ...*peer) {
	t.Helper()
	for _, p := range peers {
		eventually(t, func() error {
			c, err := p.Conversation(t.Context(), id)
			if err == nil && !slices.Equal(c.Rules.Admins, want) {
				err = fmt.Errorf("%s sees the admins %v, wanted %v", p.id, c.Rules.Admins, want)
			}
			return err
		})
	}
}

// TestRemovedAdminIsNoneWhenAddedAgain checks that an admin whom a plain member adds again may not remove the member
// who removed her.
func TestRemovedAdminIsNoneWhenAddedAgain(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	ctx, alice := t.Context(), a.id.User()
	check(t, a.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{bob}}))
	agree(t, id, a, b, c)
	check(t, a.Remove(ctx, id, bob))
	admins(t, id, []wire.UserID{alice}, a, c)
	inState(t, b, id, StateLeft)
	check(t, c.Add(ctx, id, bob))
	agree(t, id, a, b, c)
	admins(t, id, []wire.UserID{alice}, a, b, c)
	if err := b.Remove(ctx, id, alice); !errors.Is(err, mlscore.ErrPolicy) {
		t.Errorf("the removed admin removes: %v", err)
	}
}

// TestAdminWhoLeavesIsNoneAnyMore checks that an admin who leaves loses the role, when a plain member's device
// commits the leave.
func TestAdminWhoLeavesIsNoneAnyMore(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	if code := wire.CodeOf(a.Leave(ctx, id)); code != wire.Invalid {
		t.Errorf("the last admin leaves: %v", code)
	}
	check(t, a.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{bob}}))
	agree(t, id, a, b, c)
	b.stop()
	check(t, a.Leave(ctx, id))
	inState(t, a, id, StateLeft)
	admins(t, id, []wire.UserID{bob}, c)
	b.start()
	agree(t, id, b, c)
	check(t, c.Add(ctx, id, a.id.User()))
	agree(t, id, a, b, c)
	admins(t, id, []wire.UserID{bob}, a, b, c)
	for _, p := range []*peer{a, b, c} {
		if len(p.events(EventPoison)) > 0 {
			t.Errorf("%s: %v", p.id, p.events(EventPoison)[0].Err)
		}
	}
}

// TestLastAdminIsSucceeded checks that the last admin is succeeded when an organization ends the admin's account, and
// that no member removes that admin.
func TestLastAdminIsSucceeded(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{MembersRemove: true})
	if code := wire.CodeOf(c.Remove(t.Context(), id, a.id.User())); code != wire.Invalid {
		t.Errorf("a member removes the last admin: %v", code)
	}
	w.mu.Lock()
	check(t, w.revoke(w.orgs["a.example"], a.id))
	w.mu.Unlock()
	eventually(t, func() error {
		c.queues.kick(queueUpkeep)
		members, err := c.Members(t.Context(), id)
		if err == nil && len(members) != 2 {
			err = fmt.Errorf("%d members", len(members))
		}
		return err
	})
	agree(t, id, b, c)
	admins(t, id, []wire.UserID{bob}, b, c) // the leftmost leaf
}

// TestAdminNamedBeforehandIsOneWhenAnAdminAdds checks that a user named as admin beforehand becomes one when an admin
// adds the user, and not when another member does.
func TestAdminNamedBeforehandIsOneWhenAnAdminAdds(t *testing.T) {
	for by, want := range map[string][]wire.UserID{"admin": {"mimi://a.example/u/alice", bob}, "member": {"mimi://a.example/u/alice"}} {
		w := newWorld(t, "a.example", "b.example", "c.example")
		a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
		id, err := a.Create(t.Context(), CreateOptions{Admins: []wire.UserID{bob}})
		check(t, err)
		check(t, a.Add(t.Context(), id, carol))
		agree(t, id, a, c)
		adder := map[string]*peer{"admin": a, "member": c}[by]
		check(t, adder.Add(t.Context(), id, bob))
		agree(t, id, a, b, c)
		admins(t, id, want, a, b, c)
	}
}

// TestSuccessionWithAnEarlierRelease checks succession with a device that does not know it, and that lets only admins
// change the rules: an admin's device makes the change, in the commit or after it.
func TestSuccessionWithAnEarlierRelease(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.extensions = map[wire.DeviceID][]mlscore.ExtensionType{carolPhone: {extensionRules, extensionAddress}}
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	ctx, alice := t.Context(), a.id.User()
	id, err := a.Create(ctx, CreateOptions{Admins: []wire.UserID{bob}})
	check(t, err)
	check(t, a.Add(ctx, id, bob, carol))
	agree(t, id, a, b, c)
	check(t, a.Remove(ctx, id, bob))
	admins(t, id, []wire.UserID{alice}, a, c)
	check(t, c.Add(ctx, id, bob))
	agree(t, id, a, b, c)
	check(t, a.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{bob}}))
	agree(t, id, a, b, c)
	a.stop()
	check(t, b.Leave(ctx, id)) // carol's device commits the leave
	inState(t, b, id, StateLeft)
	a.start()
	admins(t, id, []wire.UserID{alice}, a, c)
	agree(t, id, a, c)
	for _, p := range []*peer{a, c} {
		if len(p.events(EventPoison)) > 0 {
			t.Errorf("%s: %v", p.id, p.events(EventPoison)[0].Err)
		}
	}
}

// TestCommitAgainstSuccessionIsNotProcessed checks a commit that keeps a removed admin, and one that takes more from
// the rules than it may.
func TestCommitAgainstSuccessionIsNotProcessed(t *testing.T) {
	leafOf := func(t *conversation, u wire.UserID) (leaf mlscore.LeafIndex) {
		t.group.Public().Members(func(m mlscore.Member) bool {
			leaf = m.Leaf
			return userOf(m) != u
		})
		return leaf
	}
	rules := func(t *conversation, change func(*Rules)) mlscore.Proposal {
		r, err := t.rules()
		check(t.d.opts.Transport.(*endpoint).w.t, err)
		change(r)
		x, err := r.extension()
		check(t.d.opts.Transport.(*endpoint).w.t, err)
		return mlscore.ExtensionsProposal(t.group.Public().Context().Extensions.With(x))
	}
	for name, proposals := range map[string]func(*conversation) []mlscore.Proposal{
		"keeps the removed admin": func(t *conversation) []mlscore.Proposal {
			return []mlscore.Proposal{mlscore.RemoveProposal(leafOf(t, bob))}
		},
		"takes another admin off": func(t *conversation) []mlscore.Proposal {
			return []mlscore.Proposal{rules(t, func(r *Rules) { r.Admins = []wire.UserID{bob} })}
		},
		"promotes itself": func(t *conversation) []mlscore.Proposal {
			return []mlscore.Proposal{rules(t, func(r *Rules) { r.Admins = append(r.Admins, carol) })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, id, a, b, c := trio(t, CreateOptions{MembersRemove: true, Admins: []wire.UserID{bob}})
			was := []wire.UserID{a.id.User(), bob}
			c.forgeChange(id, proposals)
			check(t, a.UpdateKeys(t.Context(), id))
			follow := []*peer{a, b, c}
			if name == "keeps the removed admin" {
				follow = []*peer{a, c} // a removed device cannot read the rest of the commit
			}
			agree(t, id, follow[0], follow[1:]...)
			admins(t, id, was, follow...)
			members(t, a, id, 3)
			if len(a.events(EventPoison)) == 0 {
				t.Error("the commit was processed")
			}
		})
	}
}

// forgeChange makes a member submit a commit as it is, without the changes that succession adds.
func (p *peer) forgeChange(id wire.ConversationID, proposals func(*conversation) []mlscore.Proposal) {
	p.t.Helper()
	var env *wire.Envelope
	check(p.t, p.turn(p.t.Context(), func(u *unit) error {
		t, err := p.usableConversation(u, id)
		if err != nil {
			return err
		}
		t.setPolicy(nil)
		c := &change{proposals: proposals(t)}
		delivery, err := t.expectedChange(c)
		if err != nil {
			return err
		}
		made, err := t.commitOnce(c, delivery)
		if err != nil {
			return err
		}
		key, err := submissionKey(made.Staged)
		if err != nil {
			return err
		}
		env = t.envelope(wire.KindCommit)
		env.Commit = &wire.CommitBundle{Commit: made.Message, Key: publicKey(key), Delivery: delivery}
		sign, err := submissionKey(t.group)
		if err != nil {
			return err
		}
		if env.Submission, err = p.newSubmission(); err != nil {
			return err
		}
		return errors.Join(env.Sign(sign), t.group.Abandon())
	}))
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	_, err := p.w.submit(env)
	check(p.t, err)
}
