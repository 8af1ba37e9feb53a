package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/clock"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/wire"
)

// saveClockEvery is how often the clock's state is stored.
const saveClockEvery = time.Minute

// clockWarnEvery is how often the log has a line of jumps: a broken clock may jump at each reading.
const clockWarnEvery = time.Minute

// openClock continues the clock of the last run.
func openClock(db *pebble.DB, cfg *config.Clock, o Options) (*clock.Clock, error) {
	stored, closer, err := db.Get(prefixClock)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		stored = nil
	case err != nil:
		return nil, fmt.Errorf("clock: %w", err)
	default:
		stored = append([]byte{}, stored...)
		if err := closer.Close(); err != nil {
			return nil, fmt.Errorf("clock: %w", err)
		}
	}
	return clock.New(clock.Config{
		Limits: clockLimits(cfg),
		Wall:   o.Now, Elapse: o.Elapse, Stored: stored, Report: reportJumps(o.Logger),
	})
}

// reportJumps writes what the machine's clock does into the log.
func reportJumps(log *slog.Logger) func(clock.Jump) {
	if log == nil {
		return nil
	}
	var last time.Time // by the monotonic clock
	return func(j clock.Jump) {
		text := "clock jumped: the node goes on by its own count until the new time has stood for a while"
		switch j.Stage {
		case clock.Ended:
			text = "clock jumped, and is back"
		case clock.Believed:
			text = "clock jumped, and has stood: the node takes the new time; what it stores does not age by the jump"
		}
		if now := time.Now(); j.Stage == clock.Believed || now.Sub(last) >= clockWarnEvery || j.Stage == clock.Ended && now.Sub(last) < time.Second {
			last = now
			log.Warn(text, "by", j.By)
		}
	}
}

// saveClock stores the clock's state now and then.
func (n *Node) saveClock(ctx context.Context) error {
	for tick := time.NewTicker(saveClockEvery); ; {
		if err := n.stores.db.Set(prefixClock, n.stores.clock.State(), pebble.Sync); err != nil {
			tick.Stop()
			return fmt.Errorf("clock: %w", err)
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return n.stores.db.Set(prefixClock, n.stores.clock.State(), pebble.Sync)
		case <-tick.C:
		}
	}
}

// counting is the clock that things age by, day the one of certificates and of what people are shown.
type (
	counting struct{ *clock.Clock }
	day      struct{ *clock.Clock }
)

func (c counting) Now() time.Time                       { return c.Count() }
func (counting) After(d time.Duration) <-chan time.Time { return time.After(d) }
func (day) After(d time.Duration) <-chan time.Time      { return time.After(d) }

// shown is the time of day at a time of the count.
func shown(c *clock.Clock, t wire.Time) wire.Time { return wire.TimeOf(c.Shown(t.Std())) }
