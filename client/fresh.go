package client

import "github.com/mlsfed/mlsfed/wire"

// freshKey is the key of the next entry while it waits for fresh roots. The node may serve it only once: if it removes
// this device, the node gives the device no further entries.
func (t *conversation) freshKey() []byte { return recordKey(recordFresh, idPart(t.id)) }

// takeFresh takes in the entry that has waited for fresh roots, and reports whether it was the next one.
func (t *conversation) takeFresh() (bool, error) {
	c := new(wire.Committed)
	ok, err := t.u.getRecord(t.freshKey(), c)
	if err != nil || !ok {
		return false, err
	}
	before := t.rec.Position.Last
	if t.group == nil || c.Sequence != before+1 {
		t.u.delete(t.freshKey())
		return false, nil
	}
	err = t.takeEntry(c, true)
	return t.rec.Position.Last > before, err
}
