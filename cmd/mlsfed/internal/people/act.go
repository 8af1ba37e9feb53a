package people

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// The commands of this file concern a message that is in the history: reply, react, edit, delete. expire sets how long
// later messages stay.

// LastMessage names the newest message that a command can concern: of others for reply and react, otherwise of the user.
const LastMessage = "last"

const messageArgument = "a conversation, the beginning of a message's id (or # and its number, or 'last')"

// FindMessage finds the message that an argument of a command names: by the beginning of its id, by # and its number, or
// the newest one with "last". own selects messages of the own user for "last", otherwise those of others.
func (p *Person) FindMessage(ctx context.Context, id wire.ConversationID, named string, own bool) (*client.Message, error) {
	if digits, ok := strings.CutPrefix(named, "#"); ok {
		none := func(n uint64) error {
			return fmt.Errorf("message %d is not in the history: 'mlsfed read --numbers' shows the numbers", n)
		}
		return p.messageNumbered(ctx, id, digits, none, func(*client.Message) bool { return true })
	}
	if named == LastMessage {
		return p.lastMessage(ctx, id, own)
	}
	none := fmt.Errorf("no message has an id that begins with %q: 'mlsfed read --numbers' shows the numbers", named)
	return p.messageByID(ctx, id, named, none, func(m *client.Message) (bool, string) { return true, "" })
}

// messageNumbered returns the message with a number, if it matches. none makes the error otherwise.
func (p *Person) messageNumbered(ctx context.Context, id wire.ConversationID, digits string, none func(uint64) error, match func(*client.Message) bool) (*client.Message, error) {
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return nil, cli.UsageError(fmt.Errorf("#%s: wanted # and the number of a message", digits))
	}
	page, err := p.History(ctx, id, client.Query{Forward: true, After: n, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(page.Messages) == 0 || page.Messages[0].Number != n || !match(&page.Messages[0]) {
		return nil, none(n)
	}
	return &page.Messages[0], nil
}

// lastMessage returns the newest message of the own user, or of others, that is still shown.
func (p *Person) lastMessage(ctx context.Context, id wire.ConversationID, own bool) (last *client.Message, err error) {
	err = p.eachMessage(ctx, id, func(m *client.Message) (stop bool) {
		if m.Gone == client.Here && (m.Sender.User() == p.DeviceID.User()) == own {
			last = m
		}
		return last != nil
	})
	if err == nil && last == nil {
		err = fmt.Errorf("no message has an id that begins with %q: 'mlsfed read --numbers' shows the numbers", LastMessage)
	}
	return last, err
}

// messageByID returns the only message among those that match whose id begins with a text. none is the error if there is
// no such message. The second result of match is shown where the text is ambiguous.
func (p *Person) messageByID(ctx context.Context, id wire.ConversationID, named string, none error, match func(*client.Message) (bool, string)) (*client.Message, error) {
	var found []*client.Message
	var shown []string
	err := p.eachMessage(ctx, id, func(m *client.Message) (stop bool) {
		if ok, what := match(m); ok && strings.HasPrefix(m.ID.String(), strings.ToLower(named)) {
			found, shown = append(found, m), append(shown, what)
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 0:
		return nil, none
	case 1:
		return found[0], nil
	}
	var b strings.Builder
	for i, m := range found[:min(len(found), mostListed)] {
		fmt.Fprintf(&b, "\n  '#%d'  %s  %s", m.Number, p.Local(m.Time).Format("2006-01-02 15:04"), cli.DeviceName(m.Sender))
		if shown[i] != "" {
			fmt.Fprintf(&b, "  %s", shown[i])
		}
	}
	return nil, fmt.Errorf("%d messages begin with %q: write more of the id, or the number:%s", len(found), named, b.String())
}

// eachMessage calls do for the messages of a conversation, the newest first, until it returns true.
func (p *Person) eachMessage(ctx context.Context, id wire.ConversationID, do func(*client.Message) (stop bool)) error {
	for q := (client.Query{Limit: client.MaxPage}); ; {
		page, err := p.History(ctx, id, q)
		if err != nil {
			return err
		}
		for i := len(page.Messages) - 1; i >= 0; i-- {
			if do(&page.Messages[i]) {
				return nil
			}
		}
		if !page.More {
			return nil
		}
		q.Before = page.Next
	}
}

// concerning makes a command that concerns a message: find says whether "last" is an own message.
func concerning(c *cobra.Command, own bool, do func(ctx context.Context, p *Person, m *client.Message, args []string) error) *cobra.Command {
	c.GroupID = cli.GroupPeople
	o := AddFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		rest := args[2:]
		if len(rest) == 1 && rest[0] == "-" {
			text, err := o.textOf(c, rest)
			if err != nil {
				return err
			}
			rest = []string{text}
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err == nil {
				err = MayAct(conv)
			}
			if err != nil {
				return err
			}
			m, err := p.FindMessage(ctx, conv.ID, args[1], own)
			if err != nil {
				return err
			}
			return do(ctx, p, m, rest)
		})
	}
	return c
}

func newReply() *cobra.Command {
	return concerning(&cobra.Command{
		Use:   "reply CONV MESSAGE TEXT",
		Short: "Answer a message",
		Long: `reply sends a text as the answer to a message. MESSAGE is the beginning of its id, or # and its number, which
'mlsfed read --numbers' shows, or 'last' for the newest message of somebody else. The text - is read from standard input.`,
		Example: "  mlsfed reply Lunch '#7' 'Rather at one.'\n  mlsfed reply Lunch last 'I come.'",
		Args:    cli.Exactly(3, messageArgument+" and a text"),
	}, false, func(ctx context.Context, p *Person, m *client.Message, args []string) error {
		if args[0] == "" {
			return cli.UsageError(errors.New("the text is empty"))
		}
		return p.sendBy(ctx, m.Conversation, func() (client.MessageID, error) { return p.Reply(ctx, m, args[0]) })
	})
}

func newReact() *cobra.Command {
	c := &cobra.Command{
		Use:   "react CONV MESSAGE EMOJI",
		Short: "React to a message, or withdraw a reaction",
		Long: `react shows an emoji, or another short text, at a message. --remove withdraws your reaction with that text; without
a text, all of your reactions to the message. MESSAGE is as for 'mlsfed reply'.`,
		Example: "  mlsfed react Lunch last 👍\n  mlsfed react Lunch '#7' --remove",
	}
	remove := c.Flags().Bool("remove", false, "withdraw the reaction")
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 3 || len(args) == 2 && *remove {
			return nil
		}
		return fmt.Errorf("%d argument(s), wanted %s and an emoji, or --remove", len(args), messageArgument)
	}
	return concerning(c, false, func(ctx context.Context, p *Person, m *client.Message, args []string) error {
		if !*remove {
			return p.act(ctx, m, "reaction", func() ([]client.ContentID, error) {
				return p.ReactOnce(ctx, m, args[0])
			})
		}
		return p.act(ctx, m, "reaction withdrawn", func() ([]client.ContentID, error) { return p.Unreact(ctx, m, strings.Join(args, "")) })
	})
}

