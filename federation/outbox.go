package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// OutboxItem is something that an organization is to get.
type OutboxItem struct {
	Organization wire.Domain
	Conversation wire.ConversationID
	ID           wire.SubmissionID // known within its lane: a repetition is not queued again
	Payload      []byte
}

// Item is an item of one lane on its way.
type Item struct {
	ID      wire.SubmissionID
	Time    wire.Time // when it was put in
	Payload []byte
}

// Dropped is an item that was given up.
type Dropped struct {
	ID     wire.SubmissionID // zero for one that could not be read
	Reason string            // DropRefused, DropExpired, DropDamaged or DropForgotten
}

// SendFunc hands items of one lane, in order, to an organization. The items are its own until it returns. results has one entry for each item,
// nil where the organization has it now; or err says that nothing is known of any. It is called for
// several lanes at once, never twice at once for one lane.
type SendFunc func(ctx context.Context, org wire.Domain, conversation wire.ConversationID, items []Item) (results []error, err error)

// OutboxConfig is what an Outbox works with. Send is needed; zero stands for the default, in brackets.
type OutboxConfig struct {
	Send SendFunc
	// Writer makes the batches, also those of others who use the database; its owner runs it, beside Run.
	// Nil: the outbox has one of its own.
	Writer *batch.Writer

	Expire       time.Duration // [7 days] an item that was not taken by then is dropped
	DedupeWindow time.Duration // [Expire] how long an id is known at least; not less than Expire
	MaxItems     int           // [1,000,000] items of one organization
	MaxBytes     int64         // [4 GiB] bytes of payload of one organization
	MaxItem      int           // [480 KiB] bytes of one payload
	BatchItems   int           // [256] items of one call
	BatchBytes   int           // [480 KiB] bytes of payload of one call
	Concurrency  int           // [8] lanes of one organization that are being sent at once
	Timeout      time.Duration // [30 s] of one call of Send
	RetryMin     time.Duration // [200 ms] the first pause after a failure; it doubles
	RetryMax     time.Duration // [1 min] the longest pause

	// Dropped is told what was given up of one lane, before it is removed. With an error the items stay, and
	// are met again. It may be told of an item twice. May be nil.
	Dropped func(ctx context.Context, org wire.Domain, conversation wire.ConversationID, items []Dropped) error

	// Temporary says whether a failure will pass by waiting; nil is [Temporary].
	Temporary  func(error) bool
	Clock      Clock                 // nil: the machine's
	Jitter     func() float64        // from 0 to 1, to spread pauses; nil: math/rand
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics are published
}

const day = 24 * time.Hour

