package federation

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/door"
	"github.com/mlsfed/mlsfed/wire"
)

// Clock is where a federation and an outbox have the time from. Deadlines of sockets are always by the
// machine's clock.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Handler serves one method. The node from has proved its name and belongs to an admitted organization;
// whether it may do what it asks is the handler's to decide. The body is the handler's until it returns, and
// used again after that. The answer is encoded with wire.Encode; nil is an empty body. An error crosses the
// network as wire.AsError makes it. The context ends with the caller's patience, with the connection, or
// after Timers.Handle.
type Handler func(ctx context.Context, from wire.NodeID, body []byte) (answer any, err error)

// Config is what a Federation is made of. Identity, Peers and Listen are needed.
type Config struct {
	Identity *Identity
	Peers    *Peers
	Listen   string // "host:port" to listen on; port 0 takes a free one
	// Advertise is the "host:port" that the node record names; "" is the address listened on, which must
	// then have a host that others can reach.
	Advertise string
	// OrdersOnly says in the node record that this node holds replicas and no devices: CallOrganization
	// passes it over.
	OrdersOnly bool
	// Seeds are where other nodes of the own organization may be; nil takes those of bundle.json.
	Seeds []Seed
	// AllowNetworks are inner networks in which nodes of any admitted organization may be, at any port. Without them,
	// and besides public addresses, only what bundles name counts.
	AllowNetworks []netip.Prefix
	Dir           string // where known node records are kept over a restart; "": nowhere

	Handlers map[wire.Method]Handler
	// Ordering is given each stream for ordering that another node opened. The stream is closed when it
	// returns. nil refuses them.
	Ordering func(ctx context.Context, from wire.NodeID, conn net.Conn) error
	// Outbox is asked for its lanes by Status. May be nil.
	Outbox *Outbox

	// Linked is told when the link to a node goes up or down, in order for each node; why is "" for one that goes up.
	// It is called on a goroutine of the link, which waits for it. May be nil.
	Linked func(node wire.NodeID, up bool, why string)

	Limits     Limits
	Timers     Timers
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics are published
	Clock      Clock                 // nil: the machine's
	Jitter     func() float64        // from 0 to 1, to spread pauses; nil: math/rand
}

// Limits bound what other nodes can make this one spend. Zero stands for the default, in brackets.
type Limits struct {
	Request int // [1 MiB + 128 KiB] bytes of a call's body, in both directions of calling
	Answer  int // [2 MiB] bytes of an answer

	Calls     float64 // [2,000] calls a second from one organization, in the long run
	CallBurst int     // [8,000] calls at once
	Bytes     float64 // [64 MiB] bytes of calls a second from one organization, in the long run
	ByteBurst int     // [256 MiB] bytes at once
	// Frames of HTTP/2 a second from one organization that are no DATA of at least 1 KiB, and FrameBurst at once, besides
	// one for each KiB sent to it. [8,000, and 32,000]
	Frames     float64
	FrameBurst int
	UnderWay   int // [256] calls of one organization being served at once

	Connections int         // [512] connections from nodes of one organization
	Door        door.Limits // what those cost that have not yet proved who they are

	GossipPackets float64 // [500] packets a second from one organization, in the long run
	GossipBurst   int     // [1,000] packets at once
	GossipBytes   float64 // [4 MiB] bytes of packets a second, and four times that at once
	GossipStreams int     // [8] exchanges of state with one organization at once
	Packet        int     // [16 KiB] bytes of one packet
	State         int     // [4 MiB] bytes of one exchange of state
	Queue         int     // [256] packets that wait for one node; later ones are dropped

	Links   int       // [256] links to nodes of other organizations beyond which this node opens no more
	Dialing int       // [96] links being opened at once
	Redials door.Rate // [5 at once, 5 a second] attempts to open links to nodes that failed three times in a row
	// Answers is how many bytes of records one organization gets as answers to what its nodes ask.
	Answers      float64 // [64 KiB] a second, in the long run
	AnswersBurst int     // [512 KiB] at once

	Record int // [2 KiB] bytes of a node record
	Nodes  int // [64] nodes of one organization
}

