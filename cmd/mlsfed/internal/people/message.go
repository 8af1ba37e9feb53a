package people

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// messageJSON is a message as --json prints it.
type messageJSON struct {
	ID           string     `json:"id"`
	Conversation string     `json:"conversation"`
	Number       uint64     `json:"number"`
	From         string     `json:"from"`             // alice@a.example/phone
	Person       int        `json:"person,omitempty"` // 2 and more: From is the name of a removed account, given again
	Time         time.Time  `json:"time"`             // by the sender's clock
	Epoch        wire.Epoch `json:"epoch"`
	Text         string     `json:"text,omitempty"`
	File         *fileJSON  `json:"file,omitempty"`
	Status       string     `json:"status"`
	Delivered    int        `json:"delivered,omitempty"` // devices that have an own message
	Error        string     `json:"error,omitempty"`
	detailsJSON
}

// readJSON is a message as 'read --json' prints it.
type readJSON struct {
	messageJSON
	Old bool `json:"old"` // it was read before
	// Organizations is the delivery state of an own message at each other organization.
	Organizations []deliveryJSON `json:"organizations,omitempty"`
}

type fileJSON struct {
	Name string `json:"name"`
	Size uint64 `json:"size"`
}

func messageOf(m *client.Message) messageJSON {
	j := messageJSON{
		ID: m.ID.String(), Conversation: m.Conversation.String(), Number: m.Number, From: cli.DeviceName(m.Sender), Time: m.Time.UTC(),
		Epoch: m.Epoch, Text: m.Content.Text, Status: m.Status.String(), Delivered: m.Delivered, Error: m.Error, detailsJSON: detailsOf(m),
	}
	if m.Person > 1 {
		j.Person = m.Person
	}
	if f := m.Content.File; f != nil {
		j.File = &fileJSON{f.Name, f.Size}
	}
	return j
}

func newSend() *cobra.Command {
	c := &cobra.Command{
		Use:   "send CONV TEXT",
		Short: "Send a message or a file",
		Long: `send encrypts a message and returns when your organization has it on disk: from then on it reaches the
members, whatever happens. The text - is read from standard input. A text that begins with a dash comes after --, or
as --text=TEXT; a script always uses one of the three.`,
		Example: "  mlsfed send Lunch 'Soup at noon?'\n  fortune | mlsfed send Lunch -\n  mlsfed send Lunch --file menu.pdf 'look at page 2'",
		GroupID: cli.GroupPeople,
	}
	o := AddFlags(c)
	file := c.Flags().String("file", "", "file to send; the text becomes its caption")
	given := c.Flags().String("text", "", "the text, also one that begins with a dash")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return cli.UsageError(fmt.Errorf("%w: a text that begins with a dash comes after --, or as --text=TEXT", err))
	})
	c.Args = func(c *cobra.Command, args []string) error {
		withText := c.Flags().Changed("text")
		if len(args) == 2 && !withText || len(args) == 1 && (*file != "" || withText) {
			return nil
		}
		return fmt.Errorf("%d argument(s), wanted a conversation and a text (in quotes; one that begins with a dash comes after --), or --file", len(args))
	}
	help := c.HelpFunc()
	c.SetHelpFunc(func(c *cobra.Command, args []string) {
		if c.Flags().NArg() > 0 { // a text of a script, not a request for help: the script must not take it for sent
			cli.Refuse(c.Context(), cli.UsageError(errors.New("--help was not sent: a text that begins with a dash comes after --, or as --text=TEXT")))
			return
		}
		help(c, args)
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		if glued := gluedFile(c.Context()); *file != "" && glued {
			return cli.UsageError(errors.New("--file=PATH could be a text: write --file PATH, and a text that begins with a dash after --"))
		}
		text, err := o.textOf(c, args[1:])
		if err != nil {
			return err
		}
		if c.Flags().Changed("text") {
			text = *given
		}
		if text == "" && *file == "" {
			return cli.UsageError(errors.New("the text is empty"))
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err == nil {
				err = MayAct(conv)
			}
			if err != nil {
				return err
			}
			return p.send(ctx, conv.ID, text, *file)
		})
	}
	return c
}

// gluedFile reports whether --file and its value came as one argument, as a variable of a script with such a text
// would.
func gluedFile(ctx context.Context) bool {
	for _, a := range cli.Arguments(ctx) {
		if a == "--" {
			return false
		}
		if strings.HasPrefix(a, "--file=") {
			return true
		}
	}
	return false
}

