package discovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

// source answers look-ups and counts them.
type source struct {
	mu    sync.Mutex
	calls map[wire.Domain]int
	err   error
	block chan struct{} // if set, look-ups wait for it
}

func (s *source) find(ctx context.Context, d wire.Domain) (*Found, error) {
	s.mu.Lock()
	s.calls[d]++
	s.mu.Unlock()
	if s.block != nil {
		select {
		case <-s.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s.err != nil {
		return nil, s.err
	}
	return &Found{Document: &lineage.Document{Domain: d}}, nil
}

// inVirtualTime runs a test of a Cache whose clock is virtual.
func inVirtualTime(t *testing.T, most int, test func(*testing.T, *Cache, *source)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &source{calls: make(map[wire.Domain]int)}
		c, err := NewCache(CacheConfig{Find: s.find, Jitter: func() float64 { return 0.5 }, MaxEntries: most, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		test(t, c, s)
	})
}

// use uses a domain, expects an error or none, and a number of look-ups so far.
func use(t *testing.T, c *Cache, s *source, d wire.Domain, want error, calls int) {
	t.Helper()
	_, err := c.Find(t.Context(), d)
	synctest.Wait() // for a look-up in the background
	if !errors.Is(err, want) || s.calls[d] != calls {
		t.Fatalf("%s: error %v after %d look-ups, wanted %v after %d", d, err, s.calls[d], want, calls)
	}
}

// TestCacheKeepsDocuments checks that a document is used for 24 hours, and fetched again by a use after 12 hours.
func TestCacheKeepsDocuments(t *testing.T) {
	inVirtualTime(t, 0, func(t *testing.T, c *Cache, s *source) {
		use(t, c, s, "b.example", nil, 1)
		time.Sleep(refreshGood - time.Second)
		use(t, c, s, "b.example", nil, 1)
		time.Sleep(time.Second)
		use(t, c, s, "b.example", nil, 2) // the old document, and a look-up in the background
		use(t, c, s, "b.example", nil, 2)
		time.Sleep(keepGood)
		use(t, c, s, "b.example", nil, 3)
		time.Sleep(10 * keepGood) // nothing is looked up that nobody uses
		synctest.Wait()
		if s.calls["b.example"] != 3 {
			t.Errorf("%d look-ups of an idle domain", s.calls["b.example"])
		}
	})
}

// TestCacheKeepsFailures checks how long a failure is kept: 10 minutes that double to an hour, or 2 minutes for a
// domain that had a document, whose document is used meanwhile.
func TestCacheKeepsFailures(t *testing.T) {
	inVirtualTime(t, 0, func(t *testing.T, c *Cache, s *source) {
		s.err = refuse(ReasonNoTXT, "b.example", "no record")
		calls := 0
		for _, wait := range []time.Duration{keepFailure, 2 * keepFailure, 4 * keepFailure, keepFailed, keepFailed} {
			calls++
			use(t, c, s, "b.example", NoMlsfed, calls)
			time.Sleep(wait - time.Second)
			use(t, c, s, "b.example", NoMlsfed, calls)
			time.Sleep(time.Second)
		}
		s.err = nil
		use(t, c, s, "b.example", nil, calls+1)
		s.err = refuse(ReasonTimeout, "b.example", "no answer")
		time.Sleep(refreshGood)
		use(t, c, s, "b.example", nil, calls+2)
		time.Sleep(keepAgain - time.Second)
		use(t, c, s, "b.example", nil, calls+2)
		time.Sleep(time.Second)
		use(t, c, s, "b.example", nil, calls+3)
		time.Sleep(keepGood - refreshGood)
		use(t, c, s, "b.example", wire.Unavailable, calls+4)
		c.Forget("b.example")
		use(t, c, s, "b.example", wire.Unavailable, calls+5)
	})
}

// TestCacheIsBounded checks that the least recently used entry leaves, and that failures displace no documents.
func TestCacheIsBounded(t *testing.T) {
	inVirtualTime(t, 3, func(t *testing.T, c *Cache, s *source) {
		for i := range 3 {
			use(t, c, s, wire.Domain(fmt.Sprintf("good%d.example", i)), nil, 1)
		}
		s.err = refuse(ReasonNoTXT, "", "no record")
		for i := range 100 {
			use(t, c, s, wire.Domain(fmt.Sprintf("bad%d.example", i)), NoMlsfed, 1)
		}
		for i := range 3 {
			use(t, c, s, wire.Domain(fmt.Sprintf("good%d.example", i)), nil, 1)
		}
		use(t, c, s, "bad99.example", NoMlsfed, 1)
		use(t, c, s, "bad0.example", NoMlsfed, 2)
		if n, m := len(c.good.known), len(c.failures.known); n != 3 || m != 3 || c.good.used.Len() != 3 || c.failures.used.Len() != 3 {
			t.Errorf("%d documents and %d failures are kept", n, m)
		}
		s.err = nil
		use(t, c, s, "good3.example", nil, 1)
		use(t, c, s, "good0.example", nil, 2)
	})
}

// TestCacheShares checks that callers of one domain share a look-up, that a caller who leaves does not end it, that
// look-ups at once are bounded, and that Close ends them.
func TestCacheShares(t *testing.T) {
	inVirtualTime(t, 0, func(t *testing.T, c *Cache, s *source) {
		s.block = make(chan struct{})
		results := make(chan error, 100)
		ctx, leave := context.WithCancel(t.Context())
		go func() { _, err := c.Find(ctx, "b.example"); results <- err }()
		synctest.Wait()
		for range 9 {
			go func() { _, err := c.Find(t.Context(), "b.example"); results <- err }()
		}
		synctest.Wait()
		leave()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller who left got %v", err)
		}
		close(s.block)
		for range 9 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if s.calls["b.example"] != 1 {
			t.Errorf("%d look-ups of one domain", s.calls["b.example"])
		}
		s.block = make(chan struct{})
		for i := range MaxUnderWay {
			go func() { _, err := c.Find(t.Context(), wire.Domain(fmt.Sprintf("b%d.example", i))); results <- err }()
		}
		synctest.Wait()
		if _, err := c.Find(t.Context(), "c.example"); !errors.Is(err, Later) {
			t.Errorf("one look-up too much at once: %v", err)
		}
		c.Close()
		for range MaxUnderWay {
			if err := <-results; !errors.Is(err, context.Canceled) {
				t.Errorf("a look-up at the end: %v", err)
			}
		}
		if _, err := c.Find(t.Context(), "b.example"); !errors.Is(err, errClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}
