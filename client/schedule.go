package client

import (
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A member gives itself new keys now and then, which is a commit: one that races with another one is lost, and
// costs both. So the members' commits are spread: each draws the time of its next one from a period that grows with
// the group. A member that was away at that time draws another one, and a member that lost a race waits in proportion to
// the group.

// KeySchedule decides when a member gives itself new keys. It has no clock and no source of randomness of its own:
// jitter returns a random time from 0 to its argument.
type KeySchedule struct {
	Age     time.Duration // between two key changes of a member, in a group of up to Commits members: see Timing.KeyAge
	Commits int           // that all members together make within Age, in larger groups: see Limits.KeyCommits
}

const (
	// latePerMember is how much time each member of a group adds to the wait of one that was away, or has lost.
	latePerMember = 10 * time.Second
	// lateAfter is how long after its time a key change is late: rounds of upkeep come less often than that.
	lateAfter = time.Hour
	// maxDeferred bounds the waits: a device that is online for minutes at a time would never get to it else.
	maxDeferred = 3
)

// Period returns the mean time between two key changes of one member. It grows with the group, so that the group
// never spends more than Commits epochs within Age on them.
func (s KeySchedule) Period(members int) time.Duration {
	return time.Duration(float64(s.Age) * max(1, float64(members)/float64(max(s.Commits, 1))))
}

// First returns the time from a key change to the next one: half a period to one and a half.
func (s KeySchedule) First(members int, jitter func(time.Duration) time.Duration) time.Duration {
	p := s.Period(members)
	return p/2 + jitter(p)
}

// Again returns how long a member waits whose key change is late, or has lost against another commit.
func (s KeySchedule) Again(members int, jitter func(time.Duration) time.Duration) time.Duration {
	return jitter(min(s.Period(members)/8, time.Duration(members)*latePerMember))
}

// Defers reports whether a key change waits once more: it is late, and has not waited too often.
func (s KeySchedule) Defers(late time.Duration, deferred int) bool {
	return late > lateAfter && deferred < maxDeferred
}

// recordKeys is the letter of the schedule of a member: conversation → keysRecord.
const recordKeys = 'S'

// keysRecord is when this device gives itself new keys.
type keysRecord struct {
	Version  uint8     `cbor:"1,keyasint"`
	Since    wire.Time `cbor:"2,keyasint,omitempty"` // keyAge.Since for which it was drawn: another one makes it void
	Due      wire.Time `cbor:"3,keyasint,omitempty"`
	Deferred uint8     `cbor:"4,keyasint,omitempty"` // waits since it was due
}

func keysKey(id wire.ConversationID) []byte { return recordKey(recordKeys, idPart(id)) }

func (d *Device) schedule() KeySchedule {
	return KeySchedule{Age: d.opts.Timing.KeyAge, Commits: d.opts.Limits.KeyCommits}
}

// mayBeDue reports whether it is worth opening a group for a key change. k may be nil.
func (d *Device) mayBeDue(rec *conversationRecord, k *keysRecord) bool {
	if int(rec.Keys.Sent) >= d.opts.Timing.KeyMessages {
		return true
	}
	if k == nil || k.Since != rec.Keys.Since {
		return d.now()-rec.Keys.Since >= wire.Time(d.opts.Timing.KeyAge.Milliseconds()/2) // nothing is drawn yet
	}
	return d.now() >= k.Due
}

// scheduled are the schedules of all conversations.
func scheduled(u *unit) (map[wire.ConversationID]*keysRecord, error) {
	all := make(map[wire.ConversationID]*keysRecord)
	err := u.Scan(recordKey(recordKeys), func(key, value []byte) error {
		k := new(keysRecord)
		if err := wire.Decode(value, maxRecord, k); err != nil {
			return err
		}
		all[wire.ConversationID(key[3:])] = k // behind the letters and the length of the id
		return nil
	})
	return all, err
}

// nextKeys makes the commit of a key change that is due. It reports whether anything was decided.
func (t *thread) nextKeys() (bool, error) {
	k := &keysRecord{Version: recordVersion}
	if _, err := t.u.getRecord(keysKey(t.id), k); err != nil {
		return false, err
	}
	if k.Since != t.rec.Keys.Since || k.Due == 0 {
		first := t.d.schedule().First(t.group.Public().Size(), t.d.jitter)
		*k = keysRecord{Version: recordVersion, Since: t.rec.Keys.Since, Due: t.rec.Keys.Since + wire.Time(first.Milliseconds())}
		if err := t.u.putRecord(keysKey(t.id), k); err != nil {
			return false, err
		}
	}
	if int(t.rec.Keys.Sent) < t.d.opts.Timing.KeyMessages {
		late := t.d.now() - k.Due
		if late < 0 {
			return false, nil
		}
		if t.d.schedule().Defers(time.Duration(late)*time.Millisecond, int(k.Deferred)) {
			return true, t.deferKeys(k)
		}
	}
	t.rec.Keys.Sent = 0 // once, should it fail
	if err := t.deferKeys(k); err != nil {
		return false, err
	}
	if err := t.save(); err != nil {
		return false, err
	}
	return true, t.enqueueOwn(&operationRecord{Kind: opCommit, Reason: reasonKeys})
}

// deferKeys puts a key change off.
func (t *thread) deferKeys(k *keysRecord) error {
	again := t.d.schedule().Again(t.group.Public().Size(), t.d.jitter)
	k.Due, k.Deferred = t.d.now()+wire.Time(again.Milliseconds())+1, min(k.Deferred+1, maxDeferred)
	return t.u.putRecord(keysKey(t.id), k)
}

// lostKeys puts a key change off that has lost against another commit, and reports whether it did: it waits a few times,
// then it is tried until it wins.
func (t *thread) lostKeys() (bool, error) {
	k := new(keysRecord)
	ok, err := t.u.getRecord(keysKey(t.id), k)
	if err != nil || !ok || k.Deferred >= maxDeferred {
		return false, err
	}
	return true, t.deferKeys(k)
}

// maxCrowd bounds what crowd adds to a time, however large the group.
const maxCrowd = time.Hour

// crowd is a random time within which this member does what each member of the group could do as well: most, or more
// where many would do it at once.
func (t *thread) crowd(most time.Duration) time.Duration {
	if n := t.group.Public().Size(); n > 4 {
		most = max(most, min(most*time.Duration(n)/4, maxCrowd))
	}
	return t.d.jitter(most)
}
