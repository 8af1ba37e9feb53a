package people

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// conversationJSON is a conversation as --json prints it.
type conversationJSON struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	OwnName  string     `json:"own_name,omitempty"` // that this device's user gave it
	State    string     `json:"state"`
	Why      string     `json:"why,omitempty"` // of state "broken"
	Epoch    wire.Epoch `json:"epoch"`
	Devices  int        `json:"devices"`
	Messages uint64     `json:"messages"`
	Unread   uint64     `json:"unread"`
	Outgoing int        `json:"outgoing"` // own messages that are not accepted yet
	Entries  uint64     `json:"entries"`  // of the conversation's log
	Order    string     `json:"order"`    // the order hash up to there
	Admins   []string   `json:"admins"`
	Suite    string     `json:"suite"`
	Offered  bool       `json:"offered_admin,omitempty"` // no admin is left, and this user is asked to be the next one
	Again    []string   `json:"again,omitempty"`         // devices that ask to be added again
}

func describe(c *client.Conversation) conversationJSON {
	return conversationJSON{
		ID: c.ID.String(), Name: c.Rules.Name, OwnName: c.OwnName, State: c.State.String(), Why: c.Why, Epoch: c.Epoch, Devices: c.Members,
		Messages: c.Messages, Unread: c.Unread, Outgoing: c.Outgoing, Entries: uint64(c.Sequence), Order: c.Order.String(), Admins: cli.PersonNames(c.Rules.Admins),
		Suite: c.Suite.String(), Offered: c.Offered, Again: cli.DeviceNames(c.Again),
	}
}

// MayAct returns why this device cannot do anything in a conversation, nil if it can.
func MayAct(c *client.Conversation) error {
	switch c.State {
	case client.StateLeft:
		return fmt.Errorf("the device is not in %s any more: it left, or was removed, or the conversation was closed; a member can add you again", Titled(c))
	case client.StateLeaving:
		return fmt.Errorf("the device has asked to leave %s: the next member who is online takes it out", Titled(c))
	case client.StateBroken:
		return errors.New(BrokenText(c, false))
	}
	return nil
}

// report prints the result of a change of a conversation: a line, or the whole conversation as JSON.
func (p *Person) report(ctx context.Context, id wire.ConversationID, format string, args ...any) error {
	if !p.Options.JSON {
		fmt.Fprintf(p.out, format+"\n", args...)
		return nil
	}
	c, err := p.Conversation(ctx, id)
	if err != nil {
		return err
	}
	return cli.PrintJSON(p.out, describe(c))
}

// epoch returns the present epoch of a conversation, for texts that people read.
func (p *Person) epoch(ctx context.Context, id wire.ConversationID) wire.Epoch {
	c, err := p.Conversation(ctx, id)
	if err != nil {
		return 0
	}
	return c.Epoch
}

func newList() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the conversations of this device",
		GroupID: cli.GroupPeople,
	}
	o := AddFlags(c)
	addOfflineFlag(c, o)
	left := c.Flags().Bool("all", false, "with those that this device has left, until it forgets them")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			all, err := p.Conversations(ctx)
			if err != nil {
				return err
			}
			if !*left {
				was := len(all)
				all = slices.DeleteFunc(all, func(c client.Conversation) bool { return c.State == client.StateLeft })
				if n := was - len(all); n > 0 && !p.Options.JSON {
					fmt.Fprintf(p.notes, "%s left: 'mlsfed list --all' shows them, 'mlsfed forget' deletes one.\n", cli.Plural(n, "conversation was", "conversations were"))
				}
			}
			return p.printConversations(all)
		})
	}
	return c
}

