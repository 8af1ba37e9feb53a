package mailbox

import (
	"cmp"
	"time"

	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/wire"
)

// Config bounds a mailbox. A zero field takes its default.
type Config struct {
	// Clock is the clock by which items age; nil is the machine's. It should not jump: an item's time is the time of
	// this clock.
	Clock clock.Source

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
	// with its framing.
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
	// OpenStreams is how many unused streams stay in memory; 4,096 by default.
	OpenStreams int
	// Report gets the error of a stream that the sweeper could not sweep; the sweeper continues with the others. May
	// be nil.
	Report func(error)
	// Count counts the effects of a quota: OverQuota, OverShare and OverSender for each item refused, Expired for
	// each item that made room before all readers had it. It must not block. May be nil.
	Count func(what string, n uint64)
}

// The events that Config.Count counts.
const (
	OverQuota = "quota" // refused: the stream is full
	OverShare = "share" // refused: the sender's share of the stream is full
	// OverSender counts an item refused because the sender has too much in all streams together.
	OverSender = "sender"
	Expired    = "expired" // removed to make room, before all readers had it
)

const day = 24 * time.Hour

// Defaults returns the limits that replace zero fields. They equal the configuration that 'mlsfed init' writes: a
// test compares them.
func Defaults() Config { return Config{}.WithDefaults() }

// WithDefaults returns the configuration with each zero field replaced by its default.
func (c Config) WithDefaults() Config {
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	c.MaxItems = cmp.Or(c.MaxItems, 100_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	c.MaxSender = cmp.Or(c.MaxSender, 16<<30)
	c.MaxItem = cmp.Or(c.MaxItem, wire.MaxEntry+64<<10)
	c.MaxReaders = cmp.Or(c.MaxReaders, wire.MaxElements)
	c.MaxAge = cmp.Or(c.MaxAge, 30*day)
	c.DedupeWindow = cmp.Or(c.DedupeWindow, 30*day)
	c.TrimEvery = cmp.Or(c.TrimEvery, time.Second)
	c.ExpireEvery = cmp.Or(c.ExpireEvery, time.Hour)
	c.OpenStreams = cmp.Or(c.OpenStreams, 4096)
	if c.Report == nil {
		c.Report = func(error) {}
	}
	if c.Count == nil {
		c.Count = func(string, uint64) {}
	}
	return c
}

// CheckPut refuses an item that no mailbox takes: one without a kind or an id, or over MaxItem or MaxReaders.
func (c *Config) CheckPut(p *Put) error {
	if p.Kind == 0 || p.ID == (ID{}) {
		return wire.Errorf(wire.Malformed, "put", "item without a kind or an id")
	}
	if len(p.Payload) > c.MaxItem {
		return wire.Errorf(wire.TooLarge, "put", "item of %d bytes, at most %d: send it as a blob", len(p.Payload), c.MaxItem)
	}
	return c.CheckReaders(len(p.Join), len(p.Leave))
}

// CheckReaders refuses a change of more than MaxReaders readers.
func (c *Config) CheckReaders(join, leave int) error {
	if join > c.MaxReaders || leave > c.MaxReaders {
		return wire.Errorf(wire.TooLarge, "put", "%d readers join and %d leave, at most %d", join, leave, c.MaxReaders)
	}
	return nil
}
