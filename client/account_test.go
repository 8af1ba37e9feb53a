package client

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// giveAgain removes a user, as an operator does, and gives the name to another person, who enrols a device.
func (w *world) giveAgain(u wire.UserID, device string) *peer {
	w.t.Helper()
	w.mu.Lock()
	o := w.orgs[u.Organization()]
	for id := range o.devices {
		if id.User() == u {
			check(w.t, w.revoke(o, id))
		}
	}
	o.given[u]++
	w.mu.Unlock()
	return w.peer(device).ready()
}

func (p *peer) memberOf(id wire.ConversationID, device wire.DeviceID) (found Member) {
	p.t.Helper()
	list, err := p.Members(p.t.Context(), id)
	check(p.t, err)
	for _, m := range list {
		if m.Device == device {
			found = m
		}
	}
	return found
}

// TestNameGivenAgainInheritsNothing checks that a name that is given again brings no rights: the operator removes an
// admin's account and gives the name to another person, whom a member adds before any device has taken in the
// revocation. It uses the same name for the new device, and another one.
func TestNameGivenAgainInheritsNothing(t *testing.T) {
	for _, device := range []string{bobPhone, "mimi://b.example/d/bob/tablet"} {
		t.Run(wire.DeviceID(device).Name(), func(t *testing.T) {
			w, id, a, b, c := trio(t, CreateOptions{})
			ctx, alice := t.Context(), a.id.User()
			check(t, a.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{bob}}))
			_, err := b.SendText(ctx, id, "from the first")
			check(t, err)
			agree(t, id, a, b, c)
			hasTexts(t, c, id, "bob: from the first")

			again := w.giveAgain(bob, device)
			check(t, c.Add(ctx, id, bob))
			agree(t, id, a, c, again)
			admins(t, id, []wire.UserID{alice}, a, c, again)
			members(t, c, id, 3)
			if err := again.Remove(ctx, id, alice); !errors.Is(err, mlscore.ErrPolicy) {
				t.Errorf("who has the name now removes: %v", err)
			}
			_, err = again.SendText(ctx, id, "from the second")
			check(t, err)
			hasTexts(t, c, id, "bob: from the first", "bob: from the second")
			for _, p := range []*peer{a, c} {
				reported := p.events(EventPerson)
				if len(reported) != 1 || reported[0].Device != again.id || reported[0].By != c.id || reported[0].Count != 2 {
					t.Errorf("%s got the events %+v", p.id, reported)
				}
				if m := p.memberOf(id, again.id); m.Person != 2 || m.Admin || m.Account == (wire.AccountID{}) {
					t.Errorf("%s sees %+v", p.id, m)
				}
				if len(p.events(EventPoison)) > 0 {
					t.Errorf("%s: %v", p.id, p.events(EventPoison)[0].Err)
				}
			}
			page, err := c.History(ctx, id, Query{})
			check(t, err)
			if one, two := page.Messages[0].Person, page.Messages[1].Person; one != 1 || two != 2 {
				t.Errorf("the messages are of persons %d and %d", one, two)
			}
		})
	}
}

// TestNoSecondAccountUnderAnAdminsName checks that the add is refused where the revocation is not known, and that a
// commit that makes it nevertheless is not processed.
func TestNoSecondAccountUnderAnAdminsName(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{Admins: []wire.UserID{bob}})
	admins(t, id, []wire.UserID{a.id.User(), bob}, a, b, c)
	w.mu.Lock()
	w.orgs["b.example"].given[bob]++
	w.mu.Unlock()
	again := w.peer("mimi://b.example/d/bob/tablet").ready()
	if code := wire.CodeOf(c.Add(t.Context(), id, bob)); code != wire.Exists {
		t.Errorf("add: %v", code)
	}
	members(t, a, id, 3)
	list, err := c.claim(t.Context(), id, bob, mlscore.MLS128X25519AES128Ed25519, 0)
	check(t, err)
	c.forgeChange(id, func(th *conversation) (proposals []mlscore.Proposal) {
		th.d.policy.loading = true // the forger's own policy refuses nothing
		for _, one := range list {
			kp, err := mlscore.ParseKeyPackage(one.KeyPackage)
			check(t, err)
			if one.Device == again.id {
				proposals = append(proposals, mlscore.AddProposal(kp))
			}
		}
		return proposals
	})
	check(t, c.turn(t.Context(), func(*unit) error { c.policy.loading = false; return nil }))
	check(t, a.UpdateKeys(t.Context(), id))
	agree(t, id, a, b, c)
	members(t, a, id, 3)
	if len(a.events(EventPoison)) == 0 {
		t.Error("the commit was processed")
	}
}

