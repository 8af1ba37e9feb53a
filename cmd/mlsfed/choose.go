package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// conversation finds the one that an argument of a command names.
func (p *person) conversation(ctx context.Context, named string) (*client.Conversation, error) {
	all, err := p.Conversations(ctx)
	if err != nil {
		return nil, err
	}
	return chooseConversation(all, named)
}

// chooseConversation finds a conversation by a name or the beginning of its id. Anybody can give a conversation any
// name and add this user to it, so names of others never win: a whole id is first, then the user's own name, then
// what looks like an id is an id only. Otherwise the names and ids of all conversations count, and one must be left.
func chooseConversation(all []client.Conversation, named string) (*client.Conversation, error) {
	if strings.TrimSpace(named) == "" {
		return nil, usageError{errors.New("the name of the conversation is empty: wanted a name, or the beginning of an id")}
	}
	find := func(test func(c *client.Conversation) bool) (found []*client.Conversation) {
		for i := range all {
			if test(&all[i]) {
				found = append(found, &all[i])
			}
		}
		return found
	}
	id := strings.ToLower(named)
	begins := func(c *client.Conversation) bool { return strings.HasPrefix(c.ID.String(), id) }
	isNamed := func(c *client.Conversation) bool { return strings.EqualFold(c.Rules.Name, named) }
	found := find(func(c *client.Conversation) bool { return c.ID.String() == id })
	if len(found) == 0 {
		found = find(func(c *client.Conversation) bool { return strings.EqualFold(c.OwnName, named) })
	}
	if len(found) == 0 && client.LooksLikeID(named) {
		if found = find(begins); len(found) == 0 {
			if found = find(isNamed); len(found) > 0 {
				return nil, fmt.Errorf("no conversation here has an id that begins with %q. What has it as its name is reached by its id:%s", named, listed(all, found))
			}
		}
	} else if len(found) == 0 {
		found = find(func(c *client.Conversation) bool { return isNamed(c) || begins(c) })
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%q means %d conversations: write more of the id, or give one a name of your own with 'mlsfed alias ID NAME':%s", named, len(found), listed(all, found))
	case len(all) == 0:
		return nil, errors.New("this device is in no conversation: 'mlsfed create NAME' makes one, or somebody adds you")
	}
	return nil, fmt.Errorf("no conversation here has the name, or an id that begins with, %q: 'mlsfed list' shows them", named)
}

// mostListed bounds how many conversations an error lists.
const mostListed = 10

// listed shows some of all conversations, each with enough of its id.
func listed(all []client.Conversation, found []*client.Conversation) string {
	var b strings.Builder
	for _, c := range found[:min(len(found), mostListed)] {
		fmt.Fprintf(&b, "\n  %s  %s  (%v)", distinctID(all, c.ID), titled(c), c.State)
	}
	if n := len(found) - mostListed; n > 0 {
		fmt.Fprintf(&b, "\n  and %d more", n)
	}
	return b.String()
}

// shortID is the beginning of a conversation's id, for what people are told.
func shortID(id wire.ConversationID) string { return id.String()[:8] }

// distinctID returns the shortest beginning of an id that no other conversation has. The founder of a conversation
// chooses its id, so the first 8 digits may be shared.
func distinctID(all []client.Conversation, id wire.ConversationID) string {
	s, n := id.String(), 8
	for i := range all {
		for other := all[i].ID.String(); other != s && n < len(s) && strings.HasPrefix(other, s[:n]); {
			n++
		}
	}
	return s[:n]
}

// titled is a conversation's name as it stands in a line with other things: the user's own one, the one that its
// members gave it, or the beginning of its id.
func titled(c *client.Conversation) string {
	if c.OwnName != "" {
		return oneLine(c.OwnName)
	}
	return cmp.Or(givenName(c), shortID(c.ID))
}

// givenName is the name that its members gave a conversation, with a mark where it could be taken for an id.
func givenName(c *client.Conversation) string {
	name := oneLine(c.Rules.Name)
	if name != "" && client.LooksLikeID(c.Rules.Name) {
		name += " (a name, not an id)"
	}
	return name
}

// bothNames is titled, with the name that members gave where the user has another one.
func bothNames(c *client.Conversation) string {
	if name := givenName(c); c.OwnName != "" && name != "" && c.OwnName != c.Rules.Name {
		return oneLine(c.OwnName) + " (" + name + ")"
	}
	return titled(c)
}

