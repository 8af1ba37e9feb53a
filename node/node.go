package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/audit"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// Options are what a configuration file does not say.
type Options struct {
	Version string
	Logger  *slog.Logger         // nil: silent
	Now     func() time.Time     // the machine's clock; nil: time.Now
	Elapse  func() time.Duration // the monotonic clock; nil: the machine's
}

// Node is one node of an organization.
type Node struct {
	cfg     *config.Config
	log     *slog.Logger
	now     func() time.Time
	version string
	started time.Time
	pin     string

	stores     *stores
	identity   *federation.Identity
	peers      *federation.Peers
	metrics    *prometheus.Registry
	directory  *directory.Directory
	mail       *mailbox.Mailbox
	past       *pastKeys
	orders     *consensus.Manager
	outbox     *federation.Outbox
	fed        *federation.Federation
	gateway    *gateway.Gateway
	audit      *auditor
	issuer     directory.Issuer // of the configuration
	held       *held
	delivery   *delivery
	online     *online
	devices    *devices
	router     *router
	lows       chan directory.Low
	alarmed    chan wire.Alarm
	suspicions suspicions
	ready      chan struct{} // closed when all parts have been started

	listener net.Listener // of the gateway
	admin    net.Listener // nil: none
	socket   net.Listener // of the control
}

// New opens what is on disk, joins the parts and listens. It starts nothing; Run closes what New opened.
func New(cfg *config.Config, o Options) (n *Node, err error) {
	n = &Node{cfg: cfg, log: o.Logger, version: o.Version, metrics: prometheus.NewRegistry(), lows: make(chan directory.Low, 256), alarmed: make(chan wire.Alarm, 256), ready: make(chan struct{})}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
			n = nil
		}
	}()
	if err := narrow(cfg, n.log); err != nil {
		return n, err
	}
	if err := n.identify(); err != nil {
		return n, err
	}
	if n.stores, err = openStores(cfg, o); err != nil {
		return n, err
	}
	n.now = n.stores.clock.Now
	n.started = n.now()
	if n.audit, err = newAuditor(cfg, n.now, n.log); err != nil {
		return n, err
	}
	for _, step := range []func() error{n.makeDirectory, n.makeMail, n.makeOrders, n.makeFederation, n.makeGateway, n.listen} {
		if err := step(); err != nil {
			return n, fmt.Errorf("node %s: %w", cfg.Node, err)
		}
	}
	n.stores.account.Notify(func(full bool) {
		if full {
			n.log.Error("the disk is full up to the reserve: nothing is taken from devices and other organizations until there is room", "data", cfg.Data)
		} else {
			n.log.Info("there is room on the disk again: everything is taken", "data", cfg.Data)
		}
	})
	n.stores.full.serve(func(full bool) {
		if full {
			n.log.Error("the disk is full: nothing is written until there is room again", "data", cfg.Data)
		} else {
			n.log.Info("there is room on the disk again", "data", cfg.Data)
		}
	})
	n.measure()
	n.measureCosts()
	return n, nil
}

func (n *Node) identify() (err error) {
	n.identity, err = federation.LoadIdentity(n.cfg.Identity)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: 'mlsfed init' makes an identity", err)
	}
	if err != nil {
		return err
	}
	if n.identity.Node != n.cfg.Node || n.identity.Domain != n.cfg.Domain {
		return fmt.Errorf("identity in %s is %s of %s, the configuration says %s of %s", n.cfg.Identity, n.identity.Node, n.identity.Domain, n.cfg.Node, n.cfg.Domain)
	}
	n.peers, err = federation.OpenPeers(filepath.Join(n.cfg.Identity, "peers"))
	return err
}

func (n *Node) makeDirectory() (err error) {
	c := directoryLimits(&n.cfg.Directory)
	c.Domain, c.CA, c.Clock, c.Count = n.cfg.Domain, authority{n.identity}, day{n.stores.clock}, n.stores.clock.Count
	c.Low = func(l directory.Low) {
		select {
		case n.lows <- l:
		default: // so many at once that the next claim will tell again
		}
	}
	c.Report = func(err error) { n.log.Error("directory", "error", err) }
	n.directory, err = directory.New(n.stores.db, prefixDirectory, c)
	return err
}

