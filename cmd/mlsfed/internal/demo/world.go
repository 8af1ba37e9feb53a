package demo

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
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/traffic"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// The organizations of the demonstration.
const (
	orgA wire.Domain = "a.example"
	orgB wire.Domain = "b.example"
	orgC wire.Domain = "c.example"
)

// demo is a federation, the people in it, and the messages that they have sent.
type demo struct {
	out  io.Writer
	opts options
	dir  string

	log     *slog.Logger
	logFile *os.File // nil for none

	life     context.Context // of the goroutines that watch the devices
	die      context.CancelFunc
	watchers sync.WaitGroup

	world *cluster.Cluster
	id    wire.ConversationID

	alice, laptop, bob, carol *participant
	simulated                 []*participant

	mu       sync.Mutex // guards what follows
	traffics []*traffic.Meter
	said     []*remark
	arrivals map[client.MessageID][]time.Time // of each message, at the devices that reported it
	alarms   []string
}

// participant is a device of the demonstration.
type participant struct {
	*client.Device
	id   wire.DeviceID
	name string // "alice/phone"

	mu  sync.Mutex // guards what follows
	out bool       // no member of the conversation
	saw []client.Event
}

// remark is one message, and the devices that must have it: those that were members when it was sent.
type remark struct {
	by   *participant
	id   client.MessageID
	text string // of a file: its caption
	owed []*participant
	sent time.Time // when the sending began; zero where that is not measured
}

// timing returns a timing with which devices act sooner than by default.
func timing() client.Timing {
	return client.Timing{
		Proposals: 200 * time.Millisecond, Contest: 200 * time.Millisecond, Receipts: 50 * time.Millisecond,
		RetryFirst: 50 * time.Millisecond, RetryLast: 500 * time.Millisecond,
	}
}

// everybody returns all devices.
func (d *demo) everybody() []*participant {
	return append([]*participant{d.alice, d.laptop, d.bob, d.carol}, d.simulated...)
}

// members returns the devices that are in the conversation.
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

// of returns the members of some organizations.
func (d *demo) of(domains ...wire.Domain) []*participant {
	return slices.DeleteFunc(d.members(), func(p *participant) bool { return !slices.Contains(domains, p.id.Organization()) })
}

// bytes returns what all devices have sent and received.
func (d *demo) bytes() (sent, received uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.traffics {
		s, r := t.Bytes()
		sent, received = sent+s, received+r
	}
	return sent, received
}

// start founds the organizations and runs their nodes.
func (d *demo) start(ctx context.Context) (string, error) {
	o := cluster.Options{Edit: roomForMany, Logger: d.log, Client: func(c *client.Options) {
		t := traffic.New(c.Transport)
		c.Transport, c.Timing, c.Suite = t, timing(), d.opts.suite
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

// roomForMany sets limits with which a node serves many devices that connect from one address and are added at once.
func roomForMany(c *config.Config) {
	c.Gateway.Sessions, c.Gateway.SessionsAddress = 2*maxMembers, 2*maxMembers
	c.Directory.ClaimBurst = 2 * maxMembers
}

// linked waits until a node has links with both others.
func (d *demo) linked(ctx context.Context, org wire.Domain) error {
	for {
		s, err := d.world.Status(ctx, org)
		if err != nil {
			return err
		}
		if up := linksUp(s); up >= 2 {
			return nil
		}
		if err := cluster.Pause(ctx, 20*time.Millisecond); err != nil {
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

// watch records the events of a device for the steps, and its alarms.
func (d *demo) watch(p *participant, events func(func(client.Event) bool)) {
	for e := range events {
		switch e.Type {
		case client.EventWon, client.EventLost, client.EventLeft, client.EventJoined:
			p.mu.Lock()
			p.saw = append(p.saw, e)
			p.mu.Unlock()
		case client.EventMessage:
			d.mu.Lock()
			if d.arrivals == nil {
				d.arrivals = make(map[client.MessageID][]time.Time)
			}
			d.arrivals[e.Message.ID] = append(d.arrivals[e.Message.ID], time.Now())
			d.mu.Unlock()
		case client.EventDivergence, client.EventTrust, client.EventPoison, client.EventBroken, client.EventGap, client.EventFailed,
			client.EventUndelivered, client.EventUnreadable, client.EventMissed:
			d.mu.Lock()
			d.alarms = append(d.alarms, fmt.Sprintf("%s: %v: %v", p.name, e.Type, e.Err))
			d.mu.Unlock()
		}
	}
}

// clear forgets the events of a device so far.
func (p *participant) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saw = nil
}

// find returns an event since the last clear.
func (p *participant) find(t client.EventType) (client.Event, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.saw, func(e client.Event) bool { return e.Type == t })
	if i < 0 {
		return client.Event{}, false
	}
	return p.saw[i], true
}

// together calls do for some devices at once.
func together(list []*participant, do func(*participant) error) error {
	return cluster.Spread(len(list), func(i int) error { return do(list[i]) })
}

// agree waits until devices are in one state: one epoch, not before from, and one authenticator.
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

// await waits until wanted accepts a device's view of the conversation.
func (d *demo) await(ctx context.Context, p *participant, wanted func(*client.Conversation) bool) (*client.Conversation, error) {
	var c *client.Conversation
	err := cluster.Await(ctx, p.Device, func() (bool, error) {
		var err error
		c, err = p.Conversation(ctx, d.id)
		if wire.CodeOf(err) == wire.UnknownConversation {
			return false, nil // the device was not added yet
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

// say sends a text, which all present members must get.
func (d *demo) say(ctx context.Context, p *participant, text string) error {
	owed, sent := d.members(), time.Now()
	id, err := p.SendText(ctx, d.id, text)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	d.note(&remark{by: p, id: id, text: text, owed: owed, sent: sent})
	return nil
}

// note records a sent message, for each sender in the order of sending.
func (d *demo) note(r *remark) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, r)
}

// heard waits until devices have all messages that they must have.
func (d *demo) heard(ctx context.Context, list []*participant) error {
	for _, p := range list {
		want := uint64(len(d.owedTo(p)))
		if _, err := d.await(ctx, p, func(c *client.Conversation) bool { return c.Messages >= want && c.Outgoing == 0 }); err != nil {
			return fmt.Errorf("%w: it waits for %d", err, want)
		}
	}
	return nil
}

// saidSoFar returns the number of messages so far, for took.
func (d *demo) saidSoFar() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.said)
}

// took describes how long each of the messages after the first some took, from the sending to the last device. A
// message counts when all devices except the sender have reported it.
func (d *demo) took(first int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var each []time.Duration
	for _, r := range d.said[first:] {
		others := len(r.owed)
		if slices.Contains(r.owed, r.by) {
			others--
		}
		if at := d.arrivals[r.id]; !r.sent.IsZero() && len(at) > 0 && len(at) >= others {
			each = append(each, slices.MaxFunc(at, time.Time.Compare).Sub(r.sent))
		}
	}
	if len(each) == 0 {
		return "no single one was measured"
	}
	slices.Sort(each)
	return fmt.Sprintf("half of them within %s, the slowest %s", milliseconds(each[(len(each)-1)/2]), milliseconds(each[len(each)-1]))
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

// folder returns the folder in which a device of the visitor keeps its profile.
func (d *demo) folder(name string) string { return filepath.Join(d.dir, name) }
