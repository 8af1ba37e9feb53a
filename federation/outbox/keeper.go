package outbox

import (
	"time"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

// keeper implements lanestore.Outbox: what the store calls.
type keeper struct{ o *Outbox }

var _ lanestore.Outbox = keeper{}

// Check implements lanestore.Outbox.
func (k keeper) Check(items []lanestore.Item) error {
	select {
	case <-k.o.stopped:
		return wire.Errorf(wire.Unavailable, "outbox", "the node is stopping: repeat the request with the same id")
	default:
	}
	for i := range items {
		if err := k.o.check(&items[i]); err != nil {
			return err
		}
	}
	return nil
}

// Now implements lanestore.Outbox.
func (k keeper) Now() wire.Time { return k.o.now() }

// Window implements lanestore.Outbox.
func (k keeper) Window() time.Duration { return k.o.cfg.DedupeWindow }

// Restore implements lanestore.Outbox.
func (k keeper) Restore(list []lanestore.Queued) {
	k.o.mu.Lock()
	for _, q := range list {
		k.o.destination(q.Organization).add(q)
	}
	k.o.mu.Unlock()
	k.o.show(list)
}

// Reserve implements lanestore.Outbox.
func (k keeper) Reserve(q lanestore.Queued) bool {
	k.o.mu.Lock()
	defer k.o.mu.Unlock()
	to := k.o.destination(q.Organization)
	if to.items+1 > k.o.cfg.MaxItems || to.bytes+q.Bytes > k.o.cfg.MaxBytes {
		return false
	}
	if !to.maySend(&k.o.cfg, &q) {
		return false
	}
	to.add(q)
	return true
}

// Show implements lanestore.Outbox.
func (k keeper) Show(list []lanestore.Queued) []func() { return k.o.show(list) }

// add counts an item. The caller holds Outbox.mu.
func (to *destination) add(q lanestore.Queued) {
	to.items++
	to.bytes += q.Bytes
}
