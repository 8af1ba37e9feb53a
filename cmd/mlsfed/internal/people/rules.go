package people

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// rulesFlags holds the flags of rules. A flag that is not set changes nothing.
type rulesFlags struct {
	promote, demote        []string
	add, removing, renames bool
	answer                 string
}

func newRules() *cobra.Command {
	c := &cobra.Command{
		Use:   "rules CONV",
		Short: "Show or change who may do what in a conversation",
		Long: `rules shows who the admins of a conversation are, and what every member may do. With flags it changes that,
which admins may. The rules are part of the conversation: every member's device checks every change
against them.

If the last admin's account ends, the oldest member is offered to be the next admin, and answers with --admin yes or
--admin no, which offers it to the next member.`,
		Example: "  mlsfed rules Lunch\n  mlsfed rules Lunch --promote bob@b.example --members-rename",
		GroupID: cli.GroupPeople,
		Args:    cli.Exactly(1, "a conversation"),
	}
	o := AddFlags(c)
	addOfflineFlag(c, o)
	r := new(rulesFlags)
	f := c.Flags()
	f.StringSliceVar(&r.promote, "promote", nil, "users to make admins")
	f.StringSliceVar(&r.demote, "demote", nil, "admins to make members like others")
	f.BoolVar(&r.add, "members-add", false, "whether every member may add users")
	f.BoolVar(&r.removing, "members-remove", false, "whether every member may remove users")
	f.BoolVar(&r.renames, "members-rename", false, "whether every member may change the name")
	f.StringVar(&r.answer, "admin", "", "yes or no: answers the offer to be the next admin")
	for _, other := range []string{"promote", "demote", "members-add", "members-remove", "members-rename"} {
		c.MarkFlagsMutuallyExclusive("admin", other)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if c.Flags().Changed("admin") {
				if err := MayAct(conv); err != nil {
					return err
				}
				text, err := p.AnswerOffer(ctx, conv.ID, r.answer)
				if err != nil {
					return err
				}
				fmt.Fprintf(p.notes, "%s.\n", text)
				return p.printRules(ctx, conv.ID)
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

// rulesChange returns the change that the flags ask for, and whether they ask for any.
func (p *Person) rulesChange(c *cobra.Command, r *rulesFlags) (change client.RulesChange, any bool, err error) {
	if change.Promote, err = p.Users(r.promote); err != nil {
		return change, false, err
	}
	if change.Demote, err = p.Users(r.demote); err != nil {
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

// checkAdmins refuses a change that names people who are no members, or that leaves no member as admin.
func (p *Person) checkAdmins(ctx context.Context, conv *client.Conversation, change *client.RulesChange) error {
	if err := MayAct(conv); err != nil {
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
			return NotHere(cli.PersonName(u))
		}
	}
	for _, u := range change.Demote {
		if !slices.Contains(conv.Rules.Admins, u) {
			return fmt.Errorf("%s is no admin here: 'mlsfed rules' shows who is", cli.PersonName(u))
		}
	}
	stays := func(u wire.UserID) bool { return isHere(u) && !slices.Contains(change.Demote, u) }
	if len(change.Demote) > 0 && !slices.ContainsFunc(slices.Concat(conv.Rules.Admins, change.Promote), stays) {
		return errors.New("nobody who is here would be an admin any more: promote somebody first")
	}
	return nil
}

func (p *Person) printRules(ctx context.Context, id wire.ConversationID) error {
	c, err := p.Conversation(ctx, id)
	if err != nil {
		return err
	}
	r := c.Rules
	if p.Options.JSON {
		return cli.PrintJSON(p.out, map[string]any{
			"id": id.String(), "name": r.Name, "epoch": c.Epoch, "admins": cli.PersonNames(r.Admins),
			"members_add": r.MembersAdd, "members_remove": r.MembersRemove, "members_rename": r.MembersRename,
		})
	}
	if c.State == client.StateLeft {
		fmt.Fprintf(p.notes, "This device is not in %s any more.\n", Titled(c))
		return nil
	}
	who := func(all bool) string {
		if all {
			return "every member"
		}
		return "admins"
	}
	var t cli.Table
	t.Row(fmt.Sprintf("%s, epoch %d", Titled(c), c.Epoch))
	t.Row("admins", strings.Join(cli.PersonNames(r.Admins), ", "))
	t.Row("add users", who(r.MembersAdd))
	t.Row("remove users", who(r.MembersRemove))
	t.Row("change the name", who(r.MembersRename))
	return t.Write(p.out)
}

func newRejoin() *cobra.Command {
	return newChange(&cobra.Command{
		Use:   "rejoin CONV",
		Short: "Enter a conversation again that this device cannot follow any further",
		Long: `rejoin enters a conversation again that is broken for this device. Nothing that was sent in between can be
read. It is never done by itself, since it would let in anybody who has got hold of the device's keys.

It works where handshakes are public. In other conversations it asks a member, with a message, to add the device again;
that member's 'mlsfed add CONV --again' does it.`,
		Args: cli.Exactly(1, "a conversation"),
	}, func(ctx context.Context, p *Person, id wire.ConversationID, _ []string) error {
		asked, err := p.RejoinOrAsk(ctx, id)
		switch {
		case err != nil:
			return err
		case asked != "":
			return p.report(ctx, id, "%s is asked to add this device again.", cli.PersonName(asked))
		}
		return p.report(ctx, id, "This device is in the conversation again, epoch %d.", p.epoch(ctx, id))
	})
}

// RejoinOrAsk brings this device back, or asks a member to do it and returns that member.
func (p *Person) RejoinOrAsk(ctx context.Context, id wire.ConversationID) (asked wire.UserID, err error) {
	conv, err := p.Conversation(ctx, id)
	if err != nil {
		return "", err
	}
	switch conv.State {
	case client.StateActive:
		return "", fmt.Errorf("%s is not broken for this device: there is nothing to rejoin", Titled(conv))
	case client.StateLeft, client.StateLeaving:
		return "", MayAct(conv)
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
		GroupID: cli.GroupPeople,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return fmt.Errorf("%d argument(s), wanted none, or an organization and the SHA-256 of its new root", len(args))
			}
			return nil
		},
	}
	o := AddFlags(c)
	addOfflineFlag(c, o)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			if len(args) == 2 {
				if err := p.AcceptNamedRoot(ctx, args[0], args[1]); err != nil {
					return err
				}
			}
			return p.listTrust(ctx)
		})
	}
	return c
}

