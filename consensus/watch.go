package consensus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// pump hands committed entries to the Consumer: of each conversation in order and one at a time, of
// different ones side by side. Where it begins is what the consumer says it has stored; so nothing is
// handed over twice, whatever crashes.
type pump struct {
	m    *Manager
	due  *idSet
	kick chan struct{} // holds one
}

// pumpWorkers is the number of conversations that are handed over at once.
const pumpWorkers = 4

// pumpStep is the number of entries read at once, and their bytes.
const (
	pumpStep      = 64
	pumpStepBytes = 4 << 20
)

func newPump(m *Manager) *pump { return &pump{m: m, due: newIDSet(), kick: make(chan struct{}, 1)} }

// mark says that a conversation may have something new. It does not block.
func (p *pump) mark(id wire.ConversationID) {
	if p.m.cfg.Consumer == nil {
		return
	}
	p.due.mark(id)
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *pump) run(ctx context.Context) {
	if p.m.cfg.Consumer == nil {
		return
	}
	p.markBehind()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		}
		p.round(ctx, p.due.take())
	}
}

// round serves some conversations. One that fails is due again after a pause, without holding up the
// others.
func (p *pump) round(ctx context.Context, ids []wire.ConversationID) {
	work := make(chan wire.ConversationID)
	var workers sync.WaitGroup
	for range min(pumpWorkers, len(ids)) {
		workers.Go(func() {
			for id := range work {
				if err := p.serve(ctx, id); err != nil && ctx.Err() == nil {
					p.m.log.Warn("entries not delivered; trying again", "conversation", id, "error", err)
					p.m.spawn(func(ctx context.Context) {
						if pause(ctx, time.Second) {
							p.mark(id)
						}
					})
				}
			}
		})
	}
	for _, id := range ids {
		select {
		case work <- id:
		case <-ctx.Done():
		}
	}
	close(work)
	workers.Wait()
}

// markBehind finds what was committed while the consumer was not looking.
func (p *pump) markBehind() {
	for _, c := range p.m.list() {
		at, err := p.m.cfg.Consumer.Position(c.id)
		if err == nil {
			var rec *record
			if rec, err = p.m.readRecord(c.id); err == nil && rec.Sequence <= at {
				continue
			}
		}
		p.mark(c.id)
	}
}

// serve hands over all that is committed after the consumer's position.
func (p *pump) serve(ctx context.Context, id wire.ConversationID) error {
	c, err := p.m.find(id)
	if err != nil {
		return nil // removed meanwhile
	}
	at, err := p.m.cfg.Consumer.Position(id)
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	for ctx.Err() == nil {
		batch, err := p.batch(c, at)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			return nil
		}
		for i := range batch {
			if err := p.m.cfg.Consumer.Consume(ctx, batch[i]); err != nil {
				return fmt.Errorf("entry %d: %w", batch[i].Committed.Sequence, err)
			}
		}
		at = batch[len(batch)-1].Committed.Sequence
	}
	return ctx.Err()
}

// batch reads the next entries for this node's organization. What was ordered before it took part is
// not for it, and not missed.
func (p *pump) batch(c *conversation, at wire.SequenceNumber) ([]Delivery, error) {
	org := p.m.cfg.Node.Organization()
	for {
		var entries []wire.Committed
		var batch []Delivery
		err := p.m.view(c, func(s *machine.Machine) {
			for _, span := range s.Spans() {
				if span.Organization == org {
					at = max(at, span.Since-1)
				}
			}
			entries, _ = s.Entries(at, pumpStep, pumpStepBytes)
			for _, e := range entries {
				if s.Delivers(org, e.Sequence) {
					batch = append(batch, Delivery{Conversation: c.id, Committed: e})
				}
			}
		})
		if err != nil || len(entries) == 0 {
			return nil, err
		}
		if len(batch) > 0 {
			batch[0].Missed = uint64(entries[0].Sequence - at - 1)
			return batch, nil
		}
		at = entries[len(entries)-1].Sequence // none of these is for us
	}
}
