package federation

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

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/wire"
)

type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func openDB(t testing.TB, dir string, fs vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// testClock stands still until it is moved.
type testClock struct {
	mu    sync.Mutex
	now   time.Time
	waits map[chan time.Time]time.Time
}

func newClock() *testClock {
	return &testClock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), waits: make(map[chan time.Time]time.Time)}
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.waits[ch] = c.now.Add(d)
	return ch
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.waits {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.waits, ch)
		}
	}
}

// receiver takes what an outbox sends, as an organization would, and remembers it.
type receiver struct {
	mu    sync.Mutex
	got   map[laneName][]Item
	calls int
	// answer decides on each item; nil takes all.
	answer func(org wire.Domain, c wire.ConversationID, it Item) error
	// down decides on a whole call; nil takes it.
	down func(org wire.Domain, c wire.ConversationID) error
}

type laneName struct {
	org wire.Domain
	c   wire.ConversationID
}

func (r *receiver) send(_ context.Context, org wire.Domain, c wire.ConversationID, items []Item) ([]error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.down != nil {
		if err := r.down(org, c); err != nil {
			return nil, err
		}
	}
	results := make([]error, len(items))
	for i, it := range items {
		if r.answer != nil {
			results[i] = r.answer(org, c, it)
		}
		if results[i] == nil {
			it.Payload = bytes.Clone(it.Payload)
			r.got[laneName{org, c}] = append(r.got[laneName{org, c}], it)
		} else if Temporary(results[i]) {
			for j := i + 1; j < len(items); j++ {
				results[j] = results[i]
			}
			break
		}
	}
	return results, nil
}

func (r *receiver) count(org wire.Domain, c wire.ConversationID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got[laneName{org, c}])
}

// numbers are the payloads of a lane.
func (r *receiver) numbers(org wire.Domain, c wire.ConversationID) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []int
	for _, it := range r.got[laneName{org, c}] {
		var n int
		fmt.Sscan(string(it.Payload), &n)
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
	log     *journal
	metrics *prometheus.Registry
	stop    func()
}

func startOutbox(t testing.TB, db *pebble.DB, edit func(*OutboxConfig, *receiver)) *outboxRun {
	t.Helper()
	r := &receiver{got: make(map[laneName][]Item)}
	run := &outboxRun{r: r, log: new(journal), metrics: prometheus.NewRegistry()}
	cfg := OutboxConfig{Send: r.send, RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond, Registerer: run.metrics,
		Logger: slog.New(slog.NewTextHandler(run.log, nil))}
	if edit != nil {
		edit(&cfg, r)
	}
	var err error
	if run.Outbox, err = NewOutbox(db, []byte("o/"), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run.Run(ctx) }()
	run.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
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

func numbered(org wire.Domain, c wire.ConversationID, n int) OutboxItem {
	return OutboxItem{Organization: org, Conversation: c, ID: subID(n), Payload: fmt.Append(nil, n)}
}

// TestOutboxOrder holds that each lane is delivered in order, in batches, and is then empty.
func TestOutboxOrder(t *testing.T) {
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	o := startOutbox(t, db, func(c *OutboxConfig, _ *receiver) { c.BatchItems = 7 })
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
	eventually(t, "the lanes are empty", func() bool { return len(o.Lanes()) == 0 })
	for l := range lanes {
		for _, org := range []wire.Domain{orgB, orgC} {
			if got := o.r.numbers(org, name(l)); !slices.Equal(got, upTo(count)) {
				t.Fatalf("lane %d of %s got %v", l, org, got)
			}
		}
	}
	if n := metricOf(t, o.metrics, "mlsfed_outbox_delivered_total"); n != 2*lanes*count {
		t.Fatalf("delivered %v", n)
	}
}

// TestOutboxIdempotent holds that an id is queued once while it waits and for the window after.
func TestOutboxIdempotent(t *testing.T) {
	clock := newClock()
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	o := startOutbox(t, db, func(c *OutboxConfig, _ *receiver) { c.Clock, c.Expire = clock, time.Hour })
	put := func() {
		t.Helper()
		it := numbered(orgB, conv, 1)
		if err := o.Put(t.Context(), it, it); err != nil {
			t.Fatal(err)
		}
	}
	put()
	eventually(t, "it is delivered", func() bool { return o.r.count(orgB, conv) == 1 && len(o.Lanes()) == 0 })
	put()
	clock.advance(59 * time.Minute)
	put()
	if n := o.r.count(orgB, conv); n != 1 || len(o.Lanes()) != 0 {
		t.Fatalf("delivered %d times", n)
	}
	clock.advance(2 * time.Hour) // twice the window at most
	put()
	eventually(t, "it is delivered again", func() bool { return o.r.count(orgB, conv) == 2 })
}

// TestOutboxRefused holds that an item which is refused for good is dropped, logged and counted, and does
// not stop its lane.
func TestOutboxRefused(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole call %v", whole), func(t *testing.T) {
			db := openDB(t, "", vfs.NewMem())
			t.Cleanup(func() { db.Close() })
			refuse := func(it Item) bool { return string(it.Payload) == "3" }
			o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
				r.answer = func(_ wire.Domain, _ wire.ConversationID, it Item) error {
					if refuse(it) {
						return wire.Errorf(wire.Forged, "notify", "signature")
					}
					return nil
				}
				if whole { // as if the other side could not decode the batch
					c.Send = func(ctx context.Context, org wire.Domain, cv wire.ConversationID, items []Item) ([]error, error) {
						if slices.ContainsFunc(items, refuse) {
							return nil, wire.Errorf(wire.Malformed, "decode", "one of them")
						}
						return r.send(ctx, org, cv, items)
					}
				}
			})
			var items []OutboxItem
			for n := range 6 {
				items = append(items, numbered(orgB, conv, n))
			}
			if err := o.Put(t.Context(), items...); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the lane is empty", func() bool { return len(o.Lanes()) == 0 && o.r.count(orgB, conv) == 5 })
			if got := o.r.numbers(orgB, conv); !slices.Equal(got, []int{0, 1, 2, 4, 5}) {
				t.Fatalf("got %v", got)
			}
			if !o.log.has("outbox item dropped", "reason=refused", subID(3).String()) {
				t.Error("no log line")
			}
			if n := metricOf(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "refused"); n != 1 {
				t.Errorf("metric %v", n)
			}
		})
	}
}

