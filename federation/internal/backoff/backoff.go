// Package backoff computes the pauses between attempts that fail.
package backoff

import "time"

// Pause returns the pause after a number of earlier failures: from half of low to low for none, doubled with each
// failure up to high. jitter is from 0 to 1.
func Pause(failures int, low, high time.Duration, jitter float64) time.Duration {
	wait := low
	for range failures {
		if wait *= 2; wait >= high {
			wait = high
			break
		}
	}
	return max(time.Duration(float64(min(wait, high))*(0.5+0.5*jitter)), 1)
}
