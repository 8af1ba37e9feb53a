package gateway

import (
	"net/netip"
	"sync/atomic"

	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// Gateway serves devices. It is safe for concurrent use.
type Gateway struct {
	cfg     Config
	metrics *metrics
	buffers buffers
	writes  writeBuffers

	acker           acker
	registry        registry
	backlogs        backlogs
	sockets         atomic.Int64
	admission       *admission.Controller
	connects        tokenbucket.Rates[netip.Addr]
	enrolments      tokenbucket.Rates[netip.Addr]
	requests        tokenbucket.Rates[netip.Addr] // over HTTP
	failedAddresses tokenbucket.Rates[netip.Addr]
	failedDevices   tokenbucket.Rates[wire.DeviceID]
	stopping        atomic.Int64 // calls of Serve that let their sessions end
}

// New makes a gateway. It starts nothing.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, metrics: m, admission: admission.New(cfg.Admission, cfg.Clock.Now, cfg.Log)}
	g.acker.g = g
	g.connects.Rate, g.connects.Most = cfg.ConnectRate, cfg.MaxAddresses
	g.requests.Rate, g.requests.Most = cfg.HTTPRate, cfg.MaxAddresses
	g.enrolments.Rate, g.enrolments.Most = cfg.EnrolRate, cfg.MaxAddresses
	g.failedAddresses.Rate, g.failedAddresses.Most = cfg.LoginRate, cfg.MaxAddresses
	g.failedDevices.Rate, g.failedDevices.Most = cfg.LoginRate, cfg.MaxAddresses
	return g, nil
}

// Disconnect ends all sessions of a device with wire.CloseRevoked, and logins of it that are under way.
// The caller has revoked it before, so that it cannot come back. It does not wait for them to end.
func (g *Gateway) Disconnect(d wire.DeviceID) {
	for _, s := range g.registry.list(d) {
		s.end(wire.CloseRevoked, nil)
	}
}

// Sessions is how many sessions of devices there are.
func (g *Gateway) Sessions() int { return g.registry.count() }
