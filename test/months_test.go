package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

const (
	oneDay     = 24 * time.Hour
	actsAtOnce = 4 // between two steps of the calendar
)

// TestLongMonths lets real devices and nodes live through 90 days of a calendar that the test moves. Devices go away
// for up to 90 days and come back, users are added and removed meanwhile, members commit, nodes restart, and the
// shares of the mailboxes are so small that they fill. It checks that at the end each member follows its conversation,
// that each other device reports why it does not, and that no accepted message is missing on the device of a member
// without a gap event there or a notice at the sender.
func TestLongMonths(t *testing.T) {
	seed, walks := uint64(1), 1
	if os.Getenv("MLSFED_LONG") == "full" {
		seed, walks = uint64(time.Now().UnixNano()), 12
	}
	if s, err := strconv.ParseUint(os.Getenv("MLSFED_SEED"), 10, 64); err == nil {
		seed, walks = s, 1
	}
	for n := range uint64(walks) {
		t.Run(fmt.Sprint(seed+n), func(t *testing.T) { walkMonths(t, seed+n) })
	}
}

// months is one walk.
type months struct {
	t         *testing.T
	r         *rand.Rand
	cal       *calendar
	c         *cluster.Cluster
	travelers []*traveler
	rooms     []*monthsRoom
	said      int
	done      map[string]int // what has happened, and how often
	listening sync.WaitGroup

	mu      sync.Mutex // guards what follows
	emitted []emittedEvent
}

// traveler is a device that goes away and comes back.
type traveler struct {
	org        wire.Domain
	user, name string
	device     *client.Device // nil while the device is away
	life       *life
	back       time.Duration // when it comes back, by the calendar
}

func (k *traveler) id() wire.DeviceID {
	return wire.DeviceID("mimi://" + string(k.org) + "/d/" + k.user + "/" + k.name)
}

// monthsRoom is a conversation of a walk. core are users that nobody removes.
type monthsRoom struct {
	id     wire.ConversationID
	core   []wire.UserID
	guests []wire.UserID
	public bool
}

// emittedEvent is an event that a device has emitted, and its time by the calendar.
type emittedEvent struct {
	client.Event
	device wire.DeviceID
	at     time.Time
}

