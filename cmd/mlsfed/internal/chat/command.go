package chat

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/wire"
)

// command is a command that begins with a slash.
type command struct {
	name  string
	args  string
	about string
	least int   // arguments
	on    scope // what it is about
	do    func(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome
}

// scope is what a command is about.
type scope int

const (
	onDevice scope = iota
	onShown        // the conversation that is shown, in any state
	onActive       // that conversation, and this device must be in it
)

// commands lists the commands, as /help shows them.
func commands() []command {
	return []command{
		{name: "create", args: "NAME [USER…]", about: "make a conversation", least: 1, on: onDevice, do: doCreate},
		{name: "dm", args: "USER", about: "talk with one person", least: 1, on: onDevice, do: doDM},
		{name: "add", args: "USER…", about: "add people", least: 1, on: onActive, do: doAdd},
		{name: "again", args: "[DEVICE…]", about: "re-add broken devices", on: onActive, do: doAgain},
		{name: "remove", args: "USER…", about: "remove people", least: 1, on: onActive, do: doRemove},
		{name: "admin", args: "yes | no", about: "answer: be an admin?", least: 1, on: onActive, do: doAdmin},
		{name: "reply", args: "MESSAGE TEXT", about: "answer #7, or the last", least: 2, on: onActive, do: doReply},
		{name: "react", args: "MESSAGE [EMOJI]", about: "react; withdraw", least: 1, on: onActive, do: doReact},
		{name: "edit", args: "MESSAGE TEXT", about: "change one of yours", least: 2, on: onActive, do: doEdit},
		{name: "delete", args: "MESSAGE", about: "delete one of yours", least: 1, on: onActive, do: doDelete},
		{name: "expire", args: "[TIME | off]", about: "how long yours stay", on: onActive, do: doExpire},
		{name: "numbers", about: "show or hide numbers", on: onDevice},
		{name: "rename", args: "NAME", about: "change the name", least: 1, on: onActive, do: doRename},
		{name: "leave", args: "[yes [USER]]", about: "leave it; next admin", on: onActive, do: doLeave},
		{name: "file", args: "PATH [CAPTION]", about: "send a file", least: 1, on: onActive, do: doFile},
		{name: "save", args: "MESSAGE [PATH]", about: "save the file of one", least: 1, on: onShown, do: doSave},
		{name: "search", args: "[TEXT]", about: "go to a message; older", on: onShown},
		{name: "go", args: "[NAME]", about: "go to it; to unread ones", on: onDevice},
		{name: "open", args: "NUMBER", about: "show all of a message", least: 1, on: onShown},
		{name: "verify", args: "[USER]", about: "numbers to compare", on: onActive, do: doVerify},
		{name: "rejoin", about: "come back to a broken one", on: onShown, do: doRejoin},
		{name: "trust", args: "[DOMAIN SHA-256]", about: "roots that are believed", on: onDevice, do: doTrust},
		{name: "members", about: "show or hide who is here", on: onDevice},
		{name: "forget", args: "[yes]", about: "delete one that you left", on: onShown, do: doForget},
	}
}

// keyHelp lists the keys and what each does, as /help shows them.
func keyHelp() [][2]string {
	return [][2]string{
		{"Tab, Shift-Tab, Ctrl-G", "others; next unread"},
		{"PgUp, PgDn, Esc", "scroll; to the newest"},
		{"Up, Down, Alt-Enter", "written before; new line"},
		{"Ctrl-L, Ctrl-C", "draw again; quit"},
	}
}

// entered handles a line: it sends a text, or runs a command. A text that begins with a slash is entered with two
// slashes.
func (m *model) entered(line string) tea.Cmd {
	m.read()
	switch {
	case line == "":
		return nil
	case strings.HasPrefix(line, "//"):
		return m.send(line[1:])
	case strings.HasPrefix(line, "/"):
		return m.command(line[1:])
	}
	return m.send(line)
}

func (m *model) send(text string) tea.Cmd {
	id := m.current
	if id == "" {
		m.say("no conversation yet: /create NAME USER…", true)
		return nil
	}
	if why := m.cannotAct(); why != "" {
		m.say(why, true)
		return nil
	}
	return m.run(func() outcome {
		_, err := m.p.SendText(m.ctx, id, text)
		return outcome{err: err}
	})
}

// cannotAct returns why this device can do nothing in the conversation that is shown, "" if it can.
func (m *model) cannotAct() string {
	if c := m.conversation(); c != nil {
		if c.State == client.StateBroken {
			return people.BrokenText(c, true)
		}
		if err := people.MayAct(c); err != nil {
			return err.Error()
		}
	}
	return ""
}

// run returns a command that calls do concurrently with the interface.
func (m *model) run(do func() outcome) tea.Cmd {
	m.busy++
	return func() tea.Msg { return do() }
}

func (m *model) command(line string) tea.Cmd {
	words := words(line)
	if len(words) == 0 {
		words = []string{"help"}
	}
	switch words[0] {
	case "quit", "q", "exit":
		return tea.Quit
	case "members":
		m.toggleMembers()
		return nil
	case "numbers":
		m.numbers, m.kept = !m.numbers, nil
		return nil
	case "help":
		m.help()
		return nil
	case "go":
		return m.goTo(strings.Join(words[1:], " "))
	case "open":
		return m.openMessage(words[1:])
	case "search":
		return m.searchFor(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), words[0])))
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == words[0] })
	if i < 0 {
		m.say(fmt.Sprintf("/%s is no command: /help lists them; //… sends a text that begins with a slash", cli.Clean(words[0])), true)
		return nil
	}
	c, id := all[i], m.current
	switch {
	case len(words)-1 < c.least:
		m.say("wanted /"+c.name+" "+c.args, true)
		return nil
	case c.on != onDevice && id == "":
		m.say("no conversation is shown: /create NAME USER…", true)
		return nil
	case c.on == onActive && m.cannotAct() != "":
		m.say(m.cannotAct(), true)
		return nil
	}
	m.say("/"+c.name+" …", false)
	return m.run(func() outcome {
		ctx, cancel := context.WithTimeout(m.ctx, m.p.Options.Timeout)
		defer cancel()
		d := c.do(ctx, m.p, id, words[1:])
		if d.err != nil {
			d.err = m.p.Explain(m.ctx, d.err)
		}
		return d
	})
}

