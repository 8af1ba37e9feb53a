package node

import (
	"context"
	"crypto"
	"crypto/x509"
	"io"
	"math"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/door"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// awakeMemory is quota.memory, of which 0 stands for no limit.
func awakeMemory(cfg *config.Config) int {
	if cfg.Quota.Memory == 0 {
		return math.MaxInt
	}
	return int(cfg.Quota.Memory)
}

// makeOrders makes the ordering of conversations. Its network is the federation, which is made after it.
func (n *Node) makeOrders() (err error) {
	c := &n.cfg.Consensus
	fresh, noted := restored(n.cfg.Data)
	var consumer consensus.Consumer = n.delivery
	owns := n.router.owns
	if n.cfg.OrdersOnly {
		consumer, owns = nil, nil // nobody here reads entries
	}
	timers, limits := orderLimits(c)
	limits.Awake = awakeMemory(n.cfg)
	n.orders, err = consensus.New(consensus.Config{
		Node: n.cfg.Node, Dir: filepath.Join(n.cfg.Data, orderFolder), Log: n.stores.log, Blobs: blob.Wire{Store: n.stores.blobs}, Holds: n.held.has,
		Account: orderAccount{n.stores.account}, Admission: n.router.limits, Owns: owns,
		Link: n, Roster: n, Consumer: consumer, Logger: n.log, Now: n.now,
		Public: machine.MLSRules{Config: mlscore.PublicConfig{Auth: new(anyCredential), Intake: mlscore.Intake{Strict: true}, Suites: mlscore.EarlierSuites()}},
		Timers: timers, Limits: limits,
		Refused:  n.refusals("submissions_refused_total", "Submissions refused before any work was done for them, by the reason's code."),
		Restored: fresh,
		Alarm:    n.alarm,
		Suspect:  n.suspect,
	})
	if err != nil {
		return err
	}
	if err := noted(); err != nil {
		return err
	}
	n.router.orders = n.orders
	n.router.founded, err = openFounded(n.stores.db, prefixFounded, n.cfg.Quota.Conversations, n.stores.clock.Count)
	if err != nil {
		return err
	}
	n.router.founded.held = func() map[wire.ConversationID]bool {
		held := make(map[wire.ConversationID]bool)
		for _, id := range n.orders.Conversations() {
			held[id] = true
		}
		return held
	}
	return n.router.founded.sweep("")
}

func (n *Node) makeFederation() (err error) {
	c := &n.cfg.Federation
	n.router.lanes = &lanes{orders: n.orders}
	waiting := outboxLimits(c)
	waiting.Send, waiting.Dropped, waiting.Writer, waiting.Clock = n.router.lanes.send, n.router.dropped, n.stores.writer, counting{n.stores.clock}
	waiting.Logger, waiting.Registerer = n.log, n.metrics
	n.outbox, err = federation.NewOutbox(n.stores.db, prefixOutbox, waiting)
	if err != nil {
		return err
	}
	limits, timers := federationLimits(c)
	n.fed, err = federation.New(federation.Config{
		Identity: n.identity, Peers: n.peers, Listen: c.Listen, Advertise: c.Advertise, OrdersOnly: n.cfg.OrdersOnly, Dir: filepath.Join(n.cfg.Data, linksFolder), Clock: day{n.stores.clock},
		AllowNetworks: c.Networks(),
		Linked:        n.linked,
		Handlers:      n.router.calls(), Ordering: n.orders.Accept, Outbox: n.outbox, Logger: n.log, Registerer: n.metrics,
		Limits: limits, Timers: timers,
	})
	if err != nil {
		return err
	}
	n.router.lanes.outbox, n.router.lanes.notify = n.outbox, n.fed.Notify
	return nil
}

// strangers are the bounds of a door.
func strangers(c *config.Strangers) door.Limits {
	return door.Limits{
		Unproved: c.Unproved, Failures: door.Rate{Burst: c.Failures, Every: every(c.FailuresPerMinute / 60)},
		ShutFirst: c.ShutFirst.Std(), ShutLast: c.ShutLast.Std(),
		Slowed: door.Rate{Burst: int(2 * c.SlowedPerSecond), Every: every(c.SlowedPerSecond)},
	}
}

// every is the pause of a rate; 0, and so the default, for none.
func every(perSecond float64) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / perSecond)
}

// anyCredential accepts what MLS itself allows: replicas must all come to one judgement, so they look at
// no clock and no roots; members check certificates.
type anyCredential struct{ mlscore.X509Authenticator }

// ValidateCredential accepts every x509 credential; that its key is the leaf's is checked elsewhere.
func (*anyCredential) ValidateCredential(c mlscore.Credential, _ []byte, _ mlscore.CredentialUse) error {
	if c.Type != mlscore.CredentialX509 {
		return wire.Errorf(wire.Invalid, "credential", "of type %#04x, wanted x509", uint16(c.Type))
	}
	return nil
}

// authority is the organization's, or stands for one whose key is kept elsewhere.
type authority struct{ id *federation.Identity }

// Certificate is the organization's root.
func (a authority) Certificate() *x509.Certificate { return a.id.Root }

// Signer signs for the organization.
func (a authority) Signer() crypto.Signer {
	if a.id.Authority == nil {
		return absentKey{a.id.Root.PublicKey}
	}
	return a.id.Authority.Signer()
}

// absentKey stands for a root key that is not on this machine: nothing can be signed with it.
type absentKey struct{ public crypto.PublicKey }

// Public is the root's.
func (k absentKey) Public() crypto.PublicKey { return k.public }

// Sign refuses.
func (k absentKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, wire.Errorf(wire.Unavailable, "enrol", "the organization's root key is not on this node: devices are enrolled where it is")
}