func (c OutboxConfig) withDefaults() OutboxConfig {
	c.Expire = or(c.Expire, 7*day)
	c.DedupeWindow = max(c.DedupeWindow, c.Expire)
	c.MaxItems = or(c.MaxItems, 1_000_000)
	c.MaxBytes = or(c.MaxBytes, 4<<30)
	c.MaxItem = or(c.MaxItem, 480<<10)
	c.BatchItems = or(c.BatchItems, 256)
	c.BatchBytes = or(c.BatchBytes, 480<<10)
	c.Concurrency = or(c.Concurrency, 8)
	c.Timeout = or(c.Timeout, 30*time.Second)
	c.RetryMin = or(c.RetryMin, 200*time.Millisecond)
	c.RetryMax = or(c.RetryMax, time.Minute)
	if c.Temporary == nil {
		c.Temporary = Temporary
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Temporary reports whether err will pass by waiting: the other side is overloaded, stopping, faulty or
// out of reach. Whatever else a node answers will be answered again.
func Temporary(err error) bool {
	var e *wire.Error
	var c wire.Code
	if !errors.As(err, &e) && !errors.As(err, &c) {
		return true // of the network, or a deadline
	}
	switch wire.CodeOf(err) {
	case wire.Busy, wire.Unavailable, wire.NotAdmitted, wire.NoQuorum, wire.Quota, wire.Internal:
		return true
	}
	return false
}

// LaneStatus is what waits of one conversation for one organization.
type LaneStatus struct {
	Organization wire.Domain         `json:"organization"`
	Conversation wire.ConversationID `json:"conversation"`
	Items        int                 `json:"items"`
	Bytes        int64               `json:"bytes"`                // of payload
	Oldest       time.Time           `json:"oldest"`               // when the item that has waited longest was put in
	Retry        time.Time           `json:"retry,omitzero"`       // no attempt before this; zero when none is put off
	LastError    string              `json:"last_error,omitempty"` // of the last attempt; "" after a success
}

// Outbox holds what other organizations are to get until they have it. It is safe for concurrent use.
type Outbox struct {
	db      *pebble.DB
	keys    outboxKeys
	cfg     OutboxConfig
	metrics *outboxMetrics

	queue   *outboxWriter
	writer  *batch.Writer
	loaded  chan struct{} // closed when Run has read what waits
	stopped chan struct{} // closed when Run has ended
	wake    chan struct{} // holds one: lanes may be ready
	arenas  sync.Pool     // of *[]byte: for the payloads of one batch

	mu       sync.Mutex // guards what follows, and the lanes
	started  bool
	dispatch *dispatcher // nil while none is at work
	orgs     map[wire.Domain]*outboxOrg
	pauses   pauses
}

// outboxOrg is one organization's share.
type outboxOrg struct {
	domain  wire.Domain
	lanes   map[wire.ConversationID]*lane
	ready   []*lane // in the order in which they are to be served
	busy    int     // lanes that are being served
	offline int     // lanes that wait because it could not be reached
	ups     uint64  // how often it could be reached again
	forget  uint64  // items up to this sequence are dropped
	items   int     // with those that are not on disk yet
	bytes   int64
}

// NewOutbox makes an outbox on a database that its owner keeps open until Run has returned. All its keys
// begin with prefix. It reads and starts nothing.
func NewOutbox(db *pebble.DB, prefix []byte, cfg OutboxConfig) (*Outbox, error) {
	if db == nil || cfg.Send == nil {
		return nil, wire.Errorf(wire.Invalid, "outbox", "a database and a function that sends are needed")
	}
	o := &Outbox{
		db: db, keys: outboxKeys{slices.Clone(prefix)}, cfg: cfg.withDefaults(),
		loaded: make(chan struct{}), stopped: make(chan struct{}), wake: make(chan struct{}, 1),
		orgs: make(map[wire.Domain]*outboxOrg),
	}
	o.queue = &outboxWriter{o: o, next: 1}
	if o.writer = o.cfg.Writer; o.writer == nil {
		o.writer = batch.NewWriter(db)
	}
	o.arenas.New = func() any { b := make([]byte, 0, o.cfg.BatchBytes); return &b }
	var err error
	o.metrics, err = newOutboxMetrics(o, cfg.Registerer)
	return o, err
}

// Put queues items. When it returns without an error they are on disk and will be handed over, or
// expire. An item that is known by organization, conversation and id is passed over. If an organization's
// quota is used up, its items are not queued and the error is a wire.Quota that names it; those of other
// organizations are queued nevertheless. Any other error says that none is known to be queued: repeat it.
// Items of one lane are sent in the order in which they were put. Payloads are not to be written to
// afterwards.
func (o *Outbox) Put(ctx context.Context, items ...OutboxItem) error {
	if len(items) == 0 {
		return nil
	}
	c, refused, err := o.Change(ctx, items...)
	if err != nil {
		return err
	}
	if err := o.writer.Do(ctx, c); err != nil {
		return err
	}
	return refused()
}

// Change is a Put that is still to be done by OutboxConfig.Writer, with changes of others in the same batch.
// Put's wire.Quota is what refused says afterwards.
func (o *Outbox) Change(ctx context.Context, items ...OutboxItem) (c batch.Change, refused func() error, err error) {
	for i := range items {
		if err := o.check(&items[i]); err != nil {
			return batch.Change{}, nil, err
		}
	}
	if err := batch.Serving(ctx, o.loaded, o.stopped); err != nil {
		return batch.Change{}, nil, err
	}
	var full map[wire.Domain]bool
	c = batch.Change{Part: o.queue, Sync: true, Stage: func(s batch.Share) (err error) {
		full, err = s.(*outboxBatch).take(items)
		return err
	}}
	return c, func() error { return o.refusal(full) }, nil
}

func (o *Outbox) refusal(full map[wire.Domain]bool) error {
	if len(full) == 0 {
		return nil
	}
	return wire.Errorf(wire.Quota, "outbox", "too much waits for %v, at most %d items and %d bytes each: it is down, or slower than what is sent to it",
		slices.Sorted(maps.Keys(full)), o.cfg.MaxItems, o.cfg.MaxBytes)
}

func (o *Outbox) check(it *OutboxItem) error {
	if err := it.Organization.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "outbox", "%v", err)
	}
	if err := it.Conversation.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "outbox", "%v", err)
	}
	if it.ID == (wire.SubmissionID{}) {
		return wire.Errorf(wire.Malformed, "outbox", "an item without an id: choose 16 random bytes")
	}
	if n := len(it.Payload); n == 0 || n > o.cfg.MaxItem {
		return wire.Errorf(wire.TooLarge, "outbox", "an item of %d bytes, wanted 1 to %d", n, o.cfg.MaxItem)
	}
	return nil
}

