package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// builder holds the stores, keys and logs that are open before the parts are built.
type builder struct {
	cfg      *config.Config
	log      *slog.Logger
	version  string
	identity *organization.Identity
	admitted *organization.Peers
	stores   *stores
	audit    *auditor
	metrics  *prometheus.Registry
	expired  *atomic.Uint64
	opened   *closers // gets what build opens
}

// build builds all parts of a node, each complete, in the order in which they need each other: directory and mailbox;
// delivery, which the ordering needs; the ordering; outbox and router; the links to other nodes; the gateway. The
// parts of a later are the exceptions.
func (b *builder) build() (*Node, error) {
	cfg, kept, clock := b.cfg, b.stores.store, b.stores.clock
	ctx := context.Background() // the start is no request
	n := &Node{
		cfg: cfg, log: b.log, now: clock.Now, version: b.version, started: clock.Now(), pin: pinOf(cfg, b.identity),
		stores: b.stores, identity: b.identity, metrics: b.metrics, audit: b.audit, mailbox: kept.Mailbox(), expired: b.expired,
		lows: make(chan directory.Low, 256), ready: make(chan struct{}),
		alarms: newAlarms(kept.Readers(), clock.Now, b.log),
	}
	var err error
	if n.issuer, err = issuerOf(&cfg.OIDC); err != nil {
		return nil, err
	}
	if n.directory, err = b.directory(n.lows); err != nil {
		return nil, err
	}
	readers := newReaders(kept.Readers(), clock.Count)
	feeds := &feeds{n.mailbox, readers, clock}
	n.online = &online{directory: n.directory, feeds: feeds, log: b.log}
	n.devices = &devices{domain: cfg.Domain, directory: n.directory, issuer: issuerState{configured: cfg.OIDC.URL != ""}, feeds: feeds, online: n.online, audit: b.audit}
	n.held = newHeld(b.stores.blobs, n.mailbox, b.log)
	n.past = &pastKeys{kept: kept.Epochs(), most: cfg.Mailbox.PastEpochs}
	n.removals = &removals{kept: kept.Removals(), mailbox: n.mailbox, owners: n.directory.DevicesAt, keys: n.past.keys, now: clock.Count}
	n.delivery = &delivery{
		org: cfg.Domain, store: kept, mailbox: n.mailbox, directory: n.directory, readers: readers, past: n.past, removals: n.removals, held: n.held, log: b.log,
	}
	limits := newLimits(&cfg.Rates, clock.Count)
	network := &network{identity: b.identity, admitted: b.admitted}
	if n.orders, err = b.ordering(n, limits, network); err != nil {
		return nil, err
	}
	n.delivery.orders.is(n.orders)
	founded, err := openFounded(ctx, kept.Founders(), cfg.Quota.Conversations, clock.Count, n.orders.Conversations)
	if err != nil {
		return nil, err
	}
	if n.outbox, err = b.outbox(&lanes{orders: n.orders, net: network, mailbox: n.mailbox, log: b.log}); err != nil {
		return nil, err
	}
	n.router = newRouter(router{
		org: cfg.Domain, witness: cfg.Consensus.Witness, orders: n.orders, mailbox: n.mailbox, store: kept, directory: n.directory, readers: readers,
		past: n.past, removals: n.removals, files: b.stores.files, blobs: b.stores.blobs, outbox: n.outbox, peers: organizationsOf{network},
		refused: refusals(b.metrics, "messages_refused_total", "Messages of other organizations that were not taken, by the reason's code."),
		account: b.stores.account, limits: limits, founded: founded, online: n.online, now: clock.Now,
		shown: func(at wire.Time) wire.Time { return shown(clock, at) }, log: b.log, audit: b.audit, contests: newContests(),
	})
	if n.fed, err = b.federation(n); err != nil {
		return nil, err
	}
	network.fed.is(n.fed)
	if n.sockets, err = listen(cfg, b.opened); err != nil {
		return nil, err
	}
	if n.gateway, err = b.gateway(n); err != nil {
		return nil, err
	}
	n.online.sessions.is(n.gateway)
	return n, nil
}

func (b *builder) directory(lows chan<- directory.Low) (*directory.Directory, error) {
	c := directoryLimits(&b.cfg.Directory)
	c.Domain, c.CA, c.Clock, c.Count = b.cfg.Domain, authority{b.identity}, day{b.stores.clock}, b.stores.clock.Count
	c.Low = func(l directory.Low) {
		select {
		case lows <- l:
		default: // the queue is full: the next claim reports again
		}
	}
	c.Report = func(err error) { b.log.Error("directory", "error", err) }
	return directory.New(b.stores.store.Records(), c)
}

