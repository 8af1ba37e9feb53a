package client

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Upkeep of conversations is one pass over their records. It opens a group only if something may have changed since
// the last pass that left no work: the conversation itself, the user's devices, or the revocations of a member's
// organization.

// recordTended is the letter of the records of the last pass: conversation → tendedRecord.
const recordTended = 'P'

// tendedRecord is the data about a conversation that upkeep knows without opening its group.
type tendedRecord struct {
	Version uint8          `cbor:"1,keyasint"`
	Last    SequenceNumber `cbor:"2,keyasint,omitempty"` // the entry up to which the record is valid
	// Organizations are the organizations of the members.
	Organizations []Domain `cbor:"3,keyasint,omitempty"`
	// Clean is the digest of the inputs (see tending.digest) with which no work was left; zero for never.
	Clean wire.Hash `cbor:"4,keyasint,omitempty"`
	// Compared is when the delivery list was last compared with the members; 0 for never.
	Compared wire.Time `cbor:"5,keyasint,omitempty"`
	// Readers is the result of that comparison.
	Readers *readersReport `cbor:"6,keyasint,omitempty"`
}

func (t *conversation) tendedKey() []byte { return tendedKey(t.id) }

func tendedKey(id ConversationID) []byte { return recordKey(recordTended, idPart(id)) }

// tendBatch bounds the groups that one turn of upkeep opens: other work gets the turn in between.
const tendBatch = 32

// tended is a conversation in a pass.
type tended struct {
	id   ConversationID
	rec  *conversationRecord
	know tendedRecord
}

// tending is one pass over the conversations of a device.
type tending struct {
	d       *Device
	list    []tended
	user    UserID
	devices []wire.DeviceInfo // devices of the user that can be added
	asked   bool              // devices is known
	serials map[Domain]map[string]bool
	lists   map[Domain][]byte // revocation lists, DER
	failed  map[Domain]bool   // lists that could not be fetched
	missing []ConversationID  // conversations in which devices of the user are missing
	errs    []error
}

func newTending(d *Device) *tending {
	return &tending{d: d, serials: make(map[Domain]map[string]bool), lists: make(map[Domain][]byte), failed: make(map[Domain]bool)}
}

// tendConversations adds the user's known devices to conversations, and removes members whose certificates their
// organizations have revoked. If only is set, it handles that conversation alone.
func (d *Device) tendConversations(ctx context.Context, only ConversationID) error {
	p := newTending(d)
	devices, err := d.Devices(ctx)
	if errors.Is(err, ErrOffline) {
		return err
	}
	if err != nil {
		p.errs = append(p.errs, err)
	}
	p.asked = err == nil
	err = d.turn(ctx, func(u *unit) error {
		p.user = d.self.Device.User()
		if p.asked {
			if p.devices, err = d.addable(u, devices); err != nil {
				return err
			}
		}
		return p.survey(u, only)
	})
	if err != nil {
		return err
	}
	if err := p.look(ctx); err != nil {
		return errors.Join(append(p.errs, err)...)
	}
	p.errs = append(p.errs, d.addMissing(ctx, p.user, p.missing, p.devices))
	return errors.Join(p.errs...)
}

// survey reads the records of all conversations, and does the work that needs no group.
func (p *tending) survey(u *unit, only ConversationID) error {
	know := make(map[ConversationID]tendedRecord)
	prefix := recordKey(recordTended)
	if only != "" {
		prefix = tendedKey(only)
	}
	err := u.Scan(prefix, func(key, value []byte) error {
		var r tendedRecord
		if err := wire.Decode(value, maxRecord, &r); err != nil {
			return err
		}
		know[wire.ConversationID(key[3:])] = r // after the letters and the length of the id
		return nil
	})
	if err != nil {
		return err
	}
	keys, err := scheduled(u)
	if err != nil {
		return err
	}
	return someRecords(u, only, func(id ConversationID, rec *conversationRecord) error {
		switch rec.State {
		case StateActive:
			p.list = append(p.list, tended{id, rec, know[id]})
			if p.d.mayBeDue(rec, keys[id]) {
				u.then(func() { p.d.queues.kick(handshakes(id)) })
			}
		case StateMoved:
			return p.d.tendMoved(u, id, rec)
		}
		return nil
	})
}

