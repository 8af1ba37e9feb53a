package client

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// extensionAccount is listed in the capabilities of a leaf whose device knows accounts, and is used nowhere else.
//
// Rights belong to an account, not to its name: an organization can give a name again. Rules name admins by their user
// ids, and a user id in them stands for the account whose devices are members. So no device of another account is added
// under the name of an admin who is a member, no leaf moves to another account, and the own devices of a user are those
// of the own account. Once the last device of an admin is gone, succession takes the name off the rules. These rules hold
// where all members list the extension. A certificate of an earlier release has no account: it can be of any.
const extensionAccount mlscore.ExtensionType = 0xf0a4

// knowAccounts reports whether all members do.
func knowAccounts(p *mlscore.PublicState) bool {
	return p != nil && p.AllSupport(extensionAccount)
}

// holderOf reads of which device and which account a credential is. It verifies nothing.
func holderOf(c mlscore.Credential) (wire.DeviceID, wire.AccountID, error) {
	cert, err := certificateOf(c)
	if err != nil {
		return "", wire.AccountID{}, err
	}
	name, err := mlscore.DeviceURI(cert)
	if err != nil {
		return "", wire.AccountID{}, err
	}
	device, err := wire.ParseDeviceID(name.Identity)
	return device, wire.AccountOf(cert), err
}

// accountOf is the account of a credential; zero for one that names none.
func accountOf(c mlscore.Credential) wire.AccountID {
	_, account, err := holderOf(c)
	if err != nil {
		return wire.AccountID{}
	}
	return account
}

// sameAccount refuses a leaf that moves to the certificate of another account.
func sameAccount(old, next mlscore.Credential) error {
	if a, b := accountOf(old), accountOf(next); !a.Same(b) {
		return fmt.Errorf("changes its account from %v to %v", a, b)
	}
	return nil
}

// sameAdmin refuses a device of another account than that of the members who have its user's name.
func sameAdmin(members *mlscore.PublicState, u wire.UserID, account wire.AccountID) error {
	same := true
	members.Members(func(m mlscore.Member) bool {
		device, other, err := holderOf(m.Credential)
		same = err != nil || device.User() != u || account.Same(other)
		return same
	})
	if !same {
		return wire.Errorf(wire.Exists, "add", "an admin here is an earlier owner of the name %s, and not the person who has it now: remove that admin first", u)
	}
	return nil
}

// recordPerson is the letter of the records of who has had a name: user → personRecord.
const recordPerson = 'A'

// personRecord holds the accounts that this device has seen under a name, the first one first.
type personRecord struct {
	Version  uint8            `cbor:"1,keyasint"`
	Accounts []wire.AccountID `cbor:"2,keyasint"`
	Dropped  uint32           `cbor:"3,keyasint,omitempty"` // accounts before those
}

// maxPersons bounds the accounts that are remembered of one name. The first ones give way.
const maxPersons = 64

// metAtJoin bounds the members of whom a device that joins makes a record, so that joining a large group stays cheap.
const metAtJoin = 1024

func personKey(u wire.UserID) []byte { return recordKey(recordPerson, []byte(u)) }

// number is the place of an account among those of the name, from 1; 0 for one that is not known.
func (r *personRecord) number(a wire.AccountID) int {
	i := slices.Index(r.Accounts, a)
	if i < 0 {
		return 0
	}
	return int(r.Dropped) + i + 1
}

// person returns the number of an account among those that this device has seen under the name; 0 for a certificate
// without an account, and for an account that was not seen yet.
func (d *Device) person(u *unit, user wire.UserID, account wire.AccountID) (int, error) {
	if account == (wire.AccountID{}) {
		return 0, nil
	}
	r := new(personRecord)
	if _, err := u.getRecord(personKey(user), r); err != nil {
		return 0, err
	}
	return r.number(account), nil
}

// meet remembers whose a member is. A name that another account had before is told of: the user may take the one person
// for the other.
func (t *thread) meet(m mlscore.Member, by wire.DeviceID) error {
	device, account, err := holderOf(m.Credential)
	if err != nil || account == (wire.AccountID{}) {
		return nil
	}
	key, r := personKey(device.User()), new(personRecord)
	if _, err := t.u.getRecord(key, r); err != nil || r.number(account) > 0 {
		return err
	}
	if r.Version = recordVersion; len(r.Accounts) >= maxPersons {
		r.Accounts, r.Dropped = r.Accounts[1:], r.Dropped+1
	}
	r.Accounts = append(r.Accounts, account)
	if n := r.number(account); n > 1 {
		err := fmt.Errorf("%s is another person than before: the organization has given the name again", device.User())
		t.event(Event{Type: EventPerson, Device: device, By: by, Count: n, Err: err})
	}
	return t.u.putRecord(key, r)
}

// meetMembers is meet for those who are there when this device joins.
func (t *thread) meetMembers() error {
	if t.group.Public().Size() > metAtJoin {
		return nil
	}
	var err error
	t.group.Public().Members(func(m mlscore.Member) bool {
		err = t.meet(m, "")
		return err == nil
	})
	return err
}

// makeRoom removes the devices of removed accounts that keep users from being added: their organizations have revoked
// them, and no device may have processed the lists yet. Devices that it cannot remove make the addition fail.
func (d *Device) makeRoom(ctx context.Context, id wire.ConversationID, list []addition) error {
	crowded := make(map[wire.Domain]bool)
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err != nil {
			return err
		}
		return t.crowded(list, crowded)
	})
	if err != nil || len(crowded) == 0 {
		return err
	}
	p := newTending(d)
	p.fetch(ctx, slices.Sorted(maps.Keys(crowded)))
	for _, err := range p.errs {
		d.log.Info("revocation list is not here", "error", err)
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.usableThread(u, id)
		if err != nil || t.group == nil {
			return err
		}
		return t.removeRevoked(p.lists, p.serials)
	})
}

// crowded finds the organizations of additions whose user name belongs to a member with another account.
func (t *thread) crowded(list []addition, found map[wire.Domain]bool) error {
	added := make(map[wire.UserID]wire.AccountID)
	for _, a := range list {
		kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
		if err != nil {
			return err
		}
		added[a.Device.User()] = accountOf(kp.LeafNode.Credential)
	}
	t.group.Public().Members(func(m mlscore.Member) bool {
		device, account, err := holderOf(m.Credential)
		if want, ok := added[device.User()]; err == nil && ok && !want.Same(account) {
			found[device.Organization()] = true
		}
		return true
	})
	return nil
}

// onePerson refuses to promote a name that belongs to two accounts, of members or of devices that are being added.
func (t *thread) onePerson(users []wire.UserID) error {
	if len(users) == 0 {
		return nil
	}
	seen := make(map[wire.UserID]wire.AccountID)
	var err error
	look := func(m mlscore.Member) bool {
		device, account, bad := holderOf(m.Credential)
		u := device.User()
		if bad != nil || account == (wire.AccountID{}) || !slices.Contains(users, u) {
			return true
		}
		if other, ok := seen[u]; ok && other != account {
			err = wire.Errorf(wire.Invalid, "rules", "two persons here have the name %s, one after the other: remove the devices of the earlier one first", u)
		}
		seen[u] = account
		return err == nil
	}
	t.group.Public().Members(look)
	added, _ := t.comingAndGoing(&change{})
	for _, m := range added {
		if err == nil {
			look(m)
		}
	}
	return err
}
