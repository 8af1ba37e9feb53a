package node

import (
	"crypto"
	"crypto/x509"
	"io"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// strangers returns the limits of admission control.
func strangers(c *config.Strangers) admission.Limits {
	return admission.Limits{
		Unproved: c.Unproved, Failures: tokenbucket.Rate{Burst: c.Failures, Every: every(c.FailuresPerMinute / 60)},
		ShutFirst: c.ShutFirst.Std(), ShutLast: c.ShutLast.Std(),
		Slowed: tokenbucket.Rate{Burst: int(2 * c.SlowedPerSecond), Every: every(c.SlowedPerSecond)},
	}
}

// every returns the pause between two events of a rate; 0, which means the default, for no rate.
func every(perSecond float64) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / perSecond)
}

// anyCredential accepts every credential that MLS itself allows. All replicas must come to the same decision, so they
// use no clock and no roots. Members check certificates.
type anyCredential struct{ mlscore.X509Authenticator }

// ValidateCredential accepts every x509 credential; other code checks that its key is the leaf's key.
func (*anyCredential) ValidateCredential(c mlscore.Credential, _ []byte, _ mlscore.CredentialUse) error {
	if c.Type != mlscore.CredentialX509 {
		return wire.Errorf(wire.Invalid, "credential", "of type %#04x, wanted x509", uint16(c.Type))
	}
	return nil
}

// authority is the organization's certificate authority, also if its key is on another machine.
type authority struct{ id *organization.Identity }

// Certificate returns the organization's root.
func (a authority) Certificate() *x509.Certificate { return a.id.Root }

// Signer returns the signer of the organization.
func (a authority) Signer() crypto.Signer {
	if a.id.Authority == nil {
		return absentKey{a.id.Root.PublicKey}
	}
	return a.id.Authority.Signer()
}

// absentKey takes the place of a root key that is not on this machine. It cannot sign.
type absentKey struct{ public crypto.PublicKey }

// Public returns the root's public key.
func (k absentKey) Public() crypto.PublicKey { return k.public }

// Sign returns an error.
func (k absentKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, wire.Errorf(wire.Unavailable, "enrol", "the organization's root key is not on this node: devices are enrolled where it is")
}

// measure registers the node's own metrics.
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
			Namespace: "mlsfed", Name: "order_refused_total", Help: "Messages of other nodes for the order of conversations that this node refused, by reason.",
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
	gauge("files_bytes", "Bytes of files that members share.", func() float64 { return float64(n.stores.files.used()) })
	counter("audit_failed_total", "Acts that could not be written to the audit log.", func() float64 { return float64(n.audit.failed.Load()) })
	gauge("clock_off_seconds", "How far the machine's clock is ahead of the time that the node goes by, 0 while they agree.", func() float64 {
		off, _ := n.stores.clock.Off()
		return off.Seconds()
	})
	counter("clock_jumps_total", "Jumps of the machine's clock whose new time was confirmed and used.", func() float64 {
		_, believed := n.stores.clock.Off()
		return float64(believed)
	})
	gauge("certificate_ends_seconds", "When the node's certificate ends, in seconds since 1970.", func() float64 {
		return float64(n.identity.Certificate().NotAfter.Unix())
	})
}

// refusals registers a counter of refusals by error code.
func refusals(metrics prometheus.Registerer, name, help string) func(wire.Code) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "mlsfed", Name: name, Help: help}, []string{"reason"})
	metrics.MustRegister(v)
	return func(c wire.Code) { v.WithLabelValues(string(c)).Inc() }
}

// streamQuota registers counters of what the quota of streams refused or removed. It counts what was removed in
// expired too.
func streamQuota(metrics prometheus.Registerer, expired *atomic.Uint64) func(string, uint64) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "mlsfed", Name: "stream_quota_total", Help: "Items that a full stream, or a full share of one, refused, and items that expired to make room.",
	}, []string{"what"})
	metrics.MustRegister(v)
	return func(what string, count uint64) {
		v.WithLabelValues(what).Add(float64(count))
		if what == mailbox.Expired {
			expired.Add(count)
		}
	}
}
