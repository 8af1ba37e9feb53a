package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// chatPage is how many messages of a conversation the interface has at once.
const chatPage = 300

// chatModel is the state of the interface: what the device said last, and what the person sees of it.
// Whatever asks the device runs beside it, as a tea.Cmd, and comes back as a message.
type chatModel struct {
	ctx context.Context
	p   *person

	width, height int
	list          []client.Conversation
	current       wire.ConversationID // "" while there is none
	messages      []client.Message    // of current, oldest first
	members       []client.Member     // of current
	offering      []wire.Domain       // organizations with a root that this device does not believe
	remarks       map[wire.ConversationID][]chatRemark
	showMembers   bool
	scroll        int // lines from the newest
	input         inputLine
	link          string // of the connection
	online        bool
	waits         time.Time // since when something of this device's is refused for now; zero for nothing
	said          string    // what came of the last command
	failed        bool      // and whether it is an error
	busy          int       // commands under way
	loading       bool      // a look at the device is under way
	again         bool      // something has changed meanwhile
	most          int       // messages that are read of the conversation
	older         bool      // it has more
	broken        map[uint64]wrappedMessage
	opened        map[uint64]bool                   // long messages that are shown whole
	wanted        string                            // the conversation that the person named, until it was found
	told          position                          // where this would go on in another process
	noted         bool                              // what was said stands among the messages too
	events        map[wire.ConversationID]time.Time // of the last event that is no message
	news          uint64                            // the first message that was unread when the conversation was opened, and one
	fresh         bool                              // the conversation was opened, and not looked at yet
	kept          *chatLayout                       // what was shown last, until something has changed
	search        chatSearch
	jump          uint64 // the message that is to be shown, and one; 0 for none
	progress      *client.Progress
	since         time.Time // of the last connection's end; zero while connected
	ticking       bool      // another look is due, since something waits
}

// chatRemark is a line of the interface's own among the messages.
type chatRemark struct {
	time  time.Time
	text  string
	alarm bool
}

// maxRemarks bounds the lines of the interface's own in one conversation.
const maxRemarks = 200

func newChatModel(ctx context.Context, p *person) *chatModel {
	m := &chatModel{ctx: ctx, p: p, remarks: make(map[wire.ConversationID][]chatRemark), events: make(map[wire.ConversationID]time.Time), link: "connecting", showMembers: true, fresh: true, most: chatPage, opened: make(map[uint64]bool)}
	if ok, why := p.link.get(); ok {
		m.online, m.link = true, "connected"
	} else if why != nil {
		m.link = "offline: " + plain(why).Error()
	}
	return m
}

// chatSnapshot is what a look at the device has found.
type chatSnapshot struct {
	wanted   wire.ConversationID // that the interface showed when it asked
	list     []client.Conversation
	current  wire.ConversationID
	messages []client.Message
	older    bool
	members  []client.Member
	progress *client.Progress // of the own messages; nil where nothing waits, or nobody can tell
	offering []wire.Domain
	unread   uint64 // messages that were not read before
	// firstUnread is the number of the first of these.
	firstUnread uint64
	err         error
}

// chatDone is what came of a command.
type chatDone struct {
	text    string
	err     error
	lines   []string            // worth a place among the messages
	current wire.ConversationID // to be shown from now on; "" for no change
}

// Init implements tea.Model.
func (m *chatModel) Init() tea.Cmd { return m.look() }

// look asks the device for all that is shown. One look is under way at a time.
func (m *chatModel) look() tea.Cmd {
	if m.loading {
		m.again = true
		return nil
	}
	m.loading, m.again = true, false
	wanted, most, named := m.current, m.most, m.wanted
	m.wanted = ""
	return func() tea.Msg { return m.p.snapshot(m.ctx, wanted, named, most) }
}

