package client

import "github.com/mlsfed/mlsfed/wire"

// Servers cannot see whether a commit can be processed. They take what a member commits afterwards as evidence
// that it could process all before it, and end contests of what members of two organizations have processed
// (docs/consensus.md, 'Contests'). So a device shows in which epoch it is where that matters: after a contest,
// where its own epoch is contested, and where one member has made many commits on its own.

// presentAfter is how many commits in a row by one user another device answers with one of its own: fewer than
// the state machine keeps contestable in any case.
const presentAfter = 128

// presenceRecord is what a device knows of the way to its epoch.
type presenceRecord struct {
	Version uint8               `cbor:"1,keyasint"`
	Parent  wire.SequenceNumber `cbor:"2,keyasint"`           // the entry that opened the epoch before the present one
	By      wire.DeviceID       `cbor:"3,keyasint,omitempty"` // who made the present one
	Run     uint32              `cbor:"4,keyasint,omitempty"` // commits in a row of that user's
	// Due is when to show that this device follows, 0 for never. Of is the organization whose members have
	// shown it already.
	Due wire.Time   `cbor:"5,keyasint,omitempty"`
	Of  wire.Domain `cbor:"6,keyasint,omitempty"`
}

func (t *thread) presenceKey() []byte { return recordKey(recordPresence, idPart(t.id)) }

func (t *thread) presence() (*presenceRecord, error) {
	p := &presenceRecord{Version: recordVersion}
	_, err := t.u.getRecord(t.presenceKey(), p)
	return p, err
}

// entered notes the commit, made by a member, that opened the present epoch. before opened the last one.
func (t *thread) entered(before wire.SequenceNumber, by wire.DeviceID, own, contest bool) error {
	p, err := t.presence()
	if err != nil {
		return err
	}
	if p.By.User() == by.User() {
		p.Run++
	} else {
		p.Run = 1
	}
	p.Parent, p.By = before, by
	if own || p.Due > 0 && by.Organization() != p.Of {
		p.Due, p.Of = 0, ""
	}
	if contest || p.Run >= presentAfter {
		t.show(p)
	}
	return t.u.putRecord(t.presenceKey(), p)
}

// besides notes a commit of another branch: one that contests the epoch before the present one makes it
// matter that members follow this branch.
func (t *thread) besides(env *wire.Envelope) error {
	if !env.Commit.Contest {
		return nil
	}
	p, err := t.presence()
	if err != nil || p.Parent != env.Parent || p.Parent == 0 {
		return err
	}
	t.show(p)
	return t.u.putRecord(t.presenceKey(), p)
}

// show plans a commit of this device's own, unless it is of the organization whose member made the present
// epoch: that would be no further evidence.
func (t *thread) show(p *presenceRecord) {
	if of := p.By.Organization(); p.Due == 0 && of != t.d.self.Device.Organization() {
		p.Due, p.Of = t.d.now()+wire.Time(t.crowd(t.d.opts.Timing.Proposals).Milliseconds()), of
		t.kick(handshakes(t.id))
	}
}

// nextPresence makes the commit that is due. wait is how long it has time, 0 where none is due.
func (t *thread) nextPresence() (wait wire.Time, again bool, err error) {
	p, err := t.presence()
	if err != nil || p.Due == 0 {
		return 0, false, err
	}
	if wait := p.Due - t.d.now(); wait > 0 {
		return wait, false, nil
	}
	p.Due, p.Of = 0, "" // once, should it fail
	if err := t.u.putRecord(t.presenceKey(), p); err != nil {
		return 0, false, err
	}
	return 0, true, t.enqueueOwn(&operationRecord{Kind: opCommit})
}
