package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// chatSearch is the last search of a conversation.
type chatSearch struct {
	pattern string
	found   bool
	number  uint64 // of the message that was found last
}

// chatFound is what a search has found.
type chatFound struct {
	conversation wire.ConversationID
	search       chatSearch
	text         string // the message, for the status line
	err          error
}

// searchFor finds the newest message that holds a text, or, without a text, the next older one, and goes to it.
func (m *chatModel) searchFor(text string) tea.Cmd {
	id := m.current
	s, before := chatSearch{pattern: text}, uint64(0)
	switch {
	case id == "":
		m.say("no conversation is shown: /create NAME USER…", true)
		return nil
	case text == "" && m.search.pattern == "":
		m.say("wanted /search TEXT", true)
		return nil
	case text == "" && (!m.search.found || m.search.number == 0):
		m.say(fmt.Sprintf("no older message with %q", m.search.pattern), false)
		return nil
	case text == "":
		s.pattern, before = m.search.pattern, m.search.number
	}
	m.busy++
	return func() tea.Msg {
		for {
			page, err := m.p.History(m.ctx, id, client.Query{Search: s.pattern, Before: before, Limit: 1})
			switch {
			case err != nil:
				return chatFound{conversation: id, search: s, err: err}
			case len(page.Messages) > 0:
				msg := &page.Messages[0]
				s.found, s.number = true, msg.Number
				return chatFound{conversation: id, search: s, text: msg.Time.Local().Format("2006-01-02 15:04") + " " + personName(msg.Sender.User())}
			case !page.More:
				return chatFound{conversation: id, search: s}
			}
			before = page.Next
		}
	}
}

// wasFound goes to what a search has found.
func (m *chatModel) wasFound(f chatFound) tea.Cmd {
	m.busy--
	older := m.search.found && m.search.pattern == f.search.pattern
	switch {
	case f.err != nil:
		m.say(oneLine(plain(f.err).Error()), true)
		return nil
	case f.conversation != m.current:
		return nil // the person has gone elsewhere
	case !f.search.found && older:
		m.say(fmt.Sprintf("no older message with %q", f.search.pattern), false)
		return nil
	case !f.search.found:
		m.say(fmt.Sprintf("no message with %q", f.search.pattern), false)
		return nil
	}
	m.search = f.search
	m.say(fmt.Sprintf("found %q, %s; /search goes on to older ones", clean(f.search.pattern), f.text), false)
	if c := m.conversation(); c != nil && c.Messages > f.search.number {
		m.most = max(m.most, int(c.Messages-f.search.number)+chatMargin)
	}
	m.jump = f.search.number + 1
	return m.look()
}

// chatMargin is how many messages are read before one that a search has found.
const chatMargin = 50

// goTo shows the conversation that is named, or the next one with unread messages.
func (m *chatModel) goTo(named string) tea.Cmd {
	if named != "" {
		c, err := chooseConversation(m.list, named)
		if part := m.partOf(named); err != nil && len(part) == 1 { // the person sees where this leads
			c, err = part[0], nil
		}
		if err != nil {
			m.say(oneLine(err.Error()), true)
			return nil
		}
		m.open(c.ID)
		return m.look()
	}
	at := max(0, slices.IndexFunc(m.list, func(c client.Conversation) bool { return c.ID == m.current }))
	for i := range m.list {
		if c := &m.list[(at+1+i)%len(m.list)]; c.Unread > 0 && c.ID != m.current {
			m.open(c.ID)
			return m.look()
		}
	}
	m.say("nothing is unread elsewhere", false)
	return nil
}

// partOf finds the conversations whose shown name holds a text.
func (m *chatModel) partOf(text string) (found []*client.Conversation) {
	for i := range m.list {
		if strings.Contains(strings.ToLower(titled(&m.list[i])), strings.ToLower(text)) {
			found = append(found, &m.list[i])
		}
	}
	return found
}

// byActivity sorts conversations: the one in which something happened last comes first, those that have ended last.
// events are the times of what is no message.
func byActivity(list []client.Conversation, events map[wire.ConversationID]time.Time) {
	last := func(c *client.Conversation) time.Time {
		if t := events[c.ID]; t.After(c.Active) {
			return t
		}
		return c.Active
	}
	slices.SortStableFunc(list, func(a, b client.Conversation) int {
		if by := b2i(a.State == client.StateLeft) - b2i(b.State == client.StateLeft); by != 0 {
			return by
		}
		return last(&b).Compare(last(&a))
	})
}

// words are those of a command: blanks separate them, except between double quotes.
func words(line string) []string {
	var list []string
	var word strings.Builder
	quoted, begun := false, false
	for i, r := range line {
		switch {
		case r == '"' && (quoted || !begun && strings.Contains(line[i+1:], `"`)):
			quoted, begun = !quoted, true
		case (r == ' ' || r == '\t' || r == '\n') && !quoted:
			if begun {
				list = append(list, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		list = append(list, word.String())
	}
	return list
}
