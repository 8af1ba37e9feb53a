package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
)

// countedStore counts the transactions for which a device waits.
type countedStore struct {
	client.Store
	waited *atomic.Int64
}

// Apply implements client.Store.
func (s countedStore) Apply(b mlscore.Batch) error {
	if !b.Relaxed {
		s.waited.Add(1)
	}
	return s.Store.Apply(b)
}

// counting returns an option that makes a device count its transactions.
func counting(waited *atomic.Int64) func(*client.Options) {
	return func(o *client.Options) { o.Store = countedStore{o.Store, waited} }
}

// ofDevice measures what messages cost the stores of devices, and how soon a device is connected again after an
// outage.
func (b *bench) ofDevice(ctx context.Context) (err error) {
	w, err := b.world(ctx, "device", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var sent, received atomic.Int64
	from, err := w.enrol(w.domains[0], "from", counting(&sent))
	if err != nil {
		return err
	}
	to, err := w.enrol(w.domains[1], "to")
	if err != nil {
		return err
	}
	talks := make([]*talk, b.conversations)
	for i := range talks {
		if talks[i], err = w.converse(from, to); err != nil {
			return err
		}
	}
	b.Table.Progress("device: %d messages wait for a device that is away", b.waiting)
	if err := w.cluster.StopDevice(to.Device); err != nil {
		return err
	}
	sent.Store(0)
	letters, err := w.sendAll(from, to, talks)
	if err != nil {
		return err
	}
	each := func(count *atomic.Int64) float64 { return float64(count.Load()) / float64(b.waiting) }
	if err := b.Table.Add(harness.Row{Name: "device/transactions", N: b.waiting, Value: each(&sent), Unit: "a message sent"}); err != nil {
		return err
	}
	if err := w.back(from, to, letters, &received); err != nil {
		return err
	}
	if err := b.Table.Add(harness.Row{Name: "device/transactions-received", N: b.waiting, Value: each(&received), Unit: "a message received"}); err != nil {
		return err
	}
	return b.reconnect(w, to)
}

// back starts a device that was away, and waits until it has all letters and the sender has their receipts.
func (w *deliveryWorld) back(from, to *correspondent, letters []*letter, count *atomic.Int64) error {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	receipts := from.Subscribe(ctx)
	v, err := w.cluster.Resume(to.domain, to.user.Name(), "device", counting(count), func(o *client.Options) {
		o.Timing.RetryFirst, o.Timing.RetryLast = 0, 0 // the default, which reconnect measures
	})
	if err != nil {
		return err
	}
	to.Device = v
	w.watch(to)
	for _, l := range letters {
		if _, err := w.await(l); err != nil {
			return err
		}
	}
	confirmed := 0
	for e := range receipts {
		if e.Type == client.EventDelivered {
			confirmed++
		}
		if confirmed == len(letters) {
			return nil
		}
	}
	return fmt.Errorf("%d of %d messages are reported as received after %v: %w", confirmed, len(letters), waitTime, w.cause(ctx.Err()))
}

// reconnect measures how long a device takes to connect when its node serves again and its user acts.
func (b *bench) reconnect(w *deliveryWorld, to *correspondent) error {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime+b.down)
	defer cancel()
	b.Table.Progress("device: its node stops")
	stopped := time.Now()
	if err := w.cluster.Stop(to.domain); err != nil {
		return err
	}
	err := cluster.Await(ctx, to.Device, func() (bool, error) { return !to.Connected(), nil })
	if err != nil {
		return w.cause(err)
	}
	if err := w.rest(time.Until(stopped.Add(b.down))); err != nil {
		return err
	}
	if err := w.cluster.Start(w.ctx, to.domain); err != nil {
		return err
	}
	events := to.Subscribe(ctx)
	start := time.Now()
	to.Reconnect()
	if !to.Connected() {
		for e := range events {
			if e.Type == client.EventConnected {
				break
			}
		}
	}
	took := time.Since(start)
	if !to.Connected() {
		return fmt.Errorf("the device is not connected after %v: %w", took, w.cause(ctx.Err()))
	}
	return b.Table.Add(harness.Row{Name: "device/reconnect", N: 1, Value: took.Seconds(), Unit: "s"})
}
