//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// device is a client that runs in this process.
type device struct {
	*client.Device
	f    *federation
	id   wire.DeviceID
	org  string
	dir  string
	link client.Invitation
	n    int // in the history

	mu     sync.Mutex // guards what follows
	stops  func() error
	counts map[client.EventType]int
	alarms []string
}

// timing makes clients reconnect sooner than with the defaults.
var timing = client.Timing{RetryFirst: 100 * time.Millisecond, RetryLast: 2 * time.Second, Proposals: time.Second}

// invite creates an invitation by the operator's command, or takes the invitation that docker/up.sh has printed.
func (f *federation) invite(org, user string) client.Invitation {
	f.t.Helper()
	f.mu.Lock()
	printed, ok := f.links[org]
	if ok && printed.User == user {
		delete(f.links, org)
		f.mu.Unlock()
		return printed
	}
	f.mu.Unlock()
	out, err := f.mlsfed(org, "user", "invite", user)
	f.must(err)
	i, err := client.ParseInvitation(out)
	f.must(err)
	return i
}

// enrol creates a device of a user and runs it.
func (f *federation) enrol(org, user, name string) *device {
	f.t.Helper()
	d, err := f.enrolWith(f.ctx, f.invite(org, user), name)
	f.must(err)
	return d
}

// confirm makes devices of one user confirm each other.
func (f *federation) confirm(devices ...*device) {
	f.t.Helper()
	var list []*client.Device
	for _, d := range devices {
		list = append(list, d.Device)
	}
	f.eventually("the devices confirm each other", func() error { return cluster.Confirm(f.ctx, list...) })
}

// enrolWith is enrol with an invitation.
func (f *federation) enrolWith(ctx context.Context, link client.Invitation, name string) (*device, error) {
	id, err := link.DeviceID(name)
	if err != nil {
		return nil, err
	}
	org := string(link.Domain)[:1]
	d := &device{f: f, id: id, org: org, link: link, dir: filepath.Join(f.dir, org+"-"+link.User+"-"+name), counts: make(map[client.EventType]int)}
	f.mu.Lock()
	f.devices = append(f.devices, d)
	d.n = len(f.devices)
	f.mu.Unlock()
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	for {
		err = d.Enrol(ctx, client.Enrolment{Device: id, Code: link.Code, Root: link.Root})
		if wire.CodeOf(err) != wire.Busy || ctx.Err() != nil { // one address has a limit of enrolments a second
			break
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", id, err), d.stop())
	}
	d.start()
	return d, nil
}

// open opens the device's store, and the device in it.
func (d *device) open() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	store, closeStore, err := d.openStore()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(d.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, closeStore())
	}
	closeBoth := func() error { return errors.Join(closeStore(), log.Close()) }
	d.Device, err = client.Open(client.Options{
		Store: store, Transport: &tap{Transport: client.WebSocket(d.link, nil), history: d.f.history, device: d.id, number: d.n}, Timing: timing,
		Log: slog.New(slog.NewTextHandler(log, nil)), Limits: d.f.limits,
	})
	if err != nil {
		return errors.Join(err, closeBoth())
	}
	d.mu.Lock()
	d.stops = closeBoth
	d.mu.Unlock()
	return nil
}

func (d *device) openStore() (client.Store, func() error, error) {
	if d.f.inMemory {
		return mlscore.NewMemoryStore(), func() error { return nil }, nil
	}
	key, err := client.KeyFile(filepath.Join(d.dir, "key"))
	if err != nil {
		return nil, nil, err
	}
	store, err := client.OpenStore(d.dir, key)
	if err != nil {
		return nil, nil, err
	}
	return store, store.Close, nil
}

// runs reports whether the device has not been stopped.
func (d *device) runs() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stops != nil
}

// start runs the device until stop.
func (d *device) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	events := d.Subscribe(ctx)
	running.Go(func() {
		for e := range events {
			d.count(e)
		}
	})
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			d.f.note("%s has ended: %v", d.id, err)
		}
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	closeBoth := d.stops
	d.stops = func() error {
		cancel()
		running.Wait()
		return closeBoth()
	}
}

