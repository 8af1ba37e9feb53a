package federation

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/wire"
)

// Federation connects a node to the nodes of other organizations, and to those of its own: links, gossip and calls. It
// is safe for concurrent use.
type Federation struct {
	cfg           Config
	verifier      *organization.Verifier
	metrics       *metrics
	lines         *lines
	faults        *faults
	budgets       *budgets
	breakers      *breakers
	conns         *conns
	admission     *admission.Controller
	links         *links
	state         *linkState
	linking       *linking
	announcements *announcements
	records       *records
	gossip        *gossip
	rumours       rumours
	askRate       *rate.Limiter // of asks over new links
	calls         *callServer
	caller        *callClient
	ownSeeds      []organization.Seed
	instance      uint64 // random, of this run

	// The versions, plus 1, of the allow-list and the records that linking knows; keepLinks alone uses them.
	sawPeers, sawNodes uint64

	ready   chan struct{} // closed when Run listens
	linkNow chan struct{} // holds one: links may have to be opened
	joinNow chan struct{} // holds one: a link is up
	tasks   sync.WaitGroup

	mu        sync.Mutex // guards what follows
	started   bool
	ctx       context.Context             // of Run
	stopping  bool                        // Run waits for its goroutines
	address   string                      // in the node's record
	bound     string                      // of the listener
	own       []byte                      // this node's record
	announced time.Time                   // when it was made
	answered  map[wire.Domain]wire.NodeID // the node of each organization that last answered
	warned    time.Time                   // the last warning that the certificate expires soon
}

// New makes a Federation. It starts nothing.
func New(cfg Config) (*Federation, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, s := range cfg.seeds {
		if err := s.Check(cfg.Identity.Domain); err != nil {
			return nil, wire.Errorf(wire.Malformed, "federation", "%v", err)
		}
	}
	if err := checkNetworks(cfg.AllowNetworks); err != nil {
		return nil, err
	}
	var instance [8]byte
	if _, err := crand.Read(instance[:]); err != nil {
		return nil, fmt.Errorf("federation: %w", err)
	}
	verifier := organization.NewVerifier(cfg.Identity, cfg.Peers, cfg.Clock.Now)
	f := &Federation{
		cfg: cfg, verifier: verifier,
		lines:         newLines(cfg.Logger, cfg.Clock),
		faults:        &faults{own: cfg.Identity.Domain, peers: cfg.Peers, clock: cfg.Clock, by: make(map[wire.Domain]fault)},
		budgets:       &budgets{limits: cfg.Limits, by: make(map[wire.Domain]*budget)},
		breakers:      newBreakers(),
		conns:         newConns(cfg.Limits.Connections),
		admission:     admission.New(cfg.Limits.Admission, cfg.Clock.Now, cfg.Logger),
		links:         &links{self: cfg.Identity.Node, by: make(map[wire.NodeID]*link)},
		linking:       newLinking(cfg),
		askRate:       rate.NewLimiter(rate.Every(cfg.Timers.PushPull), asksAtOnce),
		announcements: &announcements{by: make(map[wire.NodeID]*announcement)},
		records:       newRecords(cfg, verifier),
		ownSeeds:      cfg.seeds,
		instance:      binary.BigEndian.Uint64(instance[:]),
		ready:         make(chan struct{}), linkNow: make(chan struct{}, 1), joinNow: make(chan struct{}, 1),
		answered: make(map[wire.Domain]wire.NodeID),
	}
	if f.ownSeeds == nil {
		if b, err := cfg.Identity.Bundle(); err == nil && b.Domain == cfg.Identity.Domain {
			f.ownSeeds = b.Seeds
		}
	}
	f.state = newLinkState(verifier, f.links, f.lines, cfg.Linked)
	f.gossip, f.calls, f.caller = newGossip(f), newCallServer(f), newCallClient(f)
	f.metrics, err = newMetrics(f, cfg.Registerer)
	return f, err
}