// textOf returns the text of a message, from the command line or from standard input.
func (o *Options) textOf(c *cobra.Command, args []string) (string, error) {
	if len(args) == 0 || args[0] != "-" {
		return strings.Join(args, " "), nil
	}
	raw, err := io.ReadAll(io.LimitReader(c.InOrStdin(), client.MaxText+1))
	if err != nil {
		return "", fmt.Errorf("read the text: %w", err)
	}
	o.taken = raw
	if len(raw) > client.MaxText {
		return "", fmt.Errorf("the text has more than %d bytes: send it with --file", client.MaxText)
	}
	if !utf8.Valid(raw) {
		return "", errors.New("the text is not UTF-8: send it with --file")
	}
	return strings.TrimSuffix(string(raw), "\n"), nil
}

// send sends a message and waits until the organization has it.
func (p *Person) send(ctx context.Context, id wire.ConversationID, text, file string) error {
	return p.sendBy(ctx, id, func() (client.MessageID, error) { return p.Post(ctx, id, text, file) })
}

// sendBy sends a message with do, and waits until the organization has it.
func (p *Person) sendBy(ctx context.Context, id wire.ConversationID, do func() (client.MessageID, error)) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	events := p.Subscribe(wait)
	sent, err := do()
	if err != nil {
		return err
	}
	for e := range events {
		if e.Message == nil || e.Message.ID != sent {
			continue
		}
		switch e.Type {
		case client.EventUndelivered:
			return fmt.Errorf("the message was refused: %w", cli.Plain(e.Err))
		case client.EventAccepted:
			if p.Options.JSON {
				return cli.PrintJSON(p.out, messageOf(e.Message))
			}
			fmt.Fprintf(p.out, "sent: %s, epoch %d\n", sent.String()[:8], e.Message.Epoch)
			p.reportWaiting(ctx, id, *e.Message)
			return nil
		}
	}
	return fmt.Errorf("the node has not taken the message within %v: it is kept, and goes out when this device is online the next time", p.Options.Timeout)
}

// reportWaiting prints for which organizations a message waits that the own organization has accepted.
func (p *Person) reportWaiting(ctx context.Context, id wire.ConversationID, m client.Message) {
	progress := p.ProgressOf(ctx, id, []client.Message{m})
	if progress == nil {
		return
	}
	if how := DeliveryText(progress.Messages[m.Number], p.Now()); how != "" {
		fmt.Fprintf(p.notes, "Your organization has it: %s.\n", how)
	}
}