func (p *Person) printConversations(all []client.Conversation) error {
	if p.Options.JSON {
		for i := range all {
			if err := cli.PrintJSON(p.out, describe(&all[i])); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		fmt.Fprintln(p.notes, "No conversation yet: 'mlsfed create NAME USER…' makes one.")
		return nil
	}
	var t cli.Table
	t.Row("ID", "NAME", "STATE", "EPOCH", "DEVICES", "UNREAD", "MESSAGES")
	for _, c := range all {
		t.Row(distinctID(all, c.ID), BothNames(&c)+Mark(Confusable(all, &c)), c.State, c.Epoch, c.Members, c.Unread, c.Messages)
	}
	if err := t.Write(p.out); err != nil {
		return err
	}
	for i := range all {
		for _, what := range Troubles(&all[i], false) {
			fmt.Fprintf(p.notes, "%s.\n", what)
		}
	}
	return nil
}

// Mark returns the mark after a name that looks like another conversation's name.
func Mark(confusable bool) string {
	if confusable {
		return " (looks like another one)"
	}
	return ""
}

func newCreate() *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME [USER…]",
		Short: "Make a conversation, with users of any organization",
		Long: `create makes a conversation and adds users: all devices of each. Your own other devices are added by
themselves. Servers see neither who takes part nor what is said.`,
		Example: "  mlsfed create Lunch bob@b.example carol@c.example",
		GroupID: cli.GroupPeople,
		Args:    cli.AtLeast(1, "the conversation's name"),
	}
	o := AddFlags(c)
	var x client.CreateOptions
	f := c.Flags()
	suite := f.String("suite", "", "cipher suite: a name or number of docs/spec/suites.md, one that signs as the device's does (default: the device's)")
	witness := f.String("witness", "", "an organization without members that may vote: with it, a conversation of two organizations goes on while one is away (default: your operator's choice, none for none)")
	voters := f.Uint8("voters", 0, "most nodes that vote, odd (default: the nodes' choice, 5)")
	empty := f.Bool("empty", false, "make it also if nobody can be added")
	f.BoolVar(&x.PublicHandshakes, "public-handshakes", false, "let servers see who takes part and check every change; needed to rejoin without help")
	f.BoolVar(&x.AdminsAdd, "admins-add", false, "only admins (you, at first) add users")
	f.BoolVar(&x.MembersRemove, "members-remove", false, "every member may remove users")
	f.BoolVar(&x.MembersRename, "members-rename", false, "every member may change the name")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := CheckName(args[0]); err != nil {
			return err
		}
		if x.NoWitness = *witness == "none"; *witness != "" && !x.NoWitness {
			var err error
			if x.Witness, err = wire.ParseDomain(*witness); err != nil {
				return cli.UsageError(fmt.Errorf("--witness: %w", err))
			}
		}
		if *voters > wire.MaxVoters || c.Flags().Changed("voters") && *voters%2 == 0 {
			return cli.UsageError(fmt.Errorf("--voters %d: wanted an odd number up to %d", *voters, wire.MaxVoters))
		}
		x.Voters = *voters
		if *suite != "" {
			var err error
			if x.Suite, err = mlscore.ParseCipherSuite(*suite); err != nil {
				return cli.UsageError(fmt.Errorf("--suite: %w", err))
			}
			x.Suite = x.Suite.Earlier() // the number that all nodes and devices know
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			users, err := p.Users(args[1:])
			if err != nil {
				return err
			}
			has := func(u wire.UserID) bool { return u.Organization() == x.Witness }
			if x.Witness != "" && (x.Witness == p.DeviceID.Organization() || slices.ContainsFunc(users, has)) {
				return cli.UsageError(fmt.Errorf("--witness %s: wanted an organization that nobody here belongs to", x.Witness))
			}
			x.Name = args[0]
			return p.create(ctx, x, users, *empty)
		})
	}
	return c
}

func (p *Person) create(ctx context.Context, x client.CreateOptions, users []wire.UserID, empty bool) error {
	if err := p.FreeName(ctx, x.Name); err != nil {
		return err
	}
	id, err := p.Create(ctx, x)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		if err := p.AddFirst(ctx, id, x.Name, users, empty, "--empty makes it without them"); err != nil {
			return err
		}
	}
	p.settleAfter(ctx) // own other devices are added
	m, err := p.Members(ctx, id)
	if err != nil {
		return err
	}
	policy, err := p.Policy(ctx, id)
	if err != nil { // a node of an earlier release: then only the named witness counts
		policy.Witness = x.Witness
	}
	if alone := oneVote(m, policy.Witness, p.DeviceID.Organization()); alone != "" {
		fmt.Fprintln(p.notes, alone)
	}
	return p.report(ctx, id, "%s is made: %s, epoch %d, %s.", x.Name, cli.ShortID(id), p.epoch(ctx, id), CountMembers(m))
}

// oneVote returns a remark on a conversation of two organizations without a witness, "" for others.
func oneVote(list []client.Member, witness, own wire.Domain) string {
	var others []wire.Domain
	for _, m := range list {
		if m.Organization != own && !slices.Contains(others, m.Organization) {
			others = append(others, m.Organization)
		}
	}
	if len(others) != 1 || witness != "" {
		return ""
	}
	return fmt.Sprintf("Of two organizations one votes: while the nodes of %s are away, messages go on, but nobody is added or removed here. A third organization that votes only, --witness DOMAIN, changes that.", own)
}

