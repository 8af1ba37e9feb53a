package consensus

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// faultyConsumer panics, fails or blocks at the entries of one conversation.
type faultyConsumer struct {
	*memConsumer
	at      wire.ConversationID
	panics  atomic.Bool
	blocked atomic.Pointer[chan struct{}]
}

func (c *faultyConsumer) Consume(ctx context.Context, d Delivery) error {
	if blocked := c.blocked.Load(); blocked != nil && strings.HasPrefix(string(d.Conversation), string(c.at)) {
		select {
		case <-*blocked:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if d.Conversation == c.at && c.panics.Load() {
		var list []int
		_ = list[d.Committed.Sequence] //nolint:staticcheck // the panic is wanted
	}
	return c.memConsumer.Consume(ctx, d)
}

// alarms collects the alarms of a node.
type alarms struct {
	mu   sync.Mutex // guards list
	list []Reason
}

func (a *alarms) add(_ wire.ConversationID, q Quarantine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, q.Reason)
}

func (a *alarms) got() []Reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Reason{}, a.list...)
}

// TestQuarantine checks that a panic in the work for one conversation ends this node's service of that conversation
// only, until an operator releases it, and that the other replicas continue without it.
func TestQuarantine(t *testing.T) {
	const other = wire.ConversationID("another conversation")
	heard := &alarms{}
	bad := &faultyConsumer{at: conv}
	simulate(t, func(cfg *Config) {
		if cfg.Node == nodeA {
			bad.memConsumer = cfg.Consumer.(*memConsumer)
			cfg.Consumer, cfg.Alarm = bad, heard.add
		}
	}, three, func(c *cluster) {
		p, q := c.found(nodeB, conv, wire.Policy{}, "a.example", "b.example", "c.example"), c.found(nodeB, other, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.settled(other, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		a := c.nodes[nodeA]
		c.eventually("it is delivered", func() bool {
			s, err := a.m.Status(conv)
			return err == nil && len(a.consumer.sequences(conv)) == int(s.Sequence)
		})
		stored := len(a.consumer.sequences(conv))
		bad.panics.Store(true)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		c.eventually("the conversation is in quarantine and closed", func() bool {
			s, err := a.m.Status(conv)
			cc, _ := a.m.held(conv)
			return err == nil && s.State == "quarantine" && s.Quarantine.Reason == ReasonPanic && cc.awake() == nil
		})
		if got := heard.got(); len(got) != 1 || got[0] != ReasonPanic || a.m.Quarantines()[ReasonPanic] != 1 || a.m.Counts().Quarantined != 1 {
			t.Fatalf("alarms %v, counts %v", got, a.m.Quarantines())
		}
		refusedEverywhere(t, c, p.Commit(c.id(), 8, wire.DeliveryChange{}))
		entries, _, err := a.m.Entries(conv, 0, 100, 1<<20)
		if err != nil || len(entries) != stored {
			t.Fatalf("%d of %d delivered entries can be read (%v)", len(entries), stored, err)
		}
		p = c.commit(nodeB, p, wire.DeliveryChange{}) // the other nodes are a majority
		q = c.commit(nodeA, q, wire.DeliveryChange{})
		c.eventually("the other conversation is delivered", func() bool {
			list := a.consumer.sequences(other)
			return len(list) > 0 && list[len(list)-1] >= q.Parent
		})

		c.stop(a)
		c.start(a)
		if s, err := a.m.Status(conv); err != nil || s.State != "quarantine" || s.Quarantine.Reason != ReasonPanic || s.Quarantine.Detail == "" {
			t.Fatalf("after a restart: %+v, %v", s, err)
		}
		refusedEverywhere(t, c, p.Commit(c.id(), 8, wire.DeliveryChange{}))
		if err := a.m.Release(other); !errors.Is(err, wire.Invalid) {
			t.Fatalf("release of a conversation that is served: %v", err)
		}
		bad.panics.Store(false)
		if err := a.m.Release(conv); err != nil {
			t.Fatal(err)
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.eventually("all of it is delivered", func() bool {
			list := a.consumer.sequences(conv)
			return len(list) > stored && list[len(list)-1] >= p.Parent
		})
		if got := heard.got(); len(got) != 1 {
			t.Fatalf("alarms %v", got)
		}
	})
}

// refusedEverywhere checks that nodeA serves nothing of conv.
func refusedEverywhere(t *testing.T, c *cluster, e *wire.Envelope) {
	t.Helper()
	a := c.nodes[nodeA].m
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, wire.Unavailable) || !strings.Contains(err.Error(), "quarantine") {
			t.Errorf("%s of a conversation in quarantine: %v", what, err)
		}
	}
	c.eventually("a frame of another node reaches it", func() bool { // after a restart the other node pauses before it dials
		_, err := c.nodes[nodeB].m.mesh.ask(context.Background(), nodeA, &frame{kind: kindWake, conversation: conv})
		return !errors.Is(err, errUnreachable)
	})
	_, err := a.Order(context.Background(), e)
	refused("submission", err)
	_, err = a.Heads(conv)
	refused("heads", err)
	refused("wake", a.Wake(context.Background(), conv))
	refused("recovery", a.Recover(context.Background(), conv, "note"))
	for _, kind := range []frameKind{kindAppend, kindVote, kindPreVote, kindTimeoutNow, kindWake, kindSleep, kindOrder, kindInvite, kindFarewell, kindGone, kindRejoin, kindUnresponsive} {
		f := &frame{kind: kind, conversation: conv}
		err = nil
		switch kind {
		case kindWake, kindSleep:
			f.payload, err = wire.Encode(position{})
		case kindOrder:
			f.payload, err = wire.Encode(e)
		case kindInvite:
			f.payload, err = wire.Encode(&invitation{Members: []wire.NodeID{nodeB}})
		case kindUnresponsive:
			f.payload = []byte(nodeC)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.nodes[nodeB].m.mesh.ask(context.Background(), nodeA, f)
		refused("frame "+string('0'+rune(kind)), err)
	}
	if r := a.receiveBeat(nodeB, &beat{id: conv}); r.err == nil {
		t.Error("a heartbeat is answered")
	} else {
		refused("heartbeat", r.err)
	}
	refused("snapshot", plant(t, c, nodeB, nodeA, conv, 0, 9, 9, three, forgeState(t, xHeader{ID: conv})))
}

// TestSlowConversationsHoldUpNoOther checks that blocked deliveries for more conversations than there are workers
// stop no other conversation, and not the node.
func TestSlowConversationsHoldUpNoOther(t *testing.T) {
	slow := &faultyConsumer{at: "slowness"}
	simulate(t, func(cfg *Config) {
		slow.memConsumer = cfg.Consumer.(*memConsumer)
		cfg.Consumer = slow
	}, []wire.NodeID{nodeA}, func(c *cluster) {
		blocked := make(chan struct{})
		slow.blocked.Store(&blocked)
		for i := range 3 * pumpWorkers {
			c.found(nodeA, wire.ConversationID("slowness "+string(rune('a'+i))), wire.Policy{}, "a.example")
		}
		c.found(nodeA, conv, wire.Policy{}, "a.example")
		c.eventually("the fast one is delivered", func() bool { return len(c.nodes[nodeA].consumer.sequences(conv)) > 0 })
		if n := len(c.nodes[nodeA].consumer.sequences("slowness a")); n != 0 {
			t.Fatalf("%d entries of a slow one", n)
		}
		c.stop(c.nodes[nodeA])
	})
}

// TestPanicInTheStateMachine checks that no replica applies an entry at which the state machine panics, and that the
// state before it is neither used further nor stored as a snapshot.
func TestPanicInTheStateMachine(t *testing.T) {
	simulate(t, nil, []wire.NodeID{nodeA}, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		a := c.nodes[nodeA].m
		cc, err := a.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		l := cc.awake()
		l.fsm.mu.Lock()
		l.fsm.m = nil
		l.fsm.mu.Unlock()
		_, err = a.Order(context.Background(), p.Commit(c.id(), 8, wire.DeliveryChange{}))
		if !errors.Is(err, wire.Unavailable) {
			t.Fatalf("submission: %v", err)
		}
		c.eventually("it is in quarantine and closed", func() bool {
			s, err := a.Status(conv)
			return err == nil && s.State == "quarantine" && cc.awake() == nil
		})
		if err := a.Release(conv); err != nil {
			t.Fatal(err)
		}
		c.commit(nodeA, p, wire.DeliveryChange{}) // from the data on disk
	})
}

// TestBrokenStateIsNotKept checks that Raft gets no snapshot after a panic in Apply.
func TestBrokenStateIsNotKept(t *testing.T) {
	caught := 0
	f := &fsm{id: conv, handlePanic: func(string, any, *error) { caught++ }}
	f.set(machine.New(conv, nil))
	f.m = nil
	f.Apply(raftCommand(t))
	f.m = machine.New(conv, nil)
	if _, err := f.Snapshot(); err == nil || caught != 1 {
		t.Fatalf("%d panics, snapshot: %v", caught, err)
	}
	if out := f.Apply(raftCommand(t)).(machine.Outcome); out.Err == nil || f.index != 0 {
		t.Fatalf("a later entry was applied: %+v", out)
	}
}

func raftCommand(t *testing.T) *raft.Log {
	t.Helper()
	e := author.Create(conv, author.Submission(1), wire.Policy{}, author.Addresses(1, "a.example"))
	b, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: 1, Proposer: nodeA, Envelope: e})
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: b}
}