func (n *Node) makeMail() (err error) {
	c := &n.cfg.Mailbox
	box := mailboxLimits(c)
	box.Writer, box.Clock, box.Count = n.stores.writer, counting{n.stores.clock}, n.streamQuota()
	box.Report = func(err error) { n.log.Error("mailbox", "error", err) }
	n.mail = mailbox.New(n.stores.db, prefixMailbox, box)
	n.past = &pastKeys{db: n.stores.db, prefix: prefixPastKeys, most: c.PastEpochs, log: func(id wire.ConversationID) ([]wire.Committed, error) {
		list, _, err := n.orders.Entries(id, 0, math.MaxInt, math.MaxInt)
		return list, err
	}}
	streams := newStreams(n.stores.db, prefixStreams, n.stores.clock.Count)
	m := &mail{n.mail, streams, n.stores.clock}
	n.online = &online{directory: n.directory, mail: m, disconnect: func(d wire.DeviceID) { n.gateway.Disconnect(d) }, log: n.log}
	if n.issuer, err = issuerOf(&n.cfg.OIDC); err != nil {
		return err
	}
	n.devices = &devices{domain: n.cfg.Domain, directory: n.directory, mail: m, online: n.online, audit: n.audit}
	n.devices.issuer.configured = n.cfg.OIDC.URL != ""
	n.held = newHeld(n.stores.blobs, n.mail, n.log, func(ctx context.Context, id wire.ConversationID, ref wire.BlobRef) error {
		in, err := n.orders.Blob(ctx, id, ref)
		if err != nil {
			return err
		}
		return in.Close()
	})
	n.delivery = &delivery{held: n.held, org: n.cfg.Domain, mail: n.mail, directory: n.directory, streams: streams, past: n.past, log: n.log, contested: n.contestedList}
	n.router = &router{
		org: n.cfg.Domain, witness: n.cfg.Consensus.Witness, mail: n.mail, directory: n.directory, streams: streams, files: n.stores.files, blobs: n.stores.blobs,
		past: n.past, refused: n.refusals("messages_refused_total", "Messages of other organizations that were not taken, by the reason's code."),
		peers: organizationsOf{n}, online: n.online, now: n.now, shown: func(at wire.Time) wire.Time { return shown(n.stores.clock, at) }, log: n.log, audit: n.audit, account: n.stores.account, limits: newLimits(&n.cfg.Rates, n.stores.clock.Count),
	}
	n.router.route()
	return nil
}

func (n *Node) makeGateway() (err error) {
	c := gatewayLimits(&n.cfg.Gateway)
	c.Node, c.Organization = n.cfg.Node, wire.Organization{Domain: n.cfg.Domain, Root: n.identity.Root.Raw}
	c.Devices, c.Service, c.Mail, c.Log, c.Features, c.Alarms = n.devices, n.router, n.devices.mail, n.log, features, n.alarms
	c.Clock, c.Day = counting{n.stores.clock}, n.now
	c.Registerer, c.Gatherer, c.Ready = n.metrics, n.metrics, n.healthy
	c.Notes = n.notes
	c.Issuer, c.WellKnown = n.devices, n.wellKnown
	if c.Provision, err = n.provision(); err != nil {
		return err
	}
	c.Version, c.Origins = map[string]string{"version": n.version, "node": string(n.cfg.Node)}, n.cfg.Gateway.Origins
	n.gateway, err = gateway.New(c)
	return err
}

// healthy says why the node cannot serve.
func (n *Node) healthy() error {
	if until := n.identity.Certificate().NotAfter; until.Before(n.now()) {
		return fmt.Errorf("the node's certificate ended on %s: mlsfed cert renew", until.Format(time.DateOnly))
	}
	return nil
}

// notes says what does not keep the node from serving, and needs the operator.
func (n *Node) notes() (lines []string) {
	if stuck := len(n.orders.NeedRecovery()); stuck > 0 {
		lines = append(lines, fmt.Sprintf("needs recover: %d conversations have no majority of voters with their logs ('mlsfed status' lists them)", stuck))
	}
	return lines
}

// listen opens the sockets, so that their addresses are known before Run.
func (n *Node) listen() (err error) {
	if n.listener, err = net.Listen("tcp", n.cfg.Gateway.Listen); err != nil {
		return fmt.Errorf("gateway.listen: %w", err)
	}
	if n.cfg.Admin.Listen != "" {
		if n.admin, err = net.Listen("tcp", n.cfg.Admin.Listen); err != nil {
			return fmt.Errorf("admin.listen: %w", err)
		}
	}
	n.socket, err = listenControl(n.cfg.Admin.Socket)
	return err
}

// Ready is closed when Run has started all parts.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// GatewayAddress is where devices reach the node, host:port.
func (n *Node) GatewayAddress() string {
	if n.cfg.Gateway.Public != "" {
		return n.cfg.Gateway.Public
	}
	return reachable(n.listener.Addr().String())
}

// AdminAddress is where metrics are, "" for nowhere.
func (n *Node) AdminAddress() string {
	if n.admin == nil {
		return ""
	}
	return n.admin.Addr().String()
}

// reachable names this machine where an address is that of all its interfaces.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// gatewayTLS is by the configuration: files, ACME, or the node's own certificate, which devices trust by
// the root that their invitation names.
func (n *Node) gatewayTLS() (*tls.Config, error) {
	switch t := n.cfg.Gateway.TLS; {
	case t.Certificate != "":
		return gateway.TLSFiles(t.Certificate, t.Key, func(err error) { n.log.Error("gateway's certificate not read again", "error", err) })
	case len(t.ACME) > 0:
		return gateway.ACME(filepath.Join(n.cfg.Data, "acme"), "", t.Email, t.ACME...)
	}
	root := sha256.Sum256(n.identity.Root.Raw)
	n.pin = hex.EncodeToString(root[:])
	return n.identity.ServerTLS(), nil
}

