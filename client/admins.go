package client

import (
	"errors"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// extensionSuccession is listed in the capabilities of a leaf whose device knows succession. It is used nowhere else.
//
// Succession: a commit that removes a user's last device also removes the user from the admins. A commit that adds an
// admin who had no device removes that user from the admins too, unless an admin commits it. If no member is an admin
// then, the user of the leftmost leaf becomes one. Where all members know succession, every committer makes that
// change of the rules, and a commit without the change counts as one that cannot be processed. Where some members do
// not know it, only admins make the change: older devices refuse it from anybody else.
const extensionSuccession mlscore.ExtensionType = 0xf0a3

// knowSuccession reports whether all members list extensionSuccession.
func knowSuccession(p *mlscore.PublicState) bool {
	return p != nil && p.AllSupport(extensionSuccession)
}

// turnover describes how a commit changes the users of a conversation.
type turnover struct {
	added, removed []mlscore.Member
	byAdmin        bool
}

func turnoverOf(e *mlscore.Effects, after *mlscore.PublicState) *turnover {
	v := &turnover{added: e.Added, removed: e.Removed}
	if e.External {
		if m, ok := after.Member(e.Committer); ok { // a committer who returned is not among Added
			v.added = append(slices.Clone(v.added), m)
		}
	}
	return v
}

// admins returns the users that must be admins after a commit, where rules lists the admins without succession.
// before is the epoch that the commit ends.
func (v *turnover) admins(rules []UserID, before *mlscore.PublicState) []UserID {
	moved := func(list []mlscore.Member) bool {
		return slices.ContainsFunc(list, func(m mlscore.Member) bool { return slices.Contains(rules, userOf(m)) })
	}
	if !moved(v.removed) && (v.byAdmin || !moved(v.added)) {
		return rules // the usual case, which needs no pass over the members
	}
	gone := make(map[mlscore.LeafIndex]bool)
	for _, m := range v.removed {
		gone[m.Leaf] = true
	}
	was, here := make(map[UserID]bool), make(map[UserID]bool)
	var first UserID // the user of the leftmost leaf that stays
	before.Members(func(m mlscore.Member) bool {
		was[userOf(m)] = true
		if !gone[m.Leaf] {
			here[userOf(m)] = true
			if first == "" {
				first = userOf(m)
			}
		}
		return true
	})
	for _, m := range v.added {
		here[userOf(m)] = true
	}
	drops := func(u UserID) bool {
		return was[u] && !here[u] || !was[u] && here[u] && !v.byAdmin
	}
	next := slices.DeleteFunc(slices.Clone(rules), drops)
	if first != "" && !slices.ContainsFunc(next, func(u UserID) bool { return here[u] }) {
		next = append(next, first)
		slices.Sort(next)
	}
	return next
}

// userOf returns the user of a member, or "" for a leaf that the group has not validated.
func userOf(m mlscore.Member) UserID {
	device, err := deviceOf(m.Credential)
	if err != nil {
		return ""
	}
	return device.User()
}

// succession adds the change of the rules that succession needs to c, or reports that none is needed.
func (t *conversation) succession(c *change) (*change, error) {
	if t.rec.State == StateFounding || c.founding != nil {
		return c, nil // a successor takes over the rules and the members of before
	}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	byAdmin := rules.Admin(t.d.self.Device.User())
	if !byAdmin && !knowSuccession(t.group.Public()) {
		return c, nil
	}
	at := slices.IndexFunc(c.proposals, func(p mlscore.Proposal) bool { return p.Type == mlscore.ProposalGroupContextExtensions })
	extensions := t.group.Public().Context().Extensions
	if at >= 0 {
		extensions = c.proposals[at].Extensions
		if rules, err = rulesOf(extensions); err != nil {
			return nil, err
		}
	}
	added, removed := t.comingAndGoing(c)
	v := turnover{added: added, removed: removed, byAdmin: byAdmin}
	next := *rules
	if next.Admins = v.admins(rules.Admins, t.group.Public()); slices.Equal(next.Admins, rules.Admins) {
		return c, nil
	}
	x, err := next.extension()
	if err != nil {
		return nil, err
	}
	more := *c
	more.proposals = slices.Clone(c.proposals)
	if p := mlscore.ExtensionsProposal(extensions.With(x)); at >= 0 {
		more.proposals[at] = p
	} else {
		more.proposals = append(more.proposals, p)
	}
	return &more, nil
}

// checkSuccession refuses a commit that leaves other admins than succession requires.
func (t *conversation) checkSuccession(e *mlscore.Effects, after *mlscore.PublicState) error {
	before := t.group.Public()
	if t.rec.State == StateFounding || e.ReInit != nil || !knowSuccession(before) {
		return nil
	}
	old, err := t.rules()
	if err != nil {
		return err
	}
	now, err := rulesOf(after.Context().Extensions)
	if err != nil {
		return err
	}
	committer, ok := before.Member(e.Committer)
	v := turnoverOf(e, after)
	v.byAdmin = ok && !e.External && old.Admin(userOf(committer))
	wanted := old.Admins // a member who is no admin may change the admins only by succession
	if v.byAdmin {
		wanted = now.Admins
	}
	if wanted = v.admins(wanted, before); !slices.Equal(now.Admins, wanted) {
		return wire.Errorf(wire.Invalid, "commit", "the admins after it are %v, and have to be %v", now.Admins, wanted)
	}
	return nil
}

// tidyAdmins makes an admin's device change the rules as succession requires, after a commit by a device that did
// not.
func (t *conversation) tidyAdmins(e *mlscore.Effects, by UserID, before *mlscore.PublicState) error {
	now, err := t.rules()
	if err != nil {
		return err
	}
	v := turnoverOf(e, t.group.Public())
	v.byAdmin = now.Admin(by)
	next := v.admins(now.Admins, before)
	self := t.d.self.Device.User()
	if !slices.Contains(next, self) || !now.Admin(self) {
		return nil
	}
	gone := slices.DeleteFunc(slices.Clone(now.Admins), func(u UserID) bool { return slices.Contains(next, u) })
	if len(gone) == 0 {
		return nil
	}
	_, err = t.enqueue(&operationRecord{
		Kind: opRules, Own: true, Rules: &RulesChange{Demote: gone},
		After: t.d.now() + wire.Time(t.d.jitter(t.d.opts.Timing.Proposals).Milliseconds()),
	})
	if wire.CodeOf(err) == wire.Quota {
		return nil
	}
	return err
}

// reportAdmin emits EventAdmin when this device's user becomes an admin, and keeps an offer until the user answers it.
func (t *conversation) reportAdmin(old, now *Rules, by DeviceID) {
	self := t.d.self.Device.User()
	switch {
	case !now.Admin(self), old.Admin(self) && by.User() == self: // given up, or answered on another device of this user
		t.u.delete(t.offerKey())
		return
	case old.Admin(self):
		return
	}
	e := Event{Type: EventAdmin, By: by}
	if isOffer(old, now, self, by) {
		t.u.put(t.offerKey(), []byte{1})
		e.Err = errors.New("no admin is left, and you are offered to be the next one: answer yes or no")
	}
	t.event(e)
}

// lastAdmin refuses a removal after which members stay but no admin does: the last admin has to promote another
// member first.
func (t *conversation) lastAdmin(goes func(DeviceID) bool) error {
	rules, err := t.rules()
	if err != nil || len(rules.Admins) == 0 {
		return err
	}
	stays, admin, was := false, false, false
	t.group.Public().Members(func(m mlscore.Member) bool {
		device, err := deviceOf(m.Credential)
		if err != nil {
			return true
		}
		is := rules.Admin(device.User())
		was = was || is
		if !goes(device) {
			stays, admin = true, admin || is
		}
		return !admin
	})
	if was && stays && !admin {
		return wire.Errorf(wire.Invalid, "admins", "the last admin would be gone: promote another member first")
	}
	return nil
}
