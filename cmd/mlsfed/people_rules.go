package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// rulesFlags are the changes that rules makes. A flag that is not set changes nothing.
type rulesFlags struct {
	promote, demote        []string
	add, removing, renames bool
}

func newRules() *cobra.Command {
	c := &cobra.Command{
		Use:   "rules CONV",
		Short: "Show or change who may do what in a conversation",
		Long: `rules shows who the admins of a conversation are, and what every member may do. With flags it changes that,
which admins may. The rules are part of the conversation: every member's device checks every change
against them.`,
		Example: "  mlsfed rules Lunch\n  mlsfed rules Lunch --promote bob@b.example --members-rename",
		GroupID: groupPeople,
		Args:    exactly(1, "a conversation"),
	}
	o := addPeopleFlags(c)
	addOfflineFlag(c, o)
	r := new(rulesFlags)
	f := c.Flags()
	f.StringSliceVar(&r.promote, "promote", nil, "users to make admins")
	f.StringSliceVar(&r.demote, "demote", nil, "admins to make members like others")
	f.BoolVar(&r.add, "members-add", false, "whether every member may add users")
	f.BoolVar(&r.removing, "members-remove", false, "whether every member may remove users")
	f.BoolVar(&r.renames, "members-rename", false, "whether every member may change the name")
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			change, any, err := p.rulesChange(c, r)
			if err != nil {
				return err
			}
			if any {
				if err := p.checkAdmins(ctx, conv, &change); err != nil {
					return err
				}
				if err := p.ChangeRules(ctx, conv.ID, change); err != nil {
					return err
				}
			}
			return p.printRules(ctx, conv.ID)
		})
	}
	return c
}

// rulesChange is what the flags ask for, and whether they ask for anything.
func (p *person) rulesChange(c *cobra.Command, r *rulesFlags) (change client.RulesChange, any bool, err error) {
	if change.Promote, err = p.users(r.promote); err != nil {
		return change, false, err
	}
	if change.Demote, err = p.users(r.demote); err != nil {
		return change, false, err
	}
	any = len(change.Promote)+len(change.Demote) > 0
	for name, set := range map[string]struct {
		to    **bool
		value *bool
	}{
		"members-add": {&change.MembersAdd, &r.add}, "members-remove": {&change.MembersRemove, &r.removing}, "members-rename": {&change.MembersRename, &r.renames},
	} {
		if c.Flags().Changed(name) {
			*set.to, any = set.value, true
		}
	}
	return change, any, nil
}

// checkAdmins refuses a change that names people who are not there, or leaves nobody there who is an admin.
func (p *person) checkAdmins(ctx context.Context, conv *client.Conversation, change *client.RulesChange) error {
	if err := mayAct(conv); err != nil {
		return err
	}
	list, err := p.Members(ctx, conv.ID)
	if err != nil {
		return err
	}
	isHere := func(u wire.UserID) bool {
		return slices.ContainsFunc(list, func(m client.Member) bool { return m.User == u })
	}
	for _, u := range change.Promote {
		if !isHere(u) {
			return notHere(personName(u))
		}
	}
	for _, u := range change.Demote {
		if !slices.Contains(conv.Rules.Admins, u) {
			return fmt.Errorf("%s is no admin here: 'mlsfed rules' shows who is", personName(u))
		}
	}
	stays := func(u wire.UserID) bool { return isHere(u) && !slices.Contains(change.Demote, u) }
	if len(change.Demote) > 0 && !slices.ContainsFunc(slices.Concat(conv.Rules.Admins, change.Promote), stays) {
		return errors.New("nobody who is here would be an admin any more: promote somebody first")
	}
	return nil
}

func (p *person) printRules(ctx context.Context, id wire.ConversationID) error {
	c, err := p.Conversation(ctx, id)
	if err != nil {
		return err
	}
	r := c.Rules
	if p.opts.json {
		return printJSON(p.out, map[string]any{
			"id": id.String(), "name": r.Name, "epoch": c.Epoch, "admins": personNames(r.Admins),
			"members_add": r.MembersAdd, "members_remove": r.MembersRemove, "members_rename": r.MembersRename,
		})
	}
	if c.State == client.StateLeft {
		fmt.Fprintf(p.notes, "This device is not in %s any more.\n", titled(c))
		return nil
	}
	who := func(all bool) string {
		if all {
			return "every member"
		}
		return "admins"
	}
	var t table
	t.row(fmt.Sprintf("%s, epoch %d", titled(c), c.Epoch))
	t.row("admins", strings.Join(personNames(r.Admins), ", "))
	t.row("add users", who(r.MembersAdd))
	t.row("remove users", who(r.MembersRemove))
	t.row("change the name", who(r.MembersRename))
	return t.write(p.out)
}