func (p *Person) Post(ctx context.Context, id wire.ConversationID, text, path string) (client.MessageID, error) {
	if path == "" {
		return p.SendText(ctx, id, text)
	}
	if info, err := os.Stat(p.path(path)); err == nil && !info.Mode().IsRegular() { // before it is opened: a pipe would block
		return client.MessageID{}, fmt.Errorf("%s is a folder, a pipe or a device: only files can be sent", path)
	}
	f, err := os.Open(p.path(path))
	if err != nil {
		return client.MessageID{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return client.MessageID{}, err
	}
	return p.SendFile(ctx, id, filepath.Base(path), f, info.Size(), text)
}

// printMessage prints a message. at is the delivery state of an own message. old reports that the message was read
// before; with mark, a line for people shows it.
func (p *Person) printMessage(m *client.Message, at []client.Delivery, old, mark bool) error {
	if p.Options.JSON {
		return cli.PrintJSON(p.out, readJSON{messageOf(m), old, deliveriesJSON(at)})
	}
	text := MessageText(m)
	if how := DeliveryText(at, p.Now()); how != "" {
		text += "  (" + how + ")"
	}
	lead := ""
	if p.numbers {
		lead = fmt.Sprintf("#%d  ", m.Number)
	}
	if old && mark {
		lead += "(read) "
	}
	_, err := fmt.Fprintf(p.out, "%s%s  %s  %s\n", lead, p.Local(m.Time).Format("2006-01-02 15:04"), cli.DeviceName(m.Sender)+Ordinal(m.Person), strings.ReplaceAll(text, "\n", "\n    "))
	return err
}

// MessageText returns the content of a message in a form that is safe for a terminal.
func MessageText(m *client.Message) string {
	text := cli.Clean(m.Content.Text)
	switch m.Content.Type {
	case client.ContentText:
	case client.ContentFile:
		text = fmt.Sprintf("[file %s, %s, message %s] %s", cli.OneLine(m.Content.File.Name), cli.Size(m.Content.File.Size), m.ID.String()[:8], text)
	case client.ContentBytes:
		text = fmt.Sprintf("[%d bytes for an application]", len(m.Content.Body))
	default:
		text = fmt.Sprintf("[a message of type %d: a newer mlsfed shows it]", m.Content.Type)
	}
	text = withDetails(m, text)
	switch m.Status {
	case client.StatusWaiting:
		text += "  (not sent yet)"
	case client.StatusRefused:
		text += "  (refused: " + cli.OneLine(m.Error) + ")"
	}
	return strings.TrimSpace(text)
}

// ChangeText describes what an event has changed in its conversation, "" for changes that people need not see.
func ChangeText(e client.Event) string {
	by := "somebody"
	if e.By != "" {
		by = cli.DeviceName(e.By)
	}
	switch e.Type {
	case client.EventAdded:
		return fmt.Sprintf("%s added %s (epoch %d)", by, cli.DeviceName(e.Device), e.Epoch)
	case client.EventRemoved:
		if e.By == e.Device {
			return fmt.Sprintf("%s left (epoch %d)", cli.DeviceName(e.Device), e.Epoch)
		}
		return fmt.Sprintf("%s removed %s (epoch %d)", by, cli.DeviceName(e.Device), e.Epoch)
	case client.EventLeft:
		return "this device is out of the conversation"
	case client.EventJoined:
		return fmt.Sprintf("this device was added (epoch %d)", e.Epoch)
	case client.EventRules:
		return fmt.Sprintf("%s changed the name or the rules (epoch %d)", by, e.Epoch)
	case client.EventChanged:
		return changedText(e)
	case client.EventAgain:
		return cli.DeviceName(e.Device) + " cannot follow this conversation any further and asks to be added again: 'mlsfed add CONV --again' does it, or /again in a chat"
	case client.EventAdmin:
		if e.Err == nil {
			return by + " made you an admin"
		}
		return "no admin is left, and you are offered to be the next one: 'mlsfed rules CONV --admin yes' or no, or /admin in a chat"
	}
	return ""
}

// changeJSON is a change of a conversation as 'read --follow --json' prints it.
type changeJSON struct {
	Event        string     `json:"event"`
	Conversation string     `json:"conversation"`
	Time         time.Time  `json:"time"`
	Epoch        wire.Epoch `json:"epoch"`
	Device       string     `json:"device,omitempty"`
	By           string     `json:"by,omitempty"`
	Number       *uint64    `json:"number,omitempty"` // of the message that has changed
	Change       string     `json:"change,omitempty"`
}

func (p *Person) printChange(e client.Event) error {
	text := ChangeText(e)
	if text == "" {
		return nil
	}
	if p.Options.JSON {
		j := changeJSON{Event: e.Type.String(), Conversation: e.Conversation.String(), Time: e.Time.UTC(), Epoch: e.Epoch}
		if e.Device != "" {
			j.Device = cli.DeviceName(e.Device)
		}
		if e.By != "" {
			j.By = cli.DeviceName(e.By)
		}
		if e.Message != nil {
			j.Number, j.Change = &e.Message.Number, e.Change.String()
		}
		return cli.PrintJSON(p.out, j)
	}
	_, err := fmt.Fprintf(p.out, "%s  * %s\n", p.Local(e.Time).Format("2006-01-02 15:04"), text)
	return err
}

func newSave() *cobra.Command {
	c := &cobra.Command{
		Use:   "save CONV MESSAGE-ID PATH",
		Short: "Save the file of a message",
		Long: `save fetches the file of a message, which 'mlsfed read' names, verifies and decrypts it. PATH is a file, which
must not exist, or a folder. It continues with the part that a broken attempt has left (.mlsfed-HASH.part).`,
		Example: "  mlsfed save Lunch 5f2c9a10 .",
		GroupID: cli.GroupPeople,
		Args:    cli.Exactly(3, "a conversation, the beginning of a message's id (or # and its number), and where to save"),
	}
	o := AddFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			m, err := p.FindFile(ctx, conv, args[1])
			if err != nil {
				return err
			}
			path, err := p.SaveFileAt(ctx, m, args[2])
			if err != nil {
				return err
			}
			if p.Options.JSON {
				return cli.PrintJSON(p.out, map[string]any{"path": path, "size": m.Content.File.Size})
			}
			fmt.Fprintf(p.out, "%s: %s\n", path, cli.Size(m.Content.File.Size))
			return nil
		})
	}
	return c
}

// FindFile finds a message with a file by the beginning of its id, or by its number after a #. Senders choose the ids
// of their messages, so that only the number is always unambiguous.
func (p *Person) FindFile(ctx context.Context, conv *client.Conversation, named string) (*client.Message, error) {
	if digits, ok := strings.CutPrefix(named, "#"); ok {
		none := func(n uint64) error { return fmt.Errorf("message %d is none with a file: 'mlsfed read' shows them", n) }
		return p.messageNumbered(ctx, conv.ID, digits, none, func(m *client.Message) bool { return m.Content.File != nil })
	}
	none := fmt.Errorf("no message with a file has an id that begins with %q: 'mlsfed read' shows them", named)
	return p.messageByID(ctx, conv.ID, named, none, func(m *client.Message) (bool, string) {
		if m.Content.File == nil {
			return false, ""
		}
		return true, cli.OneLine(m.Content.File.Name)
	})
}