// ordering builds the ordering of conversations.
func (b *builder) ordering(n *Node, admits *limits, network *network) (*consensus.Manager, error) {
	fresh, noted := restored(b.cfg.Data)
	var consumer consensus.Consumer = n.delivery
	owns := (&ownership{directory: n.directory, mailbox: n.mailbox}).owns
	if b.cfg.OrdersOnly {
		consumer, owns = nil, nil // no device here reads entries
	}
	timers, limits := orderLimits(b.cfg)
	orders, err := consensus.New(consensus.Config{
		Node: b.cfg.Node, Dir: filepath.Join(b.cfg.Data, orderFolder), Log: b.stores.log, Blobs: blob.Wire{Store: b.stores.blobs}, Holds: n.held.has,
		Account: orderAccount{b.stores.account}, Admission: admits, Owns: owns,
		Link: network, Roster: network, Consumer: consumer, Logger: b.log, Now: n.now,
		Public: machine.MLSRules{Config: mlscore.PublicConfig{Auth: new(anyCredential), Intake: mlscore.Intake{Strict: true}, Suites: mlscore.EarlierSuites()}},
		Timers: timers, Limits: limits,
		Refused:  refusals(b.metrics, "submissions_refused_total", "Submissions refused before any work was done for them, by the reason's code."),
		Restored: fresh,
		Alarm:    n.alarms.quarantined,
		Suspect:  n.alarms.suspect,
	})
	if err != nil {
		return nil, err
	}
	return orders, noted()
}

func (b *builder) outbox(l *lanes) (*outbox.Outbox, error) {
	c := outboxLimits(&b.cfg.Federation)
	c.Link, c.Dropped, c.Clock = l, l.dropped, counting{b.stores.clock}
	c.Logger, c.Registerer = b.log, b.metrics
	return outbox.New(b.stores.store.Lanes(), c)
}

func (b *builder) federation(n *Node) (*federation.Federation, error) {
	c := &b.cfg.Federation
	limits, timers := federationLimits(c)
	l := &links{node: b.cfg.Node, audit: b.audit, outbox: n.outbox, orders: n.orders}
	return federation.New(federation.Config{
		Identity: b.identity, Peers: b.admitted, Listen: c.Listen, Advertise: c.Advertise, OrdersOnly: b.cfg.OrdersOnly,
		Dir: filepath.Join(b.cfg.Data, linksFolder), Clock: day{b.stores.clock},
		AllowNetworks: c.Networks(),
		Linked:        l.changed,
		Handlers:      n.router.calls(), Ordering: n.orders.Accept, Lanes: n.outbox.Lanes, Logger: b.log, Registerer: b.metrics,
		Limits: limits, Timers: timers,
	})
}

func (b *builder) gateway(n *Node) (*gateway.Gateway, error) {
	provider, err := provision(b.cfg, &accounts{domain: b.cfg.Domain, directory: n.directory, online: n.online, audit: b.audit}, b.log)
	if err != nil {
		return nil, err
	}
	address := n.GatewayAddress()
	c := gatewayLimits(&b.cfg.Gateway)
	c.Node, c.Organization = b.cfg.Node, wire.Organization{Domain: b.cfg.Domain, Root: b.identity.Root.Raw}
	c.Devices, c.Service, c.Feeds, c.Log, c.Features = n.devices, n.router, n.devices.feeds, b.log, features
	c.Alarms = func(ctx context.Context, d wire.DeviceID) []wire.Alarm { return n.alarms.of(ctx, n.orders, d) }
	c.Clock, c.Day = counting{b.stores.clock}, n.now
	c.Registerer, c.Gatherer = b.metrics, b.metrics
	c.Ready = func() error { return healthy(b.identity, n.now()) }
	c.Notes = func() []string { return notes(n.orders) }
	c.Issuer, c.Provision = n.devices, provider
	c.WellKnown = func() any { return wellKnown(b.cfg.Domain, address, n.pin) }
	c.Version, c.Origins = map[string]string{"version": b.version, "node": string(b.cfg.Node)}, b.cfg.Gateway.Origins
	return gateway.New(c)
}

// logged returns the entries that the log of a conversation still has.
func (r *router) logged(id wire.ConversationID) ([]wire.Committed, error) {
	list, _, err := r.orders.Entries(id, 0, math.MaxInt, math.MaxInt)
	return list, err
}

// sockets are the open sockets of a node.
type sockets struct {
	gateway net.Listener
	admin   net.Listener // nil: none
	control net.Listener
}

// listen opens the sockets, so that their addresses are known before Run.
func listen(cfg *config.Config, opened *closers) (s sockets, err error) {
	open := func(key, address string) (net.Listener, error) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		opened.add(closeListener(l))
		return l, nil
	}
	if s.gateway, err = open("gateway.listen", cfg.Gateway.Listen); err != nil {
		return s, err
	}
	if cfg.Admin.Listen != "" {
		if s.admin, err = open("admin.listen", cfg.Admin.Listen); err != nil {
			return s, err
		}
	}
	if s.control, err = listenControl(cfg.Admin.Socket); err != nil {
		return s, err
	}
	opened.add(closeListener(s.control))
	return s, nil
}

// closeListener returns a function that closes a listener that its server may have closed.
func closeListener(l net.Listener) func() error {
	return func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// gatewayAddress returns the address at which devices reach the node.
func gatewayAddress(cfg *config.Config, l net.Listener) string {
	if cfg.Gateway.Public != "" {
		return cfg.Gateway.Public
	}
	return reachable(l.Addr().String())
}

// closers holds the close functions of open parts.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

// close closes in reverse order.
func (c closers) close() error {
	var errs []error
	for i := len(c) - 1; i >= 0; i-- {
		errs = append(errs, c[i]())
	}
	return errors.Join(errs...)
}
