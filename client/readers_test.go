package client

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// createWith is Create for a founder that puts addresses of others into the delivery list.
func (p *peer) createWith(name string, others ...wire.Address) wire.ConversationID {
	p.t.Helper()
	id, token, err := p.chooseConversation(p.t.Context())
	check(p.t, err)
	var n uint64
	var done <-chan error
	check(p.t, p.turn(p.t.Context(), func(u *unit) error {
		o := CreateOptions{Name: name}
		t, err := p.newConversation(u, id, token, o)
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

// TestUnlistedReaderIsNoticed checks that a joining member notices an address in the delivery list that no member has,
// put there by the founder with the create, and a missing address of a member. It also checks that a correct list
// raises no alarm.
func TestUnlistedReaderIsNoticed(t *testing.T) {
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
			return fmt.Errorf("bob gets no event")
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
	// A device notices that the list lacks a member when it compares again, for example at its next start.
	w.mu.Lock()
	w.delivered = func(_ wire.Domain, _ wire.ConversationID, list []wire.Address) []wire.Address { return list[1:] }
	w.mu.Unlock()
	b.restart()
	eventually(t, func() error {
		if alarms(b, honest) == 0 {
			return fmt.Errorf("bob gets no event")
		}
		return nil
	})
}

// readersWorld is a world in which alice founds a conversation with an outsider's address in its delivery list. The
// nodes of a.example and c.example hide the address from their devices.
func readersWorld(t *testing.T) (w *world, outsider wire.Address) {
	w = newWorld(t, "a.example", "b.example", "c.example", "d.example")
	w.features = wire.NewFeatures(wire.FeatureDelivery)
	outsider = wire.Address{Organization: "d.example", Token: wire.Token{7}}
	w.delivered = func(org wire.Domain, _ wire.ConversationID, list []wire.Address) []wire.Address {
		if org == "b.example" {
			return list
		}
		return slices.DeleteFunc(slices.Clone(list), func(a wire.Address) bool { return a == outsider })
	}
	return w, outsider
}

// reported counts the alarms that a device has raised because of a report by another device.
func (p *peer) reported(by *peer) (n int) {
	for _, e := range p.events(EventDivergence) {
		if e.By == by.id {
			n++
		}
	}
	return n
}

// comparedList waits until a device knows its node's answer about the delivery list.
func (p *peer) comparedList(id wire.ConversationID) {
	p.t.Helper()
	eventually(p.t, func() error {
		if !p.readers.has(id) {
			return fmt.Errorf("%s has not compared the list", p.id)
		}
		return nil
	})
}

// TestUnlistedReaderIsReported checks a founder that puts an outsider's address into the create. Devices whose own node
// hides the address learn of it from the next commit of a device whose node does not. A device that such a device
// adds learns of it at once.
func TestUnlistedReaderIsReported(t *testing.T) {
	w, outsider := readersWorld(t)
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id := a.createWith("Dinner", outsider)
	check(t, a.Add(t.Context(), id, bob))
	check(t, a.Add(t.Context(), id, carol))
	agree(t, id, a, b, c)
	for _, p := range []*peer{a, b, c} {
		p.comparedList(id)
	}
	if n := len(a.events(EventDivergence)) + len(c.events(EventDivergence)); n != 0 {
		t.Fatalf("%d alarms at devices whose nodes hide the reader", n)
	}
	for range 2 {
		check(t, b.UpdateKeys(t.Context(), id))
		agree(t, id, a, b, c)
	}
	for _, p := range []*peer{a, c} {
		eventually(t, func() error {
			if p.reported(b) == 0 {
				return fmt.Errorf("%s gets no event", p.id)
			}
			return nil
		})
	}
	d := w.peer("mimi://c.example/d/dave/phone").ready()
	check(t, b.Add(t.Context(), id, d.id.User()))
	eventually(t, func() error {
		if d.reported(b) == 0 {
			return fmt.Errorf("dave gets no event")
		}
		return nil
	})
	agree(t, id, a, b, c, d)
	for _, p := range []*peer{a, c, d} {
		if n := p.reported(b); n != 1 {
			t.Errorf("%s has %d alarms on bob's word, wanted 1", p.id, n)
		}
	}
	if n := b.reported(a); n != 0 {
		t.Errorf("%d alarms on the word of alice, who got no event", n)
	}
}

// TestReportsNeedAllMembers checks that devices report nothing, and continue, if a member's device is of an earlier
// build.
func TestReportsNeedAllMembers(t *testing.T) {
	w, outsider := readersWorld(t)
	w.extensions = map[wire.DeviceID][]mlscore.ExtensionType{carolPhone: {extensionRules, extensionAddress, extensionSuccession, extensionAccount}}
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id := a.createWith("Dinner", outsider)
	check(t, a.Add(t.Context(), id, bob))
	check(t, a.Add(t.Context(), id, carol))
	agree(t, id, a, b, c)
	b.comparedList(id)
	check(t, b.UpdateKeys(t.Context(), id))
	agree(t, id, a, b, c)
	if n := a.reported(b) + c.reported(b); n != 0 {
		t.Errorf("%d alarms on the word of bob, wanted none", n)
	}
	check(t, a.Remove(t.Context(), id, carol))
	agree(t, id, a, b)
	check(t, b.UpdateKeys(t.Context(), id))
	eventually(t, func() error {
		if a.reported(b) == 0 {
			return fmt.Errorf("alice gets no event")
		}
		return nil
	})
}

// TestReportsAreChecked checks that a report that differs from the own node's answer for the same epoch raises an
// alarm, and that a report about two epochs is refused.
func TestReportsAreChecked(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.features = wire.NewFeatures(wire.FeatureDelivery)
	a := w.peer(alicePhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{Name: "Lunch"})
	check(t, err)
	a.comparedList(id)
	take := func(change func(*readersReport)) int {
		t.Helper()
		before := len(a.events(EventDivergence))
		check(t, a.turn(t.Context(), func(u *unit) error {
			th, err := a.findConversation(u, id)
			if err != nil {
				return err
			}
			r, err := th.reportReaders()
			if err != nil || r == nil {
				return fmt.Errorf("no report: %v", err)
			}
			other := *r
			change(&other)
			return th.takeReport(&other, bobPhone)
		}))
		return len(a.events(EventDivergence)) - before
	}
	if n := take(func(*readersReport) {}); n != 0 {
		t.Errorf("%d alarms about the own report", n)
	}
	take(func(r *readersReport) { r.List.Binding[0]++; r.Members = r.List })
	eventually(t, func() error {
		if a.reported(&peer{id: bobPhone}) != 1 {
			return fmt.Errorf("no alarm about another answer for the same epoch")
		}
		return nil
	})
	for _, r := range []readersReport{{}, {List: wire.DeliveryHead{Parent: 1}, Members: wire.DeliveryHead{Parent: 2}}} {
		if r.Check() == nil {
			t.Errorf("%+v passes for a report", r)
		}
	}
}
