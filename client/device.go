package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Device is one device of a user: its keys, its conversations and its connection. It is safe for
// concurrent use.
type Device struct {
	opts  Options
	log   *slog.Logger
	roots atomic.Pointer[rootSet]
	hub   hub
	lanes lanes
	link  link
	wrote signal // after each turn that has written something

	hurry   chan struct{} // holds one: the pause before the next attempt to connect is to end
	hurried time.Time     // when it did; belongs to Run

	// turns holds one value while nobody has the turn. What follows belongs to who has it.
	turns  chan struct{}
	store  *turnStore
	judge  *judge
	client *mlscore.Client
	groups *openGroups
	self   *deviceRecord   // nil before it is enrolled
	asked  map[string]bool // devices of the user's that he was told of
	// laterSums counts what waits of a later membership, in those conversations where that was counted.
	laterSums map[wire.ConversationID]*laterSum
	later     map[wire.ConversationID]bool // those for which something of a later membership waits; nil before it was read

	waiters waiters
	alarms  alarms
	readers checkedReaders
	// compared: the streams were compared with the node's in this process.
	compared atomic.Bool

	mu        sync.Mutex
	jitterRNG *rand.Rand
	running   bool
	consumers map[string]*consumer                // by the cursor's key
	receipts  map[wire.ConversationID][]MessageID // to be sent; lost by a crash, which receipts may be
}

// ErrNotEnrolled: the device has no certificate yet. See Device.Enrol.
var ErrNotEnrolled = errors.New("the device is not enrolled")

// Open opens the device that is in a store, or one that is yet to be enrolled. It starts nothing, and
// leaves the store to its owner to be closed, after Run has returned.
func Open(opts Options) (*Device, error) {
	opts, err := opts.orDefault()
	if err != nil {
		return nil, err
	}
	d := &Device{
		opts: opts, log: opts.Log, turns: make(chan struct{}, 1), hurry: make(chan struct{}, 1), store: &turnStore{}, judge: &judge{},
		groups: newOpenGroups(&opts.Limits), asked: make(map[string]bool), receipts: make(map[wire.ConversationID][]MessageID),
		consumers: make(map[string]*consumer),
	}
	d.turns <- struct{}{}
	d.link.init(opts)
	d.lanes.init(d)
	d.waiters.init()
	var seed [16]byte
	if _, err := io.ReadFull(opts.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	d.jitterRNG = rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:8]), binary.BigEndian.Uint64(seed[8:])))
	d.client, err = mlscore.NewClient(mlscore.Config{
		Auth: d.authenticator(), Policy: d.judge, Store: d.store, Now: opts.Clock.Now, Rand: opts.Rand,
		Extensions:  opts.extensions,
		Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
		MaxLifetime: maxLifetime, MaxLifetimeReceived: maxLifetime, Intake: mlscore.Intake{Strict: true},
		Limits: mlscore.Limits{PastEpochs: opts.Limits.PastEpochs, PastTime: opts.Timing.PastTime, PastMost: opts.Limits.PastMost},
	})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	err = d.turn(context.Background(), func(u *unit) error {
		if err := d.loadRoots(u); err != nil {
			return err
		}
		return d.loadSelf(u)
	})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	return d, nil
}

func (d *Device) loadSelf(u *unit) error {
	r := new(deviceRecord)
	ok, err := u.getRecord(recordKey(recordDevice), r)
	if ok && err == nil {
		d.self = r
	}
	return err
}

// turn gives f the state for itself, and makes what it wrote durable when it returns nil. After an
// error nothing was written, and what is in memory of groups is read anew.
func (d *Device) turn(ctx context.Context, f func(*unit) error) error {
	select {
	case <-d.turns:
	case <-ctx.Done():
		return ctx.Err()
	}
	u := newUnit(d.opts.Store)
	d.store.unit = u
	d.groups.begin()
	err := f(u)
	if err == nil {
		err = u.commit()
	}
	d.store.unit = nil
	if err != nil && len(u.writes) > 0 {
		d.forget()
	}
	if err == nil {
		for _, after := range u.after { // in the order of turns, so that events are
			after()
		}
		if len(u.writes) > 0 {
			d.wrote.give()
		}
	}
	d.turns <- struct{}{}
	return err
}

