package people

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// readOptions are the flags of read.
type readOptions struct {
	*Options
	follow  bool
	unread  bool
	since   string
	search  string
	limit   int
	limited bool // limit was given
	from    int64
	cursor  string
	exec    string
	answer  bool
	numbers bool
}

func newRead() *cobra.Command {
	c := &cobra.Command{
		Use:   "read CONV",
		Short: "Show the messages of a conversation",
		Long: `read shows the newest 50 messages of a conversation, or all that --unread, --since or --search ask for; --limit
bounds each. Messages that it has shown count as read. If it has not shown all, it says how many are left.

With --follow it begins with what was not read yet, or at message --from, and shows messages and changes as they
come, until it is interrupted. A message that was read before is marked: "(read)", with --json "old":true.

With --cursor it shows what comes after a cursor of that name, which it moves behind each message that it has shown.
With --exec too, it runs a command for each message, with the message as JSON on its standard input, and moves the
cursor when the command ends with 0. If it does not, read ends, and the message comes again the next time. With
--answer too, what the command prints is sent to the conversation; messages of the own user are passed over then.`,
		Example: "  mlsfed read Lunch\n  mlsfed read Lunch --since 2h\n  mlsfed read Lunch --follow --json | jq .text\n  mlsfed read Lunch --follow --cursor bot --exec ./answer --answer",
		GroupID: cli.GroupPeople,
		Args:    cli.Exactly(1, "a conversation"),
	}
	o := &readOptions{Options: AddFlags(c)}
	addOfflineFlag(c, o.Options)
	f := c.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on and show what comes")
	f.BoolVar(&o.unread, "unread", false, "only what was not read before, the oldest first")
	f.StringVar(&o.since, "since", "", "only messages since then: 2h, 2026-03-01 or 2026-03-01T09:00:00Z")
	f.StringVar(&o.search, "search", "", "only messages whose text or file name holds this")
	f.IntVarP(&o.limit, "limit", "n", 50, "how many at most; without it, 50 only if nothing else narrows them down")
	f.Int64Var(&o.from, "from", -1, "begin with this number of a message")
	f.BoolVar(&o.numbers, "numbers", false, "show the number of each message, for reply, react, edit and delete")
	f.StringVar(&o.cursor, "cursor", "", "begin behind this cursor, and move it")
	f.StringVar(&o.exec, "exec", "", "with --cursor: run this command of the shell for each message, instead of showing it")
	f.BoolVar(&o.answer, "answer", false, "with --exec: send what the command prints, as an answer")
	c.MarkFlagsMutuallyExclusive("follow", "offline")
	c.MarkFlagsMutuallyExclusive("answer", "offline")
	c.MarkFlagsMutuallyExclusive("since", "unread", "from", "cursor")
	c.MarkFlagsMutuallyExclusive("cursor", "search")
	c.MarkFlagsMutuallyExclusive("cursor", "limit")
	c.RunE = func(c *cobra.Command, args []string) error {
		since, err := parseSince(o.since, zonedNow(c.Context()))
		if err != nil {
			return cli.UsageError(err)
		}
		o.limited, o.Long = c.Flags().Changed("limit"), o.follow
		switch {
		case o.limit < 1:
			return cli.UsageError(fmt.Errorf("--limit %d: wanted at least 1", o.limit))
		case c.Flags().Changed("from") && o.from < 0:
			return cli.UsageError(fmt.Errorf("--from %d: wanted the number of a message, from 0", o.from))
		case c.Flags().Changed("cursor") && o.cursor == "":
			return cli.UsageError(errors.New("--cursor: the name of the cursor is empty"))
		case o.exec != "" && o.cursor == "":
			return cli.UsageError(errors.New("--exec: goes with --cursor NAME"))
		case o.answer && o.exec == "":
			return cli.UsageError(errors.New("--answer: goes with --exec COMMAND"))
		}
		return o.run(c, args[0], since)
	}
	return c
}

// parseSince reads the time of --since.
func parseSince(s string, now time.Time) (time.Time, error) { return parseMoment("since", s, now) }

// parseMoment reads a time that a flag names, in the zone of now, or how long ago it was. It returns the zero time
// for an empty string.
func parseMoment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d.Abs()), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--%s %q: wanted how long ago, as 90m or 2h, or a time, as 2026-03-01 or 2026-03-01T09:00:00Z", flag, s)
}

func (o *readOptions) run(c *cobra.Command, named string, since time.Time) error {
	return o.Use(c, commandTiming(), func(ctx context.Context, p *Person) error {
		if !o.offline {
			if err := p.upToDate(ctx); err != nil {
				return err
			}
		}
		from, goesOn := PositionOf(ctx)
		if goesOn {
			named = from.Conversation
		}
		conv, err := p.conversation(ctx, named)
		if err != nil {
			return p.Explain(ctx, err)
		}
		p.numbers = o.numbers
		events := p.Subscribe(ctx) // before the history is read, so that nothing falls between
		r := &reader{o: o, p: p, id: conv.ID, since: since}
		if goesOn && o.cursor == "" { // in another process, after which this process begins
			r.unread, err = p.FirstUnread(ctx, conv.ID)
			r.next, r.skips = from.Next, from.Next > r.unread
		} else {
			err = r.show(ctx, conv)
		}
		if err == nil && o.follow {
			err = r.goOn(ctx, events)
			if errors.Is(context.Cause(ctx), context.Canceled) && errors.Is(err, context.Canceled) {
				return nil // an interrupt is the normal end
			}
		}
		if errors.As(err, new(executeError)) {
			return err
		}
		return p.Explain(ctx, err)
	})
}