func newRejoin() *cobra.Command {
	return newChange(&cobra.Command{
		Use:   "rejoin CONV",
		Short: "Enter a conversation again that this device cannot follow any further",
		Long: `rejoin enters a conversation again that is broken for this device. Nothing that was sent in between can be
read. It is never done by itself, since it would let in whoever has got hold of the device's keys.

It works where handshakes are public. In other conversations it asks a member, with a message, to add the device again;
that member's 'mlsfed add CONV --again' does it.`,
		Args: exactly(1, "a conversation"),
	}, func(ctx context.Context, p *person, id wire.ConversationID, _ []string) error {
		asked, err := p.rejoin(ctx, id)
		switch {
		case err != nil:
			return err
		case asked != "":
			return p.tell(ctx, id, "%s is asked to add this device again.", personName(asked))
		}
		return p.tell(ctx, id, "This device is in the conversation again, epoch %d.", p.epoch(ctx, id))
	})
}

// rejoin brings this device back, or asks a member to do it, whom it returns.
func (p *person) rejoin(ctx context.Context, id wire.ConversationID) (asked wire.UserID, err error) {
	conv, err := p.Conversation(ctx, id)
	if err != nil {
		return "", err
	}
	switch conv.State {
	case client.StateActive:
		return "", fmt.Errorf("%s is not broken for this device: there is nothing to rejoin", titled(conv))
	case client.StateLeft, client.StateLeaving:
		return "", mayAct(conv)
	}
	if conv.Handshakes == wire.HandshakesPrivate {
		asked, err = p.AskToBeAddedAgain(ctx, conv.ID)
		p.settleAfter(ctx) // the message is sent
		return asked, err
	}
	return "", p.Rejoin(ctx, id)
}

func newTrust() *cobra.Command {
	c := &cobra.Command{
		Use:   "trust [DOMAIN SHA-256]",
		Short: "Show whom this device believes, or accept another root of an organization",
		Long: `trust lists the organizations that this device has met, with the SHA-256 of the root certificate that each had
then. When one has another root later, you are warned, and it is not believed: ask people of that organization
over a channel that you trust, and if they confirm what is offered, accept it by naming its SHA-256.`,
		Example: "  mlsfed trust\n  mlsfed trust b.example 3f0c…",
		GroupID: groupPeople,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return fmt.Errorf("%d argument(s), wanted none, or an organization and the SHA-256 of its new root", len(args))
			}
			return nil
		},
	}
	o := addPeopleFlags(c)
	addOfflineFlag(c, o)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *person) error {
			if len(args) == 2 {
				if err := p.acceptRoot(ctx, args[0], args[1]); err != nil {
					return err
				}
			}
			return p.listTrust(ctx)
		})
	}
	return c
}

func (p *person) acceptRoot(ctx context.Context, name, sum string) error {
	domain, err := wire.ParseDomain(name)
	if err != nil {
		return usageError{err}
	}
	raw, err := hex.DecodeString(strings.ToLower(strings.Join(strings.Fields(sum), "")))
	if err != nil || len(raw) != len(wire.Hash{}) {
		return usageError{fmt.Errorf("%q is no SHA-256: wanted 64 hexadecimal digits", sum)}
	}
	return p.AcceptRoot(ctx, domain, wire.Hash(raw))
}

// offersRoot says whether an organization has another root than the one that this device believes.
func offersRoot(t *client.OrganizationTrust) bool { return t.Offered != (wire.Hash{}) }

// trustJSON is what this device believes of an organization, as --json prints it.
type trustJSON struct {
	Domain  wire.Domain `json:"organization"`
	Roots   []string    `json:"roots"` // SHA-256
	Offered string      `json:"offered,omitempty"`
}

func (p *person) listTrust(ctx context.Context) error {
	list, err := p.Organizations(ctx)
	if err != nil {
		return err
	}
	var rows []trustJSON
	for _, t := range list {
		r := trustJSON{Domain: t.Domain}
		for _, h := range t.Roots {
			r.Roots = append(r.Roots, h.String())
		}
		if offersRoot(&t) {
			r.Offered = t.Offered.String()
		}
		rows = append(rows, r)
	}
	if p.opts.json {
		return printList(p.out, rows)
	}
	var t table
	for _, r := range rows {
		for _, h := range r.Roots {
			t.row(r.Domain, "believed", h)
		}
		if r.Offered != "" {
			t.row(r.Domain, "OFFERED", r.Offered)
			fmt.Fprintf(p.notes, "%s has another root now. If its people confirm it: mlsfed trust %s %s\n", r.Domain, r.Domain, r.Offered)
		}
	}
	return t.write(p.out)
}
