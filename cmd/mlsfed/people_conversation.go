package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
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
}

func describe(c *client.Conversation) conversationJSON {
	return conversationJSON{
		ID: c.ID.String(), Name: c.Rules.Name, OwnName: c.OwnName, State: c.State.String(), Why: c.Why, Epoch: c.Epoch, Devices: c.Members,
		Messages: c.Messages, Unread: c.Unread, Outgoing: c.Outgoing, Entries: uint64(c.Sequence), Order: c.Order.String(), Admins: personNames(c.Rules.Admins),
		Suite: c.Suite.String(),
	}
}

// personNames writes users as people do.
func personNames(users []wire.UserID) []string {
	names := make([]string, 0, len(users))
	for _, u := range users {
		names = append(names, personName(u))
	}
	return names
}

// mayAct says why this device cannot do anything in a conversation, nil if it can.
func mayAct(c *client.Conversation) error {
	switch c.State {
	case client.StateLeft:
		return fmt.Errorf("this device is not in %s any more: it left, or was removed, or the conversation was closed; a member can add you again", titled(c))
	case client.StateLeaving:
		return fmt.Errorf("this device has asked to leave %s: the next member who is online takes it out", titled(c))
	case client.StateBroken:
		return fmt.Errorf("this device cannot follow %s any further (%s): 'mlsfed rejoin' brings it back, or asks a member to", titled(c), oneLine(c.Why))
	}
	return nil
}

// tell prints what has become of a conversation: a line, or all of it as JSON.
func (p *person) tell(ctx context.Context, id wire.ConversationID, format string, args ...any) error {
	if !p.opts.json {
		fmt.Fprintf(p.out, format+"\n", args...)
		return nil
	}
	c, err := p.Conversation(ctx, id)
	if err != nil {
		return err
	}
	return printJSON(p.out, describe(c))
}

// epoch is the present epoch of a conversation, for what people are told.
func (p *person) epoch(ctx context.Context, id wire.ConversationID) wire.Epoch {
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
		GroupID: groupPeople,
	}
	o := addPeopleFlags(c)
	addOfflineFlag(c, o)
	left := c.Flags().Bool("all", false, "with those that this device has left, until it forgets them")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return o.with(c, func(ctx context.Context, p *person) error {
			all, err := p.Conversations(ctx)
			if err != nil {
				return err
			}
			if !*left {
				was := len(all)
				all = slices.DeleteFunc(all, func(c client.Conversation) bool { return c.State == client.StateLeft })
				if n := was - len(all); n > 0 && !p.opts.json {
					fmt.Fprintf(p.notes, "%s left: 'mlsfed list --all' shows them, 'mlsfed forget' deletes one.\n", plural(n, "conversation was", "conversations were"))
				}
			}
			return p.printConversations(all)
		})
	}
	return c
}

func (p *person) printConversations(all []client.Conversation) error {
	if p.opts.json {
		for i := range all {
			if err := printJSON(p.out, describe(&all[i])); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		fmt.Fprintln(p.notes, "No conversation yet: 'mlsfed create NAME USER…' makes one.")
		return nil
	}
	var t table
	t.row("ID", "NAME", "STATE", "EPOCH", "DEVICES", "UNREAD", "MESSAGES")
	for _, c := range all {
		t.row(distinctID(all, c.ID), bothNames(&c)+mark(confusable(all, &c)), c.State, c.Epoch, c.Members, c.Unread, c.Messages)
	}
	if err := t.write(p.out); err != nil {
		return err
	}
	for i := range all {
		if why := trouble(&all[i]); why != nil {
			fmt.Fprintf(p.notes, "%v.\n", why)
		}
	}
	return nil
}

// trouble is what keeps this device from following a conversation, nil for nothing.
func trouble(c *client.Conversation) error {
	switch c.State {
	case client.StateBroken:
		return mayAct(c)
	case client.StateJoining:
		if c.Why == "" {
			return fmt.Errorf("this device was added to %s and is fetching what it needs to enter", titled(c))
		}
		return fmt.Errorf("this device was added to %s and has not entered yet: %s", titled(c), oneLine(c.Why))
	}
	return nil
}

// clean makes text of others fit for a terminal: control characters could move the cursor, hide what was
// written, or run what a terminal runs.
func clean(s string) string { return wire.Printable(s) }

// oneLine is clean for what stands in a line with other things.
func oneLine(s string) string { return wire.Line(s) }

// mark is what stands behind a name that looks like another one's.
func mark(confusable bool) string {
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
		GroupID: groupPeople,
		Args:    atLeast(1, "the conversation's name"),
	}
	o := addPeopleFlags(c)
	var x client.CreateOptions
	f := c.Flags()
	suite := f.String("suite", "", "cipher suite: a name or number of docs/suites.md, one that signs as the device's does (default: the device's)")
	witness := f.String("witness", "", "an organization without members that may vote: with it, a conversation of two organizations goes on while one is away (default: your operator's choice, none for none)")
	voters := f.Uint8("voters", 0, "most nodes that vote, odd (default: the nodes' choice, 5)")
	empty := f.Bool("empty", false, "make it also if nobody can be added")
	f.BoolVar(&x.PublicHandshakes, "public-handshakes", false, "let servers see who takes part and check every change; needed to rejoin without help")
	f.BoolVar(&x.AdminsAdd, "admins-add", false, "only admins (you, at first) add users")
	f.BoolVar(&x.MembersRemove, "members-remove", false, "every member may remove users")
	f.BoolVar(&x.MembersRename, "members-rename", false, "every member may change the name")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkName(args[0]); err != nil {
			return err
		}
		if x.NoWitness = *witness == "none"; *witness != "" && !x.NoWitness {
			var err error
			if x.Witness, err = wire.ParseDomain(*witness); err != nil {
				return usageError{fmt.Errorf("--witness: %w", err)}
			}
		}
		if *voters > wire.MaxVoters || c.Flags().Changed("voters") && *voters%2 == 0 {
			return usageError{fmt.Errorf("--voters %d: wanted an odd number up to %d", *voters, wire.MaxVoters)}
		}
		x.Voters = *voters
		if *suite != "" {
			var err error
			if x.Suite, err = mlscore.ParseCipherSuite(*suite); err != nil {
				return usageError{fmt.Errorf("--suite: %w", err)}
			}
			x.Suite = x.Suite.Earlier() // the number that all nodes and devices know
		}
		return o.with(c, func(ctx context.Context, p *person) error {
			users, err := p.users(args[1:])
			if err != nil {
				return err
			}
			x.Name = args[0]
			return p.create(ctx, x, users, *empty)
		})
	}
	return c
}