func (d *device) count(e client.Event) {
	d.mu.Lock()
	d.counts[e.Type]++
	switch e.Type {
	case client.EventDivergence, client.EventPoison, client.EventBroken, client.EventUnreadable, client.EventTrust, client.EventFailed, client.EventGap, client.EventUndelivered:
		d.alarms = append(d.alarms, fmt.Sprintf("%v: %v", e.Type, e.Err))
	}
	d.mu.Unlock()
	switch e.Type {
	case client.EventMessage, client.EventAccepted, client.EventDelivered, client.EventEpoch:
	default:
		d.f.note("%s: %v epoch %d by %s device %s %v", d.id, e.Type, e.Epoch, e.By, e.Device, e.Err)
	}
}

// events returns the number of events of a type.
func (d *device) events(t client.EventType) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[t]
}

// forgive removes alarms of a type that the scenario has caused.
func (d *device) forgive(t client.EventType) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alarms = slices.DeleteFunc(d.alarms, func(text string) bool { return strings.HasPrefix(text, t.String()+":") })
}

// stop ends the device as if its process had ended.
func (d *device) stop() error {
	d.mu.Lock()
	stop := d.stops
	d.stops = nil
	d.mu.Unlock()
	if stop == nil {
		return nil
	}
	return stop()
}

// goOffline ends the device, and comeBack starts it again from its store.
func (d *device) goOffline() {
	d.f.t.Helper()
	d.f.note("%s goes offline", d.id)
	d.f.must(d.stop())
}

func (d *device) comeBack() {
	d.f.t.Helper()
	d.f.note("%s comes back", d.id)
	d.f.must(d.open())
	d.start()
}

func (f *federation) stopDevices() {
	f.mu.Lock()
	list := slices.Clone(f.devices)
	f.mu.Unlock()
	var all sync.WaitGroup
	for _, d := range list {
		all.Go(func() {
			if err := d.stop(); err != nil {
				f.note("%s: %v", d.id, err)
			}
		})
	}
	all.Wait()
}

// conversation is a conversation, with what the judge needs to know about it.
type conversation struct {
	f  *federation
	id wire.ConversationID

	mu      sync.Mutex // guards what follows
	members []*device  // from before the first message to the end
	some    []*device  // were members for a time: they may miss messages, but have no duplicate
	sent    map[wire.DeviceID][]client.MessageID
}

// converse creates a conversation with the users of all devices, and returns when they have joined.
func (f *federation) converse(o client.CreateOptions, creator *device, others ...*device) *conversation {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	id, err := creator.Create(ctx, o)
	f.must(err)
	c := f.talk(id, append([]*device{creator}, others...))
	var users []wire.UserID
	for _, d := range others {
		if u := d.id.User(); u != creator.id.User() && !slices.Contains(users, u) {
			users = append(users, u)
		}
	}
	c.add(creator, users...)
	c.together()
	return c
}

