package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
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
	Delivered    int        `json:"delivered,omitempty"` // devices that have it, of an own one
	Error        string     `json:"error,omitempty"`
}

// readJSON is a message as 'read --json' prints it.
type readJSON struct {
	messageJSON
	Old bool `json:"old"` // it was read before
	// Organizations is how far an own message has come at each other organization.
	Organizations []deliveryJSON `json:"organizations,omitempty"`
}

type fileJSON struct {
	Name string `json:"name"`
	Size uint64 `json:"size"`
}

func messageOf(m *client.Message) messageJSON {
	j := messageJSON{
		ID: m.ID.String(), Conversation: m.Conversation.String(), Number: m.Number, From: deviceName(m.Sender), Time: m.Time.UTC(),
		Epoch: m.Epoch, Text: m.Content.Text, Status: m.Status.String(), Delivered: m.Delivered, Error: m.Error,
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
		GroupID: groupPeople,
	}
	o := addPeopleFlags(c)
	file := c.Flags().String("file", "", "file to send; the text becomes its caption")
	given := c.Flags().String("text", "", "the text, also one that begins with a dash")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: a text that begins with a dash comes after --, or as --text=TEXT", err)}
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
		if c.Flags().NArg() > 0 { // a script's text, not a wish for help: nobody must take it for sent
			refusal, _ := c.Context().Value(refusalKey{}).(*error)
			*refusal = usageError{errors.New("--help was not sent: a text that begins with a dash comes after --, or as --text=TEXT")}
			return
		}
		help(c, args)
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		if glued := gluedFile(c.Context()); *file != "" && glued {
			return usageError{errors.New("--file=PATH could be a text: write --file PATH, and a text that begins with a dash after --")}
		}
		text, err := o.textOf(c, args[1:])
		if err != nil {
			return err
		}
		if c.Flags().Changed("text") {
			text = *given
		}
		if text == "" && *file == "" {
			return usageError{errors.New("the text is empty")}
		}
		return o.with(c, func(ctx context.Context, p *person) error {
			conv, err := p.conversation(ctx, args[0])
			if err == nil {
				err = mayAct(conv)
			}
			if err != nil {
				return err
			}
			return p.send(ctx, conv.ID, text, *file)
		})
	}
	return c
}

// argumentsKey is the key of a command's whole line in its context.
type argumentsKey struct{}

// gluedFile reports whether --file and its value came as one argument, as a variable of a script with a text would.
func gluedFile(ctx context.Context) bool {
	args, _ := ctx.Value(argumentsKey{}).([]string)
	for _, a := range args {
		if a == "--" {
			return false
		}
		if strings.HasPrefix(a, "--file=") {
			return true
		}
	}
	return false
}

// textOf is the text of a message, from the command line or from standard input.
func (o *peopleOptions) textOf(c *cobra.Command, args []string) (string, error) {
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

// send sends and waits until the organization has the message.
func (p *person) send(ctx context.Context, id wire.ConversationID, text, file string) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	events := p.Subscribe(wait)
	sent, err := p.post(ctx, id, text, file)
	if err != nil {
		return err
	}
	for e := range events {
		if e.Message == nil || e.Message.ID != sent {
			continue
		}
		switch e.Type {
		case client.EventUndelivered:
			return fmt.Errorf("the message was refused: %w", plain(e.Err))
		case client.EventAccepted:
			if p.opts.json {
				return printJSON(p.out, messageOf(e.Message))
			}
			fmt.Fprintf(p.out, "sent: %s, epoch %d\n", sent.String()[:8], e.Message.Epoch)
			p.tellWaiting(ctx, id, *e.Message)
			return nil
		}
	}
	return fmt.Errorf("the node has not taken the message within %v: it is kept, and goes out when this device is online the next time", p.opts.timeout)
}