func walkMonths(t *testing.T, seed uint64) {
	t.Logf("MLSFED_SEED=%d repeats the choices of this walk", seed)
	w := &months{t: t, r: rand.New(rand.NewPCG(seed, 90)), cal: newCalendar(), done: make(map[string]int)}
	o := cluster.Options{
		Edit: func(c *config.Config) {
			c.Mailbox.Items, c.Gateway.EnrolPerMinute, c.Gateway.ConnectPerSec = 90, 1e6, 1e4
		},
		Client: func(o *client.Options) { o.Limits.KeyPackages, o.Limits.Inline = 10, 1500 },
	}
	w.cal.use(&o)
	w.c = newClusterIn(t, t.TempDir(), o, "a.example", "b.example", "c.example")
	defer w.end()
	w.enrol()
	w.found()
	renewed := false
	for day := 0; day < 90; {
		for range actsAtOnce {
			w.act()
		}
		pass := 1 + w.r.IntN(5)
		w.settle()
		w.cal.pass(time.Duration(pass) * oneDay)
		w.tend()
		if day += pass; day > 45 && !renewed {
			renewed = true
			for _, d := range soakDomains { // as the operators do
				if err := organization.RenewNode(w.c.Config(d).Identity, w.cal.Now()); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.comeBack(false)
	}
	w.comeBack(true)
	w.judge()
	t.Logf("90 days: %v", w.done)
}

func (w *months) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(w.t.Context(), time.Minute)
}

func (w *months) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// enrol creates the devices. Two users have two.
func (w *months) enrol() {
	ctx, cancel := w.context()
	defer cancel()
	byUser := make(map[string][]*client.Device)
	for _, v := range []struct{ org, user, name string }{
		{"a.example", "alice", "phone"}, {"a.example", "alice", "laptop"}, {"b.example", "bob", "phone"}, {"b.example", "bob", "tablet"},
		{"c.example", "carol", "phone"}, {"b.example", "dora", "phone"}, {"a.example", "erin", "phone"}, {"c.example", "frank", "phone"},
	} {
		k := &traveler{org: wire.Domain(v.org), user: v.user, name: v.name, life: newLife()}
		k.life.watch()
		link, err := w.c.Invite(ctx, k.org, k.user)
		w.must(err)
		k.device, err = w.c.Enrol(ctx, link, k.name, k.life.apply)
		w.must(err)
		w.listen(k)
		w.must(k.device.Tend(ctx))
		w.travelers = append(w.travelers, k)
		byUser[k.user] = append(byUser[k.user], k.device)
	}
	for _, list := range byUser {
		w.must(cluster.Confirm(ctx, list...))
	}
}

// listen keeps the events of a device that matter for the verdict.
func (w *months) listen(k *traveler) {
	next := k.device.Subscribe(k.life.ended)
	k.life.watch()
	w.listening.Go(func() {
		for e := range next {
			switch e.Type {
			case client.EventGap, client.EventBroken, client.EventUnreadable, client.EventPoison, client.EventUndelivered,
				client.EventAdded, client.EventRemoved, client.EventJoined, client.EventLeft, client.EventFailed:
				w.mu.Lock()
				w.emitted = append(w.emitted, emittedEvent{e, k.id(), w.cal.Now()})
				w.mu.Unlock()
			case client.EventDivergence, client.EventTrust, client.EventRolledBack, client.EventMissed, client.EventClock:
				w.t.Errorf("%s in %v: %v: %v", k.id(), e.Conversation, e.Type, e.Err)
			}
		}
	})
}

// found creates the conversations.
func (w *months) found() {
	ctx, cancel := w.context()
	defer cancel()
	for n, v := range []struct{ core, guests []wire.UserID }{
		{[]wire.UserID{"mimi://b.example/u/bob", "mimi://c.example/u/carol"}, []wire.UserID{"mimi://b.example/u/dora", "mimi://a.example/u/erin"}},
		{[]wire.UserID{"mimi://b.example/u/dora", "mimi://c.example/u/frank"}, []wire.UserID{"mimi://b.example/u/bob", "mimi://c.example/u/carol"}},
		{[]wire.UserID{"mimi://b.example/u/bob", "mimi://a.example/u/erin"}, []wire.UserID{"mimi://c.example/u/frank", "mimi://b.example/u/dora"}},
	} {
		m := &monthsRoom{core: v.core, guests: v.guests, public: n == 2}
		founder := w.travelers[0].device
		var err error
		m.id, err = founder.Create(ctx, client.CreateOptions{Name: fmt.Sprint("Room ", n), MembersRemove: true, PublicHandshakes: m.public, Admins: m.core})
		w.must(err)
		add(ctx, w.t, founder, m.id, m.core...)
		w.rooms = append(w.rooms, m)
	}
	w.settle()
}

// online returns the devices that are not away, in a fixed order.
func (w *months) online() (list []*traveler) {
	for _, k := range w.travelers {
		if k.device != nil {
			list = append(list, k)
		}
	}
	return list
}

// act does one thing.
func (w *months) act() {
	online := w.online()
	if len(online) == 0 {
		return
	}
	k, m := online[w.r.IntN(len(online))], w.rooms[w.r.IntN(len(w.rooms))]
	n := w.r.IntN(100)
	state, err := k.device.Conversation(w.t.Context(), m.id)
	member := err == nil && state.State == client.StateActive
	switch {
	case n < 12:
		if len(online) > 3 {
			w.leaveFor(k, []int{1, 3, 10, 20, 29, 31, 45, 60, 90}[w.r.IntN(9)])
		}
	case n < 15:
		d := soakDomains[w.r.IntN(len(soakDomains))]
		w.must(w.c.Stop(d))
		w.must(w.c.Start(w.t.Context(), d))
		w.done["restarts"]++
	case !member:
	case n < 60:
		for range 1 + w.r.IntN(8) {
			w.said++
			_, err := k.device.SendText(w.t.Context(), m.id, fmt.Sprint("text ", w.said))
			w.tried("texts", err)
		}
	case n < 75:
		ctx, cancel := w.context()
		defer cancel()
		w.tried("commits", k.device.UpdateKeys(ctx, m.id))
	default:
		w.guest(k, m)
	}
}

// tried counts an act. A refusal with a code is no fault.
func (w *months) tried(what string, err error) {
	switch {
	case err == nil:
		w.done[what]++
	case wire.CodeOf(err) == "" || errors.Is(err, context.DeadlineExceeded):
		w.t.Errorf("%s: %v", what, err)
	default:
		w.done[what+": "+string(wire.CodeOf(err))]++
	}
}

// guest adds a guest, or removes one.
func (w *months) guest(k *traveler, m *monthsRoom) {
	ctx, cancel := w.context()
	defer cancel()
	g := m.guests[w.r.IntN(len(m.guests))]
	in, err := k.device.Members(ctx, m.id)
	if err != nil || g == k.id().User() {
		return
	}
	if slices.ContainsFunc(in, func(v client.Member) bool { return v.User == g }) {
		w.tried("removals", k.device.Remove(ctx, m.id, g))
	} else {
		w.tried("additions", k.device.Add(ctx, m.id, g))
	}
}

func (w *months) leaveFor(k *traveler, days int) {
	w.must(w.c.StopDevice(k.device))
	k.life.over()
	k.device, k.back = nil, w.cal.Elapse()+time.Duration(days)*oneDay
	w.done[fmt.Sprintf("absences of %d days", days)]++
}

// comeBack starts the devices whose absence is over, or all.
func (w *months) comeBack(all bool) {
	for _, k := range w.travelers {
		if k.device != nil || !all && k.back > w.cal.Elapse() {
			continue
		}
		k.life = newLife()
		var err error
		k.device, err = w.c.Resume(k.org, k.user, k.name, k.life.apply)
		w.must(err)
		w.listen(k)
	}
}

// settle waits until all devices that are online have taken in what their organizations have for them, and have sent
// what waits.
func (w *months) settle() {
	ctx, cancel := w.context()
	defer cancel()
	for _, k := range w.online() {
		if err := k.device.CatchUp(ctx); err != nil {
			w.t.Errorf("%s does not catch up: %v: %s", k.id(), err, w.states(k))
			continue
		}
		for _, m := range w.rooms {
			if err := cluster.Await(ctx, k.device, func() (bool, error) {
				v, err := k.device.Conversation(ctx, m.id)
				return err != nil || v.Outgoing == 0 || v.State != client.StateActive, ignore(err, wire.UnknownConversation)
			}); err != nil {
				w.t.Errorf("%s: messages are not accepted: %v: %s", k.id(), err, w.states(k))
			}
		}
	}
}

// tend makes all devices that are online do their upkeep.
func (w *months) tend() {
	ctx, cancel := w.context()
	defer cancel()
	for _, k := range w.online() {
		if err := k.device.Tend(ctx); err != nil && wire.CodeOf(err) == "" {
			w.t.Errorf("upkeep of %s: %v", k.id(), err)
		}
	}
}

// states describes what a device reports of its conversations.
func (w *months) states(k *traveler) (text string) {
	for n, m := range w.rooms {
		v, err := k.device.Conversation(w.t.Context(), m.id)
		if err != nil {
			text += fmt.Sprintf("room %d: %v; ", n, err)
			continue
		}
		text += fmt.Sprintf("room %d: %v in epoch %d after entry %d, %d members, %d wait, why %q; ", n, v.State, v.Epoch, v.Sequence, v.Members, v.Outgoing, v.Why)
	}
	return text
}

func (w *months) end() {
	for _, k := range w.travelers {
		k.life.over()
	}
	w.listening.Wait()
}
