package outbox

import (
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestOutboxFront holds that what is put into an empty lane is sent as it was put, no more at once than one
// call carries, and what is left of it after a failure from the disk: all of it once, in order.
func TestOutboxFront(t *testing.T) {
	disk := pebbletest.Memory()
	var items []lanestore.Item
	for i := range 10 {
		items = append(items, numbered(orgB, conv, i))
	}
	var first *byte
	fails := 0
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.BatchItems = 4
		r.answer = func(_ wire.Domain, _ wire.ConversationID, payload []byte) error {
			if first == nil {
				first = &payload[0]
			}
			if string(payload) == "2" && fails < 2 {
				fails++
				return wire.Errorf(wire.Busy, "test", "later")
			}
			return nil
		}
	})
	if err := o.Put(t.Context(), items...); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "all are delivered", func() bool { return len(o.Lanes()) == 0 })
	if got := o.r.numbers(orgB, conv); !slices.Equal(got, upTo(10)) {
		t.Errorf("delivered %v", got)
	}
	o.stop()
	if first != &items[0].Payload[0] {
		t.Error("the first item was read back from the disk")
	}
	// By number: 0 and 1; 2 fails twice, the second time read from the disk; then 2 to 5, 6 to 9.
	if fails != 2 || o.r.calls != 4 {
		t.Errorf("%d failures in %d calls", fails, o.r.calls)
	}
}
