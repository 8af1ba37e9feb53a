package outbox

import (
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestOneSenderDoesNotFillTheOutbox checks that one user, in any number of conversations, cannot use up the queue for
// an organization that is away: from half of the quota on each user has a share, and the others' messages are still
// accepted. The share comes back with time. The number of shares is configurable, and 1 is no limit.
func TestOneSenderDoesNotFillTheOutbox(t *testing.T) {
	const quota = 64
	for name, test := range map[string]struct {
		edit   func(*Config)
		shares int
		again  time.Duration
	}{
		"items":            {func(c *Config) { c.MaxItems = quota }, 16, time.Hour},
		"bytes":            {func(c *Config) { c.MaxBytes = 3 * quota }, 16, time.Hour},
		"a quarter of it":  {func(c *Config) { c.MaxItems, c.Shares, c.ShareFor = quota, 4, time.Minute }, 4, time.Minute},
		"a quarter, bytes": {func(c *Config) { c.MaxBytes, c.Shares, c.ShareFor = 3*quota, 4, time.Minute }, 4, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			clock := federationtest.NewClock()
			o := startOutbox(t, pebbletest.Memory(), func(c *Config, r *receiver) {
				c.Clock, c.RetryMin, c.RetryMax = clock, 24*time.Hour, 24*time.Hour
				r.down = func(wire.Domain, wire.ConversationID) error { return errors.New("connection refused") }
				test.edit(c)
			})
			n := 100
			put := func(sender wire.UserID) error {
				n++
				it := numbered(orgB, wire.ConversationID("conversation-"+string(rune('a'+n%20))), n)
				it.Sender = sender
				return o.Put(t.Context(), it)
			}
			const mallory, alice = wire.UserID("mimi://a.example/u/mallory"), wire.UserID("mimi://a.example/u/alice")
			taken := 0
			for range 2 * quota {
				switch err := put(mallory); {
				case err == nil:
					taken++
				case !errors.Is(err, wire.Quota):
					t.Fatal(err)
				}
			}
			if taken != quota/2 {
				t.Errorf("%d of %d items of one user are queued", taken, quota)
			}
			for i := range quota / test.shares {
				if err := put(alice); err != nil {
					t.Errorf("item %d of another user: %v", i, err)
				}
			}
			if err := put(alice); !errors.Is(err, wire.Quota) {
				t.Errorf("over the share: %v", err)
			}
			clock.Advance(test.again)
			if err := put(alice); err != nil {
				t.Errorf("later: %v", err)
			}
		})
	}
}

// TestOneShareIsNoLimit checks that one user may use the whole queue of an organization if there is one share of it.
func TestOneShareIsNoLimit(t *testing.T) {
	const quota = 64
	o := startOutbox(t, pebbletest.Memory(), func(c *Config, r *receiver) {
		c.RetryMin, c.RetryMax, c.MaxItems, c.Shares = 24*time.Hour, 24*time.Hour, quota, 1
		r.down = func(wire.Domain, wire.ConversationID) error { return errors.New("connection refused") }
	})
	for n := range quota + 1 {
		it := numbered(orgB, "conversation-one", n)
		it.Sender = "mimi://a.example/u/alice"
		if err := o.Put(t.Context(), it); n < quota && err != nil || n == quota && !errors.Is(err, wire.Quota) {
			t.Errorf("item %d of %d: %v", n+1, quota, err)
		}
	}
}
