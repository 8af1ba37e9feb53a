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

// Upkeep of conversations is one pass over their records. It opens a group only where something can have changed
// since the last pass that left nothing to do: the conversation itself, the user's devices, or what an
// organization of its members has revoked.

// recordTended is the letter of what the last pass knew: conversation → tendedRecord.
const recordTended = 'P'

// tendedRecord is what upkeep knows of a conversation without opening its group.
type tendedRecord struct {
	Version uint8               `cbor:"1,keyasint"`
	Last    wire.SequenceNumber `cbor:"2,keyasint,omitempty"` // the entry up to which the record is true
	// Organizations are those of the members.
	Organizations []wire.Domain `cbor:"3,keyasint,omitempty"`
	// Clean is the digest of what is looked for (see tending.digest) with which nothing was left to do; zero for never.
	Clean wire.Hash `cbor:"4,keyasint,omitempty"`
	// Compared is when the delivery list was last held against the members; 0 for never.
	Compared wire.Time `cbor:"5,keyasint,omitempty"`
}

func (t *thread) tendedKey() []byte { return tendedKey(t.id) }

func tendedKey(id wire.ConversationID) []byte { return recordKey(recordTended, idPart(id)) }

// tendBatch is how many groups one turn of upkeep opens at most: others get the turn in between.
const tendBatch = 32

// tended is a conversation in a pass.
type tended struct {
	id   wire.ConversationID
	rec  *conversationRecord
	know tendedRecord
}

// tending is one pass over the conversations of a device.
type tending struct {
	d       *Device
	list    []tended
	user    wire.UserID
	devices []wire.DeviceInfo // of the user, those that can be added
	asked   bool              // devices is known
	serials map[wire.Domain]map[string]bool
	lists   map[wire.Domain][]byte // revocation lists, DER
	failed  map[wire.Domain]bool   // lists that could not be had
	missing []wire.ConversationID  // in which devices of the user are missing
	errs    []error
}

func newTending(d *Device) *tending {
	return &tending{d: d, serials: make(map[wire.Domain]map[string]bool), lists: make(map[wire.Domain][]byte), failed: make(map[wire.Domain]bool)}
}

// tendConversations does what conversations need: it adds the user's devices that this device knows, and removes members
// whose certificates their organizations have revoked. With only, it looks at that conversation alone.
func (d *Device) tendConversations(ctx context.Context, only wire.ConversationID) error {
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

// survey reads the records of all conversations, and does what needs no group.
func (p *tending) survey(u *unit, only wire.ConversationID) error {
	know := make(map[wire.ConversationID]tendedRecord)
	prefix := recordKey(recordTended)
	if only != "" {
		prefix = tendedKey(only)
	}
	err := u.Scan(prefix, func(key, value []byte) error {
		var r tendedRecord
		if err := wire.Decode(value, maxRecord, &r); err != nil {
			return err
		}
		know[wire.ConversationID(key[3:])] = r // behind the letters and the length of the id
		return nil
	})
	if err != nil {
		return err
	}
	keys, err := scheduled(u)
	if err != nil {
		return err
	}
	return someRecords(u, only, func(id wire.ConversationID, rec *conversationRecord) error {
		switch rec.State {
		case StateActive:
			p.list = append(p.list, tended{id, rec, know[id]})
			if p.d.mayBeDue(rec, keys[id]) {
				u.then(func() { p.d.lanes.kick(handshakes(id)) })
			}
		case StateMoved:
			return p.d.tendMoved(u, id, rec)
		}
		return nil
	})
}

// look opens the groups of conversations that something has changed for.
func (p *tending) look(ctx context.Context) error {
	for _, c := range p.list { // what is known already
		if c.know.Last == c.rec.Position.Last {
			p.fetch(ctx, c.know.Organizations)
		}
	}
	due := slices.DeleteFunc(slices.Clone(p.list), func(c tended) bool {
		want, complete := p.digest(c.know.Organizations)
		return complete && c.know.Last == c.rec.Position.Last && c.know.Clean == want
	})
	for batch := range slices.Chunk(due, tendBatch) {
		organizations := make(map[wire.Domain]bool)
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

// members notes of which organizations the members of a conversation are.
func (p *tending) members(u *unit, c *tended, all map[wire.Domain]bool) error {
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

// noteOrganizations notes of which organizations the members are, if that is not known up to the present entry.
func (t *thread) noteOrganizations(know *tendedRecord) {
	if know.Last == t.rec.Position.Last && len(know.Organizations) > 0 {
		return
	}
	found := make(map[wire.Domain]bool)
	t.group.Public().Members(func(m mlscore.Member) bool {
		if device, err := deviceOf(m.Credential); err == nil {
			found[device.Organization()] = true
		}
		return true
	})
	know.Last, know.Organizations = t.rec.Position.Last, slices.Sorted(maps.Keys(found))
}

// active opens a conversation again, nil if it is no longer active.
func (p *tending) active(u *unit, c *tended) (*thread, error) {
	rec := new(conversationRecord)
	ok, err := u.getRecord(conversationKey(c.id), rec)
	if err != nil || !ok || rec.State != StateActive {
		return nil, err
	}
	c.rec = rec
	return p.d.glance(u, c.id, rec)
}

// one does what one conversation needs, and notes when that is nothing.
func (p *tending) one(u *unit, c *tended) error {
	t, err := p.active(u, c)
	if err != nil || t == nil {
		return err
	}
	t.noteOrganizations(&c.know) // an entry may have come meanwhile
	clean := true
	if p.asked {
		absent, err := t.absent(p.devices)
		if err != nil {
			return err
		}
		if len(absent) > 0 {
			p.missing = append(p.missing, t.id)
			clean = false
		}
	}
	lists := make(map[wire.Domain][]byte)
	for _, org := range c.know.Organizations {
		if der := p.lists[org]; der != nil {
			lists[org] = der
		}
	}
	if err := t.removeRevoked(lists, p.serials); err != nil {
		return err
	}
	err = t.eachOperation(func(uint64, *operationRecord) error { // one that fails is looked for again
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

// fetch asks for revocation lists that this pass does not have.
func (p *tending) fetch(ctx context.Context, organizations []wire.Domain) {
	for _, org := range organizations {
		if p.lists[org] != nil || p.failed[org] {
			continue
		}
		var a wire.RevocationsAnswer
		err := p.d.call(ctx, wire.MethodRevocations, &wire.RevocationsRequest{Domain: org}, &a)
		if err == nil {
			err = p.parse(org, a.List)
		}
		if err != nil {
			p.failed[org] = true
			p.errs = append(p.errs, err)
		}
	}
}

// parse takes a revocation list in.
func (p *tending) parse(org wire.Domain, der []byte) error {
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

// digest stands for what is looked for in a conversation of some organizations: the user's devices, and the
// certificates that are revoked. A list that was only signed again is the same. complete: all of it is known.
func (p *tending) digest(organizations []wire.Domain) (sum wire.Hash, complete bool) {
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

// keepOld is how long the keys of a group that was migrated are kept for messages that come late: as long as
// servers keep what has not been read.
const keepOld = 30 * 24 * time.Hour

// tendMoved erases the group of a conversation that was migrated long ago.
func (d *Device) tendMoved(u *unit, id wire.ConversationID, rec *conversationRecord) error {
	if rec.Line.Erased || d.now()-rec.Line.CloseAt < wire.Time(keepOld.Milliseconds()) {
		return nil
	}
	t, err := d.glance(u, id, rec)
	if err != nil {
		return err
	}
	t.rec.Line.Erased = true
	if err := t.eraseGroup(); err != nil {
		return err
	}
	return t.save()
}