// forget drops what memory holds and the store may not.
func (d *Device) forget() {
	d.groups.forget()
	d.self, d.later, d.laterSums = nil, nil, nil
	u := newUnit(d.opts.Store)
	if err := d.loadSelf(u); err != nil {
		d.log.Error("device record cannot be read", "error", err)
	}
}

// ID is the device's name; "" before it is enrolled.
func (d *Device) ID(ctx context.Context) (wire.DeviceID, error) {
	var id wire.DeviceID
	err := d.turn(ctx, func(*unit) error {
		self, err := d.enrolled()
		if err == nil {
			id = self.Device
		}
		return err
	})
	return id, err
}

// CertificateEnds is when the device's certificate ends. Run renews it long before, while the device is online now and
// then. ErrNotEnrolled before there is one.
func (d *Device) CertificateEnds(ctx context.Context) (time.Time, error) {
	var ends time.Time
	err := d.turn(ctx, func(*unit) error {
		self, err := d.enrolled()
		if err == nil {
			ends = self.Ends.Std()
		}
		return err
	})
	return ends, err
}

// enrolled is the device's record. The caller has the turn.
func (d *Device) enrolled() (*deviceRecord, error) {
	if d.self == nil || len(d.self.Chain) == 0 {
		return nil, ErrNotEnrolled
	}
	return d.self, nil
}

func (r *deviceRecord) identity() mlscore.Identity {
	return mlscore.Identity{
		CipherSuite:  mlscore.CipherSuite(r.Suite),
		Credential:   mlscore.X509Credential(r.Chain...),
		SignatureKey: mlscore.NewSecret(r.Key),
	}
}

// suites are those in whose conversations this device can be, its own first.
func (r *deviceRecord) suites(others []mlscore.CipherSuite) []mlscore.CipherSuite {
	own := mlscore.CipherSuite(r.Suite)
	list := []mlscore.CipherSuite{own}
	for _, s := range others {
		if s.SignsLike(own) && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// identityIn is the device's in groups of a suite; wire.Invalid if its key is of another signature scheme.
func (r *deviceRecord) identityIn(s mlscore.CipherSuite) (mlscore.Identity, error) {
	id := r.identity()
	if !s.SignsLike(id.CipherSuite) {
		return id, wire.Errorf(wire.Invalid, "cipher suite", "%v signs otherwise than %v, for which this device has its key and certificate: enrol another device for it", s, id.CipherSuite)
	}
	id.CipherSuite = s
	return id, nil
}

// suite is the conversation's.
func (t *thread) suite() mlscore.CipherSuite {
	switch {
	case t.group != nil:
		return t.group.Public().CipherSuite()
	case t.rec.Line.Suite == 0:
		return mlscore.CipherSuite(t.d.self.Suite)
	}
	return mlscore.CipherSuite(t.rec.Line.Suite)
}

// identity is this device's in the conversation.
func (t *thread) identity() (mlscore.Identity, error) { return t.d.self.identityIn(t.suite()) }

func (d *Device) saveSelf(u *unit, r *deviceRecord) error {
	if err := u.putRecord(recordKey(recordDevice), r); err != nil {
		return err
	}
	d.self = r
	return nil
}

func (d *Device) now() wire.Time { return wire.TimeOf(d.opts.Clock.Now()) }

func (d *Device) emit(e Event) {
	e.Time = d.opts.Clock.Now()
	d.hub.publish(e)
}

// jitter is a random time in (0, most].
func (d *Device) jitter(most time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(d.jitterRNG.Int64N(int64(max(most, 1)))) + 1
}

func (d *Device) random(b []byte) error {
	_, err := io.ReadFull(d.opts.Rand, b)
	return err
}

func (d *Device) newToken() (t wire.Token, err error) { return t, d.random(t[:]) }

func (d *Device) newSubmission() (s wire.SubmissionID, err error) { return s, d.random(s[:]) }

// wait lets some time pass, and reports whether ctx is still alive.
func (d *Device) wait(ctx context.Context, t time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-d.opts.Clock.After(t):
		return true
	}
}