// snapshot reads the conversations, and the messages and members of one: the wanted, or the newest.
// named, if it is not empty, finds the wanted one.
func (p *person) snapshot(ctx context.Context, wanted wire.ConversationID, named string, most int) chatSnapshot {
	s := chatSnapshot{wanted: wanted}
	if s.list, s.err = p.Conversations(ctx); s.err != nil {
		return s
	}
	met, err := p.Organizations(ctx)
	if err != nil {
		s.err = err
		return s
	}
	for i := range met {
		if offersRoot(&met[i]) {
			s.offering = append(s.offering, met[i].Domain)
		}
	}
	byActivity(s.list, nil)
	if named != "" {
		c, err := chooseConversation(s.list, named)
		if err != nil {
			s.err = err
			return s
		}
		wanted = c.ID
	}
	s.list = slices.DeleteFunc(s.list, func(c client.Conversation) bool { return c.State == client.StateLeft && c.ID != wanted })
	i := slices.IndexFunc(s.list, func(c client.Conversation) bool { return c.ID == wanted })
	if i < 0 && len(s.list) == 0 {
		return s
	}
	s.current = s.list[max(i, 0)].ID
	if s.unread = s.list[max(i, 0)].Unread; s.unread > 0 {
		if s.firstUnread, s.err = p.FirstUnread(ctx, s.current); s.err != nil {
			return s
		}
		if s.err = p.MarkRead(ctx, s.current); s.err != nil {
			return s
		}
		s.list[max(i, 0)].Unread = 0
	}
	for q := (client.Query{Limit: min(most, client.MaxPage)}); ; {
		page, err := p.History(ctx, s.current, q)
		if err != nil {
			s.err = err
			return s
		}
		s.messages, s.older = append(page.Messages, s.messages...), page.More
		if !page.More || len(s.messages) >= most {
			break
		}
		q.Before, q.Limit = page.Next, min(most-len(s.messages), client.MaxPage)
	}
	if s.members, s.err = p.Members(ctx, s.current); s.err == nil {
		s.progress = p.progressOf(ctx, s.current, s.messages)
	}
	return s
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Update implements tea.Model.
func (m *chatModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	_, cmd := m.update(msg)
	if m.p.guest != nil {
		if at := (position{Conversation: m.current.String(), Draft: string(m.input.text)}); m.current != "" && at != m.told {
			m.told = at
			m.p.at(at)
		}
	}
	return m, cmd
}

func (m *chatModel) update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if k, ok := msg.(tea.KeyMsg); !ok || !keeps(k) {
		m.kept = nil
	}
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		if m.p.Device != nil {
			m.p.Reconnect() // somebody is there
		}
		return m, m.key(msg)
	case chatEvent:
		m.event(msg.Event)
		return m, m.look()
	case chatSnapshot:
		return m, m.show(msg)
	case chatTick:
		m.ticking = false
		return m, m.look()
	case chatDone:
		m.busy--
		if msg.err != nil {
			m.say(oneLine(plain(msg.err).Error()), true)
		} else if msg.text != "" || !m.failed { // a message that was sent takes no error away
			m.say(msg.text, false)
		}
		if msg.current != "" {
			m.open(msg.current)
		}
		if msg.err == nil {
			m.remark(m.current, time.Now(), msg.lines...)
		}
		return m, m.look()
	case chatFound:
		return m, m.wasFound(msg)
	}
	return m, nil
}

// show takes a look at the device over. It may be about a conversation that the person has left meanwhile.
func (m *chatModel) show(s chatSnapshot) tea.Cmd {
	m.loading = false
	if s.err != nil && m.ctx.Err() == nil {
		m.say(oneLine(plain(s.err).Error()), true)
	}
	if s.err == nil {
		byActivity(s.list, m.events)
		m.list, m.offering = s.list, s.offering
		if m.current == s.wanted && s.current != s.wanted { // there is none any more, or the first one is there
			m.open(s.current)
		}
		if m.current == s.current {
			m.take(&s)
		}
	}
	if m.again {
		return tea.Batch(m.look(), m.lookLater())
	}
	return m.lookLater()
}

// whileWaiting is how often the device is looked at while something waits for another organization: no event tells when
// that organization has it.
const whileWaiting = 3 * time.Second

// lookLater looks again after a while if something waits.
func (m *chatModel) lookLater() tea.Cmd {
	if m.ticking || m.progress == nil || len(m.progress.Waiting) == 0 {
		return nil
	}
	m.ticking = true
	return tea.Tick(whileWaiting, func(time.Time) tea.Msg { return chatTick{} })
}

// chatTick asks for another look.
type chatTick struct{}

