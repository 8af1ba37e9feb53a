package machine

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// imageAncestor is an ancestor in a snapshot. The last ancestor of a trail has no Point: it is the head's parent.
type imageAncestor struct {
	Point  *imagePoint         `cbor:"1,keyasint,omitempty"`
	Child  wire.SequenceNumber `cbor:"2,keyasint"`
	Time   wire.Time           `cbor:"3,keyasint"`
	Change wire.DeliveryChange `cbor:"4,keyasint"`
	By     []wire.Domain       `cbor:"5,keyasint,omitempty"`
}

// imageBranch is a branch in a snapshot.
type imageBranch struct {
	Base      wire.SequenceNumber `cbor:"1,keyasint"`
	Fork      wire.SequenceNumber `cbor:"2,keyasint"`
	Since     wire.Time           `cbor:"3,keyasint"`
	By        wire.Domain         `cbor:"4,keyasint,omitempty"`
	Contest   bool                `cbor:"5,keyasint,omitempty"`
	Confirmed bool                `cbor:"6,keyasint,omitempty"`
	Lost      wire.SequenceNumber `cbor:"7,keyasint,omitempty"`
}

// packTrail writes the additional fields of a head from level 2 of the rules on. Heads of level 1 have none of them,
// so their snapshots do not change.
func packTrail(rec *imageHead, h *head) error {
	rec.Closed = h.closed
	if h.branch != (branch{}) {
		b := h.branch
		rec.Branch = &imageBranch{Base: b.base, Fork: b.fork, Since: b.since, By: b.by, Contest: b.contest, Confirmed: b.confirmed, Lost: b.lost}
	}
	for i := range h.trail {
		a := &h.trail[i]
		img := imageAncestor{Child: a.child, Time: a.at, Change: a.change}
		for _, org := range a.by {
			if org != "" {
				img.By = append(img.By, org)
			}
		}
		if i < len(h.trail)-1 {
			var err error
			if img.Point, err = packPoint(a.point); err != nil {
				return err
			}
		}
		rec.Trail = append(rec.Trail, img)
	}
	return nil
}

func packPoint(p *point) (*imagePoint, error) {
	public, err := packPublic(p.public)
	return &imagePoint{Sequence: p.seq, Epoch: p.epoch, Key: p.key, Winner: p.winner, Public: public}, err
}

func (m *Machine) unpackPoint(p *imagePoint) (*point, error) {
	public, err := m.unpackPublic(p.Public)
	return &point{seq: p.Sequence, epoch: p.Epoch, key: p.Key, winner: p.Winner, public: public}, err
}

// readTrail reads the output of packTrail, and refuses a trail to which the rules cannot lead.
func (m *Machine) readTrail(rec *imageHead, h *head) error {
	if m.level < 2 {
		if rec.Closed || rec.Branch != nil || len(rec.Trail) > 0 {
			return errors.New("a head of level 1 with a trail")
		}
		return nil
	}
	h.closed = rec.Closed
	if (h.parent != nil) != (len(rec.Trail) > 0) || len(rec.Trail) > m.mostAncestors() {
		return fmt.Errorf("head %d with %d ancestors", h.seq, len(rec.Trail))
	}
	for i := range rec.Trail {
		img := &rec.Trail[i]
		a := ancestor{point: h.parent, child: img.Child, at: img.Time, change: img.Change}
		last := i == len(rec.Trail)-1
		if (img.Point == nil) != last {
			return fmt.Errorf("head %d: ancestor %d of %d with or without an epoch", h.seq, i, len(rec.Trail))
		}
		if img.Point != nil {
			var err error
			if a.point, err = m.unpackPoint(img.Point); err != nil {
				return err
			}
		}
		if err := img.check(h, a.point, last); err != nil {
			return err
		}
		if len(img.By) > len(a.by) || len(img.By) == 2 && img.By[0] == img.By[1] || img.Time < 0 || img.Time > m.now {
			return fmt.Errorf("head %d: ancestor %d with the evidence of %q, at %d", h.seq, a.seq, img.By, img.Time)
		}
		copy(a.by[:], img.By)
		if i > 0 {
			before := &h.trail[i-1]
			if before.child > a.seq || before.epoch >= a.epoch || before.at > a.at {
				return fmt.Errorf("head %d: ancestor %d after ancestor %d", h.seq, a.seq, before.seq)
			}
		}
		h.trail = append(h.trail, a)
	}
	if _, err := h.listAt(0); err != nil {
		return fmt.Errorf("head %d: %w", h.seq, err)
	}
	return m.readBranch(rec.Branch, h)
}

func (img *imageAncestor) check(h *head, p *point, last bool) error {
	if err := img.Change.Check(); err != nil {
		return err
	}
	for _, org := range img.By {
		if err := org.Check(); err != nil {
			return err
		}
	}
	// A winning commit of level 1 and a commit that contested it have the same parent, so winner <= child.
	if p.seq == 0 || p.seq >= img.Child || p.winner <= p.seq || p.winner > img.Child || img.Child > h.seq || p.epoch >= h.epoch ||
		last && (img.Child != h.seq || p.epoch+1 != h.epoch) {
		return fmt.Errorf("head %d of epoch %d: entry %d opened epoch %d, and %d ended it", h.seq, h.epoch, p.seq, p.epoch, img.Child)
	}
	return nil
}

func (m *Machine) readBranch(b *imageBranch, h *head) error {
	if b == nil {
		return nil
	}
	if b.Base == 0 || b.Fork <= b.Base || b.Fork > h.seq || b.Since < 0 || b.Since > m.now || b.Lost > h.seq {
		return fmt.Errorf("head %d: branch %+v", h.seq, *b)
	}
	if b.By != "" {
		if err := b.By.Check(); err != nil {
			return err
		}
	}
	h.branch = branch{base: b.Base, fork: b.Fork, since: b.Since, by: b.By, contest: b.Contest, confirmed: b.Confirmed, lost: b.Lost}
	return nil
}
