package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// extensionAccount is listed in the capabilities of a leaf whose device knows accounts. It is used nowhere else.
//
// Rights belong to an account, not to its name: an organization can give a name again. Rules name admins by their
// user ids. A user id in them means the account whose devices are members. So no device of another account is added
// under the name of an admin who is a member, no leaf moves to another account, and a user's own devices are those of
// the user's own account. Once the last device of an admin is gone, succession takes the name off the rules. These
// rules hold where all members list the extension. A certificate of an earlier release has no account: it matches any
// account.
const extensionAccount mlscore.ExtensionType = 0xf0a4

// knowAccounts reports whether all members list extensionAccount.
func knowAccounts(p *mlscore.PublicState) bool {
	return p != nil && p.AllSupport(extensionAccount)
}

// holder is the device and the account that a certificate names.
type holder struct {
	device  DeviceID
	account AccountID
}

// Bounds of the cache of holders. A full cache drops an arbitrary entry; a longer certificate is not cached.
const (
	maxHolders           = 1024
	maxHolderCertificate = 4096 // bytes
)

// holders caches, for the whole process, which device and account each certificate names: each commit names the same
// few members.
var holders struct {
	mu    sync.Mutex
	known map[string]holder
}

// holderOf returns the device and the account that a credential names. It verifies nothing.
func holderOf(c mlscore.Credential) (DeviceID, AccountID, error) {
	if c.Type == mlscore.CredentialX509 && len(c.Certificates) > 0 {
		holders.mu.Lock()
		h, ok := holders.known[string(c.Certificates[0])]
		holders.mu.Unlock()
		if ok {
			return h.device, h.account, nil
		}
	}
	cert, err := certificateOf(c)
	if err != nil {
		return "", AccountID{}, err
	}
	name, err := mlscore.DeviceURI(cert)
	if err != nil {
		return "", AccountID{}, err
	}
	h := holder{account: wire.AccountOf(cert)}
	if h.device, err = wire.ParseDeviceID(name.Identity); err == nil && len(cert.Raw) <= maxHolderCertificate {
		h.remember(string(cert.Raw))
	}
	return h.device, h.account, err
}

func (h holder) remember(certificate string) {
	holders.mu.Lock()
	defer holders.mu.Unlock()
	if holders.known == nil {
		holders.known = make(map[string]holder)
	}
	if len(holders.known) >= maxHolders {
		for old := range holders.known {
			delete(holders.known, old)
			break
		}
	}
	holders.known[certificate] = h
}

// accountOf returns the account of a credential, or zero if the credential names none.
func accountOf(c mlscore.Credential) AccountID {
	_, account, err := holderOf(c)
	if err != nil {
		return AccountID{}
	}
	return account
}

// sameAccount refuses a leaf that moves to a certificate of another account.
func sameAccount(old, next mlscore.Credential) error {
	if a, b := accountOf(old), accountOf(next); !a.Same(b) {
		return fmt.Errorf("changes its account from %v to %v", a, b)
	}
	return nil
}

// sameAdmin refuses a device whose account differs from that of the members with the same user name.
func sameAdmin(members *mlscore.PublicState, u UserID, account AccountID) error {
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

// recordPerson is the letter of the records of the accounts that have had a name: user → personRecord.
const recordPerson = 'A'

// personRecord holds the accounts that this device has seen under a name, oldest first.
type personRecord struct {
	Version  uint8       `cbor:"1,keyasint"`
	Accounts []AccountID `cbor:"2,keyasint"`
	Dropped  uint32      `cbor:"3,keyasint,omitempty"` // number of earlier accounts that were dropped
}

// maxPersons bounds the accounts that are remembered for one name. The oldest ones are dropped.
const maxPersons = 64

// metAtJoin bounds the members that a joining device records, so that joining a large group stays cheap.
const metAtJoin = 1024

func personKey(u UserID) []byte { return recordKey(recordPerson, []byte(u)) }

// number returns the position of an account among those of the name, from 1, or 0 if the account is not known.
func (r *personRecord) number(a AccountID) int {
	i := slices.Index(r.Accounts, a)
	if i < 0 {
		return 0
	}
	return int(r.Dropped) + i + 1
}

// person returns the number of an account among those that this device has seen under the name. It returns 0 for a
// certificate without an account, and for an account that this device has not seen yet.
func (d *Device) person(u *unit, user UserID, account AccountID) (int, error) {
	if account == (AccountID{}) {
		return 0, nil
	}
	r := new(personRecord)
	if _, err := u.getRecord(personKey(user), r); err != nil {
		return 0, err
	}
	return r.number(account), nil
}

// noteAccount records the account of a member. If another account had the name before, meet emits an event: the user
// may confuse the two persons.
func (t *conversation) noteAccount(m mlscore.Member, by DeviceID) error {
	device, account, err := holderOf(m.Credential)
	if err != nil || account == (AccountID{}) {
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

// meetMembers calls meet for the members that are present when this device joins.
func (t *conversation) meetMembers() error {
	if t.group.Public().Size() > metAtJoin {
		return nil
	}
	var err error
	t.group.Public().Members(func(m mlscore.Member) bool {
		err = t.noteAccount(m, "")
		return err == nil
	})
	return err
}

// makeRoom removes devices of removed accounts that prevent users from being added: their organizations have revoked
// them, and perhaps no device has processed the lists yet. If makeRoom cannot remove a device, the addition fails.
func (d *Device) makeRoom(ctx context.Context, id ConversationID, list []addition) error {
	taken := make(map[Domain]bool)
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil {
			return err
		}
		return t.organizationsOfNames(list, taken)
	})
	if err != nil || len(taken) == 0 {
		return err
	}
	p := newTending(d)
	p.fetch(ctx, slices.Sorted(maps.Keys(taken)))
	for _, err := range p.errs {
		d.log.Info("revocation list is not here", "error", err)
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil || t.group == nil {
			return err
		}
		return t.removeRevoked(p.lists, p.serials)
	})
}

// organizationsOfNames collects the organizations of additions whose user name belongs to a member with another
// account.
func (t *conversation) organizationsOfNames(list []addition, found map[Domain]bool) error {
	added := make(map[UserID]AccountID)
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
func (t *conversation) onePerson(users []UserID) error {
	if len(users) == 0 {
		return nil
	}
	seen := make(map[UserID]AccountID)
	var err error
	look := func(m mlscore.Member) bool {
		device, account, bad := holderOf(m.Credential)
		u := device.User()
		if bad != nil || account == (AccountID{}) || !slices.Contains(users, u) {
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