// TestOutboxTemporary holds that items whose failure passes are sent again, with those after them, in order.
func TestOutboxTemporary(t *testing.T) {
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	failures := 0
	o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
		r.answer = func(_ wire.Domain, _ wire.ConversationID, it Item) error {
			if string(it.Payload) == "5" && failures < 3 {
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
	eventually(t, "all are delivered", func() bool { return o.r.count(orgB, conv) == 10 && len(o.Lanes()) == 0 })
	if got := o.r.numbers(orgB, conv); !slices.Equal(got, upTo(10)) {
		t.Fatalf("got %v", got)
	}
}

// TestOutboxDeadOrganization holds that neither an organization that is down nor a conversation that is
// refused for now delays others, that the lanes show what waits, and that all comes when it is up again.
func TestOutboxDeadOrganization(t *testing.T) {
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	stuck := wire.ConversationID("stuck conversation")
	var mu sync.Mutex
	up := false
	o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
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
	eventually(t, "the other organization has its items", func() bool {
		for l := range lanes {
			if o.r.count(orgC, name(l)) != 1 {
				return false
			}
		}
		return true
	})
	eventually(t, "the lanes show the failures", func() bool {
		list := o.Lanes()
		return len(list) == lanes+1 && !slices.ContainsFunc(list, func(l LaneStatus) bool {
			return l.LastError == "" || l.Oldest.IsZero() || l.Bytes != int64(l.Items)
		})
	})
	if n := metricOf(t, o.metrics, "mlsfed_outbox_items", "organization", string(orgB)); n != lanes {
		t.Errorf("metric %v", n)
	}
	mu.Lock()
	up = true
	mu.Unlock()
	eventually(t, "all are delivered", func() bool { return len(o.Lanes()) == 0 })
	if got := o.r.numbers(orgC, stuck); !slices.Equal(got, upTo(2)) {
		t.Errorf("got %v", got)
	}
}

// TestOutboxConversationStuck holds that calls which hang hold up others of the organization only as far
// as its places are taken.
func TestOutboxConversationStuck(t *testing.T) {
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	stuck := wire.ConversationID("stuck conversation")
	o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
		c.Concurrency = 2
		c.Send = func(ctx context.Context, org wire.Domain, cv wire.ConversationID, items []Item) ([]error, error) {
			if cv == stuck {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return r.send(ctx, org, cv, items)
		}
	})
	if err := o.Put(t.Context(), numbered(orgB, stuck, 0)); err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the other conversation is delivered", func() bool { return o.r.count(orgB, conv) == 50 })
}

// TestOutboxExpires holds that what was not taken in time is dropped, logged and counted.
func TestOutboxExpires(t *testing.T) {
	clock := newClock()
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
		c.Clock, c.Expire = clock, time.Hour
		r.down = func(wire.Domain, wire.ConversationID) error { return errors.New("connection refused") }
	})
	for n := range 3 {
		if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "they wait", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].LastError != "" })
	eventually(t, "they are dropped", func() bool { clock.advance(time.Hour); return len(o.Lanes()) == 0 })
	if !o.log.has("outbox item dropped", "reason=expired", string(orgB)) {
		t.Error("no log line")
	}
	if n := metricOf(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "expired"); n != 3 {
		t.Errorf("metric %v", n)
	}
}

