package client

import "github.com/mlsfed/mlsfed/wire"

// Servers cannot see whether a commit can be processed. They take a member's later commit as evidence that the member
// could process all earlier ones, and end contests of commits that members of two organizations have processed
// (docs/spec/consensus.md, 'Contests'). So a device shows in which epoch it is when that matters: after a contest, when
// its own epoch is contested, and when one member has made many commits alone.

// presentAfter is the number of consecutive commits by one user that another device answers with a commit of its own:
// fewer than the state machine keeps contestable in any case.
const presentAfter = 128

// presenceRecord is what a device knows about the commits that led to its epoch.
type presenceRecord struct {
	Version uint8          `cbor:"1,keyasint"`
	Parent  SequenceNumber `cbor:"2,keyasint"`           // the entry that opened the epoch before the present one
	By      DeviceID       `cbor:"3,keyasint,omitempty"` // the device that made the present epoch
	Run     uint32         `cbor:"4,keyasint,omitempty"` // number of consecutive commits of that user
	// Due is when to show that this device follows, 0 for never. Of is the organization whose members have shown it
	// already.
	Due wire.Time `cbor:"5,keyasint,omitempty"`
	Of  Domain    `cbor:"6,keyasint,omitempty"`
}

func (t *conversation) presenceKey() []byte { return recordKey(recordPresence, idPart(t.id)) }

func (t *conversation) presence() (*presenceRecord, error) {
	p := &presenceRecord{Version: recordVersion}
	_, err := t.u.getRecord(t.presenceKey(), p)
	return p, err
}

// noteEpoch records the commit of a member that opened the present epoch. predecessor is the entry that opened the last
// one.
func (t *conversation) noteEpoch(before SequenceNumber, by DeviceID, own, contest bool) error {
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
		t.scheduleOwnCommit(p)
	}
	return t.u.putRecord(t.presenceKey(), p)
}

// noteOtherBranch records a commit of another branch: if it contests the epoch before the present one, members should
// show that they follow this branch.
func (t *conversation) noteOtherBranch(env *wire.Envelope) error {
	if !env.Commit.Contest {
		return nil
	}
	p, err := t.presence()
	if err != nil || p.Parent != env.Parent || p.Parent == 0 {
		return err
	}
	t.scheduleOwnCommit(p)
	return t.u.putRecord(t.presenceKey(), p)
}

// scheduleOwnCommit schedules a commit of this device, unless its organization is also that of the member who made the
// present epoch: its commit would be no further evidence.
func (t *conversation) scheduleOwnCommit(p *presenceRecord) {
	if of := p.By.Organization(); p.Due == 0 && of != t.d.self.Device.Organization() {
		p.Due, p.Of = t.d.now()+wire.Time(t.groupDelay(t.d.opts.Timing.Proposals).Milliseconds()), of
		t.kick(handshakes(t.id))
	}
}

// nextPresence makes the commit that is due. wait is the time until then, or 0 if none is due.
func (t *conversation) nextPresence() (wait wire.Time, again bool, err error) {
	p, err := t.presence()
	if err != nil || p.Due == 0 {
		return 0, false, err
	}
	if wait := p.Due - t.d.now(); wait > 0 {
		return wait, false, nil
	}
	p.Due, p.Of = 0, "" // once, even if it fails
	if err := t.u.putRecord(t.presenceKey(), p); err != nil {
		return 0, false, err
	}
	return 0, true, t.enqueueOwn(&operationRecord{Kind: opCommit})
}
