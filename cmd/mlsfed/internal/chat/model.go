package chat

import (
	"context"
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

// pageSize is how many messages of a conversation the interface has at once.
const pageSize = 300

// model is the state of the interface: the last snapshot of the device, and what the person sees of it. Each
// question to the device runs concurrently, as a tea.Cmd, and its answer arrives as a message.
type model struct {
	ctx context.Context
	p   *people.Person

	width, height int
	list          []client.Conversation
	current       wire.ConversationID // "" while there is none
	messages      []client.Message    // of current, oldest first
	members       []client.Member     // of current
	offering      []wire.Domain       // organizations with a root that this device does not trust
	remarks       map[wire.ConversationID][]remark
	showMembers   bool
	numbers       bool // messages are shown with their numbers
	plain         bool // the person's terminal shows no colours
	scroll        int  // lines, counted from the newest
	input         inputLine
	link          string // of the connection
	online        bool
	waits         time.Time // since when a submission of this device is refused for now; zero for none
	said          string    // the result of the last command
	failed        bool      // and whether it is an error
	busy          int       // commands under way
	loading       bool      // a snapshot is being taken
	again         bool      // something has changed since it began
	most          int       // messages that are read of the conversation
	older         bool      // the conversation has more
	broken        map[uint64]wrappedMessage
	opened        map[uint64]bool                   // long messages that are shown whole
	wanted        string                            // the conversation that the person named, until it was found
	announced     people.Position                   // where, as announced, this chat would continue in another process
	noted         bool                              // the status text is among the messages too
	events        map[wire.ConversationID]time.Time // time of the last event that is no message
	news          uint64                            // the first message that was unread when opened, plus one
	fresh         bool                              // the conversation was opened, and has no snapshot yet
	kept          *layout                           // the layout shown last, until something has changed
	search        searchState
	jump          uint64 // the message to be shown, plus one; 0 for none
	progress      *client.Progress
	since         time.Time // of the last connection's end; zero while connected
	ticking       bool      // another snapshot is due, since something waits
}

// remark is a text of the interface itself among the messages.
type remark struct {
	time  time.Time
	text  string
	alarm bool
}

// maxRemarks bounds the remarks in one conversation.
const maxRemarks = 200

func newModel(ctx context.Context, p *people.Person) *model {
	m := &model{ctx: ctx, p: p, remarks: make(map[wire.ConversationID][]remark), events: make(map[wire.ConversationID]time.Time), link: "connecting", showMembers: true, fresh: true, most: pageSize, opened: make(map[uint64]bool)}
	if ok, why := p.Linked(); ok {
		m.online, m.link = true, "connected"
	} else if why != nil {
		m.link = "offline: " + cli.Plain(why).Error()
	}
	return m
}

// snapshot is a snapshot of the device's state.
type snapshot struct {
	wanted   wire.ConversationID // the conversation that the interface showed when it asked
	list     []client.Conversation
	current  wire.ConversationID
	messages []client.Message
	older    bool
	members  []client.Member
	progress *client.Progress // of own messages; nil if nothing waits, or it is not known
	offering []wire.Domain
	unread   uint64 // messages that were not read before
	// firstUnread is the number of the first unread message.
	firstUnread uint64
	err         error
}

// outcome is the result of a command.
type outcome struct {
	text    string
	err     error
	lines   []string            // lines to show among the messages
	current wire.ConversationID // to be shown from now on; "" for no change
}

// Init implements tea.Model.
func (m *model) Init() tea.Cmd { return m.look() }

// look takes a snapshot of all that is shown. Only one snapshot is taken at a time.
func (m *model) look() tea.Cmd {
	if m.loading {
		m.again = true
		return nil
	}
	m.loading, m.again = true, false
	wanted, most, named := m.current, m.most, m.wanted
	m.wanted = ""
	return func() tea.Msg { return takeSnapshot(m.ctx, m.p, wanted, named, most) }
}

// takeSnapshot reads the conversations, and the messages and members of one conversation: the wanted, or the newest.
// named, if it is not empty, selects the wanted conversation.
func takeSnapshot(ctx context.Context, p *people.Person, wanted wire.ConversationID, named string, most int) snapshot {
	s := snapshot{wanted: wanted}
	if s.list, s.err = p.Conversations(ctx); s.err != nil {
		return s
	}
	met, err := p.Organizations(ctx)
	if err != nil {
		s.err = err
		return s
	}
	for i := range met {
		if people.OffersRoot(&met[i]) {
			s.offering = append(s.offering, met[i].Domain)
		}
	}
	byActivity(s.list, nil)
	if named != "" {
		c, err := people.ChooseConversation(s.list, named)
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
		s.progress = p.ProgressOf(ctx, s.current, s.messages)
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
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	_, cmd := m.update(msg)
	if at := (people.Position{Conversation: m.current.String(), Draft: string(m.input.text)}); m.current != "" && at != m.announced {
		m.announced = at
		m.p.SetPosition(at)
	}
	return m, cmd
}

func (m *model) update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if k, ok := msg.(tea.KeyMsg); !ok || !keeps(k) {
		m.kept = nil
	}
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		if m.p.Device != nil {
			m.p.Reconnect() // the person is there
		}
		return m, m.key(msg)
	case deviceEvent:
		m.event(msg.Event)
		return m, m.look()
	case snapshot:
		return m, m.show(msg)
	case tick:
		m.ticking = false
		return m, m.look()
	case outcome:
		m.busy--
		if msg.err != nil {
			m.say(cli.OneLine(ownCommands(cli.Plain(msg.err).Error())), true)
		} else if msg.text != "" || !m.failed { // a sent message does not remove an error
			m.say(msg.text, false)
		}
		if msg.current != "" {
			m.open(msg.current)
		}
		if msg.err == nil {
			m.remark(m.current, time.Now(), msg.lines...)
		}
		return m, m.look()
	case searchResult:
		return m, m.wasFound(msg)
	}
	return m, nil
}

