package client

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// uploadBatch is the number of KeyPackages in one upload request, which keeps the frames small.
const uploadBatch = 25

func hashOf(b []byte) wire.Hash { return sha256.Sum256(b) }

func keyPackageKey(ref []byte) []byte { return recordKey(recordKeyPackage, ref) }

// topUp fills the directory's pool of this device's KeyPackages, and replaces the last resort after half of its
// lifetime.
func (d *Device) topUp(ctx context.Context) error {
	if err := d.discardStale(ctx); err != nil {
		return err
	}
	if err := d.upload(ctx); err != nil { // KeyPackages of an earlier attempt
		return err
	}
	var a wire.CountAnswer
	if err := d.call(ctx, wire.MethodCount, nil, &a); err != nil {
		return err
	}
	err := d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		if err != nil {
			return err
		}
		for at, s := range self.suites(d.opts.Suites) {
			want := d.opts.Limits.Reserve
			if at == 0 {
				want = d.opts.Limits.KeyPackages
			}
			have := wire.KeyPackageCount{Suite: uint16(s)}
			if i := slices.IndexFunc(a.Counts, func(c wire.KeyPackageCount) bool { return c.Suite == uint16(s) }); i >= 0 {
				have = a.Counts[i]
			}
			if err := d.topUpSuite(u, have, want); err != nil {
				return err
			}
		}
		return d.dropExpired(u)
	})
	if err != nil {
		return err
	}
	return d.upload(ctx)
}

// topUpSuite makes the KeyPackages that one suite lacks.
func (d *Device) topUpSuite(u *unit, have wire.KeyPackageCount, want int) error {
	suite := mlscore.CipherSuite(have.Suite)
	half := wire.Time(d.opts.Timing.KeyPackage.Milliseconds()) / 2
	if !have.LastResort || d.now()-d.self.lastResortOf(have.Suite) > half {
		if err := d.newKeyPackage(u, suite, true); err != nil {
			return err
		}
		next := *d.self
		next.noteLastResort(have.Suite, d.now())
		if err := d.saveSelf(u, &next); err != nil {
			return err
		}
	}
	for range want - int(have.Left) {
		if err := d.newKeyPackage(u, suite, false); err != nil {
			return err
		}
	}
	return nil
}

// lastResortOf returns when the last resort of a suite was made, or 0 if never.
func (r *deviceRecord) lastResortOf(suite uint16) wire.Time {
	if suite == r.Suite {
		return r.LastResort
	}
	for _, l := range r.Others {
		if l.Suite == suite {
			return l.Made
		}
	}
	return 0
}

func (r *deviceRecord) noteLastResort(suite uint16, at wire.Time) {
	if suite == r.Suite {
		r.LastResort = at
		return
	}
	r.Others = slices.DeleteFunc(slices.Clone(r.Others), func(l lastResort) bool { return l.Suite == suite })
	r.Others = append(r.Others, lastResort{Suite: suite, Made: at})
}

// newKeyPackage makes a KeyPackage with its own mailbox address, to be uploaded.
func (d *Device) newKeyPackage(u *unit, suite CipherSuite, lastResort bool) error {
	token, err := d.newToken()
	if err != nil {
		return err
	}
	life := d.opts.Timing.KeyPackage
	if lastResort { // the last resort serves while the device is away, for as long as its certificate is valid
		life = max(life, maxLifetime-time.Hour)
	}
	life = min(life, d.self.Ends.Std().Sub(d.opts.Clock.Now())-time.Second)
	if life <= 0 {
		return wire.Errorf(wire.Denied, "KeyPackage", "the device's certificate has ended: it has to be renewed")
	}
	id, err := d.self.identityIn(suite)
	if err != nil {
		return err
	}
	proof, err := d.proof(u)
	if err != nil {
		return err
	}
	kp, err := d.client.NewKeyPackage(id, mlscore.KeyPackageOptions{
		Lifetime: life, LastResort: lastResort, LeafExtensions: addressExtension(token), Extensions: proof,
	})
	if err != nil {
		return err
	}
	ref, err := kp.Ref()
	if err != nil {
		return err
	}
	message, err := kp.Message()
	if err != nil {
		return err
	}
	return u.putRecord(keyPackageKey(ref), &keyPackageRecord{
		Version: recordVersion, Token: token, Ends: wire.Time(kp.LeafNode.Lifetime.NotAfter) * 1000, LastResort: lastResort, Message: message,
	})
}

// dropExpired forgets KeyPackages that expired long ago. Nobody adds this device with them any more, but a device that
// was away for months may still find the commit that used one in the log: see search.go.
func (d *Device) dropExpired(u *unit) error {
	prefix := recordKey(recordKeyPackage)
	limit := d.now() - wire.Time(maxLifetime.Milliseconds())
	var refs [][]byte
	err := u.Scan(prefix, func(key, value []byte) error {
		r := new(keyPackageRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return err
		}
		if r.Ends < limit {
			refs = append(refs, key[len(prefix):])
		}
		return nil
	})
	for _, ref := range refs {
		if err != nil {
			return err
		}
		u.delete(keyPackageKey(ref))
		err = d.client.DeleteKeyPackage(ref)
	}
	return err
}

// usedKeyPackage forgets a used KeyPackage, unless it is a last resort. KeyPackages of other devices are unknown
// here.
func (d *Device) usedKeyPackage(u *unit, ref []byte) error {
	r := new(keyPackageRecord)
	ok, err := u.getRecord(keyPackageKey(ref), r)
	if err != nil || !ok || r.LastResort {
		return err
	}
	u.delete(keyPackageKey(ref))
	return nil
}

// upload uploads the KeyPackages that the directory does not have yet.
func (d *Device) upload(ctx context.Context) error {
	for {
		refs, request, err := d.notUploaded(ctx)
		if err != nil || len(refs) == 0 {
			return err
		}
		if err := d.call(ctx, wire.MethodUpload, request, nil); err != nil {
			code := wire.CodeOf(err)
			if code != wire.Denied && code != wire.Invalid && code != wire.Quota {
				return err
			}
			// The certificate of these KeyPackages is older, or there are too many: new ones are made.
			d.log.Warn("KeyPackages were refused", "count", len(refs), "error", err)
			return d.markUploaded(ctx, refs, true)
		}
		if err := d.markUploaded(ctx, refs, false); err != nil {
			return err
		}
	}
}

func (d *Device) notUploaded(ctx context.Context) (refs [][]byte, r *wire.UploadRequest, err error) {
	r = &wire.UploadRequest{}
	prefix := recordKey(recordKeyPackage)
	err = d.turn(ctx, func(u *unit) error {
		return u.Scan(prefix, func(key, value []byte) error {
			k := new(keyPackageRecord)
			if err := wire.Decode(value, maxRecord, k); err != nil {
				return err
			}
			if len(k.Message) > 0 && len(refs) < uploadBatch {
				refs = append(refs, key[len(prefix):])
				r.KeyPackages = append(r.KeyPackages, wire.UploadedKeyPackage{Message: k.Message, Token: k.Token})
			}
			return nil
		})
	})
	return refs, r, err
}

func (d *Device) markUploaded(ctx context.Context, refs [][]byte, refused bool) error {
	return d.turn(ctx, func(u *unit) error {
		for _, ref := range refs {
			k := new(keyPackageRecord)
			ok, err := u.getRecord(keyPackageKey(ref), k)
			if err != nil {
				return err
			}
			switch {
			case !ok:
			case refused:
				u.delete(keyPackageKey(ref))
				err = d.client.DeleteKeyPackage(ref)
			default:
				k.Message = nil
				err = u.putRecord(keyPackageKey(ref), k)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