func (m *chatModel) event(e client.Event) {
	switch e.Type {
	case client.EventCreated, client.EventJoined:
		m.events[e.Conversation] = e.Time
	}
	switch e.Type {
	case client.EventConnected:
		m.online, m.link, m.since = true, "connected to "+string(e.Node), time.Time{}
	case client.EventOffline:
		if m.since.IsZero() {
			m.since = e.Time
		}
		m.online, m.link = false, fmt.Sprintf("offline since %s, next try in %s: %s", clockTime(m.since, e.Time), e.Retry.Round(time.Second/10), oneLine(plain(e.Err).Error()))
	case client.EventTrust, client.EventDivergence, client.EventPoison, client.EventGap, client.EventBroken, client.EventUndelivered, client.EventUnreadable, client.EventFailed, client.EventDeviceWaiting, client.EventRolledBack, client.EventClock, client.EventPerson:
		m.alarm(e)
	case client.EventDelayed: // once for each attempt: since when counts
		if m.waits.IsZero() {
			m.waits = e.Time
		}
		if m.online {
			m.link = fmt.Sprintf("waiting since %s: %s", m.waits.Local().Format("15:04"), oneLine(plain(e.Err).Error()))
		}
	case client.EventAccepted, client.EventWon:
		if !m.waits.IsZero() && m.online {
			m.waits, m.link = time.Time{}, "connected"
		}
	case client.EventDevices:
		m.say(deviceName(e.Device)+" was enrolled or revoked: 'mlsfed devices' lists your devices", false)
	default:
		if text := changeText(e); text != "" {
			m.remark(e.Conversation, e.Time, text)
		}
	}
}

// alarm tells of what a person must not miss: where it happened, or where he looks.
func (m *chatModel) alarm(e client.Event) {
	text, id := oneLine("WARNING: "+warning(e)), e.Conversation
	if id == "" {
		id = m.current
	}
	m.append(id, chatRemark{time: e.Time, text: text, alarm: true})
	m.said, m.failed, m.noted = text, true, true
}

func (m *chatModel) remark(id wire.ConversationID, at time.Time, lines ...string) {
	for _, text := range lines {
		m.append(id, chatRemark{time: at, text: oneLine(text)})
	}
}

func (m *chatModel) append(id wire.ConversationID, r chatRemark) {
	m.kept = nil
	list := append(m.remarks[id], r)
	m.remarks[id] = list[max(0, len(list)-maxRemarks):]
}

// key does what a key asks for.
func (m *chatModel) key(k tea.KeyMsg) tea.Cmd {
	switch k.Type {
	case tea.KeyCtrlC:
		return tea.Quit
	case tea.KeyEnter:
		if k.Alt {
			m.input.insert([]rune{'\n'})
			return nil
		}
		m.scroll, m.news = 0, 0
		pasted := m.input.pasted
		line := m.input.take()
		if pasted && strings.HasPrefix(line, "/") {
			line = "/" + line // a text: two slashes send one
		}
		return m.entered(line)
	case tea.KeyCtrlL:
		return tea.ClearScreen
	case tea.KeyCtrlG:
		return m.goTo("")
	case tea.KeyEsc:
		if len(m.input.text) == 0 {
			m.scroll, m.search = 0, chatSearch{}
			m.read()
		}
		m.input.key(k)
	case tea.KeyTab, tea.KeyCtrlN:
		return m.move(1)
	case tea.KeyShiftTab, tea.KeyCtrlP:
		return m.move(-1)
	case tea.KeyPgUp:
		before := m.scroll
		if m.scrollBy(max(m.height-5, 1)); m.older && m.scroll < before+max(m.height-5, 1) {
			m.most += chatPage
			return m.look()
		}
	case tea.KeyPgDown:
		m.scrollBy(-max(m.height-5, 1))
	default:
		m.input.key(k)
	}
	return nil
}

func (m *chatModel) scrollBy(lines int) {
	m.scroll = max(0, min(m.scroll+lines, len(m.lines(m.middleWidth()))-m.bodyHeight()))
}

// move goes to another conversation.
func (m *chatModel) move(by int) tea.Cmd {
	if len(m.list) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(m.list, func(c client.Conversation) bool { return c.ID == m.current }))
	m.open(m.list[(i+by+len(m.list))%len(m.list)].ID)
	return m.look()
}

func (m *chatModel) open(id wire.ConversationID) {
	if id == m.current {
		m.scroll = 0
		return
	}
	m.current, m.messages, m.members, m.progress, m.scroll, m.most, m.older = id, nil, nil, nil, 0, chatPage, false
	m.kept, m.broken, m.opened, m.fresh, m.news, m.search, m.jump = nil, nil, make(map[uint64]bool), true, 0, chatSearch{}, 0
}

// conversation is the current one, nil if there is none.
func (m *chatModel) conversation() *client.Conversation {
	i := slices.IndexFunc(m.list, func(c client.Conversation) bool { return c.ID == m.current })
	if i < 0 {
		return nil
	}
	return &m.list[i]
}
