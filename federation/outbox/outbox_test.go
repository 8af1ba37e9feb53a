package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// receiver is a Link to organizations that keep what they take.
type receiver struct {
	mu    sync.Mutex
	got   map[laneName][][]byte
	calls int
	// answer decides on each payload; nil takes all.
	answer func(org wire.Domain, c wire.ConversationID, payload []byte) error
	// down decides on a whole call; nil takes it.
	down func(org wire.Domain, c wire.ConversationID) error
}

type laneName struct {
	org wire.Domain
	c   wire.ConversationID
}

// Notify implements Link.
func (r *receiver) Notify(_ context.Context, org wire.Domain, c wire.ConversationID, payloads [][]byte) ([]error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.down != nil {
		if err := r.down(org, c); err != nil {
			return nil, err
		}
	}
	results := make([]error, len(payloads))
	for i, p := range payloads {
		if r.answer != nil {
			results[i] = r.answer(org, c, p)
		}
		if results[i] == nil {
			r.got[laneName{org, c}] = append(r.got[laneName{org, c}], bytes.Clone(p))
		} else if Temporary(results[i]) {
			for j := i + 1; j < len(payloads); j++ {
				results[j] = results[i]
			}
			break
		}
	}
	return results, nil
}

// linkFunc implements Link by a function.
type linkFunc func(ctx context.Context, org wire.Domain, c wire.ConversationID, payloads [][]byte) ([]error, error)

// Notify implements Link.
func (f linkFunc) Notify(ctx context.Context, org wire.Domain, c wire.ConversationID, payloads [][]byte) ([]error, error) {
	return f(ctx, org, c, payloads)
}

func (r *receiver) count(org wire.Domain, c wire.ConversationID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got[laneName{org, c}])
}

// numbers returns the payloads of a lane.
func (r *receiver) numbers(org wire.Domain, c wire.ConversationID) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []int
	for _, p := range r.got[laneName{org, c}] {
		var n int
		fmt.Sscan(string(p), &n)
		list = append(list, n)
	}
	return list
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// outboxRun is an outbox under test.
type outboxRun struct {
	*Outbox
	r       *receiver
	log     *federationtest.Journal
	metrics *prometheus.Registry
	stop    func()
}

func startOutbox(t testing.TB, disk *pebbletest.Disk, edit func(*Config, *receiver)) *outboxRun {
	t.Helper()
	r := &receiver{got: make(map[laneName][][]byte)}
	run := &outboxRun{r: r, log: new(federationtest.Journal), metrics: prometheus.NewRegistry()}
	cfg := Config{Link: r, RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond, Registerer: run.metrics,
		Logger: slog.New(slog.NewTextHandler(run.log, nil))}
	if edit != nil {
		edit(&cfg, r)
	}
	var err error
	kept := disk.Open(t)
	if run.Outbox, err = New(kept.Lanes(), cfg); err != nil {
		t.Fatal(err)
	}
	stopStore := pebbletest.Start(t, kept)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run.Run(ctx) }()
	run.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stopStore()
	})
	t.Cleanup(run.stop)
	return run
}

const (
	orgB = wire.Domain("b.example")
	orgC = wire.Domain("c.example")
	conv = wire.ConversationID("conversation")
)

