// Package outbox keeps items for other organizations until the organizations have taken them: one lane for each
// organization and conversation, in order, at least once.
//
// An [Outbox] knows the other organizations by a [Link] alone, and its disk by a lanestore.Store. [New] starts nothing.
// [Outbox.Run] does the work until its context ends; close the store after that.
package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/wire"
)

// Dropped is an item that the outbox gives up.
type Dropped struct {
	ID     wire.SubmissionID // zero for an item that cannot be read
	Reason string            // DropRefused, DropExpired, DropDamaged or DropForgotten
}

// Link carries items to other organizations.
type Link interface {
	// Notify hands the payloads of one lane, in order, to an organization. results has one entry for each payload, nil
	// if the organization has the payload now. After an error nothing is known about any payload. The payloads are
	// valid until Notify returns. An outbox calls Notify for several lanes at once, and never twice at once for one
	// lane.
	Notify(ctx context.Context, org wire.Domain, conversation wire.ConversationID, payloads [][]byte) (results []error, err error)
}

// Config has the parameters of an Outbox. Link is needed; zero means the default, in brackets.
type Config struct {
	Link Link

	Expire       time.Duration // [7 days] an item that was not taken by then is dropped
	DedupeWindow time.Duration // [Expire] how long an id is known at least; not less than Expire
	MaxItems     int           // [1,000,000] items of one organization
	MaxBytes     int64         // [4 GiB] bytes of payload of one organization
	Shares       int           // [16] a user has one of so many shares of a queue that is more than half full
	ShareFor     time.Duration // [1 h] after which a user has the whole share again
	MaxItem      int           // [480 KiB] bytes of one payload
	BatchItems   int           // [256] items of one call
	BatchBytes   int           // [480 KiB] bytes of payload of one call
	Concurrency  int           // [8] lanes of one organization that are served at once
	Timeout      time.Duration // [30 s] of one call
	RetryMin     time.Duration // [200 ms] the first pause after a failure; it doubles
	RetryMax     time.Duration // [1 min] the longest pause

	// Dropped is called with the items of one lane that are given up, before they are removed. After an error the
	// items stay, and are given up again later. It may be called for an item twice. May be nil.
	Dropped func(ctx context.Context, org wire.Domain, conversation wire.ConversationID, items []Dropped) error

	Clock      clock.Source          // nil: the machine's
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics are published
}

const day = 24 * time.Hour

// Defaults returns the limits that zero ones mean. They are those of the configuration that 'mlsfed init' writes, and
// those in docs/spec/federation.md: tests compare all three.
func Defaults() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	c.Expire = cmp.Or(c.Expire, 7*day)
	c.DedupeWindow = max(c.DedupeWindow, c.Expire)
	c.MaxItems = cmp.Or(c.MaxItems, 1_000_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 4<<30)
	c.Shares = cmp.Or(c.Shares, 16)
	c.ShareFor = cmp.Or(c.ShareFor, time.Hour)
	c.MaxItem = cmp.Or(c.MaxItem, 480<<10)
	c.BatchItems = cmp.Or(c.BatchItems, 256)
	c.BatchBytes = cmp.Or(c.BatchBytes, 480<<10)
	c.Concurrency = cmp.Or(c.Concurrency, 8)
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.RetryMin = cmp.Or(c.RetryMin, 200*time.Millisecond)
	c.RetryMax = cmp.Or(c.RetryMax, time.Minute)
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Temporary reports whether a failure passes by itself: the other side is overloaded, stopping, faulty or out of reach.
// Any other answer would be repeated.
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

// LaneStatus describes what waits of one conversation for one organization.
type LaneStatus struct {
	Organization wire.Domain         `json:"organization"`
	Conversation wire.ConversationID `json:"conversation"`
	Items        int                 `json:"items"`
	Bytes        int64               `json:"bytes"`                // of payload
	Oldest       time.Time           `json:"oldest"`               // when the item that has waited longest was queued
	Retry        time.Time           `json:"retry,omitzero"`       // no attempt before this; zero if none is delayed
	LastError    string              `json:"last_error,omitempty"` // of the last attempt; "" after a success
}

// Outbox keeps items for other organizations until they have them. It is safe for concurrent use.
type Outbox struct {
	store   lanestore.Store
	cfg     Config
	metrics *metrics
	stopped chan struct{} // closed when Run has ended
	wake    chan struct{} // holds one: lanes may be ready
	arenas  sync.Pool     // of *[]byte: for the payloads of one batch

	mu           sync.Mutex // guards what follows, and the lanes
	started      bool
	dispatch     *dispatcher // nil while none is at work
	destinations map[wire.Domain]*destination
	pauses       pauses
}

