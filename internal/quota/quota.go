package quota

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// Owner is who has bytes stored: a device ("mimi://…"), another organization (its domain), or Node.
type Owner string

// Node owns what the node stores for itself and for its own organization as a whole. It has no limit.
const Node Owner = ""

// Foreign is another node that is charged for nothing: only the disk's reserve counts for it.
const Foreign Owner = "?"

// Device is a device of this organization.
func Device(d wire.DeviceID) Owner { return Owner(d) }

// Kind is what bytes are stored as.
type Kind uint8

// The kinds.
const (
	Parts     Kind = iota // uploads that have begun and not ended
	Files                 // encrypted files that members share
	Blobs                 // what log entries name
	Snapshots             // states of conversations
	Logs                  // entries of conversations
	kinds
)

var kindNames = [kinds]string{"parts", "files", "blobs", "snapshots", "logs"}

// String is the kind's name in metrics and in the status.
func (k Kind) String() string {
	if k >= kinds {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Kinds are all kinds.
func Kinds() []Kind { return []Kind{Parts, Files, Blobs, Snapshots, Logs} }

// Reason is why a charge was refused, as counted.
type Reason string

// The reasons.
const (
	OverParts        Reason = "parts"        // unfinished uploads of one device or user
	OverDevice       Reason = "device"       // bytes of one device
	OverUser         Reason = "user"         // bytes of all devices of one user
	OverOrganization Reason = "organization" // bytes of one other organization
	OverDisk         Reason = "disk"         // free space of the disk is below the reserve
)

// Reasons are all reasons.
func Reasons() []Reason { return []Reason{OverParts, OverDevice, OverUser, OverOrganization, OverDisk} }

// Limits bound an account, in bytes. Zero is no limit.
type Limits struct {
	Parts        uint64 // of unfinished uploads of one user, which one device may have as well
	Device       uint64 // of one device, all kinds together
	User         uint64 // of all devices of one user
	Organization uint64 // of one other organization, all kinds together
}

// Disk reports free space. Reserved is what must stay free.
type Disk interface {
	Free() (free, reserved uint64, err error)
}

// Account is the account of a node. It is safe for concurrent use.
type Account struct {
	limits Limits
	disk   Disk // nil: the disk is not looked at

	mu      sync.Mutex // guards what follows
	note    func(full bool)
	full    bool // as note heard last
	of      map[Owner]*balance
	refused map[Reason]uint64
}

// balance is what one owner, or one user, has stored. One that is empty is not kept.
type balance struct {
	bytes [kinds]uint64
	total uint64
}

// New makes an empty account. disk may be nil.
func New(limits Limits, disk Disk) *Account {
	return &Account{limits: limits, disk: disk, note: func(bool) {}, of: make(map[Owner]*balance), refused: make(map[Reason]uint64)}
}

// Notify has fn called when a write finds the disk below the reserve, and when one finds room again. fn must
// not block and not call the account.
func (a *Account) Notify(fn func(full bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note = fn
}

// user is the user of a device; "" where the owner is no device.
func (o Owner) user() Owner {
	d := wire.DeviceID(o)
	if o == Node || d.Check() != nil {
		return ""
	}
	return Owner(d.User())
}

// charged are those whose balance the owner's bytes are in: its own, and a device's user's.
func (o Owner) charged() []Owner {
	if u := o.user(); u != "" {
		return []Owner{o, u}
	}
	return []Owner{o}
}

// Charge takes n bytes into account before they are written. It fails with wire.Quota where the owner has
// too much, and with wire.Unavailable where the disk is too full for what is not the node's own; then
// nothing is charged.
func (a *Account) Charge(o Owner, k Kind, n uint64) error {
	if n == 0 {
		return nil
	}
	if err := a.Room(o, n); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.within(o, k, n); err != nil {
		return err
	}
	a.add(o, k, n)
	return nil
}

// Adopt takes into account what is on the disk already, whatever the limits say.
func (a *Account) Adopt(o Owner, k Kind, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(o, k, n)
}

// Release gives back n bytes that were charged or adopted.
func (a *Account) Release(o Owner, k Kind, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, who := range o.charged() {
		b := a.of[who]
		if b == nil {
			continue
		}
		n := min(n, b.bytes[k])
		b.bytes[k] -= n
		if b.total -= n; b.total == 0 {
			delete(a.of, who)
		}
	}
}

// Room refuses with wire.Unavailable n bytes that are not the node's own where the disk is too full for them.
func (a *Account) Room(o Owner, n uint64) error {
	if a.disk == nil || o == Node {
		return nil
	}
	free, reserved, err := a.disk.Free()
	if err != nil { // a system that reports no free space has no reserve
		return nil
	}
	full := free < reserved || free-reserved < n
	a.mu.Lock()
	if full != a.full {
		a.full = full
		a.note(full)
	}
	if full {
		a.refused[OverDisk]++
	}
	a.mu.Unlock()
	if !full {
		return nil
	}
	return wire.Errorf(wire.Unavailable, "store", "the node's disk has %d bytes free and keeps %d in reserve: try again later; its operator has to make room", free, reserved)
}

// within is checked with a.mu held.
func (a *Account) within(o Owner, k Kind, n uint64) error {
	over := func(who Owner, parts bool, limit uint64) bool {
		b := a.of[who]
		if limit == 0 {
			return false
		}
		var have uint64
		if b != nil {
			have = b.total
			if parts {
				have = b.bytes[Parts]
			}
		}
		return n > limit || have > limit-n
	}
	refuse := func(r Reason, who Owner, what string, limit uint64) error {
		a.refused[r]++
		return wire.Errorf(wire.Quota, "store", "%s has %s stored on this node, and %d bytes more exceed the limit of %d: delete something, wait until old files expire, or ask the node's operator", who, what, n, limit)
	}
	if o == Node {
		return nil
	}
	user := o.user()
	l := &a.limits
	switch {
	case user == "" && over(o, false, l.Organization):
		return refuse(OverOrganization, o, "too much", l.Organization)
	case user == "":
	case k == Parts && over(user, true, l.Parts):
		return refuse(OverParts, user, "unfinished uploads", l.Parts)
	case over(o, false, l.Device):
		return refuse(OverDevice, o, "too much", l.Device)
	case over(user, false, l.User):
		return refuse(OverUser, user, "too much", l.User)
	}
	return nil
}

// add is called with a.mu held.
func (a *Account) add(o Owner, k Kind, n uint64) {
	if n == 0 {
		return
	}
	for _, who := range o.charged() {
		b := a.of[who]
		if b == nil {
			b = new(balance)
			a.of[who] = b
		}
		b.bytes[k] += n
		b.total += n
	}
}

// Of returns the bytes of one owner, or of one user, by kind.
func (a *Account) Of(o Owner, k Kind) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.of[o]; b != nil {
		return b.bytes[k]
	}
	return 0
}

// Total returns the bytes of one owner, or of one user.
func (a *Account) Total(o Owner) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.of[o]; b != nil {
		return b.total
	}
	return 0
}

// Refused returns how many charges were refused for a reason.
func (a *Account) Refused(r Reason) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused[r]
}

// Sum returns the bytes of a kind, of all owners and the node.
func (a *Account) Sum(k Kind) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var n uint64
	for o, b := range a.of {
		if wire.UserID(o).Check() != nil { // a user's bytes are its devices'
			n += b.bytes[k]
		}
	}
	return n
}

// Use is what one owner has stored.
type Use struct {
	Owner Owner
	Bytes uint64
	By    map[string]uint64 // by the kind's name; kinds without bytes are left out
}

// Top returns the other organizations and the users that have most stored, at most n of each, most first.
func (a *Account) Top(n int) (organizations, users []Use) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for o, b := range a.of {
		u := Use{Owner: o, Bytes: b.total, By: make(map[string]uint64)}
		for k, bytes := range b.bytes {
			if bytes > 0 {
				u.By[Kind(k).String()] = bytes
			}
		}
		switch {
		case o == Node || wire.DeviceID(o).Check() == nil:
		case wire.UserID(o).Check() == nil:
			users = append(users, u)
		default:
			organizations = append(organizations, u)
		}
	}
	order := func(list []Use) []Use {
		slices.SortFunc(list, func(a, b Use) int {
			return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Owner, b.Owner))
		})
		return list[:min(n, len(list))]
	}
	return order(organizations), order(users)
}