// show displays a snapshot. The snapshot may be of a conversation from which the person has moved meanwhile.
func (m *model) show(s snapshot) tea.Cmd {
	m.loading = false
	if s.err != nil && m.ctx.Err() == nil {
		m.say(cli.OneLine(cli.Plain(s.err).Error()), true)
	}
	if s.err == nil {
		byActivity(s.list, m.events)
		m.list, m.offering = s.list, s.offering
		if m.current == s.wanted && s.current != s.wanted { // the current one is gone, or this is the first one
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

// whileWaiting is how often a snapshot is taken while something waits for another organization: no event reports when
// that organization has it.
const whileWaiting = 3 * time.Second

// lookLater takes another snapshot after whileWaiting if something waits.
func (m *model) lookLater() tea.Cmd {
	if m.ticking || m.progress == nil || len(m.progress.Waiting) == 0 {
		return nil
	}
	m.ticking = true
	return tea.Tick(whileWaiting, func(time.Time) tea.Msg { return tick{} })
}

// tick asks for another snapshot.
type tick struct{}

func (m *model) event(e client.Event) {
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
		m.online, m.link = false, fmt.Sprintf("offline since %s, next try in %s: %s", cli.ClockTime(m.since, m.p.Local(e.Time)), e.Retry.Round(time.Second/10), cli.OneLine(cli.Plain(e.Err).Error()))
	case client.EventTrust, client.EventDivergence, client.EventPoison, client.EventGap, client.EventBroken, client.EventUndelivered, client.EventUnreadable, client.EventFailed, client.EventDeviceWaiting, client.EventRolledBack, client.EventClock, client.EventPerson:
		m.alarm(e)
	case client.EventDelayed: // an event for each attempt: the first time counts
		if m.waits.IsZero() {
			m.waits = e.Time
		}
		if m.online {
			m.link = fmt.Sprintf("waiting since %s: %s", m.p.Local(m.waits).Format("15:04"), cli.OneLine(cli.Plain(e.Err).Error()))
		}
	case client.EventAccepted, client.EventWon:
		if !m.waits.IsZero() && m.online {
			m.waits, m.link = time.Time{}, "connected"
		}
	case client.EventDevices:
		m.say(cli.DeviceName(e.Device)+" was enrolled or revoked: 'mlsfed devices' lists your devices", false)
	default:
		if text := changeText(e); text != "" {
			m.remark(e.Conversation, e.Time, ownCommands(text))
		}
	}
}

// alarm shows what a person must not miss: in the conversation where it happened, or in the one that is shown.
func (m *model) alarm(e client.Event) {
	text, id := cli.OneLine("WARNING: "+ownCommands(people.Warning(e))), e.Conversation
	if id == "" {
		id = m.current
	}
	m.append(id, remark{time: e.Time, text: text, alarm: true})
	m.said, m.failed, m.noted = text, true, true
}

func (m *model) remark(id wire.ConversationID, at time.Time, lines ...string) {
	for _, text := range lines {
		m.append(id, remark{time: at, text: cli.OneLine(text)})
	}
}

func (m *model) append(id wire.ConversationID, r remark) {
	m.kept, r.time = nil, m.p.Local(r.time)
	list := append(m.remarks[id], r)
	m.remarks[id] = list[max(0, len(list)-maxRemarks):]
}

// key handles a key.
func (m *model) key(k tea.KeyMsg) tea.Cmd {
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
			line = "/" + line // a text that begins with one slash
		}
		return m.entered(line)
	case tea.KeyCtrlL:
		return tea.ClearScreen
	case tea.KeyCtrlG:
		return m.goTo("")
	case tea.KeyEsc:
		if len(m.input.text) == 0 {
			m.scroll, m.search = 0, searchState{}
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
			m.most += pageSize
			return m.look()
		}
	case tea.KeyPgDown:
		m.scrollBy(-max(m.height-5, 1))
	default:
		m.input.key(k)
	}
	return nil
}

func (m *model) scrollBy(lines int) {
	m.scroll = max(0, min(m.scroll+lines, len(m.lines(m.middleWidth()))-m.bodyHeight()))
}

// move goes to another conversation.
func (m *model) move(by int) tea.Cmd {
	if len(m.list) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(m.list, func(c client.Conversation) bool { return c.ID == m.current }))
	m.open(m.list[(i+by+len(m.list))%len(m.list)].ID)
	return m.look()
}

func (m *model) open(id wire.ConversationID) {
	if id == m.current {
		m.scroll = 0
		return
	}
	m.current, m.messages, m.members, m.progress, m.scroll, m.most, m.older = id, nil, nil, nil, 0, pageSize, false
	m.kept, m.broken, m.opened, m.fresh, m.news, m.search, m.jump = nil, nil, make(map[uint64]bool), true, 0, searchState{}, 0
}

// conversation returns the current conversation, nil if there is none.
func (m *model) conversation() *client.Conversation {
	i := slices.IndexFunc(m.list, func(c client.Conversation) bool { return c.ID == m.current })
	if i < 0 {
		return nil
	}
	return &m.list[i]
}
