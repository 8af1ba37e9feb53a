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
	opts   Options
	log    *slog.Logger
	roots  atomic.Pointer[rootSet]
	pinned atomic.Pointer[wire.Hash] // the list of organizations that was taken in last since the start
	hub    hub
	queues workQueues
	link   link
	wrote  signal // given after each turn that has written something, or that has found that no item waits
	// durable counts the turns after which all writes were on the disk.
	durable atomic.Uint64

	interruptPause chan struct{} // holds one value: the pause before the next attempt to connect shall end
	interrupted    time.Time     // when it last ended early; belongs to Run

	// turns holds one value while nobody has the turn. The fields below belong to the holder of the turn.
	turns  chan struct{}
	store  *turnStore
	policy *rulesPolicy
	client *mlscore.Client
	groups *openGroups
	self   *deviceRecord   // nil before the device is enrolled
	asked  map[string]bool // devices of this user about which the user was asked
	// laterSums counts the items that wait for a later membership, for the conversations in which they were counted.
	laterSums map[ConversationID]*laterSum
	resting   map[ConversationID]bool // the first waiting item is a commit whose content is being fetched
	later     map[ConversationID]bool // with items for a later membership; nil until it is read

	waiters waiters
	alarms  alarms // from the node
	reports alarms // from members, about delivery lists
	rests   rests
	readers checkedReaders
	repeats repeats
	// unread has the ends of the streams with items that were unread at the first connection: see readsFirst. The turn
	// guards it.
	unread map[wire.Token]uint64
	// olderIn is the turn that has found that the store is an older copy.
	olderIn *unit
	// compared is set once the streams were compared with the node's in this process.
	compared atomic.Bool

	mu        sync.Mutex
	jitterRNG *rand.Rand
	running   bool
	consumers map[string]*consumer           // keyed by the cursor's key
	receipts  map[ConversationID][]MessageID // receipts to be sent; a crash may lose them
}

// ErrNotEnrolled means that the device has no certificate yet. See Device.Enrol.
var ErrNotEnrolled = errors.New("the device is not enrolled")

// Open opens the device in a store, or prepares a device that is not enrolled yet. It starts nothing. The store's
// owner closes the store after Run has returned.
func Open(opts Options) (*Device, error) {
	opts, err := opts.orDefault()
	if err != nil {
		return nil, err
	}
	d := &Device{
		opts: opts, log: opts.Log, turns: make(chan struct{}, 1), interruptPause: make(chan struct{}, 1), store: &turnStore{}, policy: &rulesPolicy{},
		groups: newOpenGroups(&opts.Limits), asked: make(map[string]bool), resting: make(map[ConversationID]bool), receipts: make(map[ConversationID][]MessageID),
		consumers: make(map[string]*consumer),
	}
	d.turns <- struct{}{}
	d.link.init(opts)
	d.queues.init(d)
	d.waiters.init()
	var seed [16]byte
	if _, err := io.ReadFull(opts.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	d.jitterRNG = rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:8]), binary.BigEndian.Uint64(seed[8:])))
	d.client, err = mlscore.NewClient(mlscore.Config{
		Auth: d.authenticator(), Policy: d.policy, Store: d.store, Now: opts.Clock.Now, Rand: opts.Rand,
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

// turn gives f exclusive use of the state. If f returns nil, turn makes its writes durable. After an error nothing
// was written, and the groups in memory are read from the store again.
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
		for _, after := range u.after { // in the order of turns, so that events are in order too
			after()
		}
		if (len(u.writes) > 0 || u.settle) && !u.relaxed {
			d.durable.Add(1)
		}
		if len(u.writes) > 0 {
			d.wrote.give()
		}
	}
	d.turns <- struct{}{}
	return err
}

// forget drops state in memory that the store may not have.
func (d *Device) forget() {
	d.groups.forget()
	d.self, d.later, d.laterSums = nil, nil, nil
	u := newUnit(d.opts.Store)
	if err := d.loadSelf(u); err != nil {
		d.log.Error("device record cannot be read", "error", err)
	}
}

// ID returns the device's name, or "" before the device is enrolled.
func (d *Device) ID(ctx context.Context) (DeviceID, error) {
	var id DeviceID
	err := d.turn(ctx, func(*unit) error {
		self, err := d.enrolled()
		if err == nil {
			id = self.Device
		}
		return err
	})
	return id, err
}

// CertificateEnds returns when the device's certificate ends. Run renews the certificate long before, if the device
// is online now and then. CertificateEnds returns ErrNotEnrolled while there is no certificate.
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

// enrolled returns the device's record. The caller has the turn.
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

// suites returns the cipher suites of the conversations that this device can join, its own suite first.
func (r *deviceRecord) suites(others []CipherSuite) []CipherSuite {
	own := mlscore.CipherSuite(r.Suite)
	list := []CipherSuite{own}
	for _, s := range others {
		if s.SignsLike(own) && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// identityIn returns the device's identity in groups of a suite, or [Invalid] if its key has another signature
// scheme.
func (r *deviceRecord) identityIn(s CipherSuite) (mlscore.Identity, error) {
	id := r.identity()
	if !s.SignsLike(id.CipherSuite) {
		return id, wire.Errorf(wire.Invalid, "cipher suite", "%v signs otherwise than %v, for which this device has its key and certificate: enrol another device for it", s, id.CipherSuite)
	}
	id.CipherSuite = s
	return id, nil
}

// suite returns the cipher suite of the conversation.
func (t *conversation) suite() CipherSuite {
	switch {
	case t.group != nil:
		return t.group.Public().CipherSuite()
	case t.rec.Line.Suite == 0:
		return mlscore.CipherSuite(t.d.self.Suite)
	}
	return mlscore.CipherSuite(t.rec.Line.Suite)
}

// identity returns this device's identity in the conversation.
func (t *conversation) identity() (mlscore.Identity, error) { return t.d.self.identityIn(t.suite()) }

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

// jitter returns a random duration in (0, most].
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

// wait waits for a duration, and reports whether ctx is still alive.
func (d *Device) wait(ctx context.Context, t time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-d.opts.Clock.After(t):
		return true
	}
}