// TestOwnDevicesAreThoseOfTheAccount checks that a plain member can remove and add devices of its own user, but not
// those of an earlier owner of the name.
func TestOwnDevicesAreThoseOfTheAccount(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{AdminsAdd: true})
	w.mu.Lock()
	w.orgs["b.example"].given[bob]++
	w.mu.Unlock()
	again := w.peer("mimi://b.example/d/bob/tablet").ready()
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b, c, again)
	members(t, a, id, 4)
	if err := again.RemoveDevices(t.Context(), id, b.id); !errors.Is(err, mlscore.ErrPolicy) {
		t.Errorf("who has the name now removes a device of the one before: %v", err)
	}
	if code := wire.CodeOf(a.ChangeRules(t.Context(), id, RulesChange{Promote: []wire.UserID{bob}})); code != wire.Invalid {
		t.Errorf("a name of two persons is promoted: %v", code)
	}
}

// TestLeafStaysWithItsAccount checks a leaf whose organization certifies the member's key for another account.
func TestLeafStaysWithItsAccount(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	was := a.memberOf(id, b.id).Account
	w.mu.Lock()
	o := w.orgs["b.example"]
	o.given[bob]++
	account := o.devices[b.id]
	chain, err := o.certify(b.id, account.key)
	account.chain = chain
	w.mu.Unlock()
	check(t, err)
	b.queues.kick(queueUpkeep)
	eventually(t, func() error {
		if len(a.events(EventPoison)) == 0 || len(c.events(EventPoison)) == 0 {
			return errors.New("the commit was processed, or is to come")
		}
		return nil
	})
	check(t, a.UpdateKeys(t.Context(), id))
	if is := a.memberOf(id, b.id).Account; is != was {
		t.Errorf("the leaf is of account %v, and was of %v", is, was)
	}
}

// TestAccountComesWithARenewal checks that a certificate of an earlier release has no account, and the device's next
// certificate has one.
func TestAccountComesWithARenewal(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.orgs["b.example"].given[bob] = noAccount
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{Admins: []wire.UserID{bob}})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	if m := a.memberOf(id, b.id); m.Account != (wire.AccountID{}) || m.Person != 0 || !m.Admin {
		t.Errorf("before: %+v", m)
	}
	w.mu.Lock()
	o := w.orgs["b.example"]
	o.given[bob] = 0
	account := o.devices[b.id]
	chain, err := o.certify(b.id, account.key)
	account.chain = chain
	w.mu.Unlock()
	check(t, err)
	b.queues.kick(queueUpkeep)
	eventually(t, func() error {
		if m := a.memberOf(id, b.id); m.Account == (wire.AccountID{}) || !m.Admin {
			return fmt.Errorf("after: %+v", m)
		}
		return nil
	})
	agree(t, id, a, b)
}

// TestEarlierReleaseAmongMembers checks that no commit divides the members when one has an earlier release: its
// device judges by names, so the others do so too.
func TestEarlierReleaseAmongMembers(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.extensions = map[wire.DeviceID][]mlscore.ExtensionType{carolPhone: {extensionRules, extensionAddress, extensionSuccession}}
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	ctx := t.Context()
	id, err := a.Create(ctx, CreateOptions{Admins: []wire.UserID{bob}})
	check(t, err)
	check(t, a.Add(ctx, id, bob, carol))
	agree(t, id, a, b, c)
	again := w.giveAgain(bob, bobPhone)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, c, again)
	admins(t, id, []wire.UserID{a.id.User()}, a, c, again)
	for _, p := range []*peer{a, c} {
		if len(p.events(EventPoison)) > 0 {
			t.Errorf("%s: %v", p.id, p.events(EventPoison)[0].Err)
		}
	}
}

// TestSuccessorIsReported checks the event of the successor when the organization removes the account of the last
// admin.
func TestSuccessorIsReported(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.mu.Lock()
	check(t, w.revoke(w.orgs["a.example"], a.id))
	w.mu.Unlock()
	c.queues.kick(queueUpkeep)
	admins(t, id, []wire.UserID{bob}, b, c)
	eventually(t, func() error {
		if reported := b.events(EventAdmin); len(reported) != 1 || reported[0].Conversation != id || reported[0].Err == nil {
			return fmt.Errorf("events %+v", reported)
		}
		return nil
	})
	check(t, b.AnswerAdmin(t.Context(), id, true))
	check(t, b.ChangeRules(t.Context(), id, RulesChange{Promote: []wire.UserID{carol}}))
	eventually(t, func() error {
		if reported := c.events(EventAdmin); len(reported) != 1 || reported[0].Err != nil || reported[0].By != b.id {
			return fmt.Errorf("events %+v", reported)
		}
		return nil
	})
}
