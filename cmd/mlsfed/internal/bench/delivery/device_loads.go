package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// deviceWorld holds two organizations, the measured device, and a device that it talks to.
type deviceWorld struct {
	*deliveryWorld
	alice, bob *client.Device
	ids        []wire.ConversationID
}

// The measured device, and the device that it talks to.
const (
	benchUser, benchOther = "alice", "bob"
	storedDevice          = "device"
)

// building sets options with which many conversations are created fast. Their creation is not measured.
func building(o *client.Options) {
	o.Limits.Groups, o.Timing.Upkeep = maxDeviceGroups, 24*time.Hour
}

// untended sets the options of the measured device: upkeep runs only when it is called, and no receipts are sent,
// since their timing is independent of the measured operation.
func untended(o *client.Options) { o.Timing.Upkeep, o.Limits.Receipts = 24*time.Hour, -1 }

// pair starts the organizations, and both devices in conversations with each other.
func (b *deviceBench) pair(ctx context.Context, name string, conversations int) (*deviceWorld, error) {
	base, err := b.world(ctx, name, 2)
	if err != nil {
		return nil, err
	}
	w := &deviceWorld{deliveryWorld: base}
	fail := func(err error) (*deviceWorld, error) { return nil, errors.Join(err, w.close()) }
	for i, user := range []string{benchUser, benchOther} {
		link, err := w.cluster.Invite(w.ctx, w.domains[i], user)
		if err != nil {
			return fail(err)
		}
		d, err := w.cluster.Enrol(w.ctx, link, storedDevice, building)
		if err != nil {
			return fail(err)
		}
		if i == 0 {
			w.alice = d
		} else {
			w.bob = d
		}
	}
	w.ids = make([]wire.ConversationID, conversations)
	reported := time.Now()
	err = shareOut(conversations, func(i int) (err error) {
		if w.ids[i], err = w.found(i); err == nil && time.Since(reported) > 5*time.Second {
			reported = time.Now()
			b.Table.Progress("%s: conversation %d of %d", name, i+1, conversations)
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	active := 0
	err = w.settled(w.bob, func(list []client.Conversation) bool {
		active = 0
		for _, c := range list {
			if c.State == client.StateActive {
				active++
			}
		}
		return active == conversations
	})
	if err != nil {
		return fail(fmt.Errorf("the other device is in %d of %d conversations: %w", active, conversations, err))
	}
	return w, nil
}

// found creates one conversation of both devices.
func (w *deviceWorld) found(i int) (wire.ConversationID, error) {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	id, err := w.alice.Create(ctx, client.CreateOptions{Name: fmt.Sprintf("bench %d", i+1)})
	if err == nil {
		other, bad := wire.NewUserID(w.domains[1], benchOther)
		if bad != nil {
			return id, bad
		}
		err = w.alice.Add(ctx, id, other)
	}
	return id, err
}

// settled waits until done reports true for the conversations of a device.
func (w *deviceWorld) settled(d *client.Device, done func([]client.Conversation) bool) error {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	return cluster.Await(ctx, d, func() (bool, error) {
		list, err := d.Conversations(ctx)
		return err == nil && done(list), err
	})
}

// stop ends the measured device.
func (w *deviceWorld) stop() error {
	d := w.alice
	w.alice = nil
	return w.cluster.StopDevice(d)
}

// start starts the measured device again.
func (w *deviceWorld) start() (err error) {
	w.alice, err = w.cluster.Resume(w.domains[0], benchUser, storedDevice, untended)
	return err
}

// sendOne sends one message and waits until it is accepted.
func (w *deviceWorld) sendOne(d *client.Device, id wire.ConversationID, body []byte) error {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	if _, err := d.SendBytes(ctx, id, body); err != nil {
		return err
	}
	return w.accepted(d, id)
}

func (w *deviceWorld) accepted(d *client.Device, id wire.ConversationID) error {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	return cluster.Await(ctx, d, func() (bool, error) {
		c, err := d.Conversation(ctx, id)
		return err == nil && c.Outgoing == 0, err
	})
}

// several measures an operation several times.
func (b *deviceBench) several(f func(i int) error) ([]sample, error) {
	list := make([]sample, b.samples)
	for i := range list {
		var err error
		if list[i], err = sampled(func() error { return f(i) }); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// manyConversations measures a device in many conversations.
func (b *deviceBench) manyConversations(ctx context.Context) (err error) {
	w, err := b.pair(ctx, "conversations", b.groups)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	add := func(name string, value float64, unit string) error {
		return b.Table.Add(harness.Row{Name: "conversations/" + name, N: b.groups, Value: value, Unit: unit})
	}
	if err := errors.Join(w.stop(), w.cluster.StopDevice(w.bob)); err != nil {
		return err
	}
	b.Table.Progress("conversations: starts")
	starts, err := b.several(func(int) error {
		if err := w.start(); err != nil {
			return err
		}
		return errors.Join(w.alice.Tend(w.ctx), w.stop())
	})
	if err != nil {
		return err
	}
	if err := add("start", median(starts, processorOf), "ms"); err != nil {
		return err
	}
	if err := w.start(); err != nil {
		return err
	}
	if err := w.alice.Tend(w.ctx); err != nil {
		return err
	}
	b.Table.Progress("conversations: upkeep")
	upkeep, err := b.several(func(int) error { return w.alice.Tend(w.ctx) })
	if err != nil {
		return err
	}
	if err := add("upkeep", median(upkeep, processorOf), "ms"); err != nil {
		return err
	}
	b.Table.Progress("conversations: create")
	create, err := b.several(func(i int) error {
		_, err := w.alice.Create(w.ctx, client.CreateOptions{Name: fmt.Sprintf("more %d", i+1)})
		return errors.Join(err, w.alice.Tend(w.ctx))
	})
	if err != nil {
		return err
	}
	if err := add("create", median(create, processorOf)-median(upkeep, processorOf), "ms"); err != nil {
		return err
	}
	if err := errors.Join(w.stop(), b.listAndSend(w, add)); err != nil {
		return err
	}
	return b.incoming(w, median(starts, processorOf), add)
}

// listAndSend measures the list of all conversations and a message to one, each on a device that was just opened.
func (b *deviceBench) listAndSend(w *deviceWorld, add func(string, float64, string) error) error {
	b.Table.Progress("conversations: list and send")
	list, err := b.several(func(int) error {
		if err := w.start(); err != nil {
			return err
		}
		_, err := w.alice.Conversations(w.ctx)
		return errors.Join(err, w.stop())
	})
	if err != nil {
		return err
	}
	send, err := b.several(func(i int) error {
		if err := w.start(); err != nil {
			return err
		}
		return errors.Join(w.sendOne(w.alice, w.ids[i*7%len(w.ids)], []byte("one")), w.stop())
	})
	if err != nil {
		return err
	}
	for _, r := range []struct {
		name string
		list []sample
	}{{"list", list}, {"send", send}} {
		if err := errors.Join(add(r.name, median(r.list, processorOf), "ms"), add(r.name+"-elapsed", median(r.list, elapsedOf), "ms")); err != nil {
			return err
		}
	}
	return nil
}

// incoming measures messages that waited for the device. It subtracts the time of a start without messages.
func (b *deviceBench) incoming(w *deviceWorld, start float64, add func(string, float64, string) error) (err error) {
	b.Table.Progress("conversations: messages wait")
	if w.bob, err = w.cluster.Resume(w.domains[1], benchOther, storedDevice, building); err != nil {
		return err
	}
	count := max(2*len(w.ids), 50)
	for i := range count {
		if _, err := w.bob.SendBytes(w.ctx, w.ids[i*7%len(w.ids)], []byte("two")); err != nil {
			return err
		}
	}
	for _, id := range w.ids {
		if err := w.accepted(w.bob, id); err != nil {
			return err
		}
	}
	if err := w.cluster.StopDevice(w.bob); err != nil {
		return err
	}
	b.Table.Progress("conversations: they arrive")
	took, err := sampled(func() error {
		if err := w.start(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(w.ctx, waitTime)
		defer cancel()
		got := 0
		for e := range w.alice.Subscribe(ctx) {
			if e.Type == client.EventMessage {
				got++
			}
			if got == count {
				break
			}
		}
		if got < count {
			return fmt.Errorf("%d of %d messages are there after %v", got, count, waitTime)
		}
		return errors.Join(w.alice.Tend(w.ctx), w.stop())
	})
	if err != nil {
		return err
	}
	return add("incoming", max(0, harness.Milliseconds(took.processor)-start)/float64(count), "ms")
}

// longHistory measures a store with many messages.
func (b *deviceBench) longHistory(ctx context.Context) (err error) {
	w, err := b.pair(ctx, "history", 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.sendOne(w.alice, w.ids[0], make([]byte, 100)); err != nil {
		return err
	}
	if err := w.stop(); err != nil {
		return err
	}
	b.Table.Progress("history: the store is filled with %d messages", b.history)
	folder := filepath.Join(b.Dir, "history", string(w.domains[0]), "devices", benchUser, storedDevice)
	key, err := client.KeyFile(filepath.Join(folder, "key"))
	if err != nil {
		return err
	}
	if err := fillHistory(folder, key, b.history); err != nil {
		return err
	}
	open, err := b.several(func(int) error {
		store, err := client.OpenStore(folder, key)
		if err != nil {
			return err
		}
		return store.Close()
	})
	if err != nil {
		return err
	}
	if err := w.start(); err != nil {
		return err
	}
	if err := w.alice.Tend(w.ctx); err != nil {
		return err
	}
	sent, err := b.several(func(int) error { return w.sendOne(w.alice, w.ids[0], make([]byte, 100)) })
	if err != nil {
		return err
	}
	for _, r := range []harness.Row{
		{Name: "history/open", Value: median(open, elapsedOf), Unit: "ms"},
		{Name: "history/written", Value: median(sent, writtenOf), Unit: "bytes"},
		{Name: "history/send", Value: median(sent, processorOf), Unit: "ms"},
	} {
		r.N = b.history
		if err := b.Table.Add(r); err != nil {
			return err
		}
	}
	return nil
}

// fillHistory copies the one message of a store, with its index record, under other numbers and ids.
func fillHistory(folder string, key mlscore.Secret, count int) (err error) {
	store, err := client.OpenStore(folder, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	first := func(prefix string) (key, value []byte, err error) {
		err = store.Scan([]byte(prefix), func(k, v []byte) error {
			if key == nil {
				key, value = k, v
			}
			return nil
		})
		if err == nil && len(key) < len(prefix)+17 {
			err = errors.New("the store has no message to copy")
		}
		return key, value, err
	}
	message, text, err := first("Cm")
	if err != nil {
		return err
	}
	index, at, err := first("Ci")
	if err != nil {
		return err
	}
	const together = 2000
	for done := 0; done < count; {
		var b mlscore.Batch
		for ; done < count && len(b.Writes) < 2*together; done++ {
			n := uint64(1_000_000 + done)
			m := binary.BigEndian.AppendUint64(message[:len(message)-8:len(message)-8], n)
			id := append([]byte{}, index...)
			binary.BigEndian.PutUint64(id[len(id)-8:], n*0x9E3779B97F4A7C15) // spread as random ids are
			binary.BigEndian.PutUint64(id[len(id)-16:], n*0xC2B2AE3D27D4EB4F)
			b.Writes = append(b.Writes, mlscore.Write{Key: m, Value: text}, mlscore.Write{Key: id, Value: at})
		}
		if err := store.Apply(b); err != nil {
			return err
		}
	}
	return nil
}
