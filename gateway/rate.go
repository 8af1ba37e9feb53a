package gateway

import (
	"sync"
	"time"
)

// bucket is a token bucket. It is full at a moment, and taking moves that moment on by the price. The zero
// value is full.
type bucket struct{ fullAt time.Time }

// take pays for n tokens and says how long to wait until the rate allows them; 0 if it does now.
func (b *bucket) take(r Rate, now time.Time, n int) time.Duration {
	if b.fullAt.Before(now) {
		b.fullAt = now
	}
	b.fullAt = b.fullAt.Add(time.Duration(n) * r.Every)
	return max(0, b.fullAt.Sub(now)-time.Duration(r.Burst)*r.Every)
}

// has says whether a token is there.
func (b *bucket) has(r Rate, now time.Time) bool {
	return b.fullAt.Sub(now) <= time.Duration(r.Burst-1)*r.Every
}

func (b *bucket) full(now time.Time) bool { return !b.fullAt.After(now) }

// rates is a bucket for each of many keys. It remembers at most so many.
type rates[K comparable] struct {
	rate Rate
	most int

	mu sync.Mutex
	of map[K]bucket
}

// looked is how many buckets are looked at to make room for one.
const looked = 16

// take takes a token if one is there. Only what was taken is paid for.
func (r *rates[K]) take(key K, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.of[key]
	if !b.has(r.rate, now) {
		return false
	}
	b.take(r.rate, now, 1)
	r.keep(key, b, now)
	return true
}

// state says whether a token is there, and whether none was taken of late.
func (r *rates[K]) state(key K, now time.Time) (has, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.of[key]
	return b.has(r.rate, now), b.full(now)
}

// keep remembers a bucket. When there are too many, it forgets the full ones among a few, or else one of
// them: who has many addresses can win back a token so, but neither fill the memory nor shut out others.
func (r *rates[K]) keep(key K, b bucket, now time.Time) {
	if r.of == nil {
		r.of = make(map[K]bucket)
	}
	if _, known := r.of[key]; !known && len(r.of) >= r.most {
		n := 0
		for other, o := range r.of { // in no order
			if n++; n > looked {
				break
			}
			if n == 1 || o.full(now) {
				delete(r.of, other)
			}
		}
	}
	r.of[key] = b
}
