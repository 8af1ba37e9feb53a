package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// The organizations of the demonstration.
const (
	orgA wire.Domain = "a.example"
	orgB wire.Domain = "b.example"
	orgC wire.Domain = "c.example"
)

// demo is a federation, the people in it, and what they have said.
type demo struct {
	out  io.Writer
	opts demoOptions
	dir  string

	log     *slog.Logger
	logFile *os.File // nil for none

	life     context.Context // of those who watch the devices
	die      context.CancelFunc
	watchers sync.WaitGroup

	world *cluster.Cluster
	id    wire.ConversationID

	alice, laptop, bob, carol *participant
	simulated                 []*participant

	mu       sync.Mutex // guards what follows
	traffics []*traffic
	said     []*remark
	alarms   []string
}

// participant is a device of the demonstration.
type participant struct {
	*client.Device
	id   wire.DeviceID
	name string // "alice/phone"

	mu  sync.Mutex // guards what follows
	out bool       // not in the conversation
	saw []client.Event
}

// remark is one message, and who has to have it: the devices that were members when it was sent.
type remark struct {
	by   *participant
	id   client.MessageID
	text string // of a file: its caption
	owed []*participant
}

// demoTiming makes devices do soon what else they do in their own time.
func demoTiming() client.Timing {
	return client.Timing{
		Proposals: 200 * time.Millisecond, Contest: 200 * time.Millisecond, Receipts: 50 * time.Millisecond,
		RetryFirst: 50 * time.Millisecond, RetryLast: 500 * time.Millisecond,
	}
}

// everybody are all devices.
func (d *demo) everybody() []*participant {
	return append([]*participant{d.alice, d.laptop, d.bob, d.carol}, d.simulated...)
}

// members are those that are in the conversation.
func (d *demo) members() []*participant {
	return slices.DeleteFunc(d.everybody(), func(p *participant) bool { return p.isOut() })
}

func (p *participant) isOut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out
}

func (p *participant) setOut(out bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = out
}

// of are the members of some organizations.
func (d *demo) of(domains ...wire.Domain) []*participant {
	return slices.DeleteFunc(d.members(), func(p *participant) bool { return !slices.Contains(domains, p.id.Organization()) })
}

// bytes is what all devices have sent and received.
func (d *demo) bytes() (sent, received uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.traffics {
		s, r := t.bytes()
		sent, received = sent+s, received+r
	}
	return sent, received
}

// start founds the organizations and runs their nodes.
func (d *demo) start(ctx context.Context) (string, error) {
	o := cluster.Options{Edit: roomForMany, Logger: d.log, Client: func(c *client.Options) {
		t := newTraffic(c.Transport)
		c.Transport, c.Timing, c.Suite = t, demoTiming(), d.opts.suite
		c.Limits.KeyPackages = 10
		d.mu.Lock()
		defer d.mu.Unlock()
		d.traffics = append(d.traffics, t)
	}}
	var err error
	if d.world, err = cluster.New(d.dir, o, orgA, orgB, orgC); err != nil {
		return "", err
	}
	if err := d.world.StartAll(ctx); err != nil {
		return "", err
	}
	for _, org := range []wire.Domain{orgA, orgB, orgC} {
		if err := d.linked(ctx, org); err != nil {
			return "", err
		}
	}
	return "a.example, b.example, c.example: a node each, linked by mutual TLS", nil
}

// roomForMany lets a node serve many devices that come from one address and are added at once.
func roomForMany(c *config.Config) {
	c.Gateway.Sessions, c.Gateway.SessionsAddress = 2*maxDemoMembers, 2*maxDemoMembers
	c.Directory.ClaimBurst = 2 * maxDemoMembers
}

// linked waits until a node has links with both others.
func (d *demo) linked(ctx context.Context, org wire.Domain) error {
	for {
		s, err := d.status(ctx, org)
		if err != nil {
			return err
		}
		if up := linksUp(s); up >= 2 {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("the node of %s finds no other: %w", org, err)
		}
	}
}

func linksUp(s *node.Status) int {
	up := 0
	for _, p := range s.Peers.Peers {
		if !p.Own && slices.ContainsFunc(p.Nodes, func(n federation.NodeStatus) bool { return n.Connected }) {
			up++
		}
	}
	return up
}

// status asks a node as 'mlsfed status' does.
func (d *demo) status(ctx context.Context, org wire.Domain) (*node.Status, error) {
	cfg, err := loadConfig(d.world.File(org))
	if err != nil {
		return nil, err
	}
	return newControl(cfg).status(ctx)
}