// Run listens, and does the work until ctx ends. It can be called once. All connections are closed when
// it returns.
func (f *Federation) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := f.begin(ctx); err != nil {
		return err
	}
	if err := f.records.load(f.cfg.Dir); err != nil {
		f.cfg.Logger.Warn("starting without known node records", "error", err)
	}
	listen := net.ListenConfig{KeepAliveConfig: tcpKeepAlive(f.cfg.Timers)}
	l, err := listen.Listen(ctx, "tcp", f.cfg.Listen)
	if err != nil {
		return fmt.Errorf("federation: %w", err)
	}
	if err := f.listening(l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	f.cfg.Logger.Info("federation listens", "node", f.cfg.Identity.Node, "on", l.Addr().String(), "address", f.Address())
	run := func(what func(context.Context) error) {
		f.tasks.Go(func() {
			if err := what(ctx); err != nil {
				stop(fmt.Errorf("federation: %w", err))
			}
		})
	}
	run(func(ctx context.Context) error { return f.accept(ctx, l) })
	run(f.calls.run)
	run(f.gossip.run)
	run(f.watch)
	run(f.keepLinks)
	run(f.compare)
	<-ctx.Done()
	err = l.Close()
	f.conns.cut(func(*conn) string { return cutRemoved })
	f.caller.http.CloseIdleConnections()
	f.mu.Lock()
	f.stopping = true
	f.mu.Unlock()
	f.tasks.Wait()
	f.calls.wait()
	err = errors.Join(err, f.records.save(f.cfg.Dir))
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		err = errors.Join(cause, err)
	}
	return err
}

func (f *Federation) begin(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started {
		return errors.New("federation: Run was called twice: make a new Federation")
	}
	f.started, f.ctx = true, ctx
	return nil
}

// context returns the context of Run; before Run, one that has ended.
func (f *Federation) context() context.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}
	return f.ctx
}

// listening makes the node's record for the address at which other nodes reach it.
func (f *Federation) listening(at net.Addr) error {
	address := cmp.Or(f.cfg.Advertise, at.String())
	if err := organization.CheckAddress(address); err != nil {
		return wire.Errorf(wire.Invalid, "federation", "%v: set the address to advertise", err)
	}
	f.mu.Lock()
	f.address, f.bound = address, at.String()
	f.mu.Unlock()
	if err := f.announce(); err != nil {
		return fmt.Errorf("federation: node record: %w", err)
	}
	close(f.ready)
	return nil
}

// Ready is closed when Run listens.
func (f *Federation) Ready() <-chan struct{} { return f.ready }

// Address returns the "host:port" in the node's record; "" before Ready.
func (f *Federation) Address() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.address
}

// Nodes returns the known nodes of an admitted organization, or of the own one, by name: those with a valid record, and
// those that a seed names. An organization that is not admitted has none.
func (f *Federation) Nodes(org wire.Domain) []wire.NodeID {
	if !f.verifier.Admits(org) {
		return nil
	}
	var list []wire.NodeID
	for _, k := range f.records.ofOrganization(org) {
		list = append(list, k.Node)
	}
	if len(list) == 0 || org == f.cfg.Identity.Domain {
		for _, s := range f.seeds(org) {
			list = append(list, s.Node)
		}
	}
	if org == f.cfg.Identity.Domain {
		list = append(list, f.cfg.Identity.Node)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// OrdersOnly reports whether a node's record says that it holds replicas and no devices.
func (f *Federation) OrdersOnly(n wire.NodeID) bool {
	if n == f.cfg.Identity.Node {
		return f.cfg.OrdersOnly
	}
	k := f.records.get(n)
	return k != nil && k.OrdersOnly
}

func (f *Federation) seeds(org wire.Domain) []organization.Seed {
	if org == f.cfg.Identity.Domain {
		return f.ownSeeds
	}
	p, _ := f.cfg.Peers.Get(org)
	return p.Seeds
}

// admitted returns the own organization and then the admitted ones.
func (f *Federation) admitted() []wire.Domain {
	list := []wire.Domain{f.cfg.Identity.Domain}
	for _, p := range f.cfg.Peers.List() {
		if p.State == organization.Admitted && p.Domain != f.cfg.Identity.Domain {
			list = append(list, p.Domain)
		}
	}
	return list
}

func (f *Federation) wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
