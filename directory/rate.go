package directory

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Claims are limited in two ways.
//
// The buckets of pairs and of users decide between a KeyPackage that is used once and the last resort. They
// are records, written in the batch of the claim that they count: a restart does not refill them. A bucket
// exists only for a claimant and a user that exist, and is written only when a claim is recorded, so that
// claimants can neither grow the table nor displace another's bucket. Sweep removes full buckets.
//
// The rates in memory limit how often a user of this organization claims at all, here or abroad. They are
// keyed by users, whose number the organization decides.

// bucketRecord is a GCRA token bucket: FullAt is when it will be full. A claim moves FullAt forward by the
// price of one.
type bucketRecord struct {
	Version version   `cbor:"1,keyasint"`
	FullAt  wire.Time `cbor:"2,keyasint"`
}

func (r *bucketRecord) Check() error { return r.Version.check("bucket") }

// allowance is how many claims a bucket holds, and how long one takes to come back.
type allowance struct {
	burst int
	every time.Duration
}

// take moves a bucket on by one claim, and reports whether the bucket held one.
func (a allowance) take(r *bucketRecord, now wire.Time) bool {
	price := max(wire.Time(a.every.Milliseconds()), 1)
	most := wire.Time(a.burst) * price
	// A bucket that is further ahead than one can be was written while the clock was wrong.
	if r.FullAt < now || r.FullAt-now > most {
		r.FullAt = now
	}
	if r.FullAt+price-now > most {
		return false
	}
	r.FullAt += price
	return true
}

// charge takes one claim out of the buckets of the claimant with the user, and of the user. It reports
// whether both held one; otherwise it stages nothing.
func (d *Directory) charge(b *pebble.Batch, claimant []byte, u wire.UserID) (bool, error) {
	now := d.count()
	buckets := []struct {
		key   []byte
		limit allowance
	}{
		{d.key(kindPairBucket, u.Name()+"/", claimant), allowance{d.cfg.PairBurst, d.cfg.PairEvery}},
		{d.key(kindUserBucket, u.Name()), allowance{d.cfg.UserBurst, d.cfg.UserEvery}},
	}
	records := make([]bucketRecord, len(buckets))
	for i, k := range buckets {
		if _, err := d.get(k.key, &records[i]); err != nil {
			return false, err
		}
		if !k.limit.take(&records[i], now) {
			return false, nil
		}
	}
	for i, k := range buckets {
		records[i].Version = recordVersion
		if err := set(b, k.key, &records[i]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// MayClaim counts a claim by a user of this organization, for a user of any: wire.Busy beyond
// Config.ClaimBurst. ClaimKeyPackages counts by itself; a claim that goes to another organization is
// counted here before it leaves, so that one user cannot spend what the peer allows this organization.
func (d *Directory) MayClaim(by wire.UserID) error {
	if d.rates.take(string(by), d.cfg.Clock.Now()) {
		return nil
	}
	d.counts.claimsRefused.Add(1)
	return wire.Errorf(wire.Busy, "claim", "%s claims too fast: %d at once and one each %v are allowed; wait", by, d.cfg.ClaimBurst, d.cfg.ClaimEvery)
}

// tally is what the directory has refused or answered with less since it was opened.
type tally struct {
	claimsRefused, lastResorts, tokensReused, subjectsRefused, addressesRefused atomic.Uint64
}

// Refusals are how often the directory has refused, since it was opened, by reason.
type Refusals struct {
	Claims      uint64 // a user here claimed too fast
	LastResorts uint64 // a claim beyond a rate was answered with last resorts alone
	Tokens      uint64 // an ID token was used a second time
	Addresses   uint64 // an entry added an address that was used for another conversation, or too often
	Subjects    uint64 // an ID token was of another subject than the user whose name it bears
}

// Refusals counts since New.
func (d *Directory) Refusals() Refusals {
	return Refusals{
		Claims: d.counts.claimsRefused.Load(), LastResorts: d.counts.lastResorts.Load(),
		Tokens: d.counts.tokensReused.Load(), Subjects: d.counts.subjectsRefused.Load(),
		Addresses: d.counts.addressesRefused.Load(),
	}
}

// rates is a token bucket for each claimant.
type rates struct {
	burst int
	every time.Duration
	most  int

	mu sync.Mutex
	of map[string]bucket
}

// bucket is a GCRA token bucket: fullAt is when it will be full; a claim moves fullAt forward by its price.
type bucket struct{ fullAt time.Time }

// take reports whether a claimant may claim now. A claimant who is not remembered has a full bucket. When
// too many are remembered, full buckets are forgotten; if there is none, newcomers wait.
func (r *rates) take(claimant string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.of[claimant]
	if !ok && len(r.of) >= r.most {
		for name, b := range r.of {
			if !b.fullAt.After(now) {
				delete(r.of, name)
			}
		}
		if len(r.of) >= r.most {
			return false
		}
	}
	window := time.Duration(r.burst) * r.every
	// A bucket that is further ahead than one can be was filled while the clock was wrong.
	if b.fullAt.Before(now) || b.fullAt.Sub(now) > window {
		b.fullAt = now
	}
	if b.fullAt.Add(r.every).Sub(now) > window {
		return false
	}
	r.of[claimant] = bucket{b.fullAt.Add(r.every)}
	return true
}
