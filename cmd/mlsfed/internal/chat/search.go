package chat

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/wire"
)

// searchState is the last search of a conversation.
type searchState struct {
	pattern string
	found   bool
	number  uint64 // number of the message that was found last
}

// searchResult is the result of a search.
type searchResult struct {
	conversation wire.ConversationID
	search       searchState
	text         string // the message, for the status line
	err          error
}

// searchFor finds the newest message that contains a text, or, without a text, the next older match, and goes to it.
func (m *model) searchFor(text string) tea.Cmd {
	id := m.current
	s, before := searchState{pattern: text}, uint64(0)
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
				return searchResult{conversation: id, search: s, err: err}
			case len(page.Messages) > 0:
				msg := &page.Messages[0]
				s.found, s.number = true, msg.Number
				return searchResult{conversation: id, search: s, text: m.p.Local(msg.Time).Format("2006-01-02 15:04") + " " + cli.PersonName(msg.Sender.User())}
			case !page.More:
				return searchResult{conversation: id, search: s}
			}
			before = page.Next
		}
	}
}

// wasFound goes to the message that a search has found.
func (m *model) wasFound(f searchResult) tea.Cmd {
	m.busy--
	older := m.search.found && m.search.pattern == f.search.pattern
	switch {
	case f.err != nil:
		m.say(cli.OneLine(cli.Plain(f.err).Error()), true)
		return nil
	case f.conversation != m.current:
		return nil // the person has moved to another conversation
	case !f.search.found && older:
		m.say(fmt.Sprintf("no older message with %q", f.search.pattern), false)
		return nil
	case !f.search.found:
		m.say(fmt.Sprintf("no message with %q", f.search.pattern), false)
		return nil
	}
	m.search = f.search
	m.say(fmt.Sprintf("found %q, %s; /search goes on to older ones", cli.Clean(f.search.pattern), f.text), false)
	if c := m.conversation(); c != nil && c.Messages > f.search.number {
		m.most = max(m.most, int(c.Messages-f.search.number)+foundMargin)
	}
	m.jump = f.search.number + 1
	return m.look()
}

// foundMargin is how many messages before a found message are read.
const foundMargin = 50

// goTo shows the conversation that is named, or the next one with unread messages.
func (m *model) goTo(named string) tea.Cmd {
	if named != "" {
		c, err := people.ChooseConversation(m.list, named)
		if part := m.partOf(named); err != nil && len(part) == 1 && people.Marks(m.list, part[0]) == "" { // the person sees which conversation is opened
			c, err = part[0], nil
		}
		if err != nil {
			m.say(cli.OneLine(err.Error()), true)
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

// partOf finds the conversations whose shown name contains a text.
func (m *model) partOf(text string) (found []*client.Conversation) {
	for i := range m.list {
		if strings.Contains(strings.ToLower(people.Titled(&m.list[i])), strings.ToLower(text)) {
			found = append(found, &m.list[i])
		}
	}
	return found
}

// byActivity sorts conversations by their last activity, the newest first, with ended conversations at the end.
// events holds the times of events that are no messages.
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

// words splits a command into words. Blanks separate them, except between double quotes.
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
