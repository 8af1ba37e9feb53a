package directory

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// Directory is the users of one organization. It is safe for concurrent use.
type Directory struct {
	store  recordstore.Store
	cfg    Config
	rates  tokenbucket.Rates[string] // of claimants
	made   tokenbucket.Rates[string] // of records of addresses, by device
	counts tally
}

// New makes a directory on a store that its owner keeps open.
func New(store recordstore.Store, cfg Config) (*Directory, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Directory{store: store, cfg: cfg}
	d.rates.Rate = tokenbucket.Rate{Burst: cfg.ClaimBurst, Every: cfg.ClaimEvery}
	d.rates.Most, d.rates.Strict = cfg.MaxClaimants, true
	d.made.Rate = tokenbucket.Rate{Burst: cfg.AddressBurst, Every: cfg.AddressEvery}
	d.made.Most, d.made.Strict = 4*cfg.MaxClaimants, true
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
func (d *Directory) Users(ctx context.Context) ([]User, error) {
	list, err := d.store.Users(ctx, d.cfg.Domain)
	if err != nil {
		return nil, err
	}
	users := make([]User, len(list))
	for i, u := range list {
		users[i] = User{ID: u.ID, Created: u.Created}
		if users[i].Devices, err = d.store.Devices(ctx, u.ID); err != nil {
			return nil, err
		}
	}
	return users, nil
}

// Devices lists a user's devices, by name.
func (d *Directory) Devices(ctx context.Context, u wire.UserID) ([]wire.DeviceID, error) {
	if err := d.checkUser("devices", u); err != nil {
		return nil, err
	}
	return d.store.Devices(ctx, u)
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
func (d *Directory) Device(ctx context.Context, v wire.DeviceID) (Device, error) {
	r, err := d.device(ctx, d.store, "device", v)
	if err != nil {
		return Device{}, err
	}
	return Device{ID: v, Key: r.Key, Certificate: r.Certificate, NotAfter: r.NotAfter, Enrolled: r.Enrolled}, nil
}

// device reads the record of a device that is enrolled; wire.NotFound otherwise.
func (d *Directory) device(ctx context.Context, from recordstore.Reads, op string, v wire.DeviceID) (*recordstore.Device, error) {
	if err := d.checkDevice(op, v); err != nil {
		return nil, err
	}
	r, err := from.Device(ctx, v)
	if err == nil && r == nil {
		err = wire.Errorf(wire.NotFound, op, "%s is not enrolled, or was revoked", v)
	}
	return r, err
}
