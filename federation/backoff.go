package federation

import "time"

// backoff is the pause after a number of earlier failures: from half of low to low at first, doubled with
// each failure up to high. jitter is from 0 to 1.
func backoff(failures int, low, high time.Duration, jitter float64) time.Duration {
	wait := low
	for range failures {
		if wait *= 2; wait >= high {
			wait = high
			break
		}
	}
	return max(time.Duration(float64(min(wait, high))*(0.5+0.5*jitter)), 1)
}
