package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// chatCommand is one that begins with a slash.
type chatCommand struct {
	name  string
	args  string
	about string
	least int       // arguments
	on    chatScope // what it is about
	do    func(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone
}

// chatScope is what a command is about.
type chatScope int

const (
	onDevice chatScope = iota
	onShown            // the conversation that is shown, whatever its state
	onActive           // that conversation, and this device has to be in it
)

// chatCommands lists them, as /help shows them.
func chatCommands() []chatCommand {
	return []chatCommand{
		{"create", "NAME [USER…]", "make a conversation", 1, onDevice, chatCreate},
		{"dm", "USER", "talk with one person", 1, onDevice, chatDM},
		{"add", "USER…", "add people", 1, onActive, chatAdd},
		{"again", "[DEVICE…]", "add broken devices anew", 0, onActive, chatAgain},
		{"remove", "USER…", "remove people", 1, onActive, chatRemove},
		{"rename", "NAME", "change the name", 1, onActive, chatRename},
		{"leave", "[yes]", "leave this conversation", 0, onActive, chatLeave},
		{"file", "PATH [CAPTION]", "send a file", 1, onActive, chatFile},
		{"save", "MESSAGE [PATH]", "save the file of one", 1, onShown, chatSave},
		{"search", "[TEXT]", "go to a message; older", 0, onShown, nil},
		{"go", "[NAME]", "go to it; to unread ones", 0, onDevice, nil},
		{"open", "NUMBER", "show all of a message", 1, onShown, nil},
		{"verify", "[USER]", "numbers to compare", 0, onActive, chatVerify},
		{"rejoin", "", "come back to a broken one", 0, onShown, chatRejoin},
		{"trust", "[DOMAIN SHA-256]", "roots that are believed", 0, onDevice, chatTrust},
		{"members", "", "show or hide who is here", 0, onDevice, nil},
		{"forget", "[yes]", "delete one that you left", 0, onShown, chatForget},
	}
}

// chatKeys lists the keys, as /help shows them.
func chatKeys() []string {
	return []string{
		"Tab, Shift-Tab, Ctrl-G  others; next unread",
		"PgUp, PgDn, Esc         scroll; to the newest",
		"Up, Down, Alt-Enter     written before; new line",
		"Ctrl-L, Ctrl-C          draw again; quit",
	}
}

// entered does what a line says: it is sent, or it is a command. Two slashes send one.
func (m *chatModel) entered(line string) tea.Cmd {
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

func (m *chatModel) send(text string) tea.Cmd {
	id := m.current
	if id == "" {
		m.say("no conversation yet: /create NAME USER…", true)
		return nil
	}
	if why := m.cannotAct(); why != "" {
		m.say(why, true)
		return nil
	}
	return m.run(func() chatDone {
		_, err := m.p.SendText(m.ctx, id, text)
		return chatDone{err: err}
	})
}

// cannotAct says why this device can do nothing in the conversation that is shown, "" if it can.
func (m *chatModel) cannotAct() string {
	if c := m.conversation(); c != nil {
		if err := mayAct(c); err != nil {
			return err.Error()
		}
	}
	return ""
}

// run does something beside the interface.
func (m *chatModel) run(do func() chatDone) tea.Cmd {
	m.busy++
	return func() tea.Msg { return do() }
}

func (m *chatModel) command(line string) tea.Cmd {
	words := words(line)
	if len(words) == 0 {
		words = []string{"help"}
	}
	switch words[0] {
	case "quit", "q", "exit":
		return tea.Quit
	case "members":
		m.showMembers = !m.showMembers
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
	all := chatCommands()
	i := slices.IndexFunc(all, func(c chatCommand) bool { return c.name == words[0] })
	if i < 0 {
		m.say(fmt.Sprintf("/%s is no command: /help lists them; //… sends a text that begins with a slash", clean(words[0])), true)
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
	return m.run(func() chatDone {
		ctx, cancel := context.WithTimeout(m.ctx, m.p.opts.timeout)
		defer cancel()
		d := c.do(ctx, m.p, id, words[1:])
		if d.err != nil {
			d.err = m.p.late(m.ctx, d.err)
		}
		return d
	})
}

// openMessage shows a long message whole, or cut again.
func (m *chatModel) openMessage(args []string) tea.Cmd {
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

func chatCreate(ctx context.Context, p *person, _ wire.ConversationID, args []string) chatDone {
	users, err := p.users(args[1:])
	if err != nil {
		return chatDone{err: fmt.Errorf("%w. A name of several words stands in double quotes", err)}
	}
	if err := errors.Join(checkName(args[0]), p.freeName(ctx, args[0])); err != nil {
		return chatDone{err: err}
	}
	id, err := p.Create(ctx, client.CreateOptions{Name: args[0]})
	if err == nil && len(users) > 0 {
		if err = p.addFirst(ctx, id, args[0], users, false, "/create NAME alone makes it without them"); err != nil {
			id = ""
		}
	}
	return chatDone{text: args[0] + " is made", err: err, current: id}
}

func chatAgain(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	devices, err := p.againDevices(ctx, id, args)
	var done []string
	for _, v := range devices {
		if err = p.Restore(ctx, id, v); err != nil {
			break
		}
		done = append(done, deviceName(v))
	}
	return chatDone{text: strings.Join(done, ", ") + " was added anew", err: err}
}

func chatDM(ctx context.Context, p *person, _ wire.ConversationID, args []string) chatDone {
	users, err := p.users(args[:1])
	if err != nil {
		return chatDone{err: err}
	}
	id, err := p.dmWith(ctx, users[0])
	return chatDone{err: err, current: id}
}

func chatAdd(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	users, err := p.users(args)
	if err != nil {
		return chatDone{err: err}
	}
	before, err := p.Members(ctx, id)
	if err == nil {
		err = p.Add(ctx, id, users...)
	}
	if err != nil {
		return chatDone{err: err}
	}
	after, err := p.Members(ctx, id)
	text := "added"
	if len(after) <= len(before) {
		text = "nothing to do: " + strings.Join(personNames(users), ", ") + " with all devices is in it already"
	}
	return chatDone{text: text, err: err}
}

func chatRemove(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	members, err := p.Members(ctx, id)
	if err == nil {
		err = p.removeAll(ctx, id, members, args)
	}
	return chatDone{text: "removed", err: err}
}

func chatRename(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	name := strings.Join(args, " ")
	if err := checkName(name); err != nil {
		return chatDone{err: err}
	}
	return chatDone{text: "renamed", err: p.rename(ctx, id, name)}
}

func chatLeave(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	if len(args) != 1 || args[0] != "yes" {
		c, err := p.Conversation(ctx, id)
		if err != nil {
			return chatDone{err: err}
		}
		return chatDone{err: fmt.Errorf("this takes you out of %s: /leave yes does it", titled(c))}
	}
	return chatDone{text: "asked to leave: the next member who is online takes this device out", err: p.leave(ctx, id, nil)}
}

func chatForget(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	c, err := p.Conversation(ctx, id)
	switch {
	case err != nil:
		return chatDone{err: err}
	case c.State != client.StateLeft && c.State != client.StateBroken:
		return chatDone{err: fmt.Errorf("this device is in %s: /leave first", titled(c))}
	case len(args) != 1 || args[0] != "yes":
		return chatDone{err: fmt.Errorf("this deletes all messages of %s from this device: /forget yes does it", titled(c))}
	}
	return chatDone{text: titled(c) + " is deleted from this device", err: p.Forget(ctx, id)}
}

func chatFile(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	_, err := p.post(ctx, id, strings.Join(args[1:], " "), homePath(args[0]))
	return chatDone{text: "sent " + filepath.Base(args[0]), err: err}
}

// homePath resolves ~ as a shell does.
func homePath(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}

func chatSave(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	to := "."
	if len(args) > 1 {
		to = homePath(args[1])
	}
	conv, err := p.Conversation(ctx, id)
	if err != nil {
		return chatDone{err: err}
	}
	found, err := p.message(ctx, conv, args[0])
	if err != nil {
		return chatDone{err: err}
	}
	path, err := p.saveFile(ctx, found, to)
	return chatDone{text: "saved as " + path, err: err}
}

func chatVerify(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	if len(args) == 0 {
		n, err := p.ConversationNumber(ctx, id)
		return chatDone{lines: []string{"number of this conversation, the same for all members: " + n}, err: err}
	}
	users, err := p.users(args[:1])
	if err != nil {
		return chatDone{err: err}
	}
	list, err := p.Members(ctx, id)
	if err != nil {
		return chatDone{err: err}
	}
	var texts []string
	for _, m := range list {
		if m.User == users[0] && !m.Self {
			texts = append(texts, "safety number of "+deviceName(m.Device)+": "+m.SafetyNumber)
		}
	}
	if len(texts) == 0 {
		return chatDone{err: errors.New(args[0] + " is not in this conversation, or only you are")}
	}
	return chatDone{lines: texts}
}

func chatRejoin(ctx context.Context, p *person, id wire.ConversationID, _ []string) chatDone {
	asked, err := p.rejoin(ctx, id)
	if asked != "" {
		return chatDone{text: personName(asked) + " is asked to add this device again", err: err}
	}
	return chatDone{text: "this device is in the conversation again", err: err}
}

func chatTrust(ctx context.Context, p *person, _ wire.ConversationID, args []string) chatDone {
	if len(args) > 0 {
		return chatDone{text: "accepted", err: p.acceptRoot(ctx, args[0], strings.Join(args[1:], ""))}
	}
	list, err := p.Organizations(ctx)
	var lines []string
	for _, t := range list {
		for _, h := range t.Roots {
			lines = append(lines, fmt.Sprintf("%s is believed with root %s", t.Domain, inGroups(h.String())))
		}
		if offersRoot(&t) {
			lines = append(lines, fmt.Sprintf("%s OFFERS another root: ask its people, and if they confirm it, /trust %s %s", t.Domain, t.Domain, inGroups(t.Offered.String())))
		}
	}
	return chatDone{lines: lines, err: err}
}
