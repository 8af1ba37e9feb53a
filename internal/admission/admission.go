// Package admission bounds what strangers cost a node before they have proved who they are.
//
// A connection that comes in is counted until it has proved itself, or has ended. An address whose
// connections fail too often is shut out, at accept and without a handshake, for a while that doubles. An
// address from which somebody has proved himself of late is never shut out, since many may share it: it is
// slowed instead.
package admission

import (
	"cmp"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/internal/tokenbucket"
)

// Limits are the limits of a Controller. Zero means the default, in brackets.
type Limits struct {
	Unproved  int              // [128] connections at once that have not proved who they are; a quarter of them is for known addresses
	Failures  tokenbucket.Rate // [20 at once, one in 10 s] failed connections of one address; over it, it is shut out or slowed
	ShutFirst time.Duration    // [1 s] the first time; it doubles
	ShutLast  time.Duration    // [1 min] the longest
	Slowed    tokenbucket.Rate // [10 at once, 5 a second] connections of a known address that fails too often
	Known     time.Duration    // [1 h] an address is known for so long after somebody there has proved himself
	Addresses int              // [65,536] that are remembered at once
}

// WithDefaults fills in the defaults.
func (l Limits) WithDefaults() Limits {
	l.Unproved = cmp.Or(l.Unproved, 128)
	l.Failures = l.Failures.Or(20, 10*time.Second)
	l.ShutFirst = cmp.Or(l.ShutFirst, time.Second)
	l.ShutLast = max(l.ShutFirst, cmp.Or(l.ShutLast, time.Minute))
	l.Slowed = l.Slowed.Or(10, time.Second/5)
	l.Known = cmp.Or(l.Known, time.Hour)
	l.Addresses = cmp.Or(l.Addresses, 65_536)
	return l
}

// Reason is why a connection is not let in. It is a label of metrics.
type Reason string

// The reasons.
const (
	Shut       Reason = "shut_out" // too many of its address have failed
	Overloaded Reason = "unproved" // too many at once have not proved who they are
)

// Controller decides. It is safe for concurrent use.
type Controller struct {
	limits Limits
	now    func() time.Time
	log    *slog.Logger

	mu       sync.Mutex // guards what follows
	unproved int
	by       map[netip.Addr]*record
}

// record is what is remembered of an address.
type record struct {
	failures tokenbucket.Bucket
	slowed   tokenbucket.Bucket
	known    time.Time // until then
	shut     time.Time // until then
	times    int       // that it was shut out in a row
	reported time.Time // when the log last had a line of it
	refused  int       // since then
}

// New returns a Controller.
func New(l Limits, now func() time.Time, log *slog.Logger) *Controller {
	return &Controller{limits: l.WithDefaults(), now: now, log: log, by: make(map[netip.Addr]*record)}
}

// Connection is a connection that has been let in. Its methods may be called several times, in any order; on nil,
// which is a connection that no Controller admitted, they do nothing.
type Connection struct {
	d        *Controller
	address  netip.Addr
	counted  bool // guarded by d.mu: among the unproved
	answered bool // guarded by d.mu: Proved or Failed was called
}

// AddressOf is where a connection comes from, as a Controller counts it.
func AddressOf(c net.Conn) netip.Addr {
	p, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return Network(p.Addr())
}

// Open lets a connection from an address in, or says why not.
func (d *Controller) Open(a netip.Addr) (*Connection, Reason) {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.by[a]
	known := r != nil && now.Before(r.known)
	if r != nil && !r.admits(d.limits, now, known) {
		r.refused++
		d.report(a, r, now)
		return nil, Shut
	}
	room := d.limits.Unproved
	if !known {
		room -= room / 4
	}
	if d.unproved >= room {
		return nil, Overloaded
	}
	d.unproved++
	return &Connection{d: d, address: a, counted: true}, ""
}

// admits says whether one more may be tried.
func (r *record) admits(l Limits, now time.Time, known bool) bool {
	if !known {
		return !now.Before(r.shut) || r.shut.Sub(now) > l.ShutLast // from a clock that has gone back since
	}
	if r.failures.Has(l.Failures, now) {
		return true
	}
	if !r.slowed.Has(l.Slowed, now) {
		return false
	}
	r.slowed.Take(l.Slowed, now, 1)
	return true
}

// Through says that the handshake is over: the visit does not count any more.
func (v *Connection) Through() {
	if v == nil {
		return
	}
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	v.leave()
}

func (v *Connection) leave() {
	if v.counted {
		v.counted = false
		v.d.unproved--
	}
}

// Proved says that the other side has proved who it is.
func (v *Connection) Proved() {
	if v == nil {
		return
	}
	now := v.d.now()
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	v.leave()
	v.answered = true
	r := v.d.record(v.address, now)
	r.known = now.Add(v.d.limits.Known)
	r.shut, r.times = time.Time{}, 0
}

// Failed says that it has not, unless it has before.
func (v *Connection) Failed() {
	if v == nil {
		return
	}
	d := v.d
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	v.leave()
	if v.answered {
		return
	}
	v.answered = true
	r := d.record(v.address, now)
	if r.failures.Has(d.limits.Failures, now) {
		r.failures.Take(d.limits.Failures, now, 1)
		return
	}
	if now.Before(r.known) || now.Before(r.shut) && r.shut.Sub(now) <= d.limits.ShutLast {
		return // slowed, or one that was let in before the others failed
	}
	if now.Sub(r.shut) > d.limits.ShutLast {
		r.times = 0
	}
	r.shut = now.Add(min(d.limits.ShutFirst<<min(r.times, 30), d.limits.ShutLast))
	r.times++
}

// inspected is the number of records that are inspected to make room for one.
const inspected = 16

// record finds or makes the one of an address. When there are too many, one goes of a few: rather one of
// which nothing is to be remembered, and rather an unknown address than a known one. d.mu is held.
func (d *Controller) record(a netip.Addr, now time.Time) *record {
	r := d.by[a]
	if r != nil {
		return r
	}
	if len(d.by) >= d.limits.Addresses {
		var worst netip.Addr
		worth, n := 3, 0
		for other, o := range d.by { // in no order
			if w := o.worth(now); w < worth {
				worst, worth = other, w
			}
			if n++; n == inspected {
				break
			}
		}
		delete(d.by, worst)
	}
	r = new(record)
	d.by[a] = r
	return r
}

func (r *record) worth(now time.Time) int {
	switch {
	case now.Before(r.known):
		return 2
	case now.Before(r.shut) || !r.failures.Full(now):
		return 1
	}
	return 0
}

// reportEvery is how often the log has a line of one address.
const reportEvery = time.Minute

// report writes a log line, unless it wrote one shortly before.
func (d *Controller) report(a netip.Addr, r *record, now time.Time) {
	if now.Sub(r.reported) < reportEvery {
		return
	}
	r.reported = now
	what := "shut out until " + r.shut.UTC().Format(time.RFC3339)
	if now.Before(r.known) {
		what = "slowed"
	}
	d.log.Warn("connections from an address fail again and again", "address", a, "now", what, "refused", r.refused)
	r.refused = 0
}

// Forgive forgets the failures of all addresses: who is welcome has changed.
func (d *Controller) Forgive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.by {
		r.failures, r.slowed, r.shut, r.times = tokenbucket.Bucket{}, tokenbucket.Bucket{}, time.Time{}, 0
	}
}

// Abort closes a connection with a reset: nothing of it is left on this machine.
func Abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