// toggleMembers shows or hides the column of members. If the window has no room for it, the members are shown among
// the messages.
func (m *model) toggleMembers() {
	if m.width >= widthFor3 || m.current == "" {
		m.showMembers = !m.showMembers
		return
	}
	var lines []string
	for _, x := range m.members {
		text := cli.DeviceName(x.Device) + people.Ordinal(x.Person)
		if x.Admin {
			text += " ★"
		}
		lines = append(lines, text+memberNote(&x))
	}
	m.remark(m.current, m.p.Now(), append([]string{people.CountMembers(m.members)}, lines...)...)
}

// openMessage shows a long message whole, or shortened again.
func (m *model) openMessage(args []string) tea.Cmd {
	if len(args) != 1 {
		m.say("wanted /open NUMBER", true)
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(args[0], "#"), 10, 64)
	if err != nil {
		m.say("wanted /open and the number of a message", true)
		return nil
	}
	m.opened[n], m.kept = !m.opened[n], nil
	return nil
}

func doCreate(ctx context.Context, p *people.Person, _ wire.ConversationID, args []string) outcome {
	users, err := p.Users(args[1:])
	if err != nil {
		return outcome{err: fmt.Errorf("%w. Put a name of several words in double quotes", err)}
	}
	if err := errors.Join(people.CheckName(args[0]), p.FreeName(ctx, args[0])); err != nil {
		return outcome{err: err}
	}
	id, err := p.Create(ctx, client.CreateOptions{Name: args[0]})
	if err == nil && len(users) > 0 {
		if err = p.AddFirst(ctx, id, args[0], users, false, "/create NAME alone makes it without them"); err != nil {
			id = ""
		}
	}
	return outcome{text: args[0] + " is made", err: err, current: id}
}

func doAgain(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	devices, err := p.AgainDevices(ctx, id, args)
	var done []string
	for _, v := range devices {
		if err = p.Restore(ctx, id, v); err != nil {
			break
		}
		done = append(done, cli.DeviceName(v))
	}
	return outcome{text: strings.Join(done, ", ") + " was added again", err: err}
}

func doDM(ctx context.Context, p *people.Person, _ wire.ConversationID, args []string) outcome {
	users, err := p.Users(args[:1])
	if err != nil {
		return outcome{err: err}
	}
	id, err := p.DMWith(ctx, users[0])
	return outcome{err: err, current: id}
}

func doAdd(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	users, err := p.Users(args)
	if err != nil {
		return outcome{err: err}
	}
	before, err := p.Members(ctx, id)
	if err == nil {
		err = p.Add(ctx, id, users...)
	}
	if err != nil {
		return outcome{err: err}
	}
	after, err := p.Members(ctx, id)
	text := "added"
	if len(after) <= len(before) {
		text = "nothing to do: " + strings.Join(cli.PersonNames(users), ", ") + " with all devices is in it already"
	}
	return outcome{text: text, err: err}
}

func doRemove(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	members, err := p.Members(ctx, id)
	if err == nil {
		err = p.RemoveAll(ctx, id, members, args)
	}
	return outcome{text: "removed", err: err}
}

func doRename(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	name := strings.Join(args, " ")
	if err := people.CheckName(name); err != nil {
		return outcome{err: err}
	}
	return outcome{text: "renamed", err: p.RenameForAll(ctx, id, name)}
}

