package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// line is a sender and the conversation in which it sends.
type line struct {
	from *correspondent
	to   *talk
}

// oneToOne measures pairs of devices of two organizations.
func (b *bench) oneToOne(ctx context.Context) (err error) {
	w, err := b.world(ctx, "one-to-one", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	lines := make([]line, b.pairs)
	err = shareOut(b.pairs, func(i int) error {
		from, err := w.enrol(w.domains[0], fmt.Sprintf("from%d", i+1))
		if err != nil {
			return err
		}
		to, err := w.enrol(w.domains[1], fmt.Sprintf("to%d", i+1))
		if err != nil {
			return err
		}
		t, err := w.converse(from, to)
		lines[i] = line{from, t}
		return err
	})
	if err != nil {
		return err
	}
	t, err := w.load("one-to-one", lines)
	if err != nil {
		return err
	}
	return b.rows("one-to-one", b.pairs, t)
}

// room measures a conversation of several organizations, in which one device of each organization sends.
func (b *bench) room(ctx context.Context) (err error) {
	w, err := b.world(ctx, "room", b.organizations)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t, n, err := b.inRoom(w, b.devices)
	if err != nil {
		return err
	}
	return b.rows("room", n, t)
}

// inRoom loads one conversation of all organizations, with some devices of each, and returns the number of devices.
func (b *bench) inRoom(w *deliveryWorld, each int) (*talked, int, error) {
	members := make([]*correspondent, len(w.domains)*each)
	err := shareOut(len(members), func(i int) (err error) {
		members[i], err = w.enrol(w.domains[i%len(w.domains)], fmt.Sprintf("user%d", i+1))
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	t, err := w.converse(members...)
	if err != nil {
		return nil, 0, err
	}
	var lines []line
	for _, c := range members[:len(w.domains)] {
		lines = append(lines, line{c, t})
	}
	took, err := w.load("room", lines)
	return took, len(members), err
}

// load lets each line send its next message when the last has arrived: first to warm up, then for the
// duration of the measurement.
func (w *deliveryWorld) load(name string, lines []line) (*talked, error) {
	turns := make([][]line, len(lines))
	for i := range lines {
		turns[i] = lines[i : i+1]
	}
	return w.loadTurns(name, turns)
}

// loadTurns is load for senders that each send in several conversations in turn.
func (w *deliveryWorld) loadTurns(name string, lines [][]line) (*talked, error) {
	w.bench.Table.Progress("%s: warms up for %v", name, w.bench.duration/5)
	if _, err := w.speak(name, lines, w.bench.duration/5); err != nil {
		return nil, err
	}
	w.bench.Table.Progress("%s: is measured for %v", name, w.bench.duration)
	before, err := w.compute(w.domains...)
	if err != nil {
		return nil, err
	}
	t, err := w.speak(name, lines, w.bench.duration)
	if err != nil {
		return nil, err
	}
	after, err := w.compute(w.domains...)
	t.processor = after.since(before)
	return t, err
}

// speak runs all lines. It waits for a message that is in transit at the end, and counts it.
func (w *deliveryWorld) speak(name string, lines [][]line, duration time.Duration) (*talked, error) {
	t := new(talked)
	var mu sync.Mutex // guards t.took
	progress := time.NewTicker(2 * time.Second)
	defer progress.Stop()
	start := time.Now()
	err := cluster.Spread(len(lines), func(i int) error {
		for turn := 0; time.Since(start) < duration; turn++ {
			line := lines[i][turn%len(lines[i])]
			l, err := w.send(line.from, line.to)
			if err != nil {
				return err
			}
			last, err := w.await(l)
			if err != nil {
				return err
			}
			w.forget(l)
			mu.Lock()
			t.took = append(t.took, harness.Milliseconds(last.Sub(l.sent)))
			count := len(t.took)
			mu.Unlock()
			select {
			case <-progress.C:
				w.bench.Table.Progress("%s: %d messages", name, count)
			default:
			}
		}
		return nil
	})
	t.elapsed = time.Since(start)
	return t, err
}

// forget ends the bookkeeping of a letter that has arrived everywhere. A second arrival is then a fault.
func (w *deliveryWorld) forget(l *letter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.letters, l.number)
}

// outage measures the delivery of messages that have waited for an organization.
func (b *bench) outage(ctx context.Context) (err error) {
	w, err := b.world(ctx, "outage", 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var members []*correspondent
	for _, d := range w.domains {
		c, err := w.enrol(d, "user")
		if err != nil {
			return err
		}
		members = append(members, c)
	}
	talks := make([]*talk, b.conversations)
	for i := range talks {
		if talks[i], err = w.converse(members...); err != nil {
			return err
		}
	}
	from, away := members[0], members[len(members)-1]
	b.Table.Progress("outage: %s stops", away.domain)
	stopped := time.Now()
	if err := w.cluster.Stop(away.domain); err != nil {
		return err
	}
	letters, err := w.sendAll(from, away, talks)
	if err != nil {
		return err
	}
	for _, t := range talks {
		if err := members[1].UpdateKeys(w.ctx, t.id); err != nil {
			return fmt.Errorf("a commit while %s is down: %w", away.domain, w.cause(err))
		}
	}
	b.Table.Progress("outage: %d messages and a commit in each of %d conversations wait", len(letters), len(talks))
	if err := w.rest(time.Until(stopped.Add(b.down))); err != nil {
		return err
	}
	before, err := w.compute(w.domains[:len(w.domains)-1]...)
	if err != nil {
		return err
	}
	b.Table.Progress("outage: %s starts after %v", away.domain, time.Since(stopped).Round(time.Millisecond))
	start := time.Now()
	if err := w.cluster.Start(w.ctx, away.domain); err != nil {
		return err
	}
	ready := time.Since(start)
	t := new(talked)
	for _, l := range letters {
		last, err := w.await(l)
		if err != nil {
			return err
		}
		t.took = append(t.took, harness.Milliseconds(last.Sub(start)))
		t.elapsed = max(t.elapsed, last.Sub(start))
	}
	after, err := w.compute(w.domains...)
	if err != nil {
		return err
	}
	t.processor = after.since(before)
	return errors.Join(
		b.Table.Add(harness.Row{Name: "outage/node", N: b.waiting, Value: harness.Milliseconds(ready), Unit: "ms"}),
		b.Table.Add(harness.Row{Name: "outage/all", N: b.waiting, Value: t.elapsed.Seconds(), Unit: "s"}),
		b.rows("outage", b.waiting, t),
	)
}

// sendAll sends the messages that will wait, in turns in all conversations. It returns when the organization of the
// sender has accepted them and they wait only for the absent device.
func (w *deliveryWorld) sendAll(from, away *correspondent, talks []*talk) ([]*letter, error) {
	letters := make([]*letter, 0, w.bench.waiting)
	for i := range w.bench.waiting {
		l, err := w.send(from, talks[i%len(talks)])
		if err != nil {
			return nil, err
		}
		letters = append(letters, l)
	}
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	for _, t := range talks {
		err := cluster.Await(ctx, from.Device, func() (bool, error) {
			v, err := from.Conversation(ctx, t.id)
			return err == nil && v.State == client.StateActive && v.Outgoing == 0, err
		})
		if err != nil {
			return nil, fmt.Errorf("messages while %s is down: %w", away.domain, w.cause(err))
		}
	}
	for _, present := range talks[0].members[1:] {
		if present == away {
			continue
		}
		err := cluster.Await(ctx, present.Device, func() (bool, error) { return !w.owes(letters, present), nil })
		if err != nil {
			return nil, fmt.Errorf("messages to %s while %s is down: %w", present.domain, away.domain, w.cause(err))
		}
	}
	return letters, nil
}

// owes reports whether a device lacks one of the letters.
func (w *deliveryWorld) owes(letters []*letter, to *correspondent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range letters {
		if l.owed[to] {
			return true
		}
	}
	return false
}

// rest waits for a duration, which may be negative.
func (w *deliveryWorld) rest(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	return w.cause(cluster.Pause(w.ctx, d))
}

// shareOut runs n pieces of work on some goroutines. Each goroutine stops at its first failure.
func shareOut(n int, do func(i int) error) error {
	workers := min(n, 8)
	return cluster.Spread(workers, func(k int) error {
		for i := k; i < n; i += workers {
			if err := do(i); err != nil {
				return err
			}
		}
		return nil
	})
}