// Run serves until ctx ends, then stops in good order: sessions are drained, leadership is handed over,
// and what is queued is written. It returns when all goroutines have ended, and closes what New opened.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.close()) }()
	serve, err := n.gatewayTLS()
	if err != nil {
		return err
	}
	if n.devices.issuer.configured {
		if err := n.askIssuer(ctx, issuerStart); err != nil {
			n.log.Warn("the login service does not answer: the node starts without it", "issuer", n.cfg.OIDC.URL, "error", err)
		}
	}
	failed := make(chan error, 16)
	inner := n.startInner(failed) // what others rely on: it stops last
	links := n.start(failed, "federation", n.fed.Run)
	serves := false
	select {
	case <-n.fed.Ready(): // its address is known from here on
		serves = true
	case <-ctx.Done():
	case err := <-failed:
		failed <- err
	}
	n.audit.note(audit.NodeStarted, byNode(n.cfg.Node), string(n.cfg.Node), map[string]string{"version": n.version})
	outer := n.startOuter(failed, serve)
	close(n.ready)
	if serves {
		n.log.Info("node serves", "node", n.cfg.Node, "gateway", n.GatewayAddress(), "federation", n.fed.Address(), "version", n.version)
	}

	select {
	case <-ctx.Done():
	case err = <-failed:
		n.log.Error("node stops: a part has failed", "error", err)
	}
	n.log.Info("node stops")
	n.stores.full.stop()
	outer.stop()
	n.handOver()
	inner.stop() // conversations speak through the links until they are shut down
	links.stop()
	for len(failed) > 0 {
		err = errors.Join(err, <-failed)
	}
	n.audit.note(audit.NodeStopped, byNode(n.cfg.Node), string(n.cfg.Node), nil)
	n.log.Info("node has stopped")
	return err
}

// handOverTime is how long leaderships are handed over at a stop.
const handOverTime = 5 * time.Second

func (n *Node) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	n.orders.HandOver(ctx)
}

// running are parts that stop together.
type running struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
}

func (r *running) stop() {
	r.cancel()
	r.all.Wait()
}

type part struct {
	name string
	run  func(context.Context) error
}

func (n *Node) startAll(failed chan<- error, parts ...part) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel}
	for _, p := range parts {
		r.all.Go(func() {
			err := p.run(ctx)
			if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
				err = nil
			}
			if err == nil && ctx.Err() == nil {
				err = errors.New("it ended by itself")
			}
			if err != nil {
				failed <- fmt.Errorf("%s: %w", p.name, err)
			}
		})
	}
	return r
}

func (n *Node) start(failed chan<- error, name string, run func(context.Context) error) *running {
	return n.startAll(failed, part{name, run})
}

func (n *Node) startInner(failed chan<- error) *running {
	return n.startAll(failed,
		part{"writer", n.stores.writer.Run}, part{"mailbox", n.mail.Run}, part{"directory", n.directory.Run}, part{"consensus", n.orders.Run}, part{"outbox", n.outbox.Run},
		part{"files", n.sweepFiles}, part{"welcomes", n.held.run}, part{"clock", n.saveClock}, part{"notices", n.tellLow}, part{"audit", n.audit.run}, part{"alarms", n.tellAlarms}, part{"issuer", n.useIssuer})
}

func (n *Node) startOuter(failed chan<- error, t *tls.Config) *running {
	parts := []part{
		{"gateway", func(ctx context.Context) error { return n.gateway.Serve(ctx, n.listener, t) }},
		{"control", n.serveControl},
	}
	if n.admin != nil {
		parts = append(parts, part{"admin", func(ctx context.Context) error { return n.gateway.ServeAdmin(ctx, n.admin) }})
	}
	return n.startAll(failed, parts...)
}

func (n *Node) serveControl(ctx context.Context) error {
	s := &http.Server{Handler: n.control(), ReadHeaderTimeout: 10 * time.Second, ConnContext: withCaller}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(n.socket) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.Shutdown(stop)
	<-ended
	return errors.Join(err, s.Close())
}

// sweepFiles removes old files now and then.
func (n *Node) sweepFiles(ctx context.Context) error {
	for tick := time.NewTicker(time.Hour); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
			if err := errors.Join(n.stores.files.sweep(), n.past.sweep(n.orders.Conversations())); err != nil {
				n.log.Error("old files not removed", "error", err)
			}
			if err := n.router.founded.sweep(""); err != nil {
				n.log.Error("founders of conversations not forgotten", "error", err)
			}
		}
	}
}

// tellLow tells devices that they are short of KeyPackages.
func (n *Node) tellLow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-n.lows:
			n.online.low(ctx, l)
		}
	}
}

// close closes what New opened and nobody has closed.
func (n *Node) close() error {
	var errs []error
	for _, l := range []net.Listener{n.listener, n.admin, n.socket} {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.stores != nil {
		errs = append(errs, n.stores.close())
	}
	return errors.Join(errs...)
}
