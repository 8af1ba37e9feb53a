package client

import (
	"errors"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// extensionSuccession is listed in the capabilities of a leaf whose device knows succession, and is used nowhere else.
//
// Succession: a commit that removes a user's last device takes the user off the admins; one that adds an admin who had
// no device takes the user off too, unless an admin commits it. If no member is an admin then, the user of the leftmost
// leaf becomes one. Where all members know that, every committer makes that change of the rules, and a commit without it
// counts as one that cannot be processed. Where some do not, only admins make it: older devices let nobody else.
const extensionSuccession mlscore.ExtensionType = 0xf0a3

// knowSuccession reports whether all members do.
func knowSuccession(p *mlscore.PublicState) bool {
	return p != nil && p.AllSupport(extensionSuccession)
}

// turnover is what a commit does to the users of a conversation.
type turnover struct {
	added, removed []mlscore.Member
	byAdmin        bool
}

func turnoverOf(e *mlscore.Effects, after *mlscore.PublicState) *turnover {
	v := &turnover{added: e.Added, removed: e.Removed}
	if e.External {
		if m, ok := after.Member(e.Committer); ok { // who returned is not among Added
			v.added = append(slices.Clone(v.added), m)
		}
	}
	return v
}

// admins is who has to be an admin after a commit, where rules holds who would be one without succession. before is the
// epoch that the commit ends.
func (v *turnover) admins(rules []wire.UserID, before *mlscore.PublicState) []wire.UserID {
	moved := func(list []mlscore.Member) bool {
		return slices.ContainsFunc(list, func(m mlscore.Member) bool { return slices.Contains(rules, userOf(m)) })
	}
	if !moved(v.removed) && (v.byAdmin || !moved(v.added)) {
		return rules // nearly always, and without a pass over the members
	}
	gone := make(map[mlscore.LeafIndex]bool)
	for _, m := range v.removed {
		gone[m.Leaf] = true
	}
	was, here := make(map[wire.UserID]bool), make(map[wire.UserID]bool)
	var first wire.UserID // the user of the leftmost leaf that stays
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
	drops := func(u wire.UserID) bool {
		return was[u] && !here[u] || !was[u] && here[u] && !v.byAdmin
	}
	next := slices.DeleteFunc(slices.Clone(rules), drops)
	if first != "" && !slices.ContainsFunc(next, func(u wire.UserID) bool { return here[u] }) {
		next = append(next, first)
		slices.Sort(next)
	}
	return next
}

// userOf is whose a member is; "" for a leaf that the group has not validated.
func userOf(m mlscore.Member) wire.UserID {
	device, err := deviceOf(m.Credential)
	if err != nil {
		return ""
	}
	return device.User()
}

// succession adds the needed change of the rules to a change, or reports that none is needed.
func (t *thread) succession(c *change) (*change, error) {
	if t.rec.State == StateFounding || c.founding != nil {
		return c, nil // a successor has the rules and the members of before
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

// checkSuccession refuses a commit that leaves others as admins than succession does.
func (t *thread) checkSuccession(e *mlscore.Effects, after *mlscore.PublicState) error {
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
	wanted := old.Admins // what another member may change there is succession alone
	if v.byAdmin {
		wanted = now.Admins
	}
	if wanted = v.admins(wanted, before); !slices.Equal(now.Admins, wanted) {
		return wire.Errorf(wire.Invalid, "commit", "the admins after it are %v, and have to be %v", now.Admins, wanted)
	}
	return nil
}

// tidyAdmins has an admin's device change the rules as succession would have, after a commit by a device that did not.
func (t *thread) tidyAdmins(e *mlscore.Effects, by wire.UserID, before *mlscore.PublicState) error {
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
	gone := slices.DeleteFunc(slices.Clone(now.Admins), func(u wire.UserID) bool { return slices.Contains(next, u) })
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

// tellAdmin emits EventAdmin for each new admin. A successor, chosen because no admin was left, can promote another user.
func (t *thread) tellAdmin(old, now *Rules, by wire.DeviceID) {
	self := t.d.self.Device.User()
	if old.Admin(self) || !now.Admin(self) {
		return
	}
	e := Event{Type: EventAdmin, By: by}
	if !old.Admin(by.User()) {
		e.Err = errors.New("the last admin is gone, and the first of the others is you: to hand this on, promote another member")
	}
	t.event(e)
}

// lastAdmin refuses what would leave a conversation without an admin who chose a successor: none of those who go is
// the last one, unless nobody stays.
func (t *thread) lastAdmin(goes func(wire.DeviceID) bool) error {
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