// Timers pace a Federation. Zero stands for the default, in brackets.
type Timers struct {
	Handshake time.Duration // [5 s] a connection that has not proved itself by then is dropped
	Dial      time.Duration // [5 s] to reach a node
	Call      time.Duration // [10 s] a call without an answer is given up
	Handle    time.Duration // [30 s] the context of a handler ends
	Stall     time.Duration // [10 s] a frame or a call's body that began must have come whole
	KeepAlive time.Duration // [10 s] how often a silent link is tried; it is dropped after three times that
	RetryMin  time.Duration // [200 ms] the first pause before a node is dialed again; it doubles
	RetryMax  time.Duration // [10 s] the longest pause
	LinkRest  time.Duration // [10 min] the longest pause before a link is opened again; it ends when the node is heard of
	Poll      time.Duration // [250 ms] how often the allow-list and the own certificate are looked at
	Save      time.Duration // [1 s] how long after a change known records are written down

	Gossip   time.Duration // [500 ms] how often news is passed on
	Probe    time.Duration // [2 s] how often a node is asked whether it is alive
	PushPull time.Duration // [30 s] how often records are compared with those of one other node
}

// Defaults are the limits and timers that zero ones stand for. They are those of the configuration that 'mlsfed init'
// writes, and those that docs/federation.md lists: tests compare all three.
func Defaults() (Limits, Timers, OutboxConfig) {
	return Limits{}.withDefaults(), Timers{}.withDefaults(), OutboxConfig{}.withDefaults()
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (l Limits) withDefaults() Limits {
	l.Request = or(l.Request, wire.MaxSessionFrame)
	l.Answer = or(l.Answer, 2<<20)
	l.Calls = or(l.Calls, 2000)
	l.CallBurst = or(l.CallBurst, 8000)
	l.Bytes = or(l.Bytes, 64<<20)
	l.ByteBurst = or(l.ByteBurst, 256<<20)
	l.Frames = or(l.Frames, 8000)
	l.FrameBurst = or(l.FrameBurst, 32_000)
	l.UnderWay = or(l.UnderWay, 256)
	l.Connections = or(l.Connections, 512)
	l.GossipPackets = or(l.GossipPackets, 500)
	l.GossipBurst = or(l.GossipBurst, 1000)
	l.GossipBytes = or(l.GossipBytes, 4<<20)
	l.GossipStreams = or(l.GossipStreams, 8)
	l.Packet = or(l.Packet, 16<<10)
	l.State = or(l.State, 4<<20)
	l.Queue = or(l.Queue, 256)
	l.Links = or(l.Links, 256)
	l.Dialing = or(l.Dialing, 96)
	l.Redials = l.Redials.Or(5, time.Second/5)
	l.Answers = or(l.Answers, 64<<10)
	l.AnswersBurst = or(l.AnswersBurst, 512<<10)
	l.Record = or(l.Record, 2<<10)
	l.Nodes = or(l.Nodes, 64)
	l.Door = l.Door.WithDefaults()
	return l
}

func (t Timers) withDefaults() Timers {
	t.Handshake = or(t.Handshake, 5*time.Second)
	t.Dial = or(t.Dial, 5*time.Second)
	t.Call = or(t.Call, 10*time.Second)
	t.Handle = or(t.Handle, 30*time.Second)
	t.Stall = or(t.Stall, 10*time.Second)
	t.KeepAlive = or(t.KeepAlive, 10*time.Second)
	t.RetryMin = or(t.RetryMin, 200*time.Millisecond)
	t.RetryMax = or(t.RetryMax, 10*time.Second)
	t.LinkRest = or(t.LinkRest, 10*time.Minute)
	t.Poll = or(t.Poll, 250*time.Millisecond)
	t.Save = or(t.Save, time.Second)
	t.Gossip = or(t.Gossip, 500*time.Millisecond)
	t.Probe = or(t.Probe, 2*time.Second)
	t.PushPull = or(t.PushPull, 30*time.Second)
	return t
}

func (c Config) withDefaults() (Config, error) {
	if c.Identity == nil || c.Peers == nil || c.Listen == "" {
		return c, wire.Errorf(wire.Invalid, "federation", "an identity, the list of peers and an address to listen on are needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	c.Limits, c.Timers = c.Limits.withDefaults(), c.Timers.withDefaults()
	return c, nil
}
