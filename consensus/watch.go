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
// handed over twice, whatever crashes. Conversations that have something take turns, a batch each. Where
// all workers are held up, others come, so that a slow conversation does not stop the rest.
type pump struct {
	m    *Manager
	kick chan struct{} // holds one: all workers are busy

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	queue   []wire.ConversationID // whose turn it is, in order
	due     map[wire.ConversationID]turn
	workers int
	turns   uint64 // taken so far
	ended   sync.WaitGroup
}

// turn is where a conversation stands that is due.
type turn uint8

const (
	turnQueued turn = iota
	turnServed      // a worker has it
	turnAgain       // a worker has it, and something came meanwhile
	turnPaused      // it failed, and waits
)

// pumpWorkers is the number of conversations that are handed over at once; maxPumpWorkers, where those do
// not get on for pumpPatience.
const (
	pumpWorkers    = 4
	maxPumpWorkers = 64
	pumpPatience   = time.Second
)

// pumpStep is the number of entries read at once, and their bytes.
const (
	pumpStep      = 64
	pumpStepBytes = 4 << 20
)

func newPump(m *Manager) *pump {
	return &pump{m: m, kick: make(chan struct{}, 1), due: make(map[wire.ConversationID]turn)}
}

// mark says that a conversation may have something new. It does not block.
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
		p.hire()
		return
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// hire is called with p.mu held.
func (p *pump) hire() {
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
		p.hire()
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

// watch hires while conversations wait and nobody gets on.
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
			p.hire()
		}
		p.mu.Unlock()
		if waiting == 0 {
			return
		}
	}
}

// work serves conversations in turn, until none waits. One that fails is due again after a pause.
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

// retry makes a conversation due again after a pause.
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

// markBehind finds what was committed while the consumer was not looking.
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

// serve hands over all that is committed after the consumer's position.
func (p *pump) serve(ctx context.Context, id wire.ConversationID) error {
	for {
		if more, err := p.step(ctx, id); err != nil || !more {
			return err
		}
	}
}

// step hands over one batch of what is committed after the consumer's position, and says whether more may
// follow.
func (p *pump) step(ctx context.Context, id wire.ConversationID) (more bool, err error) {
	c, err := p.m.find(id)
	if err != nil {
		return false, nil // removed meanwhile, or in quarantine
	}
	if c.probation.Load() != nil {
		return false, nil // marked again when it ends
	}
	defer p.m.caught(c, "deliver", &err)
	at, err := p.m.cfg.Consumer.Position(id)
	if err != nil {
		return false, fmt.Errorf("position: %w", err)
	}
	// A consumer stores nothing of a conversation that nobody here reads: its position stays where it was.
	batch, err := p.batch(ctx, c, max(at, wire.SequenceNumber(c.passed.Load())))
	for i := range batch {
		if err := p.m.cfg.Consumer.Consume(ctx, batch[i]); err != nil {
			return false, fmt.Errorf("entry %d: %w", batch[i].Committed.Sequence, err)
		}
		c.passed.Store(uint64(batch[i].Committed.Sequence))
	}
	return len(batch) > 0, err
}

// batch reads the next entries for this node's organization. What was ordered before it took part is
// not for it, and not missed.
func (p *pump) batch(ctx context.Context, c *conversation, at wire.SequenceNumber) ([]Delivery, error) {
	org := p.m.cfg.Node.Organization()
	for ctx.Err() == nil {
		var entries []wire.Committed
		var batch []Delivery
		err := p.m.view(c, func(s *machine.Machine) {
			for _, span := range s.Spans() {
				if span.Organization == org && span.Since > 0 {
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
	return nil, ctx.Err()
}
