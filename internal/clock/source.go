package clock

import "time"

// A Source is where a part has the time from, so that tests can supply their own.
type Source interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// System is the machine's clock.
type System struct{}

// Now implements Source.
func (System) Now() time.Time { return time.Now() }

// After implements Source.
func (System) After(d time.Duration) <-chan time.Time { return time.After(d) }
