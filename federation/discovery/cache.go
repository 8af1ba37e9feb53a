package discovery

import (
	"container/list"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/wire"
)

// CacheConfig is what a Cache works with.
type CacheConfig struct {
	// Find looks an organization up: Finder.Find.
	Find func(context.Context, wire.Domain) (*Found, error)
	Now  func() time.Time // nil: time.Now
	// Jitter is a random number of [0, 1) that spreads the ends of documents; nil: math/rand.
	Jitter     func() float64
	Registerer prometheus.Registerer // nil: the metrics are not registered
	MaxEntries int                   // 0: MaxEntries
}

// Cache keeps the results of look-ups. It is safe for concurrent use. Results do not depend on the party that asked
// for them first.
type Cache struct {
	cfg     CacheConfig
	results *prometheus.CounterVec
	ctx     context.Context // of the look-ups; canceled by Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	flights  map[wire.Domain]*flight
	good     *entries
	failures *entries
}

// flight is a look-up that is under way.
type flight struct {
	done  chan struct{}
	found *Found
	err   error
}

// entry is a result.
type entry struct {
	domain  wire.Domain
	found   *Found // nil: a failure
	err     error
	until   time.Time     // it is used until then
	refresh time.Time     // of a document: used later, it is fetched again in the background
	wait    time.Duration // of a failure: how long it is kept
}

// errClosed is the error of a Cache after Close.
var errClosed = errors.New("discovery is closed")

// NewCache returns a Cache.
func NewCache(cfg CacheConfig) (*Cache, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = MaxEntries
	}
	c := &Cache{cfg: cfg, flights: make(map[wire.Domain]*flight), good: newEntries(cfg.MaxEntries), failures: newEntries(cfg.MaxEntries)}
	c.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "mlsfed", Subsystem: "discovery", Name: "total", Help: "Look-ups of organizations.",
	}, []string{"result"})
	for _, r := range reasons {
		c.results.WithLabelValues(string(r))
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(c.results); err != nil {
			return nil, err
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the look-ups that are under way and waits for them.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.running.Wait()
	if c.cfg.Registerer != nil {
		c.cfg.Registerer.Unregister(c.results)
	}
}

// Find returns what is known of an organization, or looks it up. Callers of one domain share a look-up; the end of a
// caller's ctx does not end it for the others. The error is an *Error, that of ctx, or errClosed.
func (c *Cache) Find(ctx context.Context, d wire.Domain) (*Found, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errClosed
	}
	now := c.cfg.Now()
	failure := c.failures.get(d)
	failing := failure != nil && now.Before(failure.until)
	if e := c.good.get(d); e != nil && now.Before(e.until) {
		if !now.Before(e.refresh) && !failing {
			c.begin(d) // in the background; if too many are under way, a later use tries again
		}
		c.mu.Unlock()
		return e.found, nil
	}
	if failing {
		c.mu.Unlock()
		return nil, failure.err
	}
	f := c.begin(d)
	c.mu.Unlock()
	if f == nil {
		c.results.WithLabelValues(string(ReasonBusy)).Inc()
		return nil, refuse(ReasonBusy, d, "%d other organizations are being looked up: try %s again in a few seconds", MaxUnderWay, d)
	}
	select {
	case <-f.done:
		return f.found, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Forget removes what is known of an organization: its next use looks it up. An operator or a failed dial causes it.
func (c *Cache) Forget(d wire.Domain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good.remove(d)
	c.failures.remove(d)
}

// begin returns the look-up of a domain that is under way, or begins one; nil if too many are. c.mu is held.
func (c *Cache) begin(d wire.Domain) *flight {
	if f := c.flights[d]; f != nil {
		return f
	}
	if len(c.flights) >= MaxUnderWay {
		return nil
	}
	f := &flight{done: make(chan struct{})}
	c.flights[d] = f
	c.running.Go(func() {
		f.found, f.err = c.cfg.Find(c.ctx, d)
		c.mu.Lock()
		delete(c.flights, d)
		if !c.closed { // otherwise the error is that of Close
			c.keep(d, f)
		}
		c.mu.Unlock()
		close(f.done)
	})
	return f
}

// keep stores the result of a look-up. c.mu is held.
func (c *Cache) keep(d wire.Domain, f *flight) {
	now := c.cfg.Now()
	if f.err == nil {
		c.results.WithLabelValues("found").Inc()
		life := time.Duration(float64(keepGood) * (0.9 + 0.2*c.cfg.Jitter()))
		c.failures.remove(d)
		c.good.put(&entry{domain: d, found: f.found, until: now.Add(life), refresh: now.Add(refreshGood)})
		return
	}
	reason := Reason("other")
	var e *Error
	if errors.As(f.err, &e) {
		reason = e.Reason
	}
	c.results.WithLabelValues(string(reason)).Inc()
	wait := keepFailure
	if last := c.failures.get(d); last != nil {
		wait = min(2*last.wait, keepFailed)
	}
	if c.good.get(d) != nil {
		wait = keepAgain
	}
	c.failures.put(&entry{domain: d, err: f.err, until: now.Add(wait), wait: wait})
}

// entries holds a bounded number of results. The one that was used longest ago leaves first.
type entries struct {
	most  int
	known map[wire.Domain]*list.Element
	used  *list.List // of *entry, the last used first
}

func newEntries(most int) *entries {
	return &entries{most: most, known: make(map[wire.Domain]*list.Element), used: list.New()}
}

func (s *entries) get(d wire.Domain) *entry {
	at := s.known[d]
	if at == nil {
		return nil
	}
	s.used.MoveToFront(at)
	return at.Value.(*entry)
}

func (s *entries) put(e *entry) {
	s.remove(e.domain)
	s.known[e.domain] = s.used.PushFront(e)
	if s.used.Len() > s.most {
		s.remove(s.used.Back().Value.(*entry).domain)
	}
}

func (s *entries) remove(d wire.Domain) {
	if at := s.known[d]; at != nil {
		s.used.Remove(at)
		delete(s.known, d)
	}
}
