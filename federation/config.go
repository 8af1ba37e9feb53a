package federation

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// Handler serves one method. The node from has proved its name and belongs to an admitted organization. The handler
// decides whether the node may make this call. The body is valid until the handler returns. The answer is encoded with
// wire.Encode; nil is an empty body. An error is sent as wire.AsError converts it. The context ends when the caller
// stops waiting, with the connection, or after Timers.Handle.
type Handler func(ctx context.Context, from wire.NodeID, body []byte) (answer any, err error)

// Config has the parameters of a Federation. Identity, Peers and Listen are needed.
type Config struct {
	Identity *organization.Identity
	Peers    *organization.Peers
	Listen   string // "host:port" to listen on; port 0 takes a free one
	// Advertise is the "host:port" that the node record names; "" is the address listened on, which must
	// then have a host that others can reach.
	Advertise string
	// OrdersOnly says in the node record that this node holds replicas and no devices: CallOrganization
	// passes it over.
	OrdersOnly bool
	// seeds has addresses of other nodes of the own organization; nil takes those of bundle.json. Tests set it.
	seeds []organization.Seed
	// AllowNetworks are internal networks in which nodes of any admitted organization may be, at any port. All other
	// internal addresses are refused, unless a bundle names them.
	AllowNetworks []netip.Prefix
	Dir           string // the folder of known node records, for the next start; "": none

	Handlers map[wire.Method]Handler
	// Ordering serves each stream for ordering that another node opens. The stream is closed when Ordering returns. nil
	// refuses such streams.
	Ordering func(ctx context.Context, from wire.NodeID, conn net.Conn) error
	// Lanes describes what waits for other organizations, for Status. May be nil.
	Lanes func() []outbox.LaneStatus

	// Linked is called when the link to a node goes up or down, in order for each node; why is "" for a link that
	// goes up. It is called on a goroutine of the link, which waits for it. May be nil.
	Linked func(node wire.NodeID, up bool, why string)

	Limits     Limits
	Timers     Timers
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics are published
	Clock      clock.Source          // nil: the machine's
	jitter     func() float64        // from 0 to 1, to spread pauses; nil: math/rand
}

// Limits bound the resources that other nodes can make this node spend. Zero means the default, in brackets.
type Limits struct {
	Request int // [1 MiB + 128 KiB] bytes of a call's body, in both directions of calling
	Answer  int // [2 MiB] bytes of an answer

	Calls     float64 // [2,000] calls a second from one organization, in the long run
	CallBurst int     // [8,000] calls at once
	Bytes     float64 // [64 MiB] bytes of calls a second from one organization, in the long run
	ByteBurst int     // [256 MiB] bytes at once
	// Frames of HTTP/2 a second from one organization that are no DATA of at least 1 KiB, and FrameBurst at once. Each
	// KiB that this node sends to the organization allows one more. [8,000, and 32,000]
	Frames     float64
	FrameBurst int
	UnderWay   int // [256] calls of one organization being served at once

	Connections int              // [512] connections from nodes of one organization
	Admission   admission.Limits // the cost of unauthenticated connections

	GossipPackets float64 // [500] packets a second from one organization, in the long run
	GossipBurst   int     // [1,000] packets at once
	GossipBytes   float64 // [4 MiB] bytes of packets a second, and four times that at once
	GossipStreams int     // [8] exchanges of state with one organization at once
	Packet        int     // [16 KiB] bytes of one packet
	State         int     // [4 MiB] bytes of one exchange of state
	Queue         int     // [256] packets that wait for one node; later ones are dropped

	Links   int              // [256] links to nodes of other organizations beyond which this node opens no more
	Dialing int              // [96] links being opened at once
	Redials tokenbucket.Rate // [5 at once, 5 a second] attempts to open links to nodes that failed three times in a row
	// Answers is how many bytes of records one organization gets as answers to what its nodes ask.
	Answers      float64 // [64 KiB] a second, in the long run
	AnswersBurst int     // [512 KiB] at once

	Record int // [2 KiB] bytes of a node record
	Nodes  int // [64] nodes of one organization
}

