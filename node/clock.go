package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// saveClockEvery is how often the clock's state is stored.
const saveClockEvery = time.Minute

// clockWarnEvery is the shortest time between two log lines about jumps: a broken clock may jump at each reading.
const clockWarnEvery = time.Minute

// openClock returns a clock that continues the clock of the last run.
func openClock(ctx context.Context, kept store.Clock, cfg *config.Clock, o Options) (*clock.Clock, error) {
	stored, err := kept.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("clock: %w", err)
	}
	return clock.New(clock.Config{
		Limits: clockLimits(cfg),
		Wall:   o.Now, Elapse: o.Elapse, After: o.After, Stored: stored, Report: reportJumps(o.Logger),
	})
}

// reportJumps returns a function that writes jumps of the machine's clock into the log.
func reportJumps(log *slog.Logger) func(clock.Jump) {
	var last time.Time // by the monotonic clock
	return func(j clock.Jump) {
		text := "clock jumped: the node keeps its own count until the new time is confirmed"
		switch j.Stage {
		case clock.Ended:
			text = "clock jumped, and is back"
		case clock.Believed:
			text = "clock jumped, and the new time is confirmed: the node uses it; stored data does not age by the jump"
		}
		if now := time.Now(); j.Stage == clock.Believed || now.Sub(last) >= clockWarnEvery || j.Stage == clock.Ended && now.Sub(last) < time.Second {
			last = now
			log.Warn(text, "by", j.By)
		}
	}
}

// saveClock stores the clock's state every saveClockEvery.
func (n *Node) saveClock(ctx context.Context) error {
	kept := n.stores.store.Clock()
	for tick := time.NewTicker(saveClockEvery); ; {
		err := kept.Save(context.WithoutCancel(ctx), n.stores.clock.State())
		if errors.Is(err, wire.Unavailable) { // a database that is away for a moment: the next tick saves a newer state
			n.log.Warn("the state of the clock was not saved", "error", err)
			err = nil
		}
		if err != nil {
			tick.Stop()
			return fmt.Errorf("clock: %w", err)
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return kept.Save(context.WithoutCancel(ctx), n.stores.clock.State())
		case <-tick.C:
		}
	}
}

// counting is the clock by which stored data ages. day is the clock for certificates and for times that people see.
type (
	counting struct{ *clock.Clock }
	day      struct{ *clock.Clock }
)

func (c counting) Now() time.Time { return c.Count() }

// shown returns the time of day that belongs to a time of the counting clock.
func shown(c *clock.Clock, t wire.Time) wire.Time { return wire.TimeOf(c.Shown(t.Std())) }