// organizationsOf is the router's view of the federation.
type organizationsOf struct{ n *Node }

// CallOrganization asks a node of another organization.
func (o organizationsOf) CallOrganization(ctx context.Context, org wire.Domain, method wire.Method, request, response any) error {
	return o.n.fed.CallOrganization(ctx, org, method, request, response)
}

// Organizations are the admitted ones and the own.
func (o organizationsOf) Organizations() []wire.Organization {
	list := []wire.Organization{{Domain: o.n.cfg.Domain, Root: o.n.identity.Root.Raw}}
	for _, p := range o.n.peers.List() {
		root := p.Root
		if p.State != federation.Admitted {
			continue
		}
		list = append(list, wire.Organization{Domain: p.Domain, Root: root.Raw})
	}
	return list
}

// measure registers the node's own figures.
func (n *Node) measure() {
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, fn func() float64) {
		n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "mlsfed", Name: name, Help: help}, fn))
	}
	counter := func(name, help string, fn func() float64) {
		n.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "mlsfed", Name: name, Help: help}, fn))
	}
	gauge("conversations", "Replicas on this node.", func() float64 { return float64(n.orders.Counts().Held) })
	gauge("conversations_awake", "Replicas that are awake.", func() float64 { return float64(n.orders.Counts().Awake) })
	counter("conversation_wakes_total", "Replicas woken.", func() float64 { return float64(n.orders.Counts().Wakes) })
	counter("conversation_elections_total", "Elections begun here.", func() float64 { return float64(n.orders.Counts().Elections) })
	counter("blob_streams_total", "Streams for blobs opened to other nodes.", func() float64 { return float64(n.orders.Counts().BlobStreams) })
	counter("log_transactions_total", "Durable transactions of the log.", func() float64 { return float64(n.stores.log.Stats().Transactions) })
	counter("log_damaged_records_total", "Damaged records read.", func() float64 { return float64(n.stores.log.Stats().Corrupt) })
	gauge("conversations_quarantined", "Replicas that are not served until an operator releases them.", func() float64 { return float64(n.orders.Counts().Quarantined) })
	for _, r := range consensus.Reasons() {
		n.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "mlsfed", Name: "conversation_quarantines_total", Help: "Conversations that went into quarantine, by reason.",
			ConstLabels: prometheus.Labels{"reason": r.String()},
		}, func() float64 { return float64(n.orders.Quarantines()[r]) }))
	}
	for r := range n.orders.Refusals() {
		n.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "mlsfed", Name: "order_refused_total", Help: "What other nodes sent for the order of conversations and this one refused, by reason.",
			ConstLabels: prometheus.Labels{"reason": string(r)},
		}, func() float64 { return float64(n.orders.Refusals()[r]) }))
	}
	for reason, count := range map[string]func(directory.Refusals) uint64{
		"claim_rate":    func(r directory.Refusals) uint64 { return r.Claims },
		"last_resort":   func(r directory.Refusals) uint64 { return r.LastResorts },
		"token_reused":  func(r directory.Refusals) uint64 { return r.Tokens },
		"address_used":  func(r directory.Refusals) uint64 { return r.Addresses },
		"other_subject": func(r directory.Refusals) uint64 { return r.Subjects },
	} {
		n.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "mlsfed", Subsystem: "directory", Name: "refused_total", ConstLabels: prometheus.Labels{"reason": reason},
			Help: "Claims and enrolments that were refused, and claims that were answered with last resorts alone because of a rate.",
		}, func() float64 { return float64(count(n.directory.Refusals())) }))
	}
	gauge("files_bytes", "Bytes of files that members share.", func() float64 { return float64(n.stores.files.store.Stats().Bytes) })
	counter("audit_failed_total", "Acts that could not be written to the audit log.", func() float64 { return float64(n.audit.failed.Load()) })
	gauge("clock_off_seconds", "How far the machine's clock is ahead of the time that the node goes by, 0 while they agree.", func() float64 {
		off, _ := n.stores.clock.Off()
		return off.Seconds()
	})
	counter("clock_jumps_total", "Jumps of the machine's clock that have stood and were believed.", func() float64 {
		_, believed := n.stores.clock.Off()
		return float64(believed)
	})
	gauge("certificate_ends_seconds", "When the node's certificate ends, in seconds since 1970.", func() float64 {
		return float64(n.identity.Certificate().NotAfter.Unix())
	})
}

// refusals registers a counter of refusals by their error's code.
func (n *Node) refusals(name, help string) func(wire.Code) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "mlsfed", Name: name, Help: help}, []string{"reason"})
	n.metrics.MustRegister(v)
	return func(c wire.Code) { v.WithLabelValues(string(c)).Inc() }
}

// streamQuota registers what the quota of streams has done.
func (n *Node) streamQuota() func(string, uint64) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "mlsfed", Name: "stream_quota_total", Help: "Items that a full stream, or a full share of one, refused, and items that expired to make room.",
	}, []string{"what"})
	n.metrics.MustRegister(v)
	return func(what string, count uint64) { v.WithLabelValues(what).Add(float64(count)) }
}

// Dial opens a stream for ordering.
func (n *Node) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	return n.fed.Dial(ctx, to)
}

// Nodes are those of an admitted organization, or of the own one.
func (n *Node) Nodes(org wire.Domain) []wire.NodeID { return n.fed.Nodes(org) }

// OrdersOnly reports whether a node holds replicas and no devices.
func (n *Node) OrdersOnly(node wire.NodeID) bool { return n.fed.OrdersOnly(node) }

// Announced reports whether a node is known to understand a feature.
func (n *Node) Announced(node wire.NodeID, f wire.Feature) bool {
	if node == n.cfg.Node {
		return features.Has(f)
	}
	return n.fed.Announced(node, f)
}