// destination has the lanes of one organization.
type destination struct {
	domain     wire.Domain
	lanes      map[wire.ConversationID]*lane
	ready      []*lane // in the order in which they are to be served
	busy       int     // lanes that are being served
	offline    int     // lanes that wait because the organization could not be reached
	recoveries uint64  // how often the organization could be reached again
	forget     uint64  // items up to this sequence are dropped
	senders    map[string]sender
	items      int // with those that are not on disk yet
	bytes      int64
}

// New makes an outbox on a store that its owner runs, and keeps open until Run has returned. It reads and starts
// nothing.
func New(store lanestore.Store, cfg Config) (*Outbox, error) {
	if store == nil || cfg.Link == nil {
		return nil, wire.Errorf(wire.Invalid, "outbox", "a store and a link to the other organizations are needed")
	}
	o := &Outbox{
		store: store, cfg: cfg.withDefaults(), stopped: make(chan struct{}), wake: make(chan struct{}, 1),
		destinations: make(map[wire.Domain]*destination),
	}
	o.arenas.New = func() any { b := make([]byte, 0, o.cfg.BatchBytes); return &b }
	var err error
	o.metrics, err = newMetrics(o, cfg.Registerer)
	return o, err
}

// Put queues items. When it returns without an error the items are on disk, and will be handed over or expire. An item
// that is known by organization, conversation and id is skipped. If the quota of an organization is used up, its items
// are not queued and the error is a wire.Quota with its name; those of other organizations are queued nevertheless.
// After any other error no item is known to be queued: repeat the call. Items of one lane are sent in the order in
// which they were queued. The caller must not write to payloads afterwards.
func (o *Outbox) Put(ctx context.Context, items ...lanestore.Item) error {
	if len(items) == 0 {
		return nil
	}
	full, err := o.store.Append(ctx, items...)
	if err != nil {
		return err
	}
	return o.Refusal(full)
}

// Refusal returns the wire.Quota of Put for organizations that had no room, nil for none.
func (o *Outbox) Refusal(full map[wire.Domain]bool) error {
	if len(full) == 0 {
		return nil
	}
	return wire.Errorf(wire.Quota, "outbox", "too much waits for %v, at most %d items and %d bytes each: it is down, or slower than what is sent to it",
		slices.Sorted(maps.Keys(full)), o.cfg.MaxItems, o.cfg.MaxBytes)
}

func (o *Outbox) check(it *lanestore.Item) error {
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
	started := o.started
	o.started = true
	o.mu.Unlock()
	if started {
		return errors.New("outbox: Run was called twice: make a new Outbox")
	}
	defer close(o.stopped)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	d := &dispatcher{o: o, ctx: ctx, stop: stop}
	o.setDispatcher(d)
	if err := o.store.Open(keeper{o}); err != nil {
		return err
	}
	d.run()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Forget drops the items that wait for an organization, such as one that was removed from the allow-list. It starts the
// removal and does not wait for its end. Items that are queued later are not dropped.
func (o *Outbox) Forget(d wire.Domain) {
	o.mu.Lock()
	n := 0
	if to := o.destinations[d]; to != nil {
		n = to.items
		for _, l := range to.lanes {
			to.forget = max(to.forget, l.last)
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

// Lanes describes what waits, by organization and then by conversation. An empty lane is not listed. The list is empty
// until Run has read the store.
func (o *Outbox) Lanes() []LaneStatus {
	o.mu.Lock()
	var list []LaneStatus
	for _, to := range o.destinations {
		for _, l := range to.lanes {
			if l.items > 0 {
				list = append(list, l.status())
			}
		}
	}
	o.mu.Unlock()
	slices.SortFunc(list, func(a, b LaneStatus) int {
		if a.Organization != b.Organization {
			return cmp.Compare(a.Organization, b.Organization)
		}
		return cmp.Compare(a.Conversation, b.Conversation)
	})
	return list
}

// destination returns an organization's lanes; the caller holds mu.
func (o *Outbox) destination(d wire.Domain) *destination {
	to := o.destinations[d]
	if to == nil {
		to = &destination{domain: d, lanes: make(map[wire.ConversationID]*lane)}
		o.destinations[d] = to
	}
	return to
}

// nudge makes the dispatcher look for lanes that are ready.
func (o *Outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Outbox) now() wire.Time { return wire.TimeOf(o.cfg.Clock.Now()) }

func ago(now wire.Time, d time.Duration) wire.Time { return now - wire.Time(d.Milliseconds()) }
