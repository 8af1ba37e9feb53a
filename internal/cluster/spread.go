package cluster

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Pause waits for a time, or until ctx ends: then it returns the error of ctx.
func Pause(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Spread runs a function on some goroutines. The functions divide the work by their number.
func Spread(workers int, do func(worker int) error) error {
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { errs[w] = do(w) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