// CheckName refuses a name of a conversation that nobody could write again, or that others could take for a user.
func CheckName(name string) error {
	if looksLikeUser(name) {
		return cli.UsageError(fmt.Errorf("the name %q looks like a user: choose another one ('mlsfed dm USER' makes a conversation with one user)", name))
	}
	return checkOwnName(name)
}

// checkOwnName is CheckName for a name that this device alone knows.
func checkOwnName(name string) error {
	if strings.TrimSpace(name) == "" {
		return cli.UsageError(errors.New("the conversation's name is empty"))
	}
	if err := client.CheckName(name); err != nil {
		return cli.UsageError(cli.Plain(err))
	}
	if shown := cli.OneLine(name); shown != name {
		return cli.UsageError(fmt.Errorf("the name is shown as %q: write it without what cannot be seen, and without spaces around it", shown))
	}
	return nil
}

// undoTime is how long AddFirst waits for the end of a conversation that nobody was added to.
const undoTime = 5 * time.Second

// AddFirst adds users to a conversation that was just created. If that is refused or interrupted, the conversation is
// removed, unless empty is set; hint is what to do then.
func (p *Person) AddFirst(ctx context.Context, id wire.ConversationID, name string, users []wire.UserID, empty bool, hint string) error {
	err := p.Add(ctx, id, users...)
	if err == nil {
		return nil
	}
	if err = p.Explain(ctx, err); empty {
		return notAdded(name, id, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if gone := p.undo(ctx, id); gone != nil {
		return cli.PlainError(err, fmt.Sprintf("%v: nobody was added, and %s (%s) is closed as soon as your organization can be reached", cli.Plain(err), cli.OneLine(name), cli.ShortID(id)))
	}
	err = cli.Plain(err)
	return cli.PlainError(err, fmt.Sprintf("%v: nothing was made; %s", err, hint))
}

// undo closes a conversation without other members, and forgets it. If ctx ends first, the device closes the
// conversation later.
func (p *Person) undo(ctx context.Context, id wire.ConversationID) error {
	if err := p.Close(ctx, id); err != nil {
		return err
	}
	for {
		c, err := p.Conversation(ctx, id)
		if err != nil {
			return err
		}
		if c.State == client.StateLeft {
			return p.Forget(ctx, id)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // Close returns when the entry was processed, or is about to be
		}
	}
}

// notAdded returns the error for a conversation that was created without the users who should be in it: a second try
// would create a second conversation.
func notAdded(name string, id wire.ConversationID, err error) error {
	err = cli.Plain(err)
	return cli.PlainError(err, fmt.Sprintf("%s was made (%s), but nobody was added: %v. Add people to it, or leave it", cli.OneLine(name), cli.ShortID(id), err))
}

// settleAfter gives the device time to do what follows from a change. The rest is done the next time.
func (p *Person) settleAfter(ctx context.Context) {
	_ = p.traffic.Settle(ctx, catchUp)
}

// CountMembers returns a text with the numbers of people and devices.
func CountMembers(list []client.Member) string {
	users := make(map[wire.UserID]bool)
	for _, m := range list {
		users[m.User] = true
	}
	return cli.Plural(len(users), "person", "people") + " with " + cli.Plural(len(list), "device", "devices")
}

// newChange returns a command that changes one conversation.
func newChange(c *cobra.Command, do func(ctx context.Context, p *Person, id wire.ConversationID, args []string) error) *cobra.Command {
	c.GroupID = cli.GroupPeople
	o := AddFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if err := MayAct(conv); err != nil && c.Name() != "rejoin" { // rejoin itself reports what it can do
				return err
			}
			return do(ctx, p, conv.ID, args[1:])
		})
	}
	return c
}

func newRemove() *cobra.Command {
	return newChange(&cobra.Command{
		Use:     "remove CONV USER…",
		Short:   "Remove users from a conversation, with all their devices",
		Long:    "remove removes users from a conversation. Once it has returned they can read nothing that is sent.\nA single device (bob@b.example/phone) can be named too.",
		Example: "  mlsfed remove Lunch carol@c.example",
		Args:    cli.AtLeast(2, "a conversation and users"),
	}, func(ctx context.Context, p *Person, id wire.ConversationID, args []string) error {
		before, err := p.Members(ctx, id)
		if err != nil {
			return err
		}
		if err := p.RemoveAll(ctx, id, before, args); err != nil {
			return err
		}
		after, err := p.Members(ctx, id)
		if err != nil {
			return err
		}
		return p.report(ctx, id, "%s, epoch %d: %s.", changed(len(before)-len(after), "removed"), p.epoch(ctx, id), CountMembers(after))
	})
}

