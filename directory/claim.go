package directory

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Claim asks for one KeyPackage of each device of a user.
type Claim struct {
	// ID names the claim: within Config.ClaimMemory a repetition by the same claimant gets the same answer.
	ID wire.SubmissionID
	// Claimant is who asks, as the limits count: the domain of another organization, or a user of this
	// one. A user who claims from himself, to add a further device, is under no limit.
	Claimant string
	User     wire.UserID
	Suite    mlscore.CipherSuite
	Devices  []wire.DeviceID // those that are asked for, in order; none: all of the user
}

// Claimed is one device's KeyPackage.
type Claimed struct {
	_          struct{} `cbor:",toarray"`
	Device     wire.DeviceID
	Address    wire.Token
	Message    []byte // an MLSMessage
	LastResort bool   // others may have been given it too
}

// errNothingTaken ends a claim that was answered with last resorts and changes nothing on disk.
var errNothingTaken = errors.New("nothing was taken")

// ClaimKeyPackages takes one KeyPackage from each device of a user that has one of the suite, or its last
// resort. Nobody else is given the others, and the change is durable when ClaimKeyPackages returns.
//
// A claim beyond the rates of its claimant and of the user (Config.PairBurst, Config.UserBurst) is answered
// with last resorts alone. Such a claim takes nothing, writes nothing and is not remembered by its id. So a
// hostile claimer never stops others: at worst all are given last resorts.
//
// wire.NotFound for an unknown user, NoneLeft if no device has any, Busy for a user of this organization
// over Config.ClaimBurst, SubmissionReused for an id that named another claim.
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
	if err != nil && !errors.Is(err, errNothingTaken) {
		return nil, err
	}
	for _, l := range low {
		d.cfg.Low(l)
	}
	return results, nil
}

func (d *Directory) claim(b *pebble.Batch, c *Claim) ([]Claimed, []Low, error) {
	claimant := sha256.Sum256([]byte(c.Claimant)) // the key has one length for all names
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
	own := c.Claimant == string(c.User)
	if wire.UserID(c.Claimant).Check() == nil && !own {
		if err := d.MayClaim(wire.UserID(c.Claimant)); err != nil {
			return nil, nil, err
		}
	}
	if ok, err = d.get(d.userKey(c.User), new(userRecord)); err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, wire.Errorf(wire.NotFound, "claim", "%s", c.User)
	}
	within := own
	if !own {
		if within, err = d.charge(b, claimant[:16], c.User); err != nil {
			return nil, nil, err
		}
	}
	results, low, err := d.claimEach(b, c, !within)
	if err != nil {
		return nil, nil, err
	}
	if len(results) == 0 {
		return nil, nil, wire.Errorf(wire.NoneLeft, "claim", "no device of %s has a KeyPackage of %v", c.User, c.Suite)
	}
	if !within {
		d.counts.lastResorts.Add(1)
		return results, nil, errNothingTaken
	}
	return results, low, set(b, key, &claimRecord{
		Version: recordVersion, Time: d.count(), User: c.User, Suite: c.Suite, Results: results,
	})
}

// claimEach answers for each device of the user. With lastResorts alone, it takes nothing.
func (d *Directory) claimEach(b *pebble.Batch, c *Claim, lastResorts bool) (results []Claimed, low []Low, err error) {
	devices, err := d.Devices(c.User)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range devices {
		if _, asked := slices.BinarySearch(c.Devices, v); len(c.Devices) > 0 && !asked {
			continue
		}
		var r *keyPackageRecord
		left := -1 // not counted
		if !lastResorts {
			if r, left, err = d.takeOne(b, v, c.Suite); err != nil {
				return nil, nil, err
			}
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
