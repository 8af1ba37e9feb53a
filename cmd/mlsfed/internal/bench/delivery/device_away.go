package delivery

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// manyDevices measures devices of one user that are in the same conversations.
func (b *deviceBench) manyDevices(ctx context.Context) (err error) {
	w, err := b.pair(ctx, "devices", b.shared)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	all := []*client.Device{w.alice}
	var added time.Duration
	for n := 2; n <= b.devices; n++ {
		b.Table.Progress("devices: device %d of %d, the last took %v", n, b.devices, added.Round(time.Millisecond))
		start := time.Now()
		d, err := w.oneMore(n)
		if err != nil {
			return fmt.Errorf("device %d: %w", n, err)
		}
		all = append(all, d)
		added = time.Since(start)
	}
	if err := b.Table.Add(harness.Row{Name: "devices/added", N: b.devices, Value: harness.Milliseconds(added), Unit: "ms"}); err != nil {
		return err
	}
	b.Table.Progress("devices: messages")
	spent := func() (time.Duration, error) {
		t, err := w.compute(w.domains...)
		sum := harness.ProcessorTime()
		for _, d := range t {
			sum += d
		}
		return sum, err
	}
	before, err := spent()
	if err != nil {
		return err
	}
	for i := range b.samples {
		if err := w.sendToAll(i, all); err != nil {
			return err
		}
	}
	after, err := spent()
	if err != nil {
		return err
	}
	each := harness.Milliseconds(after-before) / float64(b.samples)
	return errors.Join(
		b.Table.Add(harness.Row{Name: "devices/send", N: b.devices, Value: each, Unit: "ms"}),
		b.Table.Add(harness.Row{Name: "devices/send-a-device", N: b.devices, Value: each / float64(b.devices), Unit: "ms"}))
}

// oneMore enrols a further device of the user and waits until it is in all conversations.
func (w *deviceWorld) oneMore(n int) (*client.Device, error) {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	code, _, err := w.alice.InviteDevice(ctx, 600)
	if err != nil {
		return nil, err
	}
	link, err := w.cluster.Invite(ctx, w.domains[0], benchUser)
	if err != nil {
		return nil, err
	}
	link.Code = code
	d, err := w.cluster.Enrol(ctx, link, fmt.Sprintf("device%d", n), untended)
	if err != nil {
		return nil, err
	}
	return d, cluster.Await(ctx, d, func() (bool, error) {
		list, err := d.Conversations(ctx)
		active := 0
		for _, c := range list {
			if c.State == client.StateActive {
				active++
			}
		}
		return active == len(w.ids), err
	})
}

// sendToAll sends a message and waits until all other devices have it.
func (w *deviceWorld) sendToAll(i int, all []*client.Device) error {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	id := w.ids[i%len(w.ids)]
	counts := make(map[*client.Device]uint64)
	others := append([]*client.Device{w.bob}, all[1:]...)
	for _, d := range others {
		c, err := d.Conversation(ctx, id)
		if err != nil {
			return err
		}
		counts[d] = c.Messages
	}
	if _, err := w.alice.SendBytes(ctx, id, []byte("to all")); err != nil {
		return err
	}
	for _, d := range others {
		err := cluster.Await(ctx, d, func() (bool, error) {
			c, err := d.Conversation(ctx, id)
			return err == nil && c.Messages > counts[d], err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// longAway measures a device that comes back after many messages and commits.
func (b *deviceBench) longAway(ctx context.Context) (err error) {
	w, err := b.pair(ctx, "away", 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.stop(); err != nil {
		return err
	}
	id := w.ids[0]
	for i := range b.commits {
		if i%200 == 0 {
			b.Table.Progress("away: commit %d of %d", i, b.commits)
		}
		if err := w.bob.UpdateKeys(w.ctx, id); err != nil {
			return err
		}
		for range b.missed*(i+1)/b.commits - b.missed*i/b.commits {
			if err := w.queue(id); err != nil {
				return err
			}
		}
	}
	if err := w.accepted(w.bob, id); err != nil {
		return err
	}
	v, err := w.bob.Conversation(w.ctx, id)
	if err != nil {
		return err
	}
	if err := w.cluster.StopDevice(w.bob); err != nil {
		return err
	}
	b.Table.Progress("away: it comes back")
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	before := memory.HeapAlloc
	took, err := sampled(func() error {
		if err := w.start(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(w.ctx, 2*waitTime)
		defer cancel()
		return cluster.Await(ctx, w.alice, func() (bool, error) {
			c, err := w.alice.Conversation(ctx, id)
			if err == nil && c.State == client.StateBroken {
				err = fmt.Errorf("the conversation is broken: %s", c.Why)
			}
			return err == nil && c.Messages >= uint64(b.missed) && c.Epoch >= v.Epoch, err
		})
	})
	if err != nil {
		return err
	}
	runtime.GC()
	runtime.ReadMemStats(&memory)
	return errors.Join(
		b.Table.Add(harness.Row{Name: "away/item", N: b.missed + b.commits, Value: harness.Milliseconds(took.processor) / float64(b.missed+b.commits), Unit: "ms"}),
		b.Table.Add(harness.Row{Name: "away/memory", N: b.missed + b.commits, Value: float64(max(memory.HeapAlloc, before)-before) / (1 << 20), Unit: "MiB"}))
}

// queue sends a message, and waits while too many messages are in the outbox.
func (w *deviceWorld) queue(id wire.ConversationID) error {
	_, err := w.bob.SendBytes(w.ctx, id, []byte("while away"))
	if wire.CodeOf(err) != wire.Quota {
		return err
	}
	if err := w.accepted(w.bob, id); err != nil {
		return err
	}
	_, err = w.bob.SendBytes(w.ctx, id, []byte("while away"))
	return err
}