func subID(n int) wire.SubmissionID {
	return wire.SubmissionID{1, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}

func numbered(org wire.Domain, c wire.ConversationID, n int) lanestore.Item {
	return lanestore.Item{Organization: org, Conversation: c, ID: subID(n), Payload: fmt.Append(nil, n)}
}

// TestOutboxOrder holds that each lane is delivered in order, in batches, and is then empty.
func TestOutboxOrder(t *testing.T) {
	disk := pebbletest.Memory()
	o := startOutbox(t, disk, func(c *Config, _ *receiver) { c.BatchItems = 7 })
	const lanes, count = 5, 100
	name := func(l int) wire.ConversationID { return wire.ConversationID(fmt.Sprintf("conversation-%d", l)) }
	var all sync.WaitGroup
	for l := range lanes {
		all.Go(func() {
			for n := range count {
				if err := o.Put(t.Context(), numbered(orgB, name(l), n), numbered(orgC, name(l), n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	federationtest.Eventually(t, "the lanes are empty", func() bool { return len(o.Lanes()) == 0 })
	for l := range lanes {
		for _, org := range []wire.Domain{orgB, orgC} {
			if got := o.r.numbers(org, name(l)); !slices.Equal(got, upTo(count)) {
				t.Fatalf("lane %d of %s got %v", l, org, got)
			}
		}
	}
	if n := federationtest.Metric(t, o.metrics, "mlsfed_outbox_delivered_total"); n != 2*lanes*count {
		t.Fatalf("delivered %v", n)
	}
}

// TestOutboxIdempotent holds that an id is queued once while it waits and for the window after.
func TestOutboxIdempotent(t *testing.T) {
	clock := federationtest.NewClock()
	disk := pebbletest.Memory()
	o := startOutbox(t, disk, func(c *Config, _ *receiver) { c.Clock, c.Expire = clock, time.Hour })
	put := func() {
		t.Helper()
		it := numbered(orgB, conv, 1)
		if err := o.Put(t.Context(), it, it); err != nil {
			t.Fatal(err)
		}
	}
	put()
	federationtest.Eventually(t, "it is delivered", func() bool { return o.r.count(orgB, conv) == 1 && len(o.Lanes()) == 0 })
	put()
	clock.Advance(59 * time.Minute)
	put()
	if n := o.r.count(orgB, conv); n != 1 || len(o.Lanes()) != 0 {
		t.Fatalf("delivered %d times", n)
	}
	clock.Advance(2 * time.Hour) // twice the window at most
	put()
	federationtest.Eventually(t, "it is delivered again", func() bool { return o.r.count(orgB, conv) == 2 })
}

// TestOutboxRefused holds that an item which is refused for good is dropped, logged and counted, and does
// not stop its lane.
func TestOutboxRefused(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole call %v", whole), func(t *testing.T) {
			disk := pebbletest.Memory()
			refuse := func(payload []byte) bool { return string(payload) == "3" }
			o := startOutbox(t, disk, func(c *Config, r *receiver) {
				r.answer = func(_ wire.Domain, _ wire.ConversationID, payload []byte) error {
					if refuse(payload) {
						return wire.Errorf(wire.Forged, "notify", "signature")
					}
					return nil
				}
				if whole { // as if the other side could not decode the batch
					c.Link = linkFunc(func(ctx context.Context, org wire.Domain, cv wire.ConversationID, payloads [][]byte) ([]error, error) {
						if slices.ContainsFunc(payloads, refuse) {
							return nil, wire.Errorf(wire.Malformed, "decode", "one of them")
						}
						return r.Notify(ctx, org, cv, payloads)
					})
				}
			})
			var items []lanestore.Item
			for n := range 6 {
				items = append(items, numbered(orgB, conv, n))
			}
			if err := o.Put(t.Context(), items...); err != nil {
				t.Fatal(err)
			}
			federationtest.Eventually(t, "the lane is empty", func() bool { return len(o.Lanes()) == 0 && o.r.count(orgB, conv) == 5 })
			if got := o.r.numbers(orgB, conv); !slices.Equal(got, []int{0, 1, 2, 4, 5}) {
				t.Fatalf("got %v", got)
			}
			if !o.log.Has("outbox item dropped", "reason=refused", subID(3).String()) {
				t.Error("no log line")
			}
			if n := federationtest.Metric(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "refused"); n != 1 {
				t.Errorf("metric %v", n)
			}
		})
	}
}

// TestOutboxTemporary holds that items whose failure passes are sent again, with those after them, in order.
func TestOutboxTemporary(t *testing.T) {
	disk := pebbletest.Memory()
	failures := 0
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		r.answer = func(_ wire.Domain, _ wire.ConversationID, payload []byte) error {
			if string(payload) == "5" && failures < 3 {
				failures++
				return wire.Errorf(wire.Busy, "notify", "later")
			}
			return nil
		}
	})
	for n := range 10 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "all are delivered", func() bool { return o.r.count(orgB, conv) == 10 && len(o.Lanes()) == 0 })
	if got := o.r.numbers(orgB, conv); !slices.Equal(got, upTo(10)) {
		t.Fatalf("got %v", got)
	}
}

// TestOutboxDeadOrganization holds that neither an organization that is down nor a conversation that is
// refused for now delays others, that the lanes show what waits, and that all comes when it is up again.
func TestOutboxDeadOrganization(t *testing.T) {
	disk := pebbletest.Memory()
	stuck := wire.ConversationID("stuck conversation")
	var mu sync.Mutex
	up := false
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.Concurrency = 2
		r.down = func(org wire.Domain, cv wire.ConversationID) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case up:
				return nil
			case org == orgB:
				return errors.New("connection refused")
			case cv == stuck:
				return wire.Errorf(wire.Busy, "notify", "later")
			}
			return nil
		}
	})
	const lanes = 30
	name := func(l int) wire.ConversationID { return wire.ConversationID(fmt.Sprintf("conversation-%d", l)) }
	for l := range lanes {
		if err := o.Put(t.Context(), numbered(orgB, name(l), 0), numbered(orgC, name(l), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Put(t.Context(), numbered(orgC, stuck, 0), numbered(orgC, stuck, 1)); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the other organization has its items", func() bool {
		for l := range lanes {
			if o.r.count(orgC, name(l)) != 1 {
				return false
			}
		}
		return true
	})
	federationtest.Eventually(t, "the lanes show the failures", func() bool {
		list := o.Lanes()
		return len(list) == lanes+1 && !slices.ContainsFunc(list, func(l LaneStatus) bool {
			return l.LastError == "" || l.Oldest.IsZero() || l.Bytes != int64(l.Items)
		})
	})
	if n := federationtest.Metric(t, o.metrics, "mlsfed_outbox_items", "organization", string(orgB)); n != lanes {
		t.Errorf("metric %v", n)
	}
	mu.Lock()
	up = true
	mu.Unlock()
	federationtest.Eventually(t, "all are delivered", func() bool { return len(o.Lanes()) == 0 })
	if got := o.r.numbers(orgC, stuck); !slices.Equal(got, upTo(2)) {
		t.Errorf("got %v", got)
	}
}