func newEdit() *cobra.Command {
	return concerning(&cobra.Command{
		Use:   "edit CONV MESSAGE TEXT",
		Short: "Give a message of yours another text",
		Long: `edit gives a message of yours another text, or a file another caption, for all members, who see that it was edited.
MESSAGE is the beginning of its id, or # and its number, or 'last' for your newest one. The text - is read from standard
input.`,
		Example: "  mlsfed edit Lunch last 'Soup at one?'",
		Args:    cli.Exactly(3, messageArgument+" and a text"),
	}, true, func(ctx context.Context, p *Person, m *client.Message, args []string) error {
		return p.act(ctx, m, "edited", func() ([]client.ContentID, error) {
			id, err := p.Edit(ctx, m, args[0])
			return []client.ContentID{id}, err
		})
	})
}

func newDelete() *cobra.Command {
	return concerning(&cobra.Command{
		Use:   "delete CONV MESSAGE",
		Short: "Delete a message of yours for all members",
		Long: `delete erases a message of yours on the devices of all members, who see that a message was deleted. It does not
reach copies that somebody has made. MESSAGE is as for 'mlsfed edit'. To delete messages on this device alone, see
'mlsfed forget --older-than'.`,
		Example: "  mlsfed delete Lunch last",
		Args:    cli.Exactly(2, messageArgument),
	}, true, func(ctx context.Context, p *Person, m *client.Message, _ []string) error {
		return p.act(ctx, m, "deleted", func() ([]client.ContentID, error) {
			id, err := p.Delete(ctx, m)
			return []client.ContentID{id}, err
		})
	})
}

