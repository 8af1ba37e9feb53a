package mailbox

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// Clock is where a mailbox has the time from.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config bounds a mailbox. A zero field takes its default.
type Config struct {
	// Clock is what items age by; nil is the machine's. It should not jump: an item's time is that of this clock.
	Clock Clock
	// Writer makes the batches, also those of others who use the database; its owner runs it, beside Run.
	// Nil: the mailbox has one of its own.
	Writer *batch.Writer

	// MaxItems and MaxBytes are the quota of a stream: items, and bytes of payload, that are kept because
	// a reader has not acknowledged them. 100,000 and 1 GiB by default.
	MaxItems, MaxBytes uint64
	// MaxSender is how many bytes of payload one sender may have in all streams together that a reader has not
	// acknowledged. 16 GiB by default.
	MaxSender uint64
	// A full stream makes room by expiring its oldest items, as far as some reader has acknowledged them: a
	// device that is away meets a gap, and does not stop the others of its organization. DropOldest makes room
	// also where no reader has, instead of refusing the new item with wire.Quota.
	DropOldest bool
	// MaxItem is the longest payload in bytes; 1 MiB and 64 KiB by default, an entry of the largest size
	// with what stands around it.
	MaxItem int
	// MaxReaders bounds the readers of a stream; wire.MaxElements by default.
	MaxReaders int
	// MaxAge is how long an unread item is kept; 30 days by default.
	MaxAge time.Duration
	// DedupeWindow is how long an id is remembered at least; twice as long at most. 30 days by default.
	// It should not be shorter than the time for which senders retry.
	DedupeWindow time.Duration
	// TrimEvery is how often acknowledged items are removed, ExpireEvery how often all streams are
	// searched for old ones. One second and one hour by default.
	TrimEvery, ExpireEvery time.Duration
	// OpenStreams is how many streams nobody uses stay in memory; 4,096 by default.
	OpenStreams int
	// Report is given what the sweeper could not do to a stream; it goes on with the others. May be nil.
	Report func(error)
	// Count counts what a quota did: OverQuota, OverShare and OverSender for each item refused, Expired for each item that
	// made room before all readers had it. It must not block. May be nil.
	Count func(what string, n uint64)
}

// What Config.Count counts.
const (
	OverQuota = "quota" // refused: the stream is full
	OverShare = "share" // refused: the sender's share of the stream is full
	// OverSender: refused, since the sender has too much in all streams together.
	OverSender = "sender"
	Expired    = "expired" // removed to make room, before all readers had it
)

const day = 24 * time.Hour

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Defaults are the limits that zero fields stand for. They are those of the configuration that 'mlsfed init' writes: a
// test compares them.
func Defaults() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	c.MaxItems = or(c.MaxItems, 100_000)
	c.MaxBytes = or(c.MaxBytes, 1<<30)
	c.MaxSender = or(c.MaxSender, 16<<30)
	c.MaxItem = or(c.MaxItem, wire.MaxEntry+64<<10)
	c.MaxReaders = or(c.MaxReaders, wire.MaxElements)
	c.MaxAge = or(c.MaxAge, 30*day)
	c.DedupeWindow = or(c.DedupeWindow, 30*day)
	c.TrimEvery = or(c.TrimEvery, time.Second)
	c.ExpireEvery = or(c.ExpireEvery, time.Hour)
	c.OpenStreams = or(c.OpenStreams, 4096)
	if c.Report == nil {
		c.Report = func(error) {}
	}
	if c.Count == nil {
		c.Count = func(string, uint64) {}
	}
	return c
}

// Tune sets what a mailbox wants of the database that it shares: filters, since nearly every append
// looks up an id that is not there, and room for a burst.
func Tune(o *pebble.Options) *pebble.Options {
	if o == nil {
		o = &pebble.Options{}
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.CacheSize = 64 << 20 // of which the filters are the better part
	o.MemTableSize = 16 << 20
	o.MemTableStopWritesThreshold = 4
	o.L0CompactionThreshold = 4
	return o
}
