package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// Await waits until done returns true. It calls done after each event of the device, and from time to time.
func Await(ctx context.Context, d *client.Device, done func() (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan struct{}, 1)
	next := d.Subscribe(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range next {
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	defer func() { cancel(); <-ended }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-events:
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the wait ended: %w", ctx.Err())
		}
	}
}

// Confirm makes each of a user's devices confirm the others, as a user does by comparing their numbers. Confirmed
// devices add each other to conversations. Devices that are confirmed already do not change.
func Confirm(ctx context.Context, devices ...*client.Device) error {
	for i, one := range devices {
		for k, two := range devices {
			if i == k {
				continue
			}
			id, shown, err := number(ctx, one, two)
			if err == nil {
				err = two.ConfirmDevice(ctx, id, shown)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// number returns the number that one device shows for another of the same user, and its own name.
func number(ctx context.Context, at, of *client.Device) (own wire.DeviceID, shown string, err error) {
	id, err := of.ID(ctx)
	if err == nil {
		own, err = at.ID(ctx)
	}
	if err != nil {
		return "", "", err
	}
	list, err := at.OtherDevices(ctx)
	for _, o := range list {
		if o.Device == id {
			shown = o.Number
		}
	}
	return own, shown, err
}