// tellWaiting says for which organizations a message waits that the own one has accepted.
func (p *person) tellWaiting(ctx context.Context, id wire.ConversationID, m client.Message) {
	progress := p.progressOf(ctx, id, []client.Message{m})
	if progress == nil {
		return
	}
	if how := deliveryText(progress.Messages[m.Number], time.Now()); how != "" {
		fmt.Fprintf(p.notes, "Your organization has it: %s.\n", how)
	}
}

func (p *person) post(ctx context.Context, id wire.ConversationID, text, path string) (client.MessageID, error) {
	if path == "" {
		return p.SendText(ctx, id, text)
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
	if !info.Mode().IsRegular() {
		return client.MessageID{}, fmt.Errorf("%s is a folder or a device: only files can be sent", path)
	}
	return p.SendFile(ctx, id, filepath.Base(path), f, info.Size(), text)
}

// printMessage prints a message. at is how far an own one has come. old says that it was read before; mark, that a line
// for people says so too.
func (p *person) printMessage(m *client.Message, at []client.Delivery, old, mark bool) error {
	if p.opts.json {
		return printJSON(p.out, readJSON{messageOf(m), old, deliveriesJSON(at)})
	}
	text := messageText(m)
	if how := deliveryText(at, time.Now()); how != "" {
		text += "  (" + how + ")"
	}
	lead := ""
	if old && mark {
		lead = "(read) "
	}
	_, err := fmt.Fprintf(p.out, "%s%s  %s  %s\n", lead, m.Time.Local().Format("2006-01-02 15:04"), deviceName(m.Sender)+ordinal(m.Person), strings.ReplaceAll(text, "\n", "\n    "))
	return err
}

// messageText is what a message says, in a form fit for a terminal.
func messageText(m *client.Message) string {
	text := clean(m.Content.Text)
	switch m.Content.Type {
	case client.ContentText:
	case client.ContentFile:
		text = fmt.Sprintf("[file %s, %s, message %s] %s", oneLine(m.Content.File.Name), sizeOf(m.Content.File.Size), m.ID.String()[:8], text)
	case client.ContentBytes:
		text = fmt.Sprintf("[%d bytes for an application]", len(m.Content.Body))
	default:
		text = fmt.Sprintf("[a message of type %d: a newer mlsfed shows it]", m.Content.Type)
	}
	switch m.Status {
	case client.StatusWaiting:
		text += "  (not sent yet)"
	case client.StatusRefused:
		text += "  (refused: " + oneLine(m.Error) + ")"
	}
	return strings.TrimSpace(text)
}

// sizeOf writes a number of bytes.
func sizeOf(n uint64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// changeText says what an event has changed in its conversation, "" for what people need not know.
func changeText(e client.Event) string {
	by := "somebody"
	if e.By != "" {
		by = deviceName(e.By)
	}
	switch e.Type {
	case client.EventAdded:
		return fmt.Sprintf("%s added %s (epoch %d)", by, deviceName(e.Device), e.Epoch)
	case client.EventRemoved:
		if e.By == e.Device {
			return fmt.Sprintf("%s left (epoch %d)", deviceName(e.Device), e.Epoch)
		}
		return fmt.Sprintf("%s removed %s (epoch %d)", by, deviceName(e.Device), e.Epoch)
	case client.EventLeft:
		return "this device is out of the conversation"
	case client.EventJoined:
		return fmt.Sprintf("this device was added (epoch %d)", e.Epoch)
	case client.EventRules:
		return fmt.Sprintf("%s changed the name or the rules (epoch %d)", by, e.Epoch)
	case client.EventAgain:
		return deviceName(e.Device) + " cannot follow this conversation any further and asks to be added again: 'mlsfed add CONV --again' does it, or /again in a chat"
	case client.EventAdmin:
		if e.Err == nil {
			return by + " made you an admin"
		}
		return fmt.Sprintf("you are an admin now: %v ('mlsfed rules CONV --promote USER')", e.Err)
	}
	return ""
}

// changeJSON is what has changed in a conversation, as 'read --follow --json' prints it.
type changeJSON struct {
	Event        string     `json:"event"`
	Conversation string     `json:"conversation"`
	Time         time.Time  `json:"time"`
	Epoch        wire.Epoch `json:"epoch"`
	Device       string     `json:"device,omitempty"`
	By           string     `json:"by,omitempty"`
}

func (p *person) printChange(e client.Event) error {
	text := changeText(e)
	if text == "" {
		return nil
	}
	if p.opts.json {
		j := changeJSON{Event: e.Type.String(), Conversation: e.Conversation.String(), Time: e.Time.UTC(), Epoch: e.Epoch}
		if e.Device != "" {
			j.Device = deviceName(e.Device)
		}
		if e.By != "" {
			j.By = deviceName(e.By)
		}
		return printJSON(p.out, j)
	}
	_, err := fmt.Fprintf(p.out, "%s  * %s\n", e.Time.Local().Format("2006-01-02 15:04"), text)
	return err
}

func newSave() *cobra.Command {
	c := &cobra.Command{
		Use:   "save CONV MESSAGE-ID PATH",
		Short: "Save the file of a message",
		Long: `save fetches the file of a message, which 'mlsfed read' names, verifies and decrypts it. PATH is a file, which
must not exist, or a folder. What a broken attempt has left (.mlsfed-HASH.part) is gone on with.`,
		Example: "  mlsfed save Lunch 5f2c9a10 .",
		GroupID: groupPeople,
		Args:    exactly(3, "a conversation, the beginning of a message's id (or # and its number), and where to save"),
	}
	o := addPeopleFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			m, err := p.message(ctx, conv, args[1])
			if err != nil {
				return err
			}
			path, err := p.saveFile(ctx, m, args[2])
			if err != nil {
				return err
			}
			if p.opts.json {
				return printJSON(p.out, map[string]any{"path": path, "size": m.Content.File.Size})
			}
			fmt.Fprintf(p.out, "%s: %s\n", path, sizeOf(m.Content.File.Size))
			return nil
		})
	}
	return c
}