func (p *person) create(ctx context.Context, x client.CreateOptions, users []wire.UserID, empty bool) error {
	if err := p.freeName(ctx, x.Name); err != nil {
		return err
	}
	id, err := p.Create(ctx, x)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		if err := p.addFirst(ctx, id, x.Name, users, empty, "--empty makes it without them"); err != nil {
			return err
		}
	}
	p.settleAfter(ctx) // own other devices are added
	m, err := p.Members(ctx, id)
	if err != nil {
		return err
	}
	policy, err := p.Policy(ctx, id)
	if err != nil { // of an earlier release: then there is no witness but the one that was named
		policy.Witness = x.Witness
	}
	if alone := oneVote(m, policy.Witness, p.id.Organization()); alone != "" {
		fmt.Fprintln(p.notes, alone)
	}
	return p.tell(ctx, id, "%s is made: %s, epoch %d, %s.", x.Name, shortID(id), p.epoch(ctx, id), countMembers(m))
}

// oneVote says what holds for a conversation of two organizations without a witness, "" for others.
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

// checkName refuses a name of a conversation that nobody could write again.
func checkName(name string) error {
	if strings.TrimSpace(name) == "" {
		return usageError{errors.New("the conversation's name is empty")}
	}
	if err := client.CheckName(name); err != nil {
		return usageError{plain(err)}
	}
	if shown := oneLine(name); shown != name {
		return usageError{fmt.Errorf("the name is shown as %q: write it without what cannot be seen, and without spaces around it", shown)}
	}
	return nil
}

// addFirst adds users to a conversation that was just made. Where that is refused, nothing stays, unless empty wants it;
// hint says what to do then.
func (p *person) addFirst(ctx context.Context, id wire.ConversationID, name string, users []wire.UserID, empty bool, hint string) error {
	err := p.Add(ctx, id, users...)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, client.ErrOffline) || empty {
		return notAdded(name, id, p.late(ctx, err))
	}
	if gone := p.undo(ctx, id); gone != nil {
		return notAdded(name, id, errors.Join(err, gone))
	}
	err = plain(err)
	return plainError{err, fmt.Sprintf("%v: nothing was made; %s", err, hint)}
}

// undo closes a conversation in which nobody else is, and forgets it.
func (p *person) undo(ctx context.Context, id wire.ConversationID) error {
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
		case <-time.After(10 * time.Millisecond): // Close returns when the entry was taken in, or is about to be
		}
	}
}

// notAdded says that a conversation stands without those who were to be in it: making it again would make
// a second one.
func notAdded(name string, id wire.ConversationID, err error) error {
	err = plain(err)
	return plainError{err, fmt.Sprintf("%s was made (%s), but nobody was added: %v. Add people to it, or leave it", oneLine(name), shortID(id), err)}
}

// settleAfter gives the device the time to do what follows from a change that has been made. If it does not
// come to that, it does it the next time.
func (p *person) settleAfter(ctx context.Context) {
	_ = p.traffic.settle(ctx, catchUp)
}

