package directory

import (
	"bytes"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Claim asks for one KeyPackage of each device of a user.
type Claim struct {
	// ID names the claim: within Config.ClaimMemory a repetition by the same claimant gets the same answer.
	ID wire.SubmissionID
	// Claimant is who asks, as the limit counts: an organization, or a device of this one.
	Claimant string
	User     wire.UserID
	Suite    mlscore.CipherSuite
}

// Claimed is one device's KeyPackage.
type Claimed struct {
	_          struct{} `cbor:",toarray"`
	Device     wire.DeviceID
	Address    wire.Token
	Message    []byte // an MLSMessage
	LastResort bool   // others may have been given it too
}

// ClaimKeyPackages takes one KeyPackage from each device of a user that has one of the suite, or its last
// resort. Nobody else is given the others. It is on disk when this returns. wire.NotFound for an
// unknown user, NoneLeft if no device has any, Busy for a claimant over the rate, SubmissionReused for
// an id that named another claim.
func (d *Directory) ClaimKeyPackages(c Claim) ([]Claimed, error) {
	if err := d.checkUser("claim", c.User); err != nil {
		return nil, err
	}
	if c.Claimant == "" || len(c.Claimant) > 512 || c.ID == (wire.SubmissionID{}) {
		return nil, wire.Errorf(wire.Malformed, "claim", "wanted an id and a claimant of at most 512 bytes")
	}
	var results []Claimed
	var low []Low
	err := d.update(c.User, func(b *pebble.Batch) (err error) {
		results, low, err = d.claim(b, &c)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, l := range low {
		d.cfg.Low(l)
	}
	return results, nil
}

func (d *Directory) claim(b *pebble.Batch, c *Claim) ([]Claimed, []Low, error) {
	claimant := sha256.Sum256([]byte(c.Claimant)) // whatever it is called, its key has one length
	key := d.key(kindClaim, claimant[:16], c.ID[:])
	var earlier claimRecord
	ok, err := d.get(key, &earlier)
	if err != nil {
		return nil, nil, err
	}
	if ok {
		if earlier.User != c.User || earlier.Suite != c.Suite {
			return nil, nil, wire.Errorf(wire.SubmissionReused, "claim", "the id named a claim for %s: choose a fresh one", earlier.User)
		}
		return earlier.Results, nil, nil
	}
	if !d.rates.take(c.Claimant, d.cfg.Clock.Now()) {
		return nil, nil, wire.Errorf(wire.Busy, "claim", "%s claims too fast: one each %v, and %d at once", c.Claimant, d.cfg.ClaimEvery, d.cfg.ClaimBurst)
	}
	if ok, err = d.get(d.userKey(c.User), new(userRecord)); err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, wire.Errorf(wire.NotFound, "claim", "%s", c.User)
	}
	results, low, err := d.claimEach(b, c)
	if err != nil {
		return nil, nil, err
	}
	if len(results) == 0 {
		return nil, nil, wire.Errorf(wire.NoneLeft, "claim", "no device of %s has a KeyPackage of %v", c.User, c.Suite)
	}
	return results, low, set(b, key, &claimRecord{
		Version: recordVersion, Time: d.now(), User: c.User, Suite: c.Suite, Results: results,
	})
}

func (d *Directory) claimEach(b *pebble.Batch, c *Claim) (results []Claimed, low []Low, err error) {
	devices, err := d.Devices(c.User)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range devices {
		r, left, err := d.takeOne(b, v, c.Suite)
		if err != nil {
			return nil, nil, err
		}
		last := r == nil
		if last {
			if r, err = d.lastResort(v, c.Suite); err != nil {
				return nil, nil, err
			}
		}
		if r == nil {
			continue
		}
		results = append(results, Claimed{Device: v, Address: r.Address, Message: r.Message, LastResort: last})
		if left == d.cfg.LowWater-1 || left == 0 {
			low = append(low, Low{v, c.Suite, left})
		}
	}
	return results, low, nil
}

// takeOne takes the KeyPackage that expires first, and says how many are left, as far as LowWater. Its
// reference is remembered until it expires, so that it cannot be uploaded again.
func (d *Directory) takeOne(b *pebble.Batch, v wire.DeviceID, suite mlscore.CipherSuite) (taken *keyPackageRecord, left int, err error) {
	pool, now := d.pool(v, suite), d.now()
	err = d.each(pool, func(key, value []byte) (bool, error) {
		if expiryIn(key, pool) <= now {
			return true, nil
		}
		if taken != nil {
			left++
			return left < d.cfg.LowWater, nil
		}
		r := new(keyPackageRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return false, err
		}
		taken = r
		if err := b.Delete(bytes.Clone(key), nil); err != nil {
			return false, err
		}
		used := d.key(kindUsed, bytes.Clone(key[len(pool)+8:]))
		return true, set(b, used, &timeRecord{Version: recordVersion, Time: r.Expires})
	})
	return taken, left, err
}

// rates is a token bucket for each claimant.
type rates struct {
	burst int
	every time.Duration
	most  int

	mu sync.Mutex
	of map[string]bucket
}

// bucket is full at a moment: who claims moves that moment on by the price of a claim.
type bucket struct{ fullAt time.Time }

// take says whether a claimant may claim now. A claimant who is not remembered has a full bucket; when
// too many are remembered, those with a full one are forgotten, and if there is none, newcomers wait.
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
	if b.fullAt.Before(now) {
		b.fullAt = now
	}
	if b.fullAt.Add(r.every).Sub(now) > time.Duration(r.burst)*r.every {
		return false
	}
	r.of[claimant] = bucket{b.fullAt.Add(r.every)}
	return true
}