func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join enrols a device.
func (d *demo) join(ctx context.Context, link client.Invitation, name string) (*participant, error) {
	id, err := link.DeviceID(name)
	if err != nil {
		return nil, err
	}
	v, err := d.world.Enrol(ctx, link, name)
	if err != nil {
		return nil, err
	}
	p := &participant{Device: v, id: id, name: id.User().Name() + "/" + name, out: true}
	events := v.Subscribe(d.life)
	d.watchers.Go(func() { d.watch(p, events) })
	return p, nil
}

// watch notes what a device tells, for the steps to look at, and alarms.
func (d *demo) watch(p *participant, events func(func(client.Event) bool)) {
	for e := range events {
		switch e.Type {
		case client.EventWon, client.EventLost, client.EventLeft, client.EventJoined:
			p.mu.Lock()
			p.saw = append(p.saw, e)
			p.mu.Unlock()
		case client.EventDivergence, client.EventTrust, client.EventPoison, client.EventBroken, client.EventGap, client.EventFailed,
			client.EventUndelivered, client.EventUnreadable, client.EventMissed:
			d.mu.Lock()
			d.alarms = append(d.alarms, fmt.Sprintf("%s: %v: %v", p.name, e.Type, e.Err))
			d.mu.Unlock()
		}
	}
}

// clear forgets what a device has told so far.
func (p *participant) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saw = nil
}

// find looks for an event since clear.
func (p *participant) find(t client.EventType) (client.Event, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.saw, func(e client.Event) bool { return e.Type == t })
	if i < 0 {
		return client.Event{}, false
	}
	return p.saw[i], true
}

// together does something with some devices at once.
func together(list []*participant, do func(*participant) error) error {
	return spread(len(list), func(i int) error { return do(list[i]) })
}

// spread runs a function on some goroutines, which share out work by their number.
func spread(workers int, do func(worker int) error) error {
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { errs[w] = do(w) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// agree waits until devices are in one state: one epoch, not before one that is named, one authenticator.
func (d *demo) agree(ctx context.Context, list []*participant, from wire.Epoch) (wire.Epoch, error) {
	var epoch wire.Epoch
	var state []byte
	same := false
	for !same {
		same = true
		for i, p := range list {
			c, err := d.await(ctx, p, func(c *client.Conversation) bool { return c.State == client.StateActive && c.Epoch >= from })
			if err != nil {
				return 0, err
			}
			switch {
			case i == 0:
				epoch, state = c.Epoch, c.Authenticator
			case c.Epoch != epoch:
				from, same = max(from, c.Epoch, epoch), false
			case !bytes.Equal(c.Authenticator, state):
				return 0, fmt.Errorf("%s and %s are both in epoch %d, and disagree: authenticators %x and %x", list[0].name, p.name, epoch, state, c.Authenticator)
			}
		}
	}
	return epoch, nil
}

// await waits until a device's view of the conversation is as wanted.
func (d *demo) await(ctx context.Context, p *participant, wanted func(*client.Conversation) bool) (*client.Conversation, error) {
	var c *client.Conversation
	err := cluster.Await(ctx, p.Device, func() (bool, error) {
		var err error
		c, err = p.Conversation(ctx, d.id)
		if wire.CodeOf(err) == wire.UnknownConversation {
			return false, nil // it was not added yet
		}
		return err == nil && wanted(c), err
	})
	if err != nil && c != nil {
		err = fmt.Errorf("%s, %v in epoch %d with %d messages: %w", p.name, c.State, c.Epoch, c.Messages, err)
	} else if err != nil {
		err = fmt.Errorf("%s: %w", p.name, err)
	}
	return c, err
}

// say sends a text, which all present members are to have.
func (d *demo) say(ctx context.Context, p *participant, text string) error {
	owed := d.members()
	id, err := p.SendText(ctx, d.id, text)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	d.note(&remark{by: p, id: id, text: text, owed: owed})
	return nil
}

// note remembers what was said, of one sender in the order of sending.
func (d *demo) note(r *remark) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, r)
}

// heard waits until devices have all that they are to have.
func (d *demo) heard(ctx context.Context, list []*participant) error {
	for _, p := range list {
		want := uint64(len(d.owedTo(p)))
		if _, err := d.await(ctx, p, func(c *client.Conversation) bool { return c.Messages >= want && c.Outgoing == 0 }); err != nil {
			return fmt.Errorf("%w: it waits for %d", err, want)
		}
	}
	return nil
}

func (d *demo) owedTo(p *participant) []*remark {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []*remark
	for _, r := range d.said {
		if slices.Contains(r.owed, p) {
			list = append(list, r)
		}
	}
	return list
}

// end stops everything.
func (d *demo) end() error {
	d.die()
	d.watchers.Wait()
	var err error
	if d.world != nil {
		err = d.world.Close()
	}
	if d.logFile != nil {
		err = errors.Join(err, d.logFile.Close())
	}
	return err
}

// folder is where a device of a visitor keeps its profile.
func (d *demo) folder(name string) string { return filepath.Join(d.dir, name) }