// talk registers a conversation of which these devices are members.
func (f *federation) talk(id wire.ConversationID, members []*device) *conversation {
	c := &conversation{f: f, id: id, members: members, sent: make(map[wire.DeviceID][]client.MessageID)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.talks = append(f.talks, c)
	return c
}

// add adds users. Devices that were just enrolled may not have uploaded KeyPackages yet: then add tries again.
func (c *conversation) add(by *device, users ...wire.UserID) {
	c.f.t.Helper()
	if len(users) == 0 {
		return
	}
	c.f.within("users are added", 3*time.Minute, func() error {
		err := by.Add(c.f.ctx, c.id, users...)
		code := wire.CodeOf(err)
		late := errors.Is(err, context.DeadlineExceeded) && c.f.ctx.Err() == nil // a busy node
		if err != nil && code != wire.NoneLeft && code != wire.NotFound && !late {
			c.f.must(err)
		}
		return err
	})
}

// together returns when all members see each other.
func (c *conversation) together() {
	c.f.t.Helper()
	c.mu.Lock()
	members := slices.Clone(c.members)
	c.mu.Unlock()
	c.f.eventually("members have joined", func() error {
		for _, d := range members {
			v, err := d.Conversation(c.f.ctx, c.id)
			if err != nil {
				return fmt.Errorf("%s: %w", d.id, err)
			}
			if v.State != client.StateActive || v.Members < len(members) {
				return fmt.Errorf("%s is %v and sees %d members of %d", d.id, v.State, v.Members, len(members))
			}
		}
		return nil
	})
}

// say sends a text. It returns when it is in the device's store.
func (c *conversation) say(d *device, format string, args ...any) client.MessageID {
	c.f.t.Helper()
	m, err := c.trySay(c.f.ctx, d, fmt.Sprintf(format, args...))
	c.f.must(err)
	return m
}

func (c *conversation) trySay(ctx context.Context, d *device, text string) (client.MessageID, error) {
	m, err := d.SendText(ctx, c.id, text)
	if err == nil {
		c.mu.Lock()
		c.sent[d.id] = append(c.sent[d.id], m)
		c.mu.Unlock()
	}
	return m, err
}

// forATime registers devices that are not members from beginning to end.
func (c *conversation) forATime(list ...*device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range list {
		c.members = slices.DeleteFunc(c.members, func(m *device) bool { return m == d })
		if !slices.Contains(c.some, d) {
			c.some = append(c.some, d)
		}
	}
}

// history returns all messages of the conversation that a device has, oldest first.
func (c *conversation) history(d *device) ([]client.Message, error) { return c.historyOf(c.f.ctx, d) }

func (c *conversation) historyOf(ctx context.Context, d *device) ([]client.Message, error) {
	var all []client.Message
	q := client.Query{Forward: true, Limit: client.MaxPage}
	for {
		p, err := d.History(ctx, c.id, q)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Messages...)
		if !p.More {
			return all, nil
		}
		q.After = p.Next
	}
}

// has returns when a device has a message.
func (c *conversation) has(d *device, ids ...client.MessageID) {
	c.f.t.Helper()
	c.f.eventually(fmt.Sprintf("%s has the messages", d.id), func() error {
		list, err := c.history(d)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !slices.ContainsFunc(list, func(m client.Message) bool { return m.ID == id }) {
				return fmt.Errorf("%v is not there, of %d messages", id, len(list))
			}
		}
		return nil
	})
}

// load is the activity while faults are injected.
type load struct {
	stopped chan struct{}
	all     sync.WaitGroup
	cancel  context.CancelFunc
	c       *conversation
}

// busy makes devices send and commit repeatedly, each operation after the previous one and a pause. stop ends the
// load and returns when nothing is pending.
func (c *conversation) busy(pause time.Duration, talkers, committers []*device) *load {
	ctx, cancel := context.WithCancel(c.f.ctx)
	l := &load{stopped: make(chan struct{}), cancel: cancel, c: c}
	for _, d := range talkers {
		l.all.Go(func() {
			for i := 0; l.rest(ctx, pause); i++ {
				if _, err := c.trySay(ctx, d, fmt.Sprintf("%s %d", d.id, i)); err != nil && ctx.Err() == nil {
					c.f.note("%s cannot say: %v", d.id, err)
				}
			}
		})
	}
	for _, d := range committers {
		l.all.Go(func() {
			for l.rest(ctx, pause) {
				if err := d.UpdateKeys(ctx, c.id); err != nil && ctx.Err() == nil {
					c.f.note("%s cannot commit: %v", d.id, err)
				}
			}
		})
	}
	return l
}

func (l *load) rest(ctx context.Context, pause time.Duration) bool {
	select {
	case <-l.stopped:
		return false
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// stop ends the load and waits for pending operations.
func (l *load) stop() {
	l.c.f.t.Helper()
	close(l.stopped)
	done := make(chan struct{})
	go func() { l.all.Wait(); close(done) }()
	select {
	case <-done:
		l.cancel()
	case <-time.After(90 * time.Second * patience()):
		l.cancel()
		<-done
		l.c.f.must(errors.New("commits that were begun under load have not ended 90 s after it"))
	}
}