// TestOutboxQuota holds both quotas at their edges, and that one organization's does not concern another.
func TestOutboxQuota(t *testing.T) {
	for name, edit := range map[string]func(*OutboxConfig){
		"items": func(c *OutboxConfig) { c.MaxItems = 3 },
		"bytes": func(c *OutboxConfig) { c.MaxBytes = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, "", vfs.NewMem())
			t.Cleanup(func() { db.Close() })
			o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
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
			eventually(t, "the other organization has its item", func() bool { return o.r.count(orgC, conv) == 1 })
			eventually(t, "only the full lane is left", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].Items == 3 })
		})
	}
}

// TestOutboxForget holds that what waits for an organization can be dropped, and that what comes later is
// not.
func TestOutboxForget(t *testing.T) {
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	var mu sync.Mutex
	up := false
	o := startOutbox(t, db, func(c *OutboxConfig, r *receiver) {
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
	eventually(t, "they wait", func() bool {
		l := o.Lanes()
		return len(l) == 2 && l[0].LastError != "" && l[1].LastError != ""
	})
	o.Forget(orgB)
	o.Forget("x.example") // of whom nothing is known
	eventually(t, "they are dropped", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].Organization == orgC })
	if n := metricOf(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "forgotten"); n != 3 {
		t.Errorf("metric %v", n)
	}
	if !o.log.has("outbox items dropped", "items=3") || o.log.has("outbox item dropped") {
		t.Error("wanted one log line")
	}
	mu.Lock()
	up = true
	mu.Unlock()
	if err := o.Put(t.Context(), numbered(orgB, conv, 4)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the later one is delivered", func() bool { return o.r.count(orgB, conv) == 1 })
}

// TestOutboxBounds holds what Put refuses at once.
func TestOutboxBounds(t *testing.T) {
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	o := startOutbox(t, db, func(c *OutboxConfig, _ *receiver) { c.MaxItem = 10 })
	good := OutboxItem{orgB, conv, subID(1), make([]byte, 10)}
	for name, c := range map[string]struct {
		edit func(*OutboxItem)
		want error
	}{
		"largest":         {func(*OutboxItem) {}, nil},
		"too large":       {func(it *OutboxItem) { it.Payload = make([]byte, 11) }, wire.TooLarge},
		"empty":           {func(it *OutboxItem) { it.Payload = nil }, wire.TooLarge},
		"no id":           {func(it *OutboxItem) { it.ID = wire.SubmissionID{} }, wire.Malformed},
		"no organization": {func(it *OutboxItem) { it.Organization = "" }, wire.Malformed},
		"no conversation": {func(it *OutboxItem) { it.Conversation = "short" }, wire.Malformed},
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
	disk := vfs.NewCrashableMem()
	db := openDB(t, "db", disk)
	o := startOutbox(t, db, func(_ *OutboxConfig, r *receiver) {
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
	after := disk.CrashClone(vfs.CrashCloneCfg{})
	o.stop()
	db.Close()
	db = openDB(t, "db", after)
	t.Cleanup(func() { db.Close() })
	o = startOutbox(t, db, nil)
	eventually(t, "all are delivered", func() bool { return o.r.count(orgB, conv) == count })
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
	db := openDB(t, "", vfs.NewMem())
	t.Cleanup(func() { db.Close() })
	k := outboxKeys{[]byte("o/")}
	for n := range 3 {
		key := k.item(orgB, conv, uint64(n+1))
		v := encodeItem(key, Item{subID(n), wire.TimeOf(time.Now()), fmt.Append(nil, n)})
		if n == 1 {
			v[len(v)-1] ^= 1
		}
		if err := db.Set(key, v, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	o := startOutbox(t, db, nil)
	eventually(t, "the lane is empty", func() bool { return len(o.Lanes()) == 0 && o.r.count(orgB, conv) == 2 })
	if !o.log.has("outbox item dropped", "reason=damaged") {
		t.Error("no log line")
	}
	if n := metricOf(t, o.metrics, "mlsfed_outbox_dropped_total", "reason", "damaged"); n != 1 {
		t.Errorf("metric %v", n)
	}
}

func FuzzOutboxItem(f *testing.F) {
	k := outboxKeys{[]byte("o/")}
	key := k.item(orgB, conv, 7)
	f.Add(key, encodeItem(key, Item{subID(1), 5, []byte("payload")}))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if d, c, sequence, err := k.parseItem(key); err == nil && len(key) > 3 && string(key[:3]) == "o/i" {
			if again := k.item(d, c, sequence); !bytes.Equal(again, key) {
				t.Fatalf("key %x is made again as %x", key, again)
			}
		}
		if it, err := decodeItem(key, value); err == nil {
			if again := encodeItem(key, it); !bytes.Equal(again, value) {
				t.Fatalf("value %x is made again as %x", value, again)
			}
		}
	})
}
