package client

import (
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// lastAdminGone makes alice's organization end her account: she is the only admin.
func lastAdminGone(t *testing.T, w *world, id wire.ConversationID, a *peer, rest ...*peer) {
	t.Helper()
	w.mu.Lock()
	check(t, w.revoke(w.orgs["a.example"], a.id))
	w.mu.Unlock()
	eventually(t, func() error {
		rest[0].queues.kick(queueUpkeep)
		members, err := rest[0].Members(t.Context(), id)
		if err == nil && len(members) != len(rest) {
			err = fmt.Errorf("%d members", len(members))
		}
		return err
	})
	agree(t, id, rest[0], rest[1:]...)
}

func (p *peer) offeredAdmin(id wire.ConversationID, want bool) {
	p.t.Helper()
	eventually(p.t, func() error {
		c, err := p.Conversation(p.t.Context(), id)
		if err == nil && c.Offered != want {
			err = fmt.Errorf("%s: offered %v, wanted %v", p.id, c.Offered, want)
		}
		return err
	})
}

// TestLastAdminsSuccessorAnswers checks the offer after an operator ends the account of the last admin. The member of
// the first leaf gets the offer to be an admin, uses no rights before the answer, and passes the offer on by
// declining.
func TestLastAdminsSuccessorAnswers(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{AdminsAdd: true})
	ctx := t.Context()
	lastAdminGone(t, w, id, a, b, c)
	b.offeredAdmin(id, true)
	c.offeredAdmin(id, false)
	eventually(t, func() error {
		if reported := b.events(EventAdmin); len(reported) != 1 || reported[0].Err == nil {
			return fmt.Errorf("bob gets the events %+v", reported)
		}
		return nil
	})
	for name, err := range map[string]error{
		"removes": b.Remove(ctx, id, carol), "promotes": b.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{carol}}), "closes": b.Close(ctx, id),
	} {
		if wire.CodeOf(err) != wire.Invalid {
			t.Errorf("bob %s before the answer: %v", name, err)
		}
	}
	b.restart() // the offer is on disk
	b.offeredAdmin(id, true)
	check(t, b.AnswerAdmin(ctx, id, false))
	admins(t, id, []wire.UserID{carol}, b, c)
	b.offeredAdmin(id, false)
	c.offeredAdmin(id, true)
	if code := wire.CodeOf(b.AnswerAdmin(ctx, id, true)); code != wire.Invalid {
		t.Errorf("bob answers twice: %v", code)
	}
	check(t, c.AnswerAdmin(ctx, id, true))
	c.offeredAdmin(id, false)
	check(t, c.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{bob}}))
	admins(t, id, []wire.UserID{bob, carol}, b, c)
	b.offeredAdmin(id, false) // carol, an admin, has chosen him
}

// TestOfferOfTheLastAdminAmongTwo checks that the second of two members who declines gives the offer back, and that a
// single member cannot decline.
func TestOfferOfTheLastAdminAmongTwo(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	lastAdminGone(t, w, id, a, b, c)
	check(t, b.AnswerAdmin(ctx, id, false))
	c.offeredAdmin(id, true)
	check(t, c.AnswerAdmin(ctx, id, false))
	b.offeredAdmin(id, true)
	check(t, c.Leave(ctx, id)) // b's device commits it: this needs no admin
	inState(t, c, id, StateLeft)
	if code := wire.CodeOf(b.AnswerAdmin(ctx, id, false)); code != wire.Invalid {
		t.Errorf("nobody else is there, and bob says no: %v", code)
	}
	check(t, b.AnswerAdmin(ctx, id, true))
}

// TestOfferIsAnsweredForAllDevices checks that the answer on one device of a user, yes or no, ends the offer on the
// user's other devices.
func TestOfferIsAnsweredForAllDevices(t *testing.T) {
	for _, yes := range []bool{true, false} {
		t.Run(fmt.Sprint(yes), func(t *testing.T) {
			w := newWorld(t, "a.example", "b.example", "c.example")
			a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
			laptop := w.peer("mimi://b.example/d/bob/laptop").ready()
			confirm(t, b, laptop)
			ctx := t.Context()
			id, err := a.Create(ctx, CreateOptions{AdminsAdd: true})
			check(t, err)
			check(t, a.Add(ctx, id, bob))
			agree(t, id, a, b, laptop)
			check(t, a.Add(ctx, id, carol))
			agree(t, id, a, b, laptop, c)
			lastAdminGone(t, w, id, a, b, laptop, c)
			b.offeredAdmin(id, true)
			laptop.offeredAdmin(id, true)
			check(t, b.AnswerAdmin(ctx, id, yes))
			b.offeredAdmin(id, false)
			laptop.offeredAdmin(id, false)
			c.offeredAdmin(id, !yes)
			agree(t, id, b, laptop, c)
			if yes { // and the other device has the rights
				check(t, laptop.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{carol}}))
				admins(t, id, []wire.UserID{bob, carol}, b, laptop, c)
			}
		})
	}
}
