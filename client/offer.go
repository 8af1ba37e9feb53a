package client

import (
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A conversation keeps an admin. If the last admin leaves, the rules name another member in the same commit (see
// succession), and that user has not asked for it. So each device of the user keeps the role as an offer: it does not
// use the rights before the user has answered. A user who declines passes the offer to the next member. A commit of
// the answering device with the rules shows the answer to the user's other devices.

// recordAdminOffer is the letter of the records of offers that this device's user has not answered: conversation → 1.
const recordAdminOffer = 'O'

func (t *conversation) offerKey() []byte { return recordKey(recordAdminOffer, idPart(t.id)) }

// offered reports whether an offer waits for the answer of this device's user.
func (t *conversation) offered() (bool, error) {
	_, ok, err := t.u.Get(t.offerKey())
	return ok, err
}

// isOffer reports whether a change of the rules makes this device's user an admin without a request: no admin made
// the change, or the admin who made it is no longer one and left no other admin.
func isOffer(old, now *Rules, self UserID, by DeviceID) bool {
	if !old.Admin(by.User()) {
		return true
	}
	return !now.Admin(by.User()) && !slices.ContainsFunc(now.Admins, func(u UserID) bool { return u != self })
}

// AnswerAdmin answers the offer to become an admin: see Conversation.Offered. If the answer is no, the user is no
// longer an admin, and the next member by leaf gets the offer. AnswerAdmin returns [Invalid] if there is no offer,
// or no other member.
func (d *Device) AnswerAdmin(ctx context.Context, id ConversationID, yes bool) error {
	var next UserID
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil {
			return err
		}
		ok, err := t.offered()
		if err == nil && !ok {
			err = wire.Errorf(wire.Invalid, "admins", "nobody has offered this user to be an admin of %v", t.id)
		}
		if err != nil {
			return err
		}
		if yes {
			u.delete(t.offerKey())
			if !t.hasSibling() {
				return nil
			}
			return t.enqueueOwn(&operationRecord{Kind: opRules, Reason: reasonAnswer, Rules: &RulesChange{Promote: []UserID{d.self.Device.User()}}})
		}
		if next = t.nextUser(d.self.Device.User()); next == "" {
			return wire.Errorf(wire.Invalid, "admins", "nobody else is in %v who could be an admin", t.id)
		}
		return nil
	})
	if err != nil || yes {
		return err
	}
	return d.ChangeRules(ctx, id, RulesChange{Promote: []UserID{next}, Demote: []UserID{d.self.Device.User()}})
}

// hasSibling reports whether another device of this user is in the conversation.
func (t *conversation) hasSibling() (found bool) {
	self := t.d.self.Device.User()
	t.group.Public().Members(func(m mlscore.Member) bool {
		found = m.Leaf != t.group.Self() && userOf(m) == self
		return !found
	})
	return found
}

// nextUser returns the user of the first leaf after the first leaf of self, or "" if there is no other user. After the
// last leaf it continues with the first one.
func (t *conversation) nextUser(self UserID) UserID {
	var first, next UserID
	met := false
	t.group.Public().Members(func(m mlscore.Member) bool {
		switch u := userOf(m); {
		case u == "":
		case u == self:
			met = true
		case met:
			next = u
			return false
		case first == "":
			first = u
		}
		return true
	})
	if next == "" {
		next = first
	}
	return next
}

// mustAnswer refuses a change that needs the offered rights. A change that gives up the rights is an answer.
func (t *conversation) mustAnswer(op *operationRecord) error {
	if op.Own || t.group == nil {
		return nil
	}
	open, err := t.offered()
	if err != nil || !open {
		return err
	}
	rules, err := t.rules()
	if err != nil {
		return err
	}
	self, needs := t.d.self.Device.User(), false
	foreign := func(v DeviceID) bool { return v.User() != self }
	switch op.Kind {
	case opAdd:
		needs = !rules.MembersAdd && slices.ContainsFunc(op.Add, func(a addition) bool { return foreign(a.Device) })
	case opRemove:
		needs = !rules.MembersRemove && (len(op.Users) > 0 || slices.ContainsFunc(op.Devices, foreign))
	case opRules:
		renames := rules.MembersRename && rules.renames(op.Rules.apply(rules))
		needs = !renames && !slices.Contains(op.Rules.Demote, self)
	case opClose, opReInit:
		needs = true
	}
	if needs {
		return wire.Errorf(wire.Invalid, "admins", "the last admin of %v is gone, and this user is offered to be the next one: answer that first", t.id)
	}
	return nil
}