// Run does the outbox's work until ctx ends or the database fails. It can be called once. Until it runs,
// Put waits; after it, Put is refused with wire.Unavailable.
func (o *Outbox) Run(ctx context.Context) error {
	o.mu.Lock()
	again := o.started
	o.started = true
	o.mu.Unlock()
	if again {
		return errors.New("outbox: Run was called twice: make a new Outbox")
	}
	defer close(o.stopped)
	if err := o.queue.load(); err != nil {
		return fmt.Errorf("outbox: open: %w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	d := &dispatcher{o: o, ctx: ctx, stop: stop}
	o.setDispatcher(d)
	close(o.loaded)
	var all sync.WaitGroup
	if o.cfg.Writer == nil {
		all.Go(func() { stop(o.writer.Run(ctx)) })
	}
	all.Go(d.run)
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Forget drops what waits for an organization: one that was removed from the allow-list, say. It starts the
// dropping and does not wait for its end. Items that are put in later are not concerned.
func (o *Outbox) Forget(d wire.Domain) {
	o.mu.Lock()
	n := 0
	if org := o.orgs[d]; org != nil {
		n = org.items
		for _, l := range org.lanes {
			org.forget = max(org.forget, l.last)
			l.retry = time.Time{}
			l.enqueue()
		}
	}
	o.mu.Unlock()
	o.nudge()
	if n > 0 {
		o.cfg.Logger.Warn("outbox items dropped", "organization", d, "reason", DropForgotten, "items", n)
	}
}

// Lanes is what waits, by organization and then by conversation. An empty lane is not listed. Until Run has
// read what waits, there is none.
func (o *Outbox) Lanes() []LaneStatus {
	o.mu.Lock()
	var list []LaneStatus
	for _, org := range o.orgs {
		for _, l := range org.lanes {
			if l.items > 0 {
				list = append(list, l.status())
			}
		}
	}
	o.mu.Unlock()
	slices.SortFunc(list, func(a, b LaneStatus) int {
		if a.Organization != b.Organization {
			return compare(a.Organization, b.Organization)
		}
		return compare(a.Conversation, b.Conversation)
	})
	return list
}

// org is an organization's share; the caller holds mu.
func (o *Outbox) org(d wire.Domain) *outboxOrg {
	org := o.orgs[d]
	if org == nil {
		org = &outboxOrg{domain: d, lanes: make(map[wire.ConversationID]*lane)}
		o.orgs[d] = org
	}
	return org
}

// nudge lets the dispatcher look for lanes that are ready.
func (o *Outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Outbox) now() wire.Time { return wire.TimeOf(o.cfg.Clock.Now()) }

func ago(now wire.Time, d time.Duration) wire.Time { return now - wire.Time(d.Milliseconds()) }
