package client

import (
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// sighting is the authenticated_data of an application message (RFC 9420 §6.3.1): the last entry that its
// sender had taken in, and the order hash up to it. A receiver compares it with its own log, so that two
// histories of one conversation are noticed with the first message that crosses between them. Servers can
// read it; they know both already.
type sighting struct {
	Last  wire.SequenceNumber `cbor:"1,keyasint"`
	Order wire.Hash           `cbor:"2,keyasint"`
}

// Check refuses a sighting of no entry.
func (s *sighting) Check() error {
	if s.Last == 0 {
		return wire.Errorf(wire.Malformed, "sighting", "of entry 0")
	}
	return nil
}

const (
	maxSighting  = 64 // bytes
	maxSightings = 64 // of entries to come, that wait in one conversation
)

// sighted encodes what this device has seen of the log.
func (t *thread) sighted() ([]byte, error) {
	if t.rec.Position.Last == 0 {
		return nil, nil
	}
	return wire.Encode(&sighting{Last: t.rec.Position.Last, Order: t.rec.Position.Order})
}

// compareSighting compares what the sender of a message has seen with what this device has seen. A
// sighting of an entry to come waits for that entry. Devices of the first release send no sighting, and
// unknown ones are passed over.
func (t *thread) compareSighting(data []byte, by wire.DeviceID) error {
	s := new(sighting)
	if len(data) == 0 {
		return nil
	}
	if err := wire.Decode(data, maxSighting, s); err != nil {
		t.d.log.Debug("authenticated data of a message passed over", "conversation", t.id, "sender", by, "error", err)
		return nil
	}
	if s.Last <= t.rec.Position.Last {
		return t.compareOrder(s.Last, s.Order, by, string(by))
	}
	waiting := 0
	err := t.u.Scan(recordKey(recordSighting, idPart(t.id)), func(_, _ []byte) error { waiting++; return nil })
	if err != nil || waiting >= maxSightings {
		return err
	}
	t.u.put(t.sightingKey(s.Last, by), s.Order[:])
	return nil
}

// sightingKey finds a sighting that waits. Of one sender and entry the last one counts.
func (t *thread) sightingKey(n wire.SequenceNumber, by wire.DeviceID) []byte {
	return recordKey(recordSighting, idPart(t.id), number(uint64(n)), []byte(by))
}

// releaseSightings compares the sightings of the entry that was just taken in, and drops those of earlier
// ones.
func (t *thread) releaseSightings() error {
	prefix := recordKey(recordSighting, idPart(t.id))
	type found struct {
		n     wire.SequenceNumber
		order wire.Hash
		by    wire.DeviceID
	}
	var due []found
	err := t.u.Scan(prefix, func(key, value []byte) error {
		if len(key) < len(prefix)+8 || len(value) != len(wire.Hash{}) {
			return fmt.Errorf("record of a sighting with %d and %d bytes", len(key), len(value))
		}
		n := wire.SequenceNumber(parseNumber(key[len(prefix) : len(prefix)+8]))
		if n <= t.rec.Position.Last {
			due = append(due, found{n, wire.Hash(value), wire.DeviceID(key[len(prefix)+8:])})
		}
		return nil
	})
	for _, f := range due {
		t.u.delete(t.sightingKey(f.n, f.by))
		if err == nil {
			err = t.compareOrder(f.n, f.order, f.by, string(f.by))
		}
	}
	return err
}