func (p *Person) AcceptNamedRoot(ctx context.Context, name, sum string) error {
	domain, err := wire.ParseDomain(name)
	if err != nil {
		return cli.UsageError(err)
	}
	raw, err := hex.DecodeString(strings.ToLower(strings.Join(strings.Fields(sum), "")))
	if err != nil || len(raw) != len(wire.Hash{}) {
		return cli.UsageError(fmt.Errorf("%q is no SHA-256: wanted 64 hexadecimal digits", sum))
	}
	return p.AcceptRoot(ctx, domain, wire.Hash(raw))
}

// OffersRoot reports whether an organization has another root than the one that this device trusts.
func OffersRoot(t *client.OrganizationTrust) bool { return t.Offered != (wire.Hash{}) }

// trustJSON is the trust of this device in an organization, as --json prints it.
type trustJSON struct {
	Domain  wire.Domain `json:"organization"`
	Roots   []string    `json:"roots"` // SHA-256
	Offered string      `json:"offered,omitempty"`
}

func (p *Person) listTrust(ctx context.Context) error {
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
		if OffersRoot(&t) {
			r.Offered = t.Offered.String()
		}
		rows = append(rows, r)
	}
	if p.Options.JSON {
		return cli.PrintList(p.out, rows)
	}
	var t cli.Table
	for _, r := range rows {
		for _, h := range r.Roots {
			t.Row(r.Domain, "believed", h)
		}
		if r.Offered != "" {
			t.Row(r.Domain, "OFFERED", r.Offered)
			fmt.Fprintf(p.notes, "%s has another root now. If its people confirm it: mlsfed trust %s %s\n", r.Domain, r.Domain, r.Offered)
		}
	}
	return t.Write(p.out)
}