// ReactOnce reacts to a message. It returns no id if the user has reacted with that text before.
func (p *Person) ReactOnce(ctx context.Context, m *client.Message, text string) ([]client.ContentID, error) {
	same := client.Reaction{Text: strings.TrimSpace(text), User: p.DeviceID.User()}
	if slices.Contains(m.Reactions, same) {
		return nil, nil
	}
	id, err := p.React(ctx, m, text)
	return []client.ContentID{id}, err
}

// actJSON is what a command that changes a message prints with --json.
type actJSON struct {
	Conversation string `json:"conversation"`
	Number       uint64 `json:"number"` // of the message
	ID           string `json:"id"`     // of the message
	Change       string `json:"change"`
}

// act changes a message, and waits until the organization has the change.
func (p *Person) act(ctx context.Context, m *client.Message, change string, do func() ([]client.ContentID, error)) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	events := p.Subscribe(wait)
	ids, err := do()
	if err != nil {
		return err
	}
	left := make(map[client.ContentID]bool)
	for _, id := range ids {
		left[id] = true
	}
	done := func() error {
		if p.Options.JSON {
			return cli.PrintJSON(p.out, actJSON{Conversation: m.Conversation.String(), Number: m.Number, ID: m.ID.String(), Change: change})
		}
		_, err := fmt.Fprintf(p.out, "message #%d: %s\n", m.Number, change)
		return err
	}
	if len(left) == 0 {
		return done()
	}
	for e := range events {
		if e.Type != client.EventActed || !left[e.Content] {
			continue
		}
		if e.Err != nil {
			return fmt.Errorf("the change was refused: %w", cli.Plain(e.Err))
		}
		if delete(left, e.Content); len(left) == 0 {
			return done()
		}
	}
	return fmt.Errorf("the node has not taken the change within %v: it is kept, and goes out when this device is online the next time", p.Options.Timeout)
}

func newExpire() *cobra.Command {
	c := &cobra.Command{
		Use:   "expire CONV [TIME]",
		Short: "Set how long the messages that you send stay",
		Long: `expire makes the messages that this device sends in a conversation from now on end a time after a person has read
them, as 30m, 12h or 7d: the devices of the members erase them then. On your devices the time begins with sending. 'off'
makes them stay. Without a time, expire shows what is set. A member can have kept a copy.`,
		Example: "  mlsfed expire Lunch 7d\n  mlsfed expire Lunch off",
		GroupID: cli.GroupPeople,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 {
				return nil
			}
			return fmt.Errorf("%d argument(s), wanted a conversation, and a time, as 12h or 7d, or off", len(args))
		},
	}
	o := AddFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		after := time.Duration(0)
		if len(args) == 2 {
			var err error
			if after, err = ParseExpiry(args[1]); err != nil {
				return cli.UsageError(err)
			}
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				err = p.SetExpiry(ctx, conv.ID, after)
			} else {
				after, err = p.Expiry(ctx, conv.ID)
			}
			if err != nil {
				return err
			}
			if p.Options.JSON {
				return cli.PrintJSON(p.out, map[string]any{"id": conv.ID.String(), "expires_after": int64(after / time.Second)})
			}
			_, err = fmt.Fprintln(p.out, ExpiryText(after))
			return err
		})
	}
	return c
}

// ExpiryText describes what expire has set.
func ExpiryText(after time.Duration) string {
	if after == 0 {
		return "messages that this device sends stay"
	}
	return "messages that this device sends end " + spanText(after) + " after reading"
}

// spanText returns a time in the largest unit that divides it.
func spanText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}

// ParseExpiry parses the time of expire: "off", or a time with days as well.
func ParseExpiry(s string) (time.Duration, error) {
	if s == "off" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q: wanted a time, as 30m, 12h or 7d, or off", s)
	}
	return d, nil
}

// detailsJSON are the keys of a message for what other contents have made of it.
type detailsJSON struct {
	Gone      string         `json:"gone,omitempty"` // deleted or expired
	GoneBy    string         `json:"gone_by,omitempty"`
	Edited    bool           `json:"edited,omitempty"`
	Answers   *answersJSON   `json:"answers,omitempty"`
	Reactions []reactionJSON `json:"reactions,omitempty"`
	Refused   []refusedJSON  `json:"refused,omitempty"`
	Expires   *time.Time     `json:"expires,omitempty"`
	After     int64          `json:"expires_after,omitempty"` // seconds after reading
	Topic     string         `json:"topic,omitempty"`         // in hexadecimal
	Mentions  []string       `json:"mentions,omitempty"`
}

