package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Directory is the users of one organization. It is safe for concurrent use.
type Directory struct {
	db       *pebble.DB
	prefix   []byte
	cfg      Config
	seed     maphash.Seed
	locks    [64]sync.Mutex // by user: of reading and changing that user's records
	list     sync.Mutex     // of changing the revocation list; taken after a user's lock
	rates    rates
	subjects sync.Mutex // of binding users to subjects; taken before a user's lock
	counts   tally
}

// New makes a directory on a database that its owner keeps open. All its keys begin with prefix.
func New(db *pebble.DB, prefix []byte, cfg Config) (*Directory, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Directory{db: db, prefix: slices.Clone(prefix), cfg: cfg, seed: maphash.MakeSeed()}
	d.rates = rates{burst: cfg.ClaimBurst, every: cfg.ClaimEvery, most: cfg.MaxClaimants, of: make(map[string]bucket)}
	return d, nil
}

// Run removes what has expired, every SweepInterval, until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	next := d.cfg.Clock.After(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next:
			if err := d.Sweep(ctx); err != nil && ctx.Err() == nil {
				d.cfg.Report(fmt.Errorf("sweep the directory: %w", err))
			}
			next = d.cfg.Clock.After(d.cfg.SweepInterval)
		}
	}
}

func (d *Directory) now() wire.Time { return wire.TimeOf(d.cfg.Clock.Now()) }

// count is the time of what ages.
func (d *Directory) count() wire.Time { return wire.TimeOf(d.cfg.Count()) }

func after(t wire.Time, life time.Duration) wire.Time { return t + wire.Time(life.Milliseconds()) }

func (d *Directory) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(d.cfg.Rand, b); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	return b, nil
}

// get reads a record and says whether there is one.
func (d *Directory) get(key []byte, record wire.Checker) (bool, error) {
	v, closer, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = wire.Decode(v, maxRecord, record)
	if err := errors.Join(err, closer.Close()); err != nil {
		return false, fmt.Errorf("record %q: %w", key, err)
	}
	return true, nil
}

func set(b *pebble.Batch, key []byte, record any) error {
	v, err := wire.Encode(record)
	if err != nil {
		return err
	}
	return b.Set(key, v, nil)
}

// update makes one change of a user's records: do sees them unchanged by others and fills a batch. It
// returns when the batch is on disk. Where do leaves the batch empty, since what was asked has been done
// before, update waits for the disk nevertheless: the earlier change may still be on its way there.
func (d *Directory) update(u wire.UserID, do func(*pebble.Batch) error) error {
	b := d.db.NewBatch()
	defer b.Close()
	if err := d.stage(u, b, do); err != nil {
		return err
	}
	return b.SyncWait()
}

// lock takes the lock of a user's records, and returns what gives it back.
func (d *Directory) lock(u wire.UserID) (unlock func()) {
	mu := &d.locks[maphash.String(d.seed, string(u))%uint64(len(d.locks))]
	mu.Lock()
	return mu.Unlock
}

func (d *Directory) stage(u wire.UserID, b *pebble.Batch, do func(*pebble.Batch) error) error {
	defer d.lock(u)()
	if err := do(b); err != nil {
		return err
	}
	if b.Empty() {
		if err := b.LogData(nil, nil); err != nil {
			return err
		}
	}
	return d.db.ApplyNoSyncWait(b, pebble.Sync)
}

// each calls do with the keys and values that begin with prefix, until do returns false.
func (d *Directory) each(prefix []byte, do func(key, value []byte) (bool, error)) error {
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: behind(prefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		if on, err := do(it.Key(), it.Value()); err != nil || !on {
			return err
		}
	}
	return it.Error()
}

// behind is the first key after all that begin with prefix, which begins with a byte below 0xff.
func behind(prefix []byte) []byte {
	b := bytes.TrimRight(prefix, "\xff")
	b = slices.Clone(b)
	b[len(b)-1]++
	return b
}

// own refuses names of other organizations.
func (d *Directory) own(op string, domain wire.Domain) error {
	if domain != d.cfg.Domain {
		return wire.Errorf(wire.NotFound, op, "%s is not %s, whose directory this is", domain, d.cfg.Domain)
	}
	return nil
}

func (d *Directory) checkUser(op string, u wire.UserID) error {
	if err := u.Check(); err != nil {
		return wire.Errorf(wire.Malformed, op, "%v", err)
	}
	return d.own(op, u.Organization())
}

func (d *Directory) checkDevice(op string, v wire.DeviceID) error {
	if err := v.Check(); err != nil {
		return wire.Errorf(wire.Malformed, op, "%v", err)
	}
	return d.own(op, v.Organization())
}

// User is somebody of the organization.
type User struct {
	ID      wire.UserID
	Created wire.Time
	Devices []wire.DeviceID
}

// Users lists all users with their devices, by name.
func (d *Directory) Users() ([]User, error) {
	var users []User
	err := d.each(d.key(kindUser), func(key, value []byte) (bool, error) {
		var r userRecord
		if err := wire.Decode(value, maxRecord, &r); err != nil {
			return false, err
		}
		u, err := wire.NewUserID(d.cfg.Domain, string(key[len(d.prefix)+1:]))
		users = append(users, User{ID: u, Created: r.Created})
		return true, err
	})
	for i := range users {
		if err == nil {
			users[i].Devices, err = d.Devices(users[i].ID)
		}
	}
	return users, err
}

// Devices lists a user's devices, by name.
func (d *Directory) Devices(u wire.UserID) ([]wire.DeviceID, error) {
	if err := d.checkUser("devices", u); err != nil {
		return nil, err
	}
	var list []wire.DeviceID
	prefix := d.key(kindDevice, u.Name()+"/")
	err := d.each(prefix, func(key, _ []byte) (bool, error) {
		v, err := wire.NewDeviceID(u, strings.TrimPrefix(string(key), string(prefix)))
		list = append(list, v)
		return true, err
	})
	return list, err
}

// Device is what others may know of a device.
type Device struct {
	ID          wire.DeviceID
	Key         []byte // its signature key, as MLS encodes it
	Certificate []byte // DER
	NotAfter    wire.Time
	Enrolled    wire.Time
}

// Device finds a device that is enrolled and not revoked; wire.NotFound otherwise.
func (d *Directory) Device(v wire.DeviceID) (Device, error) {
	r, err := d.device("device", v)
	if err != nil {
		return Device{}, err
	}
	return Device{v, r.Key, r.Certificate, r.NotAfter, r.Enrolled}, nil
}

func (d *Directory) device(op string, v wire.DeviceID) (*deviceRecord, error) {
	if err := d.checkDevice(op, v); err != nil {
		return nil, err
	}
	r := new(deviceRecord)
	ok, err := d.get(d.deviceKey(v), r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, wire.Errorf(wire.NotFound, op, "%s is not enrolled, or was revoked", v)
	}
	return r, nil
}
