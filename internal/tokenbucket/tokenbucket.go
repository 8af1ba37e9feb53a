// Package tokenbucket limits rates with token buckets (the generic cell rate algorithm). It reads no clock: each call
// gets the time.
package tokenbucket

import (
	"cmp"
	"sync"
	"time"
)

// Rate is the rate of a bucket: Burst tokens at once, and one more after each Every.
type Rate struct {
	Burst int
	Every time.Duration
}

// Or returns the rate with a default for each part that is zero.
func (r Rate) Or(burst int, every time.Duration) Rate {
	return Rate{cmp.Or(r.Burst, burst), cmp.Or(r.Every, every)}
}

// window returns the time in which an empty bucket fills.
func (r Rate) window() time.Duration { return time.Duration(r.Burst) * r.Every }

// Bucket is a token bucket: fullAt is when it will be full, and a token moves fullAt forward by Rate.Every. The zero
// value is full. A Bucket is not safe for concurrent use.
type Bucket struct{ fullAt time.Time }

// FullAt returns the bucket that is full at a time.
func FullAt(t time.Time) Bucket { return Bucket{t} }

// FullAt returns the time at which the bucket is full. A time in the past means that the bucket is full now.
func (b *Bucket) FullAt() time.Time { return b.fullAt }

// Take takes n tokens, whether they are there or not, and returns how long to wait until the rate allows them; 0 if it
// does now.
func (b *Bucket) Take(r Rate, now time.Time, n int) time.Duration {
	if b.fullAt.Before(now) {
		b.fullAt = now
	}
	b.fullAt = b.fullAt.Add(time.Duration(n) * r.Every)
	return max(0, b.fullAt.Sub(now)-r.window())
}

// Has reports whether a token is there. A bucket that lacks more tokens than it can hold was used before the clock was
// set back: such a bucket becomes full.
func (b *Bucket) Has(r Rate, now time.Time) bool {
	if b.fullAt.Sub(now) > r.window() {
		b.fullAt = now
	}
	return b.fullAt.Sub(now) <= r.window()-r.Every
}

// TryTake takes a token if one is there, and reports whether it has.
func (b *Bucket) TryTake(r Rate, now time.Time) bool {
	if !b.Has(r, now) {
		return false
	}
	b.Take(r, now, 1)
	return true
}

// Full reports whether the bucket is full.
func (b *Bucket) Full(now time.Time) bool { return !b.fullAt.After(now) }

// Rates holds a bucket for each of many keys. A key without a bucket has a full one. Rates is safe for concurrent use.
type Rates[K comparable] struct {
	Rate Rate // of Take and State
	Most int  // the largest number of buckets in memory; 0: no limit
	// Strict decides what happens to a new key when Most buckets are in memory and none of them is full: a strict
	// table refuses the key, another one drops a bucket. Drop buckets where anybody can have many keys, since a key
	// that gets a token back costs less than the exclusion of others.
	Strict bool

	mu sync.Mutex // guards of
	of map[K]Bucket
}

// Take takes a token if one is there, and reports whether it has.
func (r *Rates[K]) Take(key K, now time.Time) bool { return r.TakeAt(key, r.Rate, now) }

// TakeAt does the work of Take with the rate of this key. All rates of one key must have the same product of Burst and
// Every.
func (r *Rates[K]) TakeAt(key K, rate Rate, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, known := r.of[key]
	if !b.TryTake(rate, now) {
		return false
	}
	if !known && r.Most > 0 && len(r.of) >= r.Most && !r.makeRoom(now) {
		return false
	}
	if r.of == nil {
		r.of = make(map[K]Bucket)
	}
	r.of[key] = b
	return true
}

// State reports whether a token is there, and whether the bucket is full.
func (r *Rates[K]) State(key K, now time.Time) (has, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.of[key]
	return b.Has(r.Rate, now), b.Full(now)
}

// Forget fills the bucket of a key.
func (r *Rates[K]) Forget(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, key)
}

// Len returns the number of buckets in memory.
func (r *Rates[K]) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.of)
}

// inspected is the number of buckets that a table which is not strict inspects to make room for one.
const inspected = 16

// makeRoom drops full buckets, and reports whether there is room for one more. A table that is not strict inspects a
// few buckets, in no order, and drops one of them in any case.
func (r *Rates[K]) makeRoom(now time.Time) bool {
	n := 0
	for key, b := range r.of {
		if n++; !r.Strict && n > inspected {
			break
		}
		if b.Full(now) || !r.Strict && n == 1 {
			delete(r.of, key)
		}
	}
	return len(r.of) < r.Most
}