// TestOutboxConversationStuck holds that calls which hang hold up others of the organization only as far
// as its places are taken.
func TestOutboxConversationStuck(t *testing.T) {
	disk := pebbletest.Memory()
	stuck := wire.ConversationID("stuck conversation")
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.Concurrency = 2
		c.Link = linkFunc(func(ctx context.Context, org wire.Domain, cv wire.ConversationID, payloads [][]byte) ([]error, error) {
			if cv == stuck {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return r.Notify(ctx, org, cv, payloads)
		})
	})
	if err := o.Put(t.Context(), numbered(orgB, stuck, 0)); err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "the other conversation is delivered", func() bool { return o.r.count(orgB, conv) == 50 })
}

// TestOutboxExpires holds that what was not taken in time is dropped, logged and counted.
func TestOutboxExpires(t *testing.T) {
	clock := federationtest.NewClock()
	disk := pebbletest.Memory()
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.Clock, c.Expire = clock, time.Hour
		r.down = func(wire.Domain, wire.ConversationID) error { return errors.New("connection refused") }
	})
	for n := range 3 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "they wait", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].LastError != "" })
	federationtest.Eventually(t, "they are dropped", func() bool { clock.Advance(time.Hour); return len(o.Lanes()) == 0 })
	if !o.log.Has("outbox item dropped", "reason=expired", string(orgB)) {
		t.Error("no log line")
	}
	if n := federationtest.Metric(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "expired"); n != 3 {
		t.Errorf("metric %v", n)
	}
}

// TestOutboxQuota holds both quotas at their edges, and that one organization's does not concern another.
func TestOutboxQuota(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"items": func(c *Config) { c.MaxItems = 3 },
		"bytes": func(c *Config) { c.MaxBytes = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			disk := pebbletest.Memory()
			o := startOutbox(t, disk, func(c *Config, r *receiver) {
				edit(c)
				r.down = func(org wire.Domain, _ wire.ConversationID) error {
					if org == orgB {
						return errors.New("connection refused")
					}
					return nil
				}
			})
			for n := range 3 {
				if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
					t.Fatalf("item %d: %v", n, err)
				}
			}
			err := o.Put(t.Context(), numbered(orgB, conv, 4), numbered(orgC, conv, 4))
			if !errors.Is(err, wire.Quota) {
				t.Fatalf("over the quota: %v", err)
			}
			federationtest.Eventually(t, "the other organization has its item", func() bool { return o.r.count(orgC, conv) == 1 })
			federationtest.Eventually(t, "only the full lane is left", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].Items == 3 })
		})
	}
}

// TestOutboxForget holds that what waits for an organization can be dropped, and that what comes later is
// not.
func TestOutboxForget(t *testing.T) {
	disk := pebbletest.Memory()
	var mu sync.Mutex
	up := false
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.RetryMin, c.RetryMax = time.Hour, time.Hour
		r.down = func(org wire.Domain, _ wire.ConversationID) error {
			mu.Lock()
			defer mu.Unlock()
			if up {
				return nil
			}
			return errors.New("connection refused")
		}
	})
	for n := range 3 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n), numbered(orgC, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "they wait", func() bool {
		l := o.Lanes()
		return len(l) == 2 && l[0].LastError != "" && l[1].LastError != ""
	})
	o.Forget(orgB)
	o.Forget("x.example") // of whom nothing is known
	federationtest.Eventually(t, "they are dropped", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].Organization == orgC })
	if n := federationtest.Metric(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "forgotten"); n != 3 {
		t.Errorf("metric %v", n)
	}
	if !o.log.Has("outbox items dropped", "items=3") || o.log.Has("outbox item dropped") {
		t.Error("wanted one log line")
	}
	mu.Lock()
	up = true
	mu.Unlock()
	if err := o.Put(t.Context(), numbered(orgB, conv, 4)); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the later one is delivered", func() bool { return o.r.count(orgB, conv) == 1 })
}