// reader shows messages of one conversation.
type reader struct {
	o      *readOptions
	p      *Person
	id     wire.ConversationID
	since  time.Time
	unread uint64 // the first message that was not read
	next   uint64 // the message after those that were shown or skipped
	shown  int
	skips  bool // unread messages before next were not shown
	newer  bool // messages after the shown ones may have to be mentioned
}

// show prints the messages that have arrived.
func (r *reader) show(ctx context.Context, conv *client.Conversation) (err error) {
	if r.o.cursor != "" {
		return r.p.EachSoFar(ctx, r.id, r.o.cursor, r.consume)
	}
	if r.unread, err = r.p.FirstUnread(ctx, r.id); err != nil {
		return err
	}
	newest := false // of all requested messages, show the newest
	switch {
	case r.o.unread || r.o.follow && r.o.from < 0 && r.since.IsZero() && !r.o.limited:
		r.next = r.unread
	case r.o.from >= 0:
		r.next = uint64(r.o.from)
	case !r.since.IsZero():
		r.next, err = r.firstSince(ctx, conv.Messages)
		newest = r.o.limited
	default:
		newest = r.o.limited || r.o.search == ""
	}
	earlier := uint64(0)
	if err == nil && newest {
		earlier, err = r.newest(ctx, conv.Messages)
	}
	if err != nil {
		return err
	}
	r.newer = !newest
	r.skips = r.next > r.unread || r.o.search != ""
	if err := r.forward(ctx, conv.Messages); err != nil {
		return err
	}
	r.reportRest(conv, earlier)
	return nil
}

// newest moves next to the first of the newest messages that --limit allows, and counts the requested messages before
// it.
func (r *reader) newest(ctx context.Context, end uint64) (earlier uint64, err error) {
	first, begin := r.next, max(r.next, end-min(end, uint64(r.o.limit)))
	if r.o.search == "" {
		r.next = begin
		if first == 0 && r.since.IsZero() {
			return 0, nil // there are always earlier ones, and they were not requested
		}
		return begin - first, nil
	}
	found := uint64(0)
	r.next = end
	for q := (client.Query{Before: end, Search: r.o.search, Limit: client.MaxPage}); end > 0; {
		page, err := r.p.History(ctx, r.id, q)
		if err != nil {
			return 0, err
		}
		for i := len(page.Messages) - 1; i >= 0; i-- {
			m := &page.Messages[i]
			switch {
			case m.Number < first || m.Stored.Before(r.since):
			case found < uint64(r.o.limit):
				found++
				r.next = m.Number
			default:
				earlier++
			}
		}
		if !page.More || page.Next <= first {
			return earlier, nil
		}
		q.Before = page.Next
	}
	return 0, nil
}

// firstSince returns the number of the first message that was stored since a time.
func (r *reader) firstSince(ctx context.Context, end uint64) (uint64, error) {
	first := end
	for q := (client.Query{Before: end, Limit: client.MaxPage}); end > 0; {
		page, err := r.p.History(ctx, r.id, q)
		if err != nil {
			return 0, err
		}
		for i := len(page.Messages) - 1; i >= 0; i-- {
			if page.Messages[i].Stored.Before(r.since) {
				return first, nil
			}
			first = page.Messages[i].Number
		}
		if !page.More {
			break
		}
		q.Before = page.Next
	}
	return first, nil
}

// forward prints messages from next up to end, and marks them as read if none before them is left out.
func (r *reader) forward(ctx context.Context, end uint64) (err error) {
	most := r.o.limit
	if !r.o.limited && (r.o.follow || r.o.unread || r.o.search != "" || !r.since.IsZero() || r.o.from >= 0) {
		most = 0 // no bound
	}
	before := r.shown
	defer func() {
		if r.skips {
			return
		}
		if r.shown > before {
			if lost := r.p.written(); lost != nil {
				err = errors.Join(err, lost)
				return
			}
		}
		err = errors.Join(err, r.p.MarkReadTo(ctx, r.id, r.next))
	}()
	for r.next < end && (most == 0 || r.shown < most) {
		page, err := r.p.History(ctx, r.id, client.Query{Forward: true, After: r.next, Search: r.o.search, Limit: client.MaxPage})
		if err != nil {
			return err
		}
		var at map[uint64][]client.Delivery
		if progress := r.progress(ctx, page.Messages); progress != nil {
			at = progress.Messages
		}
		for i := range page.Messages {
			if most > 0 && r.shown >= most {
				return nil
			}
			m := &page.Messages[i]
			if err := r.p.printMessage(m, at[m.Number], m.Number < r.unread, r.o.follow); err != nil {
				return err
			}
			r.shown++
			r.next = m.Number + 1
			r.p.SetPosition(Position{Conversation: r.id.String(), Next: r.next})
		}
		r.next = max(r.next, page.Next)
		if !page.More {
			return nil
		}
	}
	return nil
}