// RemoveAll removes users and devices. All of them must be members: otherwise a mistyped name would look like a
// success.
func (p *Person) RemoveAll(ctx context.Context, id wire.ConversationID, members []client.Member, names []string) error {
	var users []wire.UserID
	var devices []wire.DeviceID
	for _, n := range names {
		if strings.Contains(strings.TrimPrefix(n, "mimi://"), "/") && !strings.Contains(n, "/u/") {
			device, err := parseDevice(p.DeviceID.Organization(), n)
			if err != nil {
				return cli.UsageError(err)
			}
			if device == p.DeviceID {
				return fmt.Errorf("%s is this device: 'mlsfed leave' takes it out", n)
			}
			if !slices.ContainsFunc(members, func(m client.Member) bool { return m.Device == device }) {
				return NotHere(n)
			}
			devices = append(devices, device)
			continue
		}
		list, err := p.Users([]string{n})
		if err != nil {
			return err
		}
		if list[0] == p.DeviceID.User() {
			return fmt.Errorf("%s is you: 'mlsfed leave' takes you out, and a device of yours is named as %s/DEVICE", n, cli.PersonName(list[0]))
		}
		if !slices.ContainsFunc(members, func(m client.Member) bool { return m.User == list[0] }) {
			return NotHere(n)
		}
		users = append(users, list[0])
	}
	if len(users) > 0 {
		if err := p.Remove(ctx, id, users...); err != nil {
			return err
		}
	}
	if len(devices) > 0 {
		return p.RemoveDevices(ctx, id, devices...)
	}
	return nil
}

// NotHere returns the error for a name that is no member.
func NotHere(name string) error {
	return fmt.Errorf("%s is not in this conversation: 'mlsfed members' shows who is", name)
}

func newLeave() *cobra.Command {
	var successors []string
	c := newChange(&cobra.Command{
		Use:   "leave CONV",
		Short: "Leave a conversation",
		Long: `leave asks to be removed, for this device. The removal takes effect when the device of another member,
which does it by itself, is online. The last member closes the conversation.

The last admin names somebody who becomes an admin first: --successor.`,
		Example: "  mlsfed leave Lunch\n  mlsfed leave Lunch --successor bob@b.example",
		Args:    cli.Exactly(1, "a conversation"),
	}, func(ctx context.Context, p *Person, id wire.ConversationID, _ []string) error {
		users, err := p.Users(successors)
		if err != nil {
			return err
		}
		if err := p.LeaveTo(ctx, id, users); err != nil {
			return err
		}
		p.settleAfter(ctx)
		c, err := p.Conversation(ctx, id)
		if err != nil {
			return err
		}
		if c.State == client.StateLeft {
			return p.report(ctx, id, "This device has left %s.", Titled(c))
		}
		return p.report(ctx, id, "Asked to leave %s: the next member who is online takes this device out.", Titled(c))
	})
	c.Flags().StringSliceVar(&successors, "successor", nil, "users to make admins first")
	return c
}

// LeaveTo makes successors admins, and asks to be removed.
func (p *Person) LeaveTo(ctx context.Context, id wire.ConversationID, successors []wire.UserID) error {
	if len(successors) > 0 {
		if err := p.ChangeRules(ctx, id, client.RulesChange{Promote: successors}); err != nil {
			return err
		}
	}
	err := p.Leave(ctx, id)
	if wire.CodeOf(err) != wire.Invalid {
		return err
	}
	list, listErr := p.Members(ctx, id)
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	var others []string
	for _, m := range list {
		if name := cli.PersonName(m.User); m.User != p.DeviceID.User() && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return err
	}
	return cli.PlainError(err, fmt.Sprintf("you are the last admin: name who is to be one with --successor USER, or 'mlsfed rules CONV --promote USER' (here are %s)", strings.Join(others, ", ")))
}

func newRename() *cobra.Command {
	return newChange(&cobra.Command{
		Use:   "rename CONV NAME",
		Short: "Change a conversation's name",
		Args:  cli.Exactly(2, "a conversation and its new name"),
	}, func(ctx context.Context, p *Person, id wire.ConversationID, args []string) error {
		if err := CheckName(args[0]); err != nil {
			return err
		}
		if err := p.RenameForAll(ctx, id, args[0]); err != nil {
			return err
		}
		return p.report(ctx, id, "%s is called %s now, epoch %d.", cli.ShortID(id), args[0], p.epoch(ctx, id))
	})
}
