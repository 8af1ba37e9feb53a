package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"text/tabwriter"

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

func (p *person) printRules(ctx context.Context, id wire.ConversationID) error {
	c, err := p.Conversation(ctx, id)
	if err != nil {
		return err
	}
	r := c.Rules
	if p.opts.json {
		return printJSON(p.out, map[string]any{
			"id": id.String(), "name": r.Name, "epoch": c.Epoch, "admins": r.Admins,
			"members_add": r.MembersAdd, "members_remove": r.MembersRemove, "members_rename": r.MembersRename,
		})
	}
	var admins []string
	for _, u := range r.Admins {
		admins = append(admins, personName(u))
	}
	who := func(all bool) string {
		if all {
			return "every member"
		}
		return "admins"
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s, epoch %d\nadmins\t%s\nadd users\t%s\nremove users\t%s\nchange the name\t%s\n", oneLine(r.Name), c.Epoch,
		strings.Join(admins, ", "), who(r.MembersAdd), who(r.MembersRemove), who(r.MembersRename))
	return w.Flush()
}

func newRejoin() *cobra.Command {
	return newChange(&cobra.Command{
		Use:   "rejoin CONV",
		Short: "Enter a conversation again that this device cannot follow any further",
		Long: `rejoin enters a conversation again that is broken for this device. Nothing that was sent in between can be
read. It is never done by itself, since it would let in whoever has got hold of the device's keys.

It works where handshakes are public. In other conversations a member brings the device back:
mlsfed add CONV --again alice@a.example/phone`,
		Args: exactly(1, "a conversation"),
	}, func(ctx context.Context, p *person, id wire.ConversationID, _ []string) error {
		if err := p.Rejoin(ctx, id); err != nil {
			return err
		}
		return p.tell(ctx, id, "This device is in the conversation again, epoch %d.", p.epoch(ctx, id))
	})
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

func (p *person) listTrust(ctx context.Context) error {
	list, err := p.Organizations(ctx)
	if err != nil {
		return err
	}
	type row struct {
		Domain  wire.Domain `json:"organization"`
		Roots   []string    `json:"roots"`
		Offered string      `json:"offered,omitempty"`
	}
	rows := []row{}
	for _, t := range list {
		r := row{Domain: t.Domain}
		for _, h := range t.Roots {
			r.Roots = append(r.Roots, h.String())
		}
		if t.Offered != (wire.Hash{}) {
			r.Offered = t.Offered.String()
		}
		rows = append(rows, r)
	}
	if p.opts.json {
		return printJSON(p.out, rows)
	}
	for _, r := range rows {
		for _, h := range r.Roots {
			fmt.Fprintf(p.out, "%s  believed  %s\n", r.Domain, h)
		}
		if r.Offered != "" {
			fmt.Fprintf(p.out, "%s  OFFERED   %s\n", r.Domain, r.Offered)
		}
	}
	return nil
}
