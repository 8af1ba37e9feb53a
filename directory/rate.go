package directory

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
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

// allowance is how many claims a bucket holds, and how long one takes to come back.
type allowance struct {
	burst int
	every time.Duration
}

// take reports whether a bucket held one claim, and takes it out. fullAt is the time at which the bucket is full.
func (a allowance) take(fullAt *wire.Time, now wire.Time) bool {
	b := tokenbucket.FullAt(fullAt.Std())
	// The record has milliseconds.
	taken := b.TryTake(tokenbucket.Rate{Burst: a.burst, Every: max(a.every.Truncate(time.Millisecond), time.Millisecond)}, now.Std())
	*fullAt = wire.TimeOf(b.FullAt())
	return taken
}

// charge takes one claim out of the buckets of the claimant with the user, and of the user. It reports
// whether both held one; otherwise it stages nothing.
func (d *Directory) charge(ctx context.Context, tx recordstore.Tx, by recordstore.Claimant, u wire.UserID) (bool, error) {
	b, err := tx.Buckets(ctx, by, u)
	if err != nil {
		return false, err
	}
	now := d.count()
	if !(allowance{d.cfg.PairBurst, d.cfg.PairEvery}).take(&b.Pair, now) || !(allowance{d.cfg.UserBurst, d.cfg.UserEvery}).take(&b.All, now) {
		return false, nil
	}
	return true, tx.Set(ctx, &b)
}

// MayClaim counts a claim by a user of this organization, for a user of any: wire.Busy beyond
// Config.ClaimBurst. ClaimKeyPackages counts by itself; a claim that goes to another organization is
// counted here before it leaves, so that one user cannot spend what the peer allows this organization.
func (d *Directory) MayClaim(by wire.UserID) error {
	if d.rates.Take(string(by), d.cfg.Clock.Now()) {
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
