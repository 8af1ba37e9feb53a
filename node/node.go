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
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// Options are settings that the configuration file does not have.
type Options struct {
	Version string
	Logger  *slog.Logger         // nil: silent
	Now     func() time.Time     // the machine's clock; nil: time.Now
	Elapse  func() time.Duration // the monotonic clock; nil: the machine's
	// After is time.After for the monotonic clock; nil: the machine's.
	After func(time.Duration) <-chan time.Time
}

// Node is one node of an organization. build makes it with all its parts.
type Node struct {
	cfg     *config.Config
	log     *slog.Logger
	now     func() time.Time
	version string
	started time.Time
	pin     string // the SHA-256 of the root that devices must pin, in hexadecimal; "" if the system trusts the gateway's certificate

	stores    *stores
	identity  *organization.Identity
	metrics   *prometheus.Registry
	directory *directory.Directory
	mailbox   mailbox.Box
	past      *pastKeys
	removals  *removals
	expired   *atomic.Uint64 // items that made room before all devices had read them, since the start
	orders    *consensus.Manager
	outbox    *outbox.Outbox
	fed       *federation.Federation
	gateway   *gateway.Gateway
	audit     *auditor
	issuer    directory.Issuer // of the configuration
	held      *held
	delivery  *delivery
	online    *online
	devices   *devices
	router    *router
	alarms    *alarms
	lows      chan directory.Low
	ready     chan struct{} // closed when all parts have started

	sockets sockets
	opened  closers
}

// New opens the data on disk, connects the parts and listens. It starts nothing. Run closes what New opened.
func New(cfg *config.Config, o Options) (n *Node, err error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o.Logger = log
	var opened closers
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	if err := errors.Join(Supported(), checkFormat(cfg.Data)); err != nil {
		return nil, err
	}
	if err := narrow(cfg, log); err != nil {
		return nil, err
	}
	identity, admitted, err := identify(cfg)
	if err != nil {
		return nil, err
	}
	metrics, expired := prometheus.NewRegistry(), new(atomic.Uint64)
	stores, err := openStores(cfg, o, streamQuota(metrics, expired), &opened)
	if err != nil {
		return nil, err
	}
	audit, err := newAuditor(cfg, stores.clock.Now, log)
	if err != nil {
		return nil, err
	}
	b := &builder{cfg: cfg, log: log, version: o.Version, identity: identity, admitted: admitted, stores: stores, audit: audit, opened: &opened, metrics: metrics, expired: expired}
	if n, err = b.build(); err != nil {
		return nil, fmt.Errorf("node %s: %w", cfg.Node, err)
	}
	n.opened = opened
	stores.account.Notify(func(full bool) {
		if full {
			log.Error("the disk is full up to the reserve: nothing is taken from devices and other organizations until there is room", "data", cfg.Data)
		} else {
			log.Info("there is room on the disk again: everything is taken", "data", cfg.Data)
		}
	})
	stores.full.Serve(func(full bool) {
		if full {
			log.Error("the disk is full: nothing is written until there is room again", "data", cfg.Data)
		} else {
			log.Info("there is room on the disk again", "data", cfg.Data)
		}
	})
	n.measure()
	n.measureCosts()
	return n, nil
}

func identify(cfg *config.Config) (*organization.Identity, *organization.Peers, error) {
	id, err := organization.LoadIdentity(cfg.Identity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: 'mlsfed init' makes an identity", err)
	}
	if err != nil {
		return nil, nil, err
	}
	if id.Node != cfg.Node || id.Domain != cfg.Domain {
		return nil, nil, fmt.Errorf("identity in %s is %s of %s, the configuration says %s of %s", cfg.Identity, id.Node, id.Domain, cfg.Node, cfg.Domain)
	}
	admitted, err := organization.OpenPeers(filepath.Join(cfg.Identity, "peers"))
	return id, admitted, err
}

// healthy returns why the node cannot serve, or nil.
func healthy(id *organization.Identity, now time.Time) error {
	if until := id.Certificate().NotAfter; until.Before(now) {
		return fmt.Errorf("the node's certificate ended on %s: mlsfed cert renew", until.Format(time.DateOnly))
	}
	return nil
}

// notes returns conditions that need the operator and do not keep the node from serving.
func notes(orders *consensus.Manager) (lines []string) {
	if stuck := len(orders.NeedRecovery()); stuck > 0 {
		lines = append(lines, fmt.Sprintf("needs recover: %d conversations have no majority of voters with their logs ('mlsfed status' lists them)", stuck))
	}
	return lines
}

// Ready returns a channel that is closed when Run has started all parts.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// GatewayAddress returns the address at which devices reach the node, host:port.
func (n *Node) GatewayAddress() string { return gatewayAddress(n.cfg, n.sockets.gateway) }

