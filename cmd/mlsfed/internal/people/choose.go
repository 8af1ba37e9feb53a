package people

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// conversation finds the conversation that an argument of a command names.
func (p *Person) conversation(ctx context.Context, named string) (*client.Conversation, error) {
	all, err := p.Conversations(ctx)
	if err != nil {
		return nil, err
	}
	return ChooseConversation(all, named)
}

// direct finds the active conversation without any name in which only this user and another one are; nil if there is
// none. Several are an error that lists them.
func direct(all []client.Conversation, user wire.UserID) (*client.Conversation, error) {
	found := pairs(all, cli.PersonName(user))
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	return nil, severalMeant(all, found, cli.PersonName(user))
}

// pairs lists the active conversations without any name in which only this user and the named one are.
func pairs(all []client.Conversation, named string) (found []*client.Conversation) {
	for i := range all {
		c := &all[i]
		if c.State == client.StateActive && c.OwnName == "" && c.With != "" && strings.EqualFold(cli.PersonName(c.With), named) {
			found = append(found, c)
		}
	}
	return found
}

// looksLikeUser reports whether a conversation's name could be taken for a user, as alice@a.example. Such a name that
// others gave never finds a conversation: a text for a user would go to the person who chose the name.
func looksLikeUser(name string) bool {
	before, after, found := strings.Cut(strings.TrimSpace(name), "@")
	return found && before != "" && after != "" && !strings.ContainsFunc(before+after, unicode.IsSpace)
}

// severalMeant is the error for a name or an id that more than one conversation has.
func severalMeant(all []client.Conversation, found []*client.Conversation, named string) error {
	return fmt.Errorf("%q means %d conversations: write more of the id, or give one a name of your own with 'mlsfed alias ID NAME':%s", named, len(found), listed(all, found))
}

// ChooseConversation finds a conversation by a name or the beginning of its id. Anybody can give a conversation any
// name and add this user to it, so names of others never win: a whole id is first, then the user's own name, then
// what looks like an id is an id only, and what looks like a user is no name that others gave. Otherwise the names and ids of all conversations count, and one must be left.
func ChooseConversation(all []client.Conversation, named string) (*client.Conversation, error) {
	if strings.TrimSpace(named) == "" {
		return nil, cli.UsageError(errors.New("the name of the conversation is empty: wanted a name, or the beginning of an id"))
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
				return nil, fmt.Errorf("no conversation here has an id that begins with %q. Use the id of a conversation that has it as its name:%s", named, listed(all, found))
			}
		}
	} else if len(found) == 0 && looksLikeUser(named) {
		if found = pairs(all, named); len(found) > 0 {
			// The user has called 'mlsfed dm' for this one, and this device has no name for the conversation yet.
		} else if found = find(isNamed); len(found) > 0 {
			return nil, fmt.Errorf("no conversation here has %q as a name of your own: 'mlsfed dm %s' makes one with that user. Use the id of a conversation that others have named so:%s", named, named, listed(all, found))
		}
	} else if len(found) == 0 {
		found = find(func(c *client.Conversation) bool { return isNamed(c) || begins(c) })
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, severalMeant(all, found, named)
	case len(all) == 0:
		return nil, errors.New("no conversation on this device: 'mlsfed create NAME' makes one, or somebody adds you")
	}
	return nil, fmt.Errorf("no conversation here has the name, or an id that begins with, %q: 'mlsfed list' shows them", named)
}

// mostListed bounds how many conversations an error lists.
const mostListed = 10

// listed returns a text with some of all conversations, each with enough of its id.
func listed(all []client.Conversation, found []*client.Conversation) string {
	var b strings.Builder
	for _, c := range found[:min(len(found), mostListed)] {
		fmt.Fprintf(&b, "\n  %s  %s  (%v)", distinctID(all, c.ID), Titled(c), c.State)
	}
	if n := len(found) - mostListed; n > 0 {
		fmt.Fprintf(&b, "\n  and %d more", n)
	}
	return b.String()
}

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

// Titled returns a conversation's name for use inside a line: the user's own name, the name that its members gave it,
// the only other user, or the beginning of its id.
func Titled(c *client.Conversation) string {
	if c.OwnName != "" {
		return cli.OneLine(c.OwnName)
	}
	return cmp.Or(givenName(c), otherUser(c), cli.ShortID(c.ID))
}

// otherUser returns the only other user of a conversation of two without a name, "" for other conversations.
func otherUser(c *client.Conversation) string {
	if c.With == "" {
		return ""
	}
	return cli.PersonName(c.With) + Ordinal(c.WithPerson)
}

// givenName returns the name that its members gave a conversation, with a mark if the name could be taken for an id.
func givenName(c *client.Conversation) string { return cli.OneLine(c.Rules.Name) + nameMark(c) }

// nameMark returns the mark of a name that members gave a conversation, and that could be taken for an id or a user.
func nameMark(c *client.Conversation) string {
	name := cli.OneLine(c.Rules.Name)
	switch {
	case name == "":
	case client.LooksLikeID(c.Rules.Name), client.LooksLikeID(letters.Replace(strings.ToLower(unadorned(name)))):
		return " (a name, not an id)"
	case looksLikeUser(unadorned(name)) && c.OwnName != c.Rules.Name:
		return " (a name, not a user)"
	}
	return ""
}