// Timers pace a Federation. Zero means the default, in brackets.
type Timers struct {
	Handshake time.Duration // [5 s] an unauthenticated connection is closed after this time
	Dial      time.Duration // [5 s] to reach a node
	Call      time.Duration // [10 s] a call without an answer is given up
	Handle    time.Duration // [30 s] the context of a handler ends
	Stall     time.Duration // [10 s] a frame or a call's body that began must have come whole
	KeepAlive time.Duration // [10 s] how often an idle link is probed; it is closed after three times that
	RetryMin  time.Duration // [200 ms] the first pause before a node is dialed again; it doubles
	RetryMax  time.Duration // [10 s] the longest pause
	LinkRest  time.Duration // [10 min] the longest pause before a link is opened again; any sign of life of the node ends it
	Poll      time.Duration // [250 ms] how often the allow-list and the own certificate are checked
	Save      time.Duration // [1 s] how long after a change known records are written

	Gossip   time.Duration // [500 ms] how often news is passed on
	Probe    time.Duration // [2 s] how often a node is asked whether it is alive
	PushPull time.Duration // [30 s] how often records are compared with those of one other node
}

// Defaults returns the limits and timers that zero ones mean. They are those of the configuration that 'mlsfed init'
// writes, and those in docs/spec/federation.md: tests compare all three.
func Defaults() (Limits, Timers) { return Limits{}.withDefaults(), Timers{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	l.Request = cmp.Or(l.Request, wire.MaxSessionFrame)
	l.Answer = cmp.Or(l.Answer, 2<<20)
	l.Calls = cmp.Or(l.Calls, 2000)
	l.CallBurst = cmp.Or(l.CallBurst, 8000)
	l.Bytes = cmp.Or(l.Bytes, 64<<20)
	l.ByteBurst = cmp.Or(l.ByteBurst, 256<<20)
	l.Frames = cmp.Or(l.Frames, 8000)
	l.FrameBurst = cmp.Or(l.FrameBurst, 32_000)
	l.UnderWay = cmp.Or(l.UnderWay, 256)
	l.Connections = cmp.Or(l.Connections, 512)
	l.GossipPackets = cmp.Or(l.GossipPackets, 500)
	l.GossipBurst = cmp.Or(l.GossipBurst, 1000)
	l.GossipBytes = cmp.Or(l.GossipBytes, 4<<20)
	l.GossipStreams = cmp.Or(l.GossipStreams, 8)
	l.Packet = cmp.Or(l.Packet, 16<<10)
	l.State = cmp.Or(l.State, 4<<20)
	l.Queue = cmp.Or(l.Queue, 256)
	l.Links = cmp.Or(l.Links, 256)
	l.Dialing = cmp.Or(l.Dialing, 96)
	l.Redials = l.Redials.Or(5, time.Second/5)
	l.Answers = cmp.Or(l.Answers, 64<<10)
	l.AnswersBurst = cmp.Or(l.AnswersBurst, 512<<10)
	l.Record = cmp.Or(l.Record, 2<<10)
	l.Nodes = cmp.Or(l.Nodes, 64)
	l.Admission = l.Admission.WithDefaults()
	return l
}

func (t Timers) withDefaults() Timers {
	t.Handshake = cmp.Or(t.Handshake, 5*time.Second)
	t.Dial = cmp.Or(t.Dial, 5*time.Second)
	t.Call = cmp.Or(t.Call, 10*time.Second)
	t.Handle = cmp.Or(t.Handle, 30*time.Second)
	t.Stall = cmp.Or(t.Stall, 10*time.Second)
	t.KeepAlive = cmp.Or(t.KeepAlive, 10*time.Second)
	t.RetryMin = cmp.Or(t.RetryMin, 200*time.Millisecond)
	t.RetryMax = cmp.Or(t.RetryMax, 10*time.Second)
	t.LinkRest = cmp.Or(t.LinkRest, 10*time.Minute)
	t.Poll = cmp.Or(t.Poll, 250*time.Millisecond)
	t.Save = cmp.Or(t.Save, time.Second)
	t.Gossip = cmp.Or(t.Gossip, 500*time.Millisecond)
	t.Probe = cmp.Or(t.Probe, 2*time.Second)
	t.PushPull = cmp.Or(t.PushPull, 30*time.Second)
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
		c.Clock = clock.System{}
	}
	if c.jitter == nil {
		c.jitter = rand.Float64
	}
	c.Limits, c.Timers = c.Limits.withDefaults(), c.Timers.withDefaults()
	return c, nil
}
