package discovery

import (
	"errors"
	"net/http"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestNoReflection checks that look-ups of many callers make a node neither fetch from a domain without TXT record
// nor fetch twice from a domain whose web server fails: nodes are no tool to overload somebody's web server.
func TestNoReflection(t *testing.T) {
	for _, c := range []struct {
		name    string
		txt     bool
		want    error
		reason  Reason
		fetched int
	}{
		{"without TXT", false, NoMlsfed, ReasonNoTXT, 0},
		{"with TXT", true, Failed, ReasonStatus, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.web = http.NotFound
			if !c.txt {
				w.zone.edit(func(z *zone) { delete(z.txt, "_mlsfed.b.example") })
			}
			registry := prometheus.NewRegistry()
			cache, err := NewCache(CacheConfig{Find: w.finder(t, w.serve(t, w.ca.issue(t, nil, "mlsfed.b.example")), nil).Find, Registerer: registry})
			if err != nil {
				t.Fatal(err)
			}
			defer cache.Close()
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() {
					for range 10 {
						if _, err := cache.Find(t.Context(), orgDomain); !errors.Is(err, c.want) {
							t.Errorf("%v, wanted %v", err, c.want)
						}
					}
				})
			}
			callers.Wait()
			if n := w.requests(); n != c.fetched || len(w.dialed) != c.fetched || w.zone.asked("TXT _mlsfed.b.example") != 1 {
				t.Errorf("%d requests, %d connections, %d queries for the TXT record", n, len(w.dialed), w.zone.asked("TXT _mlsfed.b.example"))
			}
			if n := counted(t, registry, string(c.reason)); n != 1 {
				t.Errorf("mlsfed_discovery_total{result=%q} is %v", c.reason, n)
			}
		})
	}
}

// counted returns the value of mlsfed_discovery_total for a result.
func counted(t *testing.T, from prometheus.Gatherer, result string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "mlsfed_discovery_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" && l.GetValue() == result {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return -1
}