// lookalikes are letters of other alphabets, and digits, that a reader takes for a Latin letter.
var lookalikes = strings.NewReplacer(
	"а", "a", "е", "e", "о", "o", "р", "p", "с", "c", "у", "y", "х", "x", "к", "k", "м", "m", "т", "t", "н", "h", "в", "b", "і", "i", "ѕ", "s", "ј", "j",
	"α", "a", "ο", "o", "ν", "v", "ρ", "p", "τ", "t", "υ", "u", "κ", "k", "ι", "i", "ı", "i", "0", "o", "1", "l", "i", "l", "|", "l", string(unicode.ReplacementChar), "", " ", "",
)

// skeleton is what a reader sees of a name: equal for names that are easily taken for each other.
func skeleton(name string) string { return lookalikes.Replace(strings.ToLower(oneLine(name))) }

// confusable reports whether a conversation that others have named looks like another one.
func confusable(all []client.Conversation, c *client.Conversation) bool {
	if c.OwnName != "" || c.Rules.Name == "" {
		return false
	}
	own := skeleton(c.Rules.Name)
	return slices.ContainsFunc(all, func(o client.Conversation) bool {
		return o.ID != c.ID && o.State != client.StateLeft && (skeleton(o.Rules.Name) == own || skeleton(o.OwnName) == own)
	})
}

func newAlias() *cobra.Command {
	remove := false
	c := &cobra.Command{
		Use:   "alias CONV [NAME]",
		Short: "Give a conversation a name of your own",
		Long: `alias gives a conversation a name that this device alone knows. It comes before all names that other people
give to conversations: use it, or the id, in scripts. What you create has its name as your own one from the start.`,
		Example: "  mlsfed alias 5f2c9a10 Lunch\n  mlsfed alias Lunch --remove",
		GroupID: groupPeople,
	}
	c.Args = func(_ *cobra.Command, args []string) error {
		if remove && len(args) != 1 || !remove && len(args) != 2 {
			return fmt.Errorf("%d argument(s), wanted a conversation and its name, or a conversation and --remove", len(args))
		}
		return nil
	}
	o := addPeopleFlags(c)
	addOfflineFlag(c, o)
	c.Flags().BoolVar(&remove, "remove", false, "take your own name away")
	c.RunE = func(c *cobra.Command, args []string) error {
		name := ""
		if !remove {
			if err := checkName(args[1]); err != nil {
				return err
			}
			name = args[1]
		}
		return o.with(c, func(ctx context.Context, p *person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if err := p.SetOwnName(ctx, conv.ID, name); err != nil {
				return p.ownNameTaken(ctx, name, err)
			}
			if remove {
				return p.tell(ctx, conv.ID, "%s has no name of your own any more.", shortID(conv.ID))
			}
			return p.tell(ctx, conv.ID, "%s is called %s on this device.", shortID(conv.ID), oneLine(name))
		})
	}
	return c
}

// ownNameTaken says which conversation has a name of the user's.
func (p *person) ownNameTaken(ctx context.Context, name string, err error) error {
	if wire.CodeOf(err) != wire.Exists {
		return err
	}
	all, listErr := p.Conversations(ctx)
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	i := slices.IndexFunc(all, func(c client.Conversation) bool { return strings.EqualFold(c.OwnName, name) })
	if i < 0 {
		return err
	}
	return plainError{err, fmt.Sprintf("you call another conversation %s: %s (%v)", oneLine(name), distinctID(all, all[i].ID), all[i].State)}
}

// freeName refuses a name for a new conversation by which another one is reached.
func (p *person) freeName(ctx context.Context, name string) error {
	all, err := p.Conversations(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		if strings.EqualFold(all[i].OwnName, name) {
			return fmt.Errorf("you call another conversation %s: %s (%v). Choose another name, or take that one away with 'mlsfed alias %s --remove'",
				oneLine(name), distinctID(all, all[i].ID), all[i].State, distinctID(all, all[i].ID))
		}
	}
	return nil
}

// rename changes a conversation's name for all members. The user's own name of it goes with it if it was the same.
func (p *person) rename(ctx context.Context, id wire.ConversationID, name string) error {
	before, err := p.Conversation(ctx, id)
	if err != nil {
		return err
	}
	if err := p.Rename(ctx, id, name); err != nil {
		return err
	}
	if before.OwnName != "" && before.OwnName == before.Rules.Name {
		err = p.SetOwnName(ctx, id, name)
	}
	return p.ownNameTaken(ctx, name, err)
}
