package client

import (
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// sighting is the authenticated_data of an application message (RFC 9420 §6.3.1): the last entry that its sender had
// taken in, and the order hash up to it. A receiver compares it with its own log, so that two different histories of
// one conversation are noticed with the first message between them. Servers can read the sighting; they know both
// values already.
type sighting struct {
	Last  SequenceNumber `cbor:"1,keyasint"`
	Order wire.Hash      `cbor:"2,keyasint"`
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
	maxSightings = 64 // sightings of future entries that wait in one conversation
)

// sighted encodes the position of this device in the log.
func (t *conversation) sighted() ([]byte, error) {
	if t.rec.Position.Last == 0 {
		return nil, nil
	}
	return wire.Encode(&sighting{Last: t.rec.Position.Last, Order: t.rec.Position.Order})
}

// compareSighting compares the sighting in a message with this device's log. A sighting of a future entry waits for
// that entry. Devices of the first release send no sighting, and unknown forms are ignored.
func (t *conversation) compareSighting(data []byte, by DeviceID) error {
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

// sightingKey returns the key of a waiting sighting. For one sender and entry the last sighting counts.
func (t *conversation) sightingKey(n SequenceNumber, by DeviceID) []byte {
	return recordKey(recordSighting, idPart(t.id), number(uint64(n)), []byte(by))
}

// releaseSightings compares the sightings of the entry that was just taken in, and drops those of earlier entries.
func (t *conversation) releaseSightings() error {
	prefix := recordKey(recordSighting, idPart(t.id))
	type found struct {
		n     SequenceNumber
		order wire.Hash
		by    DeviceID
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
