package door

import (
	"cmp"
	"net/netip"
	"sync"
	"time"
)

// Rate is a token bucket's: Burst at once, and one more after each Every.
type Rate struct {
	Burst int
	Every time.Duration
}

// Or is the rate with a default for each part that is zero.
func (r Rate) Or(burst int, every time.Duration) Rate {
	return Rate{cmp.Or(r.Burst, burst), cmp.Or(r.Every, every)}
}

// Bucket is a token bucket. It is full at a moment, and taking moves that moment on by the price. The zero
// value is full.
type Bucket struct{ fullAt time.Time }

// Take pays for n tokens and says how long to wait until the rate allows them; 0 if it does now.
func (b *Bucket) Take(r Rate, now time.Time, n int) time.Duration {
	if b.fullAt.Before(now) {
		b.fullAt = now
	}
	b.fullAt = b.fullAt.Add(time.Duration(n) * r.Every)
	return max(0, b.fullAt.Sub(now)-time.Duration(r.Burst)*r.Every)
}

// Has says whether a token is there. A bucket that owes more than was ever lent comes from a clock that has gone back
// since: it is full.
func (b *Bucket) Has(r Rate, now time.Time) bool {
	if b.fullAt.Sub(now) > time.Duration(r.Burst)*r.Every {
		b.fullAt = now
	}
	return b.fullAt.Sub(now) <= time.Duration(r.Burst-1)*r.Every
}

// Full says whether nothing was taken of late.
func (b *Bucket) Full(now time.Time) bool { return !b.fullAt.After(now) }

// Rates is a bucket for each of many keys. It remembers at most so many.
type Rates[K comparable] struct {
	Rate Rate
	Most int // keys that are remembered

	mu sync.Mutex // guards of
	of map[K]Bucket
}

// looked is how many buckets are looked at to make room for one.
const looked = 16

// Take takes a token if one is there. Only what was taken is paid for.
func (r *Rates[K]) Take(key K, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.of[key]
	if !b.Has(r.Rate, now) {
		return false
	}
	b.Take(r.Rate, now, 1)
	r.keep(key, b, now)
	return true
}

// State says whether a token is there, and whether none was taken of late.
func (r *Rates[K]) State(key K, now time.Time) (has, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.of[key]
	return b.Has(r.Rate, now), b.Full(now)
}

// keep remembers a bucket. When there are too many, it forgets the full ones among a few, or else one of
// them: who has many addresses can win back a token so, but neither fill the memory nor shut out others.
func (r *Rates[K]) keep(key K, b Bucket, now time.Time) {
	if r.of == nil {
		r.of = make(map[K]Bucket)
	}
	if _, known := r.of[key]; !known && len(r.of) >= r.Most {
		n := 0
		for other, o := range r.of { // in no order
			if n++; n > looked {
				break
			}
			if n == 1 || o.Full(now) {
				delete(r.of, other)
			}
		}
	}
	r.of[key] = b
}

// Network is what counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that name a
// network, since one machine has all addresses in it.
func Network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
