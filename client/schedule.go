package client

import (
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A member gives itself new keys from time to time, with a commit. A commit that races with another one is lost, and
// costs both members. So the commits of the members are spread: each member draws the time of its next one from a
// period that grows with the group. A member that was away at that time draws another time, and a member that lost a
// race waits in proportion to the group's size.

// KeySchedule decides when a member gives itself new keys. It has no clock and no source of randomness: jitter
// returns a random time from 0 to its argument.
type KeySchedule struct {
	Age     time.Duration // between two key changes of a member, in a group of up to Commits members: see Timing.KeyAge
	Commits int           // key changes of all members together within Age, in larger groups: see Limits.KeyCommits
}

const (
	// latePerMember is the time that each member of a group adds to the wait of a member that was away, or that lost
	// a race.
	latePerMember = 10 * time.Second
	// lateAfter is how long after its time a key change counts as late. The default interval of upkeep rounds is
	// shorter.
	lateAfter = time.Hour
	// maxDeferred bounds the number of waits: otherwise a device that is online for only minutes at a time would
	// never change its keys.
	maxDeferred = 3
)

// Period returns the mean time between two key changes of one member. The period grows with the group, so that the
// group never spends more than Commits epochs within Age on key changes.
func (s KeySchedule) Period(members int) time.Duration {
	return time.Duration(float64(s.Age) * max(1, float64(members)/float64(max(s.Commits, 1))))
}

// First returns the time from a key change to the next one: between half a period and one and a half periods.
func (s KeySchedule) First(members int, jitter func(time.Duration) time.Duration) time.Duration {
	p := s.Period(members)
	return p/2 + jitter(p)
}

// Again returns how long a member waits if its key change is late, or has lost against another commit.
func (s KeySchedule) Again(members int, jitter func(time.Duration) time.Duration) time.Duration {
	return jitter(min(s.Period(members)/8, time.Duration(members)*latePerMember))
}

// Defers reports whether a key change waits once more: it is late, and has not waited too often.
func (s KeySchedule) Defers(late time.Duration, deferred int) bool {
	return late > lateAfter && deferred < maxDeferred
}

// recordKeys is the letter of the records of a member's schedule: conversation → keysRecord.
const recordKeys = 'S'

// keysRecord records when this device will give itself new keys.
type keysRecord struct {
	Version  uint8     `cbor:"1,keyasint"`
	Since    wire.Time `cbor:"2,keyasint,omitempty"` // keyAge.Since when it was drawn; another value makes it void
	Due      wire.Time `cbor:"3,keyasint,omitempty"`
	Deferred uint8     `cbor:"4,keyasint,omitempty"` // number of waits since it was due
}

func keysKey(id ConversationID) []byte { return recordKey(recordKeys, idPart(id)) }

func (d *Device) schedule() KeySchedule {
	return KeySchedule{Age: d.opts.Timing.KeyAge, Commits: d.opts.Limits.KeyCommits}
}

// mayBeDue reports whether a group should be opened for a key change. k may be nil.
func (d *Device) mayBeDue(rec *conversationRecord, k *keysRecord) bool {
	if int(rec.Keys.Sent) >= d.opts.Timing.KeyMessages {
		return true
	}
	if k == nil || k.Since != rec.Keys.Since {
		return d.now()-rec.Keys.Since >= wire.Time(d.opts.Timing.KeyAge.Milliseconds()/2) // no time is drawn yet
	}
	return d.now() >= k.Due
}

// scheduled returns the schedules of all conversations.
func scheduled(u *unit) (map[ConversationID]*keysRecord, error) {
	all := make(map[ConversationID]*keysRecord)
	err := u.Scan(recordKey(recordKeys), func(key, value []byte) error {
		k := new(keysRecord)
		if err := wire.Decode(value, maxRecord, k); err != nil {
			return err
		}
		all[wire.ConversationID(key[3:])] = k // after the letters and the length of the id
		return nil
	})
	return all, err
}

// nextKeys makes the commit of a due key change. It reports whether it has decided anything.
func (t *conversation) nextKeys() (bool, error) {
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
	t.rec.Keys.Sent = 0 // once, even if it fails
	if err := t.deferKeys(k); err != nil {
		return false, err
	}
	if err := t.save(); err != nil {
		return false, err
	}
	return true, t.enqueueOwn(&operationRecord{Kind: opCommit, Reason: reasonKeys})
}

// deferKeys postpones a key change.
func (t *conversation) deferKeys(k *keysRecord) error {
	again := t.d.schedule().Again(t.group.Public().Size(), t.d.jitter)
	k.Due, k.Deferred = t.d.now()+wire.Time(again.Milliseconds())+1, min(k.Deferred+1, maxDeferred)
	return t.u.putRecord(keysKey(t.id), k)
}

// lostKeys postpones a key change that has lost against another commit, and reports whether it did: the change waits
// a few times, then it is tried until it wins.
func (t *conversation) lostKeys() (bool, error) {
	k := new(keysRecord)
	ok, err := t.u.getRecord(keysKey(t.id), k)
	if err != nil || !ok || k.Deferred >= maxDeferred {
		return false, err
	}
	return true, t.deferKeys(k)
}

// maxGroupDelay bounds the time that crowd adds, whatever the size of the group.
const maxGroupDelay = time.Hour

// groupDelay returns a random delay for an action that each member of the group could do as well: up to most, or more
// if many members would act at once.
func (t *conversation) groupDelay(most time.Duration) time.Duration {
	return t.d.jitter(t.longestDelay(most))
}

// longestDelay returns the longest delay that groupDelay returns.
func (t *conversation) longestDelay(most time.Duration) time.Duration {
	if n := t.group.Public().Size(); n > 4 {
		most = max(most, min(most*time.Duration(n)/4, maxGroupDelay))
	}
	return most
}