// progress returns the delivery state of own messages, nil without a connection.
func (r *reader) progress(ctx context.Context, messages []client.Message) *client.Progress {
	if r.o.offline {
		return nil
	}
	return r.p.ProgressOf(ctx, r.id, messages)
}

// reportRest prints how many messages were not shown, and how to see them.
func (r *reader) reportRest(conv *client.Conversation, earlier uint64) {
	notes, later := r.p.notes, uint64(0)
	if !r.p.Options.JSON {
		for _, what := range Troubles(conv, false) {
			fmt.Fprintf(notes, "%s.\n", what)
		}
	}
	if r.newer && conv.Messages > r.next {
		later = conv.Messages - r.next
	}
	switch {
	case r.shown == 0 && !r.o.follow && !r.p.Options.JSON:
		fmt.Fprintf(notes, "No message%s.\n", r.o.asked())
	case later > 0 && r.o.unread:
		fmt.Fprintf(notes, "%s after these: 'mlsfed read --unread' goes on with them.\n", cli.Plural(int(later), "message comes", "messages come"))
	case later > 0:
		fmt.Fprintf(notes, "%s after these: a larger --limit shows them.\n", cli.Plural(int(later), "message comes", "messages come"))
	case earlier > 0:
		fmt.Fprintf(notes, "%s before these: a larger --limit shows them.\n", cli.Plural(int(earlier), "message comes", "messages come"))
	case r.skips && r.o.search == "" && conv.Unread > 0:
		fmt.Fprintln(notes, "Unread messages before these are not shown, so that nothing is marked as read: 'mlsfed read --unread' shows them.")
	}
}

// asked returns the flags that select messages, for a hint.
func (o *readOptions) asked() string {
	text := ""
	if o.unread {
		text += " that was not read before"
	}
	if o.search != "" {
		text += fmt.Sprintf(" with %q", o.search)
	}
	if o.since != "" {
		text += " since " + o.since
	}
	return text
}

// goOn prints new messages. It reads them from the history, so that a lost event loses no message.
func (r *reader) goOn(ctx context.Context, events func(func(client.Event) bool)) error {
	r.o.limited = false // the limit was for the existing messages
	if r.o.cursor == "" {
		r.p.SetPosition(Position{Conversation: r.id.String(), Next: r.next})
	}
	step := func() error {
		if r.o.cursor != "" {
			return r.p.EachSoFar(ctx, r.id, r.o.cursor, r.consume)
		}
		conv, err := r.p.Conversation(ctx, r.id)
		if err != nil {
			return err
		}
		return r.forward(ctx, conv.Messages)
	}
	err := step()
	for e := range events {
		if err != nil {
			return err
		}
		switch {
		case e.Type == client.EventMissed, e.Conversation == r.id && (e.Type == client.EventMessage || e.Type == client.EventAccepted):
			err = step()
		case e.Conversation == r.id && r.o.exec == "":
			err = r.p.printChange(e)
		}
	}
	return errors.Join(err, ctx.Err())
}

// consume prints a message for a consumer, or runs the consumer's command.
func (r *reader) consume(ctx context.Context, m *client.Message) error {
	r.shown++
	if r.o.exec == "" {
		if err := r.p.printMessage(m, nil, false, false); err != nil {
			return err
		}
		return r.p.written()
	}
	if r.o.answer && m.Sender.User() == r.p.DeviceID.User() {
		return nil
	}
	var in bytes.Buffer
	if err := cli.PrintJSON(&in, readJSON{messageJSON: messageOf(m)}); err != nil {
		return err
	}
	out, err := r.p.execute(ctx, &agentProgram{Command: []byte(r.o.exec), Input: in.Bytes(), Capture: r.o.answer, Environment: [][]byte{
		[]byte("MLSFED_MESSAGE=" + m.ID.String()), []byte("MLSFED_FROM=" + cli.DeviceName(m.Sender)), []byte("MLSFED_CONVERSATION=" + m.Conversation.String()),
	}})
	if err != nil {
		return fmt.Errorf("the command for message %d (%s): %w: the message comes again the next time", m.Number, m.ID, err)
	}
	text := strings.TrimSuffix(string(out), "\n")
	if text == "" {
		return nil
	}
	if len(text) > client.MaxText || !utf8.ValidString(text) {
		return fmt.Errorf("the answer to message %d is longer than a message, of %d bytes, or is not UTF-8", m.Number, client.MaxText)
	}
	if errors.Is(context.Cause(ctx), errMoved) {
		ctx = context.WithoutCancel(ctx) // the command was done: its answer belongs to it
	}
	_, err = r.p.SendText(ctx, m.Conversation, text)
	return err
}
