package client

import (
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// createWith is Create for a founder who puts others' addresses into the delivery list.
func (p *peer) createWith(name string, others ...wire.Address) wire.ConversationID {
	p.t.Helper()
	id, token, err := p.newConversation(p.t.Context())
	check(p.t, err)
	var n uint64
	var done <-chan error
	check(p.t, p.turn(p.t.Context(), func(u *unit) error {
		o := CreateOptions{Name: name}
		t, err := p.newThread(u, id, token, o)
		if err != nil {
			return err
		}
		rules := &Rules{Version: rulesVersion, Name: name, MembersAdd: true, Admins: []wire.UserID{p.id.User()}}
		x, err := rules.extension()
		if err != nil {
			return err
		}
		required := mlscore.RequiredCapabilities{
			Extensions: []mlscore.ExtensionType{extensionRules, extensionAddress}, Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
		}
		if err := t.create(mlscore.Extensions{required.Extension(), x}); err != nil {
			return err
		}
		n, err = t.sendCreate(o, others)
		done = p.waiters.add(operation{id, n})
		return err
	}))
	check(p.t, <-done)
	return id
}

// TestSilentReaderIsNoticed: who joins notices an address in the delivery list that no member has, put there by
// the founder with the create, and a member's that is missing; and nothing where the list is the members'.
func TestSilentReaderIsNoticed(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.features = wire.NewFeatures(wire.FeatureDelivery)
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	honest, err := a.Create(t.Context(), CreateOptions{Name: "Lunch"})
	check(t, err)
	spied := a.createWith("Dinner", wire.Address{Organization: "c.example", Token: wire.Token{7}})
	for _, id := range []wire.ConversationID{honest, spied} {
		check(t, a.Add(t.Context(), id, bob))
		agree(t, id, a, b)
	}
	alarms := func(p *peer, id wire.ConversationID) (n int) {
		for _, e := range p.events(EventDivergence) {
			if e.Conversation == id {
				n++
			}
		}
		return n
	}
	eventually(t, func() error {
		if alarms(b, spied) == 0 {
			return fmt.Errorf("bob is told of nothing")
		}
		for _, p := range []*peer{a, b} {
			if !p.readers.has(honest) {
				return fmt.Errorf("%s has not compared the honest list", p.id)
			}
		}
		return nil
	})
	if alarms(a, honest)+alarms(b, honest) != 0 {
		t.Errorf("an alarm about an honest list")
	}
	// A list that lacks a member is noticed when a device looks again, as at its next start.
	w.mu.Lock()
	w.delivered = func(id wire.ConversationID, list []wire.Address) []wire.Address { return list[1:] }
	w.mu.Unlock()
	b.restart()
	eventually(t, func() error {
		if alarms(b, honest) == 0 {
			return fmt.Errorf("bob is told of nothing")
		}
		return nil
	})
}
