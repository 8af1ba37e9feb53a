package outbox

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/wire"
)

// metrics are an outbox's numbers. The labels' values are the organizations that something was put
// in for, and fixed words.
type metrics struct {
	o              *Outbox
	deliveredTotal *prometheus.CounterVec
	droppedTotal   *prometheus.CounterVec
	sendsTotal     *prometheus.CounterVec
	items          *prometheus.Desc
	bytes          *prometheus.Desc
	lanes          *prometheus.Desc
	oldest         *prometheus.Desc
}

func newMetrics(o *Outbox, to prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "mlsfed", Subsystem: "outbox", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("mlsfed_outbox_"+name, help, []string{"organization"}, nil)
	}
	m := &metrics{
		o:              o,
		deliveredTotal: counter("delivered_total", "Items that the organization has taken.", "organization"),
		droppedTotal:   counter("dropped_total", "Items that were given up.", "organization", "reason"),
		sendsTotal:     counter("sends_total", "Calls that carried items, by what became of them.", "organization", "result"),
		items:          gauge("items", "Items that wait."),
		bytes:          gauge("bytes", "Bytes of payload that wait."),
		lanes:          gauge("lanes", "Lanes in which something waits."),
		oldest:         gauge("oldest_seconds", "Age of the item that has waited longest."),
	}
	if to == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.deliveredTotal, m.droppedTotal, m.sendsTotal, m} {
		errs = append(errs, to.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) delivered(d wire.Domain, n int) {
	m.deliveredTotal.WithLabelValues(string(d)).Add(float64(n))
}

func (m *metrics) dropped(d wire.Domain, reason string) {
	m.droppedTotal.WithLabelValues(string(d), reason).Inc()
}

func (m *metrics) sends(d wire.Domain, result string) {
	m.sendsTotal.WithLabelValues(string(d), result).Inc()
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.items, m.bytes, m.lanes, m.oldest} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	type sum struct {
		items, bytes, lanes int64
		oldest              wire.Time
	}
	now := m.o.now()
	sums := make(map[wire.Domain]sum)
	m.o.mu.Lock()
	for d, to := range m.o.destinations {
		s := sum{oldest: now}
		for _, l := range to.lanes {
			s.items += int64(l.items)
			s.bytes += l.bytes
			s.lanes++
			s.oldest = min(s.oldest, l.oldest)
		}
		sums[d] = s
	}
	m.o.mu.Unlock()
	for d, s := range sums {
		gauge := func(desc *prometheus.Desc, v float64) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, string(d))
		}
		gauge(m.items, float64(s.items))
		gauge(m.bytes, float64(s.bytes))
		gauge(m.lanes, float64(s.lanes))
		gauge(m.oldest, float64(now-s.oldest)/1000)
	}
}