// countMembers says how many people and devices there are.
func countMembers(list []client.Member) string {
	users := make(map[wire.UserID]bool)
	for _, m := range list {
		users[m.User] = true
	}
	return plural(len(users), "person", "people") + " with " + plural(len(list), "device", "devices")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// newChange makes a command that changes one conversation.
func newChange(c *cobra.Command, do func(ctx context.Context, p *person, id wire.ConversationID, args []string) error) *cobra.Command {
	c.GroupID = groupPeople
	o := addPeopleFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if err := mayAct(conv); err != nil && c.Name() != "rejoin" { // which says itself what it can do
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
		Args:    atLeast(2, "a conversation and users"),
	}, func(ctx context.Context, p *person, id wire.ConversationID, args []string) error {
		before, err := p.Members(ctx, id)
		if err != nil {
			return err
		}
		if err := p.removeAll(ctx, id, before, args); err != nil {
			return err
		}
		after, err := p.Members(ctx, id)
		if err != nil {
			return err
		}
		return p.tell(ctx, id, "%s, epoch %d: %s.", changed(len(before)-len(after), "removed"), p.epoch(ctx, id), countMembers(after))
	})
}

// removeAll removes users and devices, all of which must be members: a name with a slip would else
// look like a success.
func (p *person) removeAll(ctx context.Context, id wire.ConversationID, members []client.Member, names []string) error {
	var users []wire.UserID
	var devices []wire.DeviceID
	for _, n := range names {
		if strings.Contains(strings.TrimPrefix(n, "mimi://"), "/") && !strings.Contains(n, "/u/") {
			device, err := parseDevice(p.id.Organization(), n)
			if err != nil {
				return usageError{err}
			}
			if device == p.id {
				return fmt.Errorf("%s is this device: 'mlsfed leave' takes it out", n)
			}
			if !slices.ContainsFunc(members, func(m client.Member) bool { return m.Device == device }) {
				return notHere(n)
			}
			devices = append(devices, device)
			continue
		}
		list, err := p.users([]string{n})
		if err != nil {
			return err
		}
		if list[0] == p.id.User() {
			return fmt.Errorf("%s is you: 'mlsfed leave' takes you out, and a device of yours is named as %s/DEVICE", n, personName(list[0]))
		}
		if !slices.ContainsFunc(members, func(m client.Member) bool { return m.User == list[0] }) {
			return notHere(n)
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

// notHere says that somebody is no member.
func notHere(name string) error {
	return fmt.Errorf("%s is not in this conversation: 'mlsfed members' shows who is", name)
}

func newLeave() *cobra.Command {
	var successors []string
	c := newChange(&cobra.Command{
		Use:   "leave CONV",
		Short: "Leave a conversation",
		Long: `leave asks to be removed, for this device. The removal takes effect when the device of another member,
which does it by itself, is online. Who is alone closes the conversation.

The last admin names somebody who becomes an admin first: --successor.`,
		Example: "  mlsfed leave Lunch\n  mlsfed leave Lunch --successor bob@b.example",
		Args:    exactly(1, "a conversation"),
	}, func(ctx context.Context, p *person, id wire.ConversationID, _ []string) error {
		users, err := p.users(successors)
		if err != nil {
			return err
		}
		if err := p.leave(ctx, id, users); err != nil {
			return err
		}
		p.settleAfter(ctx)
		c, err := p.Conversation(ctx, id)
		if err != nil {
			return err
		}
		if c.State == client.StateLeft {
			return p.tell(ctx, id, "This device has left %s.", titled(c))
		}
		return p.tell(ctx, id, "Asked to leave %s: the next member who is online takes this device out.", titled(c))
	})
	c.Flags().StringSliceVar(&successors, "successor", nil, "users to make admins first")
	return c
}

// leave makes successors admins, and asks to be taken out.
func (p *person) leave(ctx context.Context, id wire.ConversationID, successors []wire.UserID) error {
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
		if name := personName(m.User); m.User != p.id.User() && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return err
	}
	return plainError{err, fmt.Sprintf("you are the last admin: name who is to be one with --successor USER, or 'mlsfed rules CONV --promote USER' (here are %s)", strings.Join(others, ", "))}
}

func newRename() *cobra.Command {
	return newChange(&cobra.Command{
		Use:   "rename CONV NAME",
		Short: "Change a conversation's name",
		Args:  exactly(2, "a conversation and its new name"),
	}, func(ctx context.Context, p *person, id wire.ConversationID, args []string) error {
		if err := checkName(args[0]); err != nil {
			return err
		}
		if err := p.rename(ctx, id, args[0]); err != nil {
			return err
		}
		return p.tell(ctx, id, "%s is called %s now, epoch %d.", shortID(id), args[0], p.epoch(ctx, id))
	})
}
