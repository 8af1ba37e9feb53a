package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/mlsfed/mlsfed/directory/recordstore"
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
type Claimed = recordstore.Claimed

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
func (d *Directory) ClaimKeyPackages(ctx context.Context, c Claim) ([]Claimed, error) {
	if err := d.checkUser("claim", c.User); err != nil {
		return nil, err
	}
	if c.Claimant == "" || len(c.Claimant) > 512 || c.ID == (wire.SubmissionID{}) {
		return nil, wire.Errorf(wire.Malformed, "claim", "wanted an id and a claimant of at most 512 bytes")
	}
	var results []Claimed
	var low []Low
	err := d.store.Update(ctx, c.User, func(tx recordstore.Tx) (err error) {
		results, low, err = d.claim(ctx, tx, &c)
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

func (d *Directory) claim(ctx context.Context, tx recordstore.Tx, c *Claim) ([]Claimed, []Low, error) {
	claimant := sha256.Sum256([]byte(c.Claimant)) // the key has one length for all names
	by := recordstore.Claimant(claimant[:16])
	earlier, err := tx.Claim(ctx, by, c.ID)
	if err != nil {
		return nil, nil, err
	}
	if earlier != nil {
		if earlier.User != c.User || earlier.Suite != uint16(c.Suite) {
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
	user, err := tx.User(ctx, c.User)
	if err != nil {
		return nil, nil, err
	}
	if user == nil {
		return nil, nil, wire.Errorf(wire.NotFound, "claim", "%s", c.User)
	}
	within := own
	if !own {
		if within, err = d.charge(ctx, tx, by, c.User); err != nil {
			return nil, nil, err
		}
	}
	results, low, err := d.claimEach(ctx, tx, c, !within)
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
	return results, low, tx.Set(ctx, &recordstore.Claim{By: by, ID: c.ID, Time: d.count(), User: c.User, Suite: uint16(c.Suite), Results: results})
}

// claimEach answers for each device of the user. With lastResorts alone, it takes nothing.
func (d *Directory) claimEach(ctx context.Context, tx recordstore.Tx, c *Claim, lastResorts bool) (results []Claimed, low []Low, err error) {
	devices, err := tx.Devices(ctx, c.User)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range devices {
		if _, asked := slices.BinarySearch(c.Devices, v); len(c.Devices) > 0 && !asked {
			continue
		}
		var k *recordstore.KeyPackage
		left := -1 // not counted
		if !lastResorts {
			if k, left, err = tx.Take(ctx, v, uint16(c.Suite), d.now(), d.cfg.LowWater); err != nil {
				return nil, nil, err
			}
		}
		last := k == nil
		if last {
			if k, err = d.lastResort(ctx, tx, v, c.Suite); err != nil {
				return nil, nil, err
			}
		}
		if k == nil {
			continue
		}
		results = append(results, Claimed{Device: v, Address: k.Address, Message: k.Message, LastResort: last})
		if left == d.cfg.LowWater-1 || left == 0 {
			low = append(low, Low{v, c.Suite, left})
		}
	}
	return results, low, nil
}
