package machine

import (
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// TestDeliveryListIsBounded checks that a list has at most MaxAddresses, and that a list at the limit can be changed
// and reduced.
func TestDeliveryListIsBounded(t *testing.T) {
	address := func(n int) wire.Address { return author.Address("a.example", uint64(n)) }
	var list []wire.Address
	for n := range MaxAddresses - 1 {
		list = append(list, address(n))
	}
	full, err := applyChange(list, wire.DeliveryChange{Add: []wire.Address{address(MaxAddresses)}})
	if err != nil || len(full) != MaxAddresses {
		t.Fatalf("%d addresses: %v", len(full), err)
	}
	if _, err := applyChange(full, wire.DeliveryChange{Add: []wire.Address{address(MaxAddresses + 1)}}); err == nil || err.Code != wire.TooLarge {
		t.Errorf("an address more: %v", err)
	}
	swapped, err := applyChange(full, wire.DeliveryChange{Add: []wire.Address{address(MaxAddresses + 1)}, Remove: []wire.Address{address(0)}})
	if err != nil || len(swapped) != MaxAddresses {
		t.Errorf("one for another: %d addresses, %v", len(swapped), err)
	}
	if fewer, err := applyChange(full, wire.DeliveryChange{Remove: []wire.Address{address(0)}}); err != nil || len(fewer) != MaxAddresses-1 {
		t.Errorf("one fewer: %d addresses, %v", len(fewer), err)
	}
}
