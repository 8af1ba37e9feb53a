package federation

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/wire"
)

// metrics are the metrics of a Federation. All labels have a bounded number of values.
type metrics struct {
	refused   *prometheus.CounterVec // connections, by reason
	cut       *prometheus.CounterVec // connections, by reason
	accepted  *prometheus.CounterVec // connections, by protocol
	records   *prometheus.CounterVec // dropped, by reason
	gossip    *prometheus.CounterVec // packets dropped, by reason
	addresses *prometheus.CounterVec // addresses not connected to, by reason
	served    *prometheus.CounterVec // calls, by method and code
	called    *prometheus.CounterVec // calls, by method and code
	slowed    prometheus.Counter
	renewed   *prometheus.CounterVec // own certificate, by result
	links     prometheus.GaugeFunc
	ends      prometheus.GaugeFunc
	rootEnds  prometheus.GaugeFunc
	peers     prometheus.GaugeFunc
	sent      prometheus.CounterFunc
}

func newMetrics(f *Federation, to prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "mlsfed", Subsystem: "federation", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, value func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "mlsfed", Subsystem: "federation", Name: name, Help: help}, value)
	}
	m := &metrics{
		refused:   counter("refused_total", "Connections that were refused.", "reason"),
		cut:       counter("cut_total", "Connections that were cut.", "reason"),
		accepted:  counter("accepted_total", "Connections of nodes that proved who they are.", "protocol"),
		records:   counter("records_dropped_total", "Node records that were dropped.", "reason"),
		gossip:    counter("gossip_dropped_total", "Packets of gossip that were dropped.", "reason"),
		addresses: counter("addresses_refused_total", "Addresses in records and bundles that were not connected to.", "reason"),
		served:    counter("calls_served_total", "Calls by other nodes, by what became of them.", "method", "code"),
		called:    counter("calls_total", "Calls to other nodes, by what became of them.", "method", "code"),
		slowed: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "mlsfed", Subsystem: "federation", Name: "reads_slowed_total",
			Help: "Times that a connection of calls was read later, because of its bytes."}),
		renewed: counter("renewals_total", "Renewals of this node's certificate.", "result"),
		links:   gauge("links", "Nodes that have a link.", func() float64 { return float64(f.links.count()) }),
		ends: gauge("certificate_ends_timestamp_seconds", "When this node's certificate ends.", func() float64 {
			return float64(f.cfg.Identity.Certificate().NotAfter.Unix())
		}),
		rootEnds: gauge("root_ends_timestamp_seconds", "When the organization's root certificate ends.", func() float64 {
			return float64(f.cfg.Identity.Root.NotAfter.Unix())
		}),
		peers: gauge("peers", "Organizations that are admitted.", func() float64 { return float64(len(f.admitted())) }),
		sent: prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "mlsfed", Subsystem: "federation", Name: "sent_bytes_total",
			Help: "Bytes sent to other nodes, with those of TLS."}, func() float64 { return float64(f.conns.sent.Load()) }),
	}
	if to == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.refused, m.cut, m.accepted, m.records, m.gossip, m.addresses, m.served, m.called, m.slowed, m.renewed,
		m.links, m.ends, m.rootEnds, m.peers, m.sent} {
		errs = append(errs, to.Register(c))
	}
	return m, errors.Join(errs...)
}

// code returns the label for the result of a call. Another node may answer with an unknown code.
func code(err error) string {
	if err == nil {
		return "ok"
	}
	if c := wire.CodeOf(err); c.Known() {
		return string(c)
	}
	return "other"
}