func doLeave(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	if len(args) == 0 || args[0] != "yes" {
		c, err := p.Conversation(ctx, id)
		if err != nil {
			return outcome{err: err}
		}
		return outcome{err: fmt.Errorf("/leave yes takes you out of %s", people.Titled(c))}
	}
	successors, err := p.Users(args[1:])
	if err != nil {
		return outcome{err: err}
	}
	return outcome{text: "asked to leave: the next member who is online takes this device out", err: p.LeaveTo(ctx, id, successors)}
}

func doForget(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	c, err := p.Conversation(ctx, id)
	switch {
	case err != nil:
		return outcome{err: err}
	case c.State != client.StateLeft && c.State != client.StateBroken:
		return outcome{err: fmt.Errorf("the device is still in %s: /leave first", people.Titled(c))}
	case len(args) != 1 || args[0] != "yes":
		return outcome{err: fmt.Errorf("/forget yes deletes all messages of %s from this device", people.Titled(c))}
	}
	return outcome{text: people.Titled(c) + " is deleted from this device", err: p.Forget(ctx, id)}
}

func doFile(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	_, err := p.Post(ctx, id, strings.Join(args[1:], " "), p.HomePath(args[0]))
	return outcome{text: "sent " + filepath.Base(args[0]), err: err}
}

func doSave(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	to := "."
	if len(args) > 1 {
		to = p.HomePath(args[1])
	}
	conv, err := p.Conversation(ctx, id)
	if err != nil {
		return outcome{err: err}
	}
	found, err := p.FindFile(ctx, conv, args[0])
	if err != nil {
		return outcome{err: err}
	}
	path, err := p.SaveFileAt(ctx, found, to)
	return outcome{text: "saved as " + path, err: err}
}

func doVerify(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	if len(args) == 0 {
		n, err := p.ConversationNumber(ctx, id)
		return outcome{lines: []string{"number of this conversation, the same for all members: " + n}, err: err}
	}
	users, err := p.Users(args[:1])
	if err != nil {
		return outcome{err: err}
	}
	list, err := p.Members(ctx, id)
	if err != nil {
		return outcome{err: err}
	}
	var texts []string
	for _, m := range list {
		if m.User == users[0] && !m.Self {
			texts = append(texts, "safety number of "+cli.DeviceName(m.Device)+": "+m.SafetyNumber)
		}
	}
	if len(texts) == 0 {
		return outcome{err: errors.New(args[0] + " is not in this conversation, or only you are")}
	}
	return outcome{lines: texts}
}

func doRejoin(ctx context.Context, p *people.Person, id wire.ConversationID, _ []string) outcome {
	asked, err := p.RejoinOrAsk(ctx, id)
	if asked != "" {
		return outcome{text: cli.PersonName(asked) + " is asked to add this device again", err: err}
	}
	return outcome{text: "this device is in the conversation again", err: err}
}

func doTrust(ctx context.Context, p *people.Person, _ wire.ConversationID, args []string) outcome {
	if len(args) > 0 {
		return outcome{text: "accepted", err: p.AcceptNamedRoot(ctx, args[0], strings.Join(args[1:], ""))}
	}
	list, err := p.Organizations(ctx)
	var lines []string
	for _, t := range list {
		for _, h := range t.Roots {
			lines = append(lines, fmt.Sprintf("%s is believed with root %s", t.Domain, cli.InGroups(h.String())))
		}
		if people.OffersRoot(&t) {
			lines = append(lines, fmt.Sprintf("%s OFFERS another root: ask its people, and if they confirm it, /trust %s %s", t.Domain, t.Domain, cli.InGroups(t.Offered.String())))
		}
	}
	return outcome{lines: lines, err: err}
}

// ownCommandOf replaces the commands that errors name by the commands of a chat.
var ownCommandOf = strings.NewReplacer(
	"name who is to be one with --successor USER, or 'mlsfed rules CONV --promote USER'", "name who is to be one: /leave yes USER",
	"with 'mlsfed trust', or /trust in a chat", "/trust",
	"'mlsfed add CONV --again' does it, or /again in a chat", "/again does it",
	"'mlsfed rules CONV --admin yes' or no, or /admin in a chat", "/admin yes, or /admin no",
	"'mlsfed rules' shows", "★ in /members shows",
	"'mlsfed members'", "/members", "'mlsfed leave'", "/leave", "'mlsfed rejoin'", "/rejoin", "'mlsfed trust'", "/trust",
	"'mlsfed add CONV --again'", "/again", "'mlsfed list'", "the list", "'mlsfed read'", "the chat",
)

// ownCommands returns an error's text for a person in a chat, with the chat's commands.
func ownCommands(text string) string { return ownCommandOf.Replace(text) }

func doAdmin(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	text, err := p.AnswerOffer(ctx, id, args[0])
	return outcome{text: text, err: err}
}