// AdminAddress returns the address of the metrics, "" without one.
func (n *Node) AdminAddress() string {
	if n.sockets.admin == nil {
		return ""
	}
	return n.sockets.admin.Addr().String()
}

// reachable replaces the host of an address by localhost if the address means all interfaces.
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

// gatewayTLS returns the TLS settings of the configuration: files, ACME, or the node's own certificate.
func (n *Node) gatewayTLS() (*tls.Config, error) {
	switch t := n.cfg.Gateway.TLS; {
	case t.Certificate != "":
		return gateway.TLSFiles(t.Certificate, t.Key, func(err error) { n.log.Error("gateway's certificate not read again", "error", err) })
	case len(t.ACME) > 0:
		return gateway.ACME(filepath.Join(n.cfg.Data, "acme"), "", t.Email, t.ACME...)
	}
	return n.identity.ServerTLS(), nil
}

// pinOf returns the pin of the root by which devices trust the node's own certificate, "" if the gateway has another
// certificate.
func pinOf(cfg *config.Config, id *organization.Identity) string {
	if t := cfg.Gateway.TLS; t.Certificate != "" || len(t.ACME) > 0 {
		return ""
	}
	root := sha256.Sum256(id.Root.Raw)
	return hex.EncodeToString(root[:])
}

// Run serves until ctx ends, and then stops in order: it drains sessions, transfers leaderships, and writes queued
// data. It returns when all goroutines have ended, and closes what New opened.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.opened.close()) }()
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
	inner := n.startInner(failed) // other parts rely on these parts: they stop last
	links := n.start(failed, "federation", n.fed.Run)
	serves := false
	select {
	case <-n.fed.Ready(): // the address is known from here on
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
	n.stores.full.Stop()
	outer.stop()
	n.transferLeadership()
	inner.stop() // conversations use the links until they are shut down
	links.stop()
	for len(failed) > 0 {
		err = errors.Join(err, <-failed)
	}
	n.audit.note(audit.NodeStopped, byNode(n.cfg.Node), string(n.cfg.Node), nil)
	n.log.Info("node has stopped")
	return err
}

// transferTime bounds the leader transfers at a stop.
const transferTime = 5 * time.Second

func (n *Node) transferLeadership() {
	ctx, cancel := context.WithTimeout(context.Background(), transferTime)
	defer cancel()
	n.orders.TransferLeadership(ctx)
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
				err = errors.New("the part ended by itself")
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
		part{"store", n.stores.store.Run}, part{"directory", n.directory.Run}, part{"consensus", n.orders.Run}, part{"outbox", n.outbox.Run},
		part{"files", n.sweepFiles}, part{"welcomes", func(ctx context.Context) error { return n.held.run(ctx, n.fetch, n.stores.clock.After) }}, part{"clock", n.saveClock}, part{"notices", n.notifyLow}, part{"audit", n.audit.run}, part{"alarms", func(ctx context.Context) error { return n.alarms.run(ctx, n.gateway) }}, part{"issuer", n.useIssuer})
}

func (n *Node) startOuter(failed chan<- error, t *tls.Config) *running {
	parts := []part{
		{"gateway", func(ctx context.Context) error { return n.gateway.Serve(ctx, n.sockets.gateway, t) }},
		{"control", n.serveControl},
	}
	if n.sockets.admin != nil {
		parts = append(parts, part{"admin", func(ctx context.Context) error { return n.gateway.ServeAdmin(ctx, n.sockets.admin) }})
	}
	return n.startAll(failed, parts...)
}

func (n *Node) serveControl(ctx context.Context) error {
	s := &http.Server{Handler: n.control(), ReadHeaderTimeout: 10 * time.Second, ConnContext: withCaller}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(n.sockets.control) }()
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

// sweepFiles removes old files at intervals.
func (n *Node) sweepFiles(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.stores.clock.After(time.Hour):
			if err := errors.Join(n.stores.files.sweep(ctx), n.past.sweep(ctx, n.orders.Conversations()), n.removals.sweep(ctx)); err != nil {
				n.log.Error("old files not removed", "error", err)
			}
			if err := n.router.founded.sweep(ctx, ""); err != nil {
				n.log.Error("founders of conversations not forgotten", "error", err)
			}
		}
	}
}

// notifyLow notifies devices that they are short of KeyPackages.
func (n *Node) notifyLow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-n.lows:
			n.online.low(ctx, l)
		}
	}
}

// fetch fetches a blob of a conversation from another replica.
func (n *Node) fetch(ctx context.Context, id wire.ConversationID, ref wire.BlobRef) error {
	in, err := n.orders.Blob(ctx, id, ref)
	if err != nil {
		return err
	}
	return in.Close()
}
