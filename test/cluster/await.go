package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// Await waits until done says so, which is asked anew after each event of the device and now and then.
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
			return fmt.Errorf("it did not come: %w", ctx.Err())
		}
	}
}