// setPolicy opens the groups of conversations for which something has changed.
func (p *tending) look(ctx context.Context) error {
	for _, c := range p.list { // data that is known already
		if c.know.Last == c.rec.Position.Last {
			p.fetch(ctx, c.know.Organizations)
		}
	}
	due := slices.DeleteFunc(slices.Clone(p.list), func(c tended) bool {
		want, complete := p.digest(c.know.Organizations)
		return complete && c.know.Last == c.rec.Position.Last && c.know.Clean == want
	})
	for batch := range slices.Chunk(due, tendBatch) {
		organizations := make(map[Domain]bool)
		err := p.d.turn(ctx, func(u *unit) error {
			for i := range batch {
				if err := p.members(u, &batch[i], organizations); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		p.fetch(ctx, slices.Sorted(maps.Keys(organizations)))
		err = p.d.turn(ctx, func(u *unit) error {
			for i := range batch {
				if err := p.one(u, &batch[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// members collects the organizations of the members of a conversation.
func (p *tending) members(u *unit, c *tended, all map[Domain]bool) error {
	t, err := p.active(u, c)
	if err != nil || t == nil {
		return err
	}
	t.noteOrganizations(&c.know)
	for _, org := range c.know.Organizations {
		all[org] = true
	}
	return nil
}

// noteOrganizations records the organizations of the members, unless they are known up to the present entry.
func (t *conversation) noteOrganizations(know *tendedRecord) {
	if know.Last == t.rec.Position.Last && len(know.Organizations) > 0 {
		return
	}
	found := make(map[Domain]bool)
	t.group.Public().Members(func(m mlscore.Member) bool {
		if device, err := deviceOf(m.Credential); err == nil {
			found[device.Organization()] = true
		}
		return true
	})
	know.Last, know.Organizations = t.rec.Position.Last, slices.Sorted(maps.Keys(found))
}

// active opens a conversation again, or returns nil if it is no longer active.
func (p *tending) active(u *unit, c *tended) (*conversation, error) {
	rec := new(conversationRecord)
	ok, err := u.getRecord(conversationKey(c.id), rec)
	if err != nil || !ok || rec.State != StateActive {
		return nil, err
	}
	c.rec = rec
	return p.d.peekConversation(u, c.id, rec)
}

// one does the work of one conversation, and records when there is none.
func (p *tending) one(u *unit, c *tended) error {
	t, err := p.active(u, c)
	if err != nil || t == nil {
		return err
	}
	t.noteOrganizations(&c.know) // an entry may have come meanwhile
	clean := true
	if p.asked {
		absent, err := t.missingDevices(p.devices)
		if err != nil {
			return err
		}
		if len(absent) > 0 {
			p.missing = append(p.missing, t.id)
			clean = false
		}
	}
	lists := make(map[Domain][]byte)
	for _, org := range c.know.Organizations {
		if der := p.lists[org]; der != nil {
			lists[org] = der
		}
	}
	if err := t.removeRevoked(lists, p.serials); err != nil {
		return err
	}
	err = t.eachOperation(func(uint64, *operationRecord) error { // check again after a failed operation
		clean = false
		return errStop
	})
	if err != nil && err != error(errStop) {
		return err
	}
	now := tendedRecord{Version: recordVersion}
	if _, err := u.getRecord(t.tendedKey(), &now); err != nil {
		return err
	}
	now.Last, now.Organizations, now.Clean = c.know.Last, c.know.Organizations, wire.Hash{}
	if want, complete := p.digest(c.know.Organizations); clean && complete {
		now.Clean = want
	}
	return u.putRecord(t.tendedKey(), &now)
}

// fetch requests revocation lists that this pass does not have.
func (p *tending) fetch(ctx context.Context, organizations []Domain) {
	for _, org := range organizations {
		if p.lists[org] != nil || p.failed[org] {
			continue
		}
		list, err := p.d.revocations(ctx, org)
		if err == nil {
			err = p.parse(org, list)
		}
		if err != nil {
			p.failed[org] = true
			p.errs = append(p.errs, err)
		}
	}
}

// parse takes in a revocation list.
func (p *tending) parse(org Domain, der []byte) error {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return fmt.Errorf("revocation list of %s: %w", org, err)
	}
	serials := make(map[string]bool, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		serials[e.SerialNumber.String()] = true
	}
	p.lists[org], p.serials[org] = der, serials
	return nil
}

// digest returns a hash of the inputs of upkeep for a conversation of some organizations: the user's devices, and the
// revoked certificates. A list that was only signed again does not change it. complete means that all inputs are
// known.
func (p *tending) digest(organizations []Domain) (sum wire.Hash, complete bool) {
	complete = p.asked
	h := sha256.New()
	for _, v := range p.devices {
		fmt.Fprintf(h, "%d %s %d %x\n", len(v.ID), v.ID, v.Enrolled, v.Key)
	}
	for _, org := range organizations {
		complete = complete && p.lists[org] != nil
		fmt.Fprintf(h, "%d %s %d\n", len(org), org, len(p.serials[org]))
		for _, serial := range slices.Sorted(maps.Keys(p.serials[org])) {
			fmt.Fprintln(h, serial)
		}
	}
	h.Sum(sum[:0])
	return sum, complete
}

// keepOld is how long the keys of a migrated group are kept for late messages: as long as servers keep unread items.
const keepOld = 30 * 24 * time.Hour

// tendMoved erases the group of a conversation that was migrated long ago.
func (d *Device) tendMoved(u *unit, id ConversationID, rec *conversationRecord) error {
	if rec.Line.Erased || d.now()-rec.Line.CloseAt < wire.Time(keepOld.Milliseconds()) {
		return nil
	}
	t, err := d.peekConversation(u, id, rec)
	if err != nil {
		return err
	}
	t.rec.Line.Erased = true
	if err := t.eraseGroup(); err != nil {
		return err
	}
	return t.save()
}