type answersJSON struct {
	Number *uint64 `json:"number,omitempty"` // absent if the message is not in the history
}

type reactionJSON struct {
	Text string `json:"text"`
	From string `json:"from"`
}

type refusedJSON struct {
	From   string `json:"from"`
	Delete bool   `json:"delete"`
}

func detailsOf(m *client.Message) detailsJSON {
	j := detailsJSON{Gone: m.Gone.String(), Edited: m.Edited, After: int64(m.ExpiresAfter / time.Second), Topic: hex.EncodeToString(m.Topic)}
	if m.GoneBy != "" {
		j.GoneBy = cli.PersonName(m.GoneBy)
	}
	if m.Reply != nil {
		j.Answers = &answersJSON{}
		if m.Reply.Known {
			j.Answers.Number = &m.Reply.Number
		}
	}
	for _, r := range m.Reactions {
		j.Reactions = append(j.Reactions, reactionJSON{r.Text, cli.PersonName(r.User)})
	}
	for _, r := range m.Refused {
		j.Refused = append(j.Refused, refusedJSON{cli.PersonName(r.User), r.Delete})
	}
	if !m.Expires.IsZero() {
		at := m.Expires.UTC()
		j.Expires = &at
	}
	for _, u := range m.Mentions {
		j.Mentions = append(j.Mentions, cli.PersonName(u))
	}
	return j
}

// mostReactions bounds the reactions that one line shows.
const mostReactions = 16

// withDetails adds to the text of a message what other contents have made of it.
func withDetails(m *client.Message, text string) string {
	switch m.Gone {
	case client.Deleted:
		if m.GoneBy != "" && m.GoneBy != m.Sender.User() {
			return "[deleted by " + cli.PersonName(m.GoneBy) + "]"
		}
		return "[deleted]"
	case client.Expired:
		return "[expired]"
	}
	if m.Reply != nil && m.Reply.Known {
		text = fmt.Sprintf("[answers #%d] %s", m.Reply.Number, text)
	} else if m.Reply != nil {
		text = "[answers a message that is not here] " + text
	}
	if m.Edited {
		text += "  (edited)"
	}
	if s := ReactionsText(m.Reactions); s != "" {
		text += "  [" + s + "]"
	}
	for _, r := range m.Refused {
		what := "edit"
		if r.Delete {
			what = "delete"
		}
		text += fmt.Sprintf("  (%s tried to %s it: refused)", cli.PersonName(r.User), what)
	}
	return text
}

// ReactionsText describes reactions: each text, and who has reacted with it.
func ReactionsText(list []client.Reaction) string {
	var b strings.Builder
	for i, r := range list {
		switch {
		case i == mostReactions:
			fmt.Fprintf(&b, ", and %d more", len(list)-i)
			return b.String()
		case i > 0 && list[i-1].Text == r.Text:
			b.WriteString(", " + cli.PersonName(r.User))
			continue
		case i > 0:
			b.WriteString("; ")
		}
		text := cli.OneLine(r.Text)
		if strings.TrimSpace(text) == "" {
			text = "a picture"
		}
		b.WriteString(text + " " + cli.PersonName(r.User))
	}
	return b.String()
}

// changedText describes a change of a message.
func changedText(e client.Event) string {
	if e.Message == nil {
		return ""
	}
	by, n := "somebody", e.Message.Number
	if e.By != "" {
		by = cli.DeviceName(e.By)
	}
	switch e.Change {
	case client.ChangeReaction:
		return fmt.Sprintf("%s reacted to #%d: %s", by, n, ReactionsText(e.Message.Reactions))
	case client.ChangeUnreaction:
		return fmt.Sprintf("a reaction to #%d was withdrawn", n)
	case client.ChangeEdit:
		return fmt.Sprintf("%s edited #%d: %s", by, n, cli.OneLine(e.Message.Content.Text))
	case client.ChangeDelete:
		return fmt.Sprintf("%s deleted #%d", by, n)
	case client.ChangeExpiry:
		return fmt.Sprintf("#%d has expired", n)
	case client.ChangeRefusedEdit:
		return fmt.Sprintf("%s tried to edit #%d, a message of somebody else: refused", by, n)
	case client.ChangeRefusedDelete:
		return fmt.Sprintf("%s tried to delete #%d, a message of somebody else: refused", by, n)
	}
	return ""
}
