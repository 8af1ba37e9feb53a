package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// chatCommand is one that begins with a slash.
type chatCommand struct {
	name  string
	args  string
	about string
	least int  // arguments
	here  bool // it concerns the conversation that is shown
	do    func(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone
}

// chatCommands lists them, as /help shows them.
func chatCommands() []chatCommand {
	return []chatCommand{
		{"create", "NAME [USER…]", "make a conversation", 1, false, chatCreate},
		{"add", "USER…", "add people to this conversation", 1, true, chatAdd},
		{"remove", "USER…", "remove people from it", 1, true, chatRemove},
		{"rename", "NAME", "change its name", 1, true, chatRename},
		{"leave", "", "leave it", 0, true, chatLeave},
		{"file", "PATH [CAPTION]", "send a file", 1, true, chatFile},
		{"save", "MESSAGE-ID [PATH]", "save the file of a message", 1, true, chatSave},
		{"verify", "[USER]", "show the numbers by which people verify each other", 0, true, chatVerify},
		{"members", "", "show or hide who is here", 0, false, nil},
		{"help", "", "show these commands", 0, false, nil},
		{"quit", "", "leave the program", 0, false, nil},
	}
}

// entered does what a line says: it is sent, or it is a command. Two slashes send one.
func (m *chatModel) entered(line string) tea.Cmd {
	m.said, m.failed = "", false
	switch {
	case line == "":
		return nil
	case strings.HasPrefix(line, "//"):
		return m.send(line[1:])
	case strings.HasPrefix(line, "/"):
		return m.command(strings.Fields(line[1:]))
	}
	return m.send(line)
}

func (m *chatModel) send(text string) tea.Cmd {
	id := m.current
	if id == "" {
		m.said, m.failed = "no conversation yet: /create NAME USER…", true
		return nil
	}
	return m.run(func() chatDone {
		_, err := m.p.SendText(m.ctx, id, text)
		return chatDone{err: err}
	})
}

// run does something beside the interface.
func (m *chatModel) run(do func() chatDone) tea.Cmd {
	m.busy++
	return func() tea.Msg { return do() }
}

func (m *chatModel) command(words []string) tea.Cmd {
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
	}
	all := chatCommands()
	i := slices.IndexFunc(all, func(c chatCommand) bool { return c.name == words[0] })
	if i < 0 {
		m.said, m.failed = fmt.Sprintf("/%s is no command: /help lists them; //… sends a text that begins with a slash", clean(words[0])), true
		return nil
	}
	c, id := all[i], m.current
	switch {
	case len(words)-1 < c.least:
		m.said, m.failed = "wanted /"+c.name+" "+c.args, true
		return nil
	case c.here && id == "":
		m.said, m.failed = "no conversation is shown: /create NAME USER…", true
		return nil
	}
	m.said = "/" + c.name + " …"
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

// help shows the commands among the messages.
func (m *chatModel) help() {
	for _, c := range chatCommands() {
		m.remark(m.current, time.Now(), strings.Join(strings.Fields("/"+c.name+" "+c.args), " ")+" — "+c.about)
	}
}

func chatCreate(ctx context.Context, p *person, _ wire.ConversationID, args []string) chatDone {
	users, err := p.users(args[1:])
	if err != nil {
		return chatDone{err: err}
	}
	id, err := p.Create(ctx, client.CreateOptions{Name: args[0]})
	if err == nil && len(users) > 0 {
		err = p.Add(ctx, id, users...)
	}
	return chatDone{text: args[0] + " is made", err: err, current: id}
}

func chatAdd(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	users, err := p.users(args)
	if err == nil {
		err = p.Add(ctx, id, users...)
	}
	return chatDone{text: "added", err: err}
}

func chatRemove(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	members, err := p.Members(ctx, id)
	if err == nil {
		err = p.removeAll(ctx, id, members, args)
	}
	return chatDone{text: "removed", err: err}
}

func chatRename(ctx context.Context, p *person, id wire.ConversationID, args []string) chatDone {
	return chatDone{text: "renamed", err: p.Rename(ctx, id, strings.Join(args, " "))}
}

func chatLeave(ctx context.Context, p *person, id wire.ConversationID, _ []string) chatDone {
	return chatDone{text: "asked to leave: the next member who is online takes this device out", err: p.Leave(ctx, id)}
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
		return chatDone{text: "number of this conversation, the same for all members: " + n, err: err, keep: true}
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
			texts = append(texts, deviceName(m.Device)+" "+m.SafetyNumber)
		}
	}
	if len(texts) == 0 {
		return chatDone{err: errors.New(args[0] + " is not here")}
	}
	return chatDone{text: "safety numbers: " + strings.Join(texts, "; "), keep: true}
}
