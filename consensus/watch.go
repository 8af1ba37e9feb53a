package consensus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// pump delivers committed entries to the Consumer: those of one conversation in order and one at a time, those of
// different conversations concurrently. It starts at the position that the consumer has stored, so no entry is
// delivered twice, whatever crashes. Conversations with new entries take turns, one batch each. If all workers are
// blocked, more workers are started, so that a slow conversation does not stop the others.
type pump struct {
	m    *Manager
	kick chan struct{} // capacity one: all workers are busy

	mu      sync.Mutex // guards the fields below
	ctx     context.Context
	queue   []wire.ConversationID // conversations that wait for their turn, in order
	due     map[wire.ConversationID]turn
	workers int
	turns   uint64 // number of turns so far
	ended   sync.WaitGroup
}

// turn is the state of a conversation with entries to deliver.
type turn uint8

const (
	turnQueued turn = iota
	turnServed      // a worker serves it
	turnAgain       // a worker serves it, and new entries arrived meanwhile
	turnPaused      // delivery failed, and the conversation waits
)

// pumpWorkers is the number of conversations that are delivered at the same time; maxPumpWorkers is the number if
// those make no progress for pumpPatience.
const (
	pumpWorkers    = 4
	maxPumpWorkers = 64
	pumpPatience   = time.Second
)

// pumpStep is the number of entries read at once, and the limit of their bytes.
const (
	pumpStep      = 64
	pumpStepBytes = 4 << 20
)

func newPump(m *Manager) *pump {
	return &pump{m: m, kick: make(chan struct{}, 1), due: make(map[wire.ConversationID]turn)}
}

// mark records that a conversation may have new entries. It does not block.
func (p *pump) mark(id wire.ConversationID) {
	if p.m.cfg.Consumer == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch at, due := p.due[id]; {
	case !due:
		p.enqueue(id)
	case at == turnServed:
		p.due[id] = turnAgain
	}
}

// enqueue is called with p.mu held.
func (p *pump) enqueue(id wire.ConversationID) {
	p.due[id] = turnQueued
	p.queue = append(p.queue, id)
	if p.ctx == nil {
		return
	}
	if p.workers < pumpWorkers {
		p.startWorker()
		return
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// startWorker is called with p.mu held.
func (p *pump) startWorker() {
	p.workers++
	ctx := p.ctx
	p.ended.Go(func() { p.work(ctx) })
}

func (p *pump) run(ctx context.Context) {
	if p.m.cfg.Consumer == nil {
		return
	}
	p.mu.Lock()
	p.ctx = ctx
	for range min(pumpWorkers, len(p.queue)) {
		p.startWorker()
	}
	p.mu.Unlock()
	p.markBehind()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-p.kick:
			p.watch(ctx)
		}
	}
	p.mu.Lock()
	p.ctx = nil
	p.mu.Unlock()
	p.ended.Wait()
}

// watch starts more workers while conversations wait and no delivery makes progress.
func (p *pump) watch(ctx context.Context) {
	for {
		p.mu.Lock()
		before := p.turns
		p.mu.Unlock()
		if !pause(ctx, pumpPatience) {
			return
		}
		p.mu.Lock()
		waiting := len(p.queue)
		if waiting > 0 && p.turns == before && p.workers < maxPumpWorkers {
			p.startWorker()
		}
		p.mu.Unlock()
		if waiting == 0 {
			return
		}
	}
}

// work serves conversations in turn, until none waits. A conversation whose delivery fails is retried after a pause.
func (p *pump) work(ctx context.Context) {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 || ctx.Err() != nil {
			p.workers--
			p.mu.Unlock()
			return
		}
		id := p.queue[0]
		p.queue = p.queue[1:]
		p.due[id] = turnServed
		p.turns++
		p.mu.Unlock()
		more, err := p.step(ctx, id)
		if err != nil && ctx.Err() == nil {
			p.m.log.Warn("entries not delivered; trying again", "conversation", id, "error", err)
			p.retry(id)
			continue
		}
		p.mu.Lock()
		if more || p.due[id] == turnAgain {
			p.enqueue(id)
		} else {
			delete(p.due, id)
		}
		p.mu.Unlock()
	}
}

// retry schedules a conversation again after a pause.
func (p *pump) retry(id wire.ConversationID) {
	p.mu.Lock()
	p.due[id] = turnPaused
	p.mu.Unlock()
	p.m.spawn(func(ctx context.Context) {
		if pause(ctx, time.Second) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.enqueue(id)
		}
	})
}

// markBehind marks conversations with entries that were committed and not delivered.
func (p *pump) markBehind() {
	p.m.each("find what was not delivered", func(c *conversation) bool {
		at, err := p.m.cfg.Consumer.Position(c.id)
		if err == nil {
			var rec *record
			if rec, err = p.m.readRecord(c.id); err == nil && rec.Sequence <= at {
				return true
			}
		}
		p.mark(c.id)
		return true
	})
}

// serve delivers all entries that are committed after the consumer's position.
func (p *pump) serve(ctx context.Context, id wire.ConversationID) error {
	for {
		if more, err := p.step(ctx, id); err != nil || !more {
			return err
		}
	}
}

// step delivers one batch of the entries that are committed after the consumer's position, and reports whether more
// may follow.
func (p *pump) step(ctx context.Context, id wire.ConversationID) (more bool, err error) {
	c, err := p.m.find(id)
	if err != nil {
		return false, nil // removed meanwhile, or in quarantine
	}
	if c.probation.Load() != nil {
		return false, nil // marked again when it ends
	}
	defer p.m.quarantineOnPanic(c, "deliver", &err)
	at, err := p.m.cfg.Consumer.Position(id)
	if err != nil {
		return false, fmt.Errorf("position: %w", err)
	}
	// A consumer stores nothing of a conversation that no device here reads: its position does not change.
	batch, err := p.batch(ctx, c, max(at, wire.SequenceNumber(c.passed.Load())))
	for i := range batch {
		if err := p.m.cfg.Consumer.Consume(ctx, batch[i]); err != nil {
			return false, fmt.Errorf("entry %d: %w", batch[i].Committed.Sequence, err)
		}
		c.passed.Store(uint64(batch[i].Committed.Sequence))
	}
	return len(batch) > 0, err
}

// batch reads the next entries for this node's organization. Entries that were ordered before the organization took
// part are not for it, and do not count as missed.
func (p *pump) batch(ctx context.Context, c *conversation, at wire.SequenceNumber) ([]Delivery, error) {
	org := p.m.cfg.Node.Organization()
	for ctx.Err() == nil {
		var batch []Delivery
		var spans []machine.Span
		entries, err := p.m.readKept(c, p.m.view, func(s *machine.Machine) machine.EntryRange {
			spans = s.Spans()
			for _, span := range spans {
				if span.Organization == org && span.Since > 0 {
					at = max(at, span.Since-1)
				}
			}
			kept, _ := s.Entries(at, pumpStep, pumpStepBytes)
			return kept
		})
		if err != nil || len(entries) == 0 {
			return nil, err
		}
		for _, e := range entries {
			if machine.Delivers(spans, org, e.Sequence) {
				batch = append(batch, Delivery{Conversation: c.id, Committed: e})
			}
		}
		if len(batch) > 0 {
			batch[0].Missed = uint64(entries[0].Sequence - at - 1)
			return batch, nil
		}
		at = entries[len(entries)-1].Sequence // none of these is for this organization
	}
	return nil, ctx.Err()
}