// TestOutboxBounds holds what Put refuses at once.
func TestOutboxBounds(t *testing.T) {
	disk := pebbletest.Memory()
	o := startOutbox(t, disk, func(c *Config, _ *receiver) { c.MaxItem = 10 })
	good := lanestore.Item{Organization: orgB, Conversation: conv, ID: subID(1), Payload: make([]byte, 10)}
	for name, c := range map[string]struct {
		edit func(*lanestore.Item)
		want error
	}{
		"largest":         {func(*lanestore.Item) {}, nil},
		"too large":       {func(it *lanestore.Item) { it.Payload = make([]byte, 11) }, wire.TooLarge},
		"empty":           {func(it *lanestore.Item) { it.Payload = nil }, wire.TooLarge},
		"no id":           {func(it *lanestore.Item) { it.ID = wire.SubmissionID{} }, wire.Malformed},
		"no organization": {func(it *lanestore.Item) { it.Organization = "" }, wire.Malformed},
		"no conversation": {func(it *lanestore.Item) { it.Conversation = "short" }, wire.Malformed},
	} {
		it := good
		c.edit(&it)
		if err := o.Put(t.Context(), it); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, wanted %v", name, err, c.want)
		}
	}
	o.stop()
	if err := o.Put(t.Context(), good); !errors.Is(err, wire.Unavailable) {
		t.Errorf("after the end: %v", err)
	}
}

// TestOutboxDiskForgets holds that what Put has accepted survives a disk that forgets all that was not
// synced.
func TestOutboxDiskForgets(t *testing.T) {
	disk := pebbletest.Memory()
	o := startOutbox(t, disk, func(_ *Config, r *receiver) {
		r.down = func(wire.Domain, wire.ConversationID) error { return errors.New("connection refused") }
	})
	const count = 200
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for n := w; n < count; n += 4 {
				if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	after := disk.Crash()
	o.stop()
	o = startOutbox(t, after, nil)
	federationtest.Eventually(t, "all are delivered", func() bool { return o.r.count(orgB, conv) == count })
	got := o.r.numbers(orgB, conv)
	last := []int{-1, -1, -1, -1}
	for _, n := range got {
		if n <= last[n%4] {
			t.Fatalf("%d came after %d", n, last[n%4])
		}
		last[n%4] = n
	}
}

// TestOutboxDamaged holds that a damaged item is dropped, logged and counted, and does not stop its lane.
func TestOutboxDamaged(t *testing.T) {
	disk := pebbletest.Memory()
	o := startOutbox(t, disk, func(_ *Config, r *receiver) {
		r.down = func(wire.Domain, wire.ConversationID) error { return errors.New("connection refused") }
	})
	for n := range 3 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	o.stop()
	disk.Change(t, func(_, value []byte) []byte {
		if len(value) > 0 && value[len(value)-1] == '1' { // of the second item
			value[len(value)-1] ^= 1
		}
		return value
	})
	o = startOutbox(t, disk, nil)
	federationtest.Eventually(t, "the lane is empty", func() bool { return len(o.Lanes()) == 0 && o.r.count(orgB, conv) == 2 })
	if !o.log.Has("outbox item dropped", "reason=damaged") {
		t.Error("no log line")
	}
	if n := federationtest.Metric(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "damaged"); n != 1 {
		t.Errorf("metric %v", n)
	}
}

// TestTemporary checks which failures pass by themselves.
func TestTemporary(t *testing.T) {
	for err, want := range map[error]bool{
		errors.New("connection reset"): true, context.DeadlineExceeded: true,
		wire.Busy: true, wire.Unavailable: true, wire.Internal: true, wire.Quota: true, wire.NoQuorum: true,
		wire.Forged: false, wire.Malformed: false, wire.TooLarge: false, wire.Closed: false, wire.Invalid: false,
	} {
		if Temporary(err) != want || Temporary(fmt.Errorf("around: %w", err)) != want {
			t.Errorf("%v: wanted %v", err, want)
		}
	}
}