// message finds one with a file by the beginning of its id, or by its number after a #. Senders choose the ids of
// their messages, so that only the number is always clear.
func (p *person) message(ctx context.Context, conv *client.Conversation, named string) (*client.Message, error) {
	if digits, ok := strings.CutPrefix(named, "#"); ok {
		return p.messageNumbered(ctx, conv, digits)
	}
	var found []*client.Message
	for q := (client.Query{Limit: client.MaxPage}); ; {
		page, err := p.History(ctx, conv.ID, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Messages {
			if m := &page.Messages[i]; m.Content.File != nil && strings.HasPrefix(m.ID.String(), strings.ToLower(named)) {
				found = append(found, m)
			}
		}
		if !page.More {
			break
		}
		q.Before = page.Next
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no message with a file has an id that begins with %q: 'mlsfed read' shows them", named)
	case 1:
		return found[0], nil
	}
	var b strings.Builder
	for _, m := range found[:min(len(found), mostListed)] {
		fmt.Fprintf(&b, "\n  '#%d'  %s  %s  %s", m.Number, m.Time.Local().Format("2006-01-02 15:04"), deviceName(m.Sender), oneLine(m.Content.File.Name))
	}
	return nil, fmt.Errorf("%d messages begin with %q: write more of the id, or the number:%s", len(found), named, b.String())
}

func (p *person) messageNumbered(ctx context.Context, conv *client.Conversation, digits string) (*client.Message, error) {
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return nil, usageError{fmt.Errorf("#%s: wanted # and the number of a message", digits)}
	}
	page, err := p.History(ctx, conv.ID, client.Query{Forward: true, After: n, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(page.Messages) == 0 || page.Messages[0].Number != n || page.Messages[0].Content.File == nil {
		return nil, fmt.Errorf("message %d is none with a file: 'mlsfed read' shows them", n)
	}
	return &page.Messages[0], nil
}
