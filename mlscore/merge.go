package mlscore

// Merge enters the epoch of a staged commit (§12.4.2). The commit must have been staged in the present epoch, or Merge
// returns ErrStale. Merge drops a pending own commit and the proposals that were not committed. After ErrStore, Merge
// can be tried again.
//
// A commit that removes this member ends the group for this client: Merge deletes all of the group's state (§12.4.2).
func (g *Group) Merge(s *StagedCommit) error {
	if err := g.usable(); err != nil {
		return err
	}
	if s.base != g.state {
		return fail(ErrStale, "§12.4.2", "staged commit", "was abandoned, or is not of the present epoch, %d", g.Epoch())
	}
	b, step, err := g.mergeWrites(s)
	if err != nil {
		return err
	}
	if step != nil {
		step.discard()
	}
	err = applyBatch(g.client.cfg.Store, b)
	b.erase()
	if err != nil {
		return err
	}
	if s.removes {
		g.pendingGone(s)
		g.forget()
		return nil
	}
	if s.used != nil {
		g.useMerged(s)
	}
	g.pendingGone(s)
	g.rotate(s.next)
	s.base = nil
	return nil
}

// pendingGone drops the pending own commit, which is merged or overtaken.
func (g *Group) pendingGone(merged *StagedCommit) {
	if g.pending != nil && g.pending != merged {
		g.pending.abandon()
	}
	g.pending = nil
}

// useMerged consumes the key of the merged commit's message.
func (g *Group) useMerged(s *StagedCommit) {
	step, err := g.state.messages.peek(*s.used, s.usedGeneration, g.client.cfg.Limits.Ratchet)
	if err == nil {
		g.state.messages.apply(step)
		step.key.erase()
	}
}

// rotate makes next the present state and turns the present state into a past epoch.
func (g *Group) rotate(next *memberState) {
	old := g.state
	next.succeeds(old)
	gone := g.leaving(next.entered)
	for _, p := range gone {
		p.erase()
	}
	if g.client.cfg.Limits.PastEpochs > 0 {
		past := &pastEpoch{
			context:    old.public.encoded,
			epoch:      old.public.context.Epoch,
			ended:      next.entered,
			tree:       old.public.tree,
			senderData: old.secrets.senderData,
			messages:   old.messages,
		}
		old.secrets.senderData = Secret{}
		g.past = append([]*pastEpoch{past}, g.past[:len(g.past)-len(gone)]...)
	} else {
		old.messages.erase()
		g.past = nil
	}
	old.erase()
	g.dropUpdates()
	g.state = next
}