// Marks returns the marks after the name of a conversation in a list: the name could be taken for an id, for a user, or
// for another conversation.
func Marks(all []client.Conversation, c *client.Conversation) string {
	return nameMark(c) + Mark(Confusable(all, c))
}

// PlainNames returns BothNames without marks.
func PlainNames(c *client.Conversation) string {
	given := cli.OneLine(c.Rules.Name)
	switch {
	case c.OwnName == "":
		return cmp.Or(given, otherUser(c), cli.ShortID(c.ID))
	case given != "" && c.OwnName != c.Rules.Name:
		return cli.OneLine(c.OwnName) + " (" + given + ")"
	}
	return cli.OneLine(c.OwnName)
}

// BothNames returns titled, followed by the name that members gave if the user has another name.
func BothNames(c *client.Conversation) string {
	if name := givenName(c); c.OwnName != "" && name != "" && c.OwnName != c.Rules.Name {
		return cli.OneLine(c.OwnName) + " (" + name + ")"
	}
	return Titled(c)
}

// letters are those of other alphabets that a reader takes for a Latin one.
var letters = strings.NewReplacer(
	"а", "a", "е", "e", "о", "o", "р", "p", "с", "c", "у", "y", "х", "x", "к", "k", "м", "m", "т", "t", "н", "h", "в", "b", "і", "i", "ѕ", "s", "ј", "j",
	"α", "a", "ο", "o", "ν", "v", "ρ", "p", "τ", "t", "υ", "u", "κ", "k", "ι", "i", "ı", "i",
)

// lookalikes are digits, signs and pairs that a reader takes for a letter, and what takes no space or leaves it blank.
var lookalikes = strings.NewReplacer("0", "o", "1", "l", "i", "l", "|", "l", "rn", "m", "vv", "w", string(unicode.ReplacementChar), "", " ", "")

// unadorned is a name without accents, with plain letters and digits for wide, bold and circled ones (NFKD of Unicode).
func unadorned(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) { // accents and the selectors of variants
			return -1
		}
		return r
	}, norm.NFKD.String(name))
}

// skeleton is what a reader sees of a name: equal for names that are easily taken for each other.
func skeleton(name string) string {
	return lookalikes.Replace(letters.Replace(strings.ToLower(unadorned(cli.OneLine(name)))))
}

// Confusable reports whether a conversation that others have named looks like another one.
func Confusable(all []client.Conversation, c *client.Conversation) bool {
	if c.OwnName != "" || c.Rules.Name == "" {
		return false
	}
	own := skeleton(c.Rules.Name)
	if own == "" { // nothing of it can be seen
		return false
	}
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
give to conversations: use it, or the id, in scripts. A conversation that you create has its name as your own one from
the start.`,
		Example: "  mlsfed alias 5f2c9a10 Lunch\n  mlsfed alias Lunch --remove",
		GroupID: cli.GroupPeople,
	}
	c.Args = func(_ *cobra.Command, args []string) error {
		if remove && len(args) != 1 || !remove && len(args) != 2 {
			return fmt.Errorf("%d argument(s), wanted a conversation and its name, or a conversation and --remove", len(args))
		}
		return nil
	}
	o := AddFlags(c)
	addOfflineFlag(c, o)
	c.Flags().BoolVar(&remove, "remove", false, "take your own name away")
	c.RunE = func(c *cobra.Command, args []string) error {
		name := ""
		if !remove {
			if err := checkOwnName(args[1]); err != nil {
				return err
			}
			name = args[1]
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if err := p.SetOwnName(ctx, conv.ID, name); err != nil {
				return p.ownNameTaken(ctx, name, err)
			}
			if remove {
				return p.report(ctx, conv.ID, "%s has no name of your own any more.", cli.ShortID(conv.ID))
			}
			return p.report(ctx, conv.ID, "%s is called %s on this device.", cli.ShortID(conv.ID), cli.OneLine(name))
		})
	}
	return c
}

// ownNameTaken adds to err which conversation has the user's own name.
func (p *Person) ownNameTaken(ctx context.Context, name string, err error) error {
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
	return cli.PlainError(err, fmt.Sprintf("you call another conversation %s: %s (%v)", cli.OneLine(name), distinctID(all, all[i].ID), all[i].State))
}

// FreeName refuses a name for a new conversation that already selects another conversation.
func (p *Person) FreeName(ctx context.Context, name string) error {
	all, err := p.Conversations(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		if strings.EqualFold(all[i].OwnName, name) {
			return fmt.Errorf("you call another conversation %s: %s (%v). Choose another name, or take that one away with 'mlsfed alias %s --remove'",
				cli.OneLine(name), distinctID(all, all[i].ID), all[i].State, distinctID(all, all[i].ID))
		}
	}
	return nil
}

// RenameForAll changes a conversation's name for all members. It also changes the user's own name for the conversation if
// that was the same.
func (p *Person) RenameForAll(ctx context.Context, id wire.ConversationID, name string) error {
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
