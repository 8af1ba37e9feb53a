package mlscore

import (
	"bytes"
	"fmt"
	"slices"
)

// WaitingProposal is a proposal that waits for a commit.
type WaitingProposal struct {
	Proposal
	Ref    []byte // ProposalRef (RFC 9420 §5.2): names it in CommitOptions.Refs and Group.Drop
	Sender Sender
}

// Pending lists the proposals that wait for a commit, in the order in which they came. It leaves out
// those that Group.Drop dropped.
func (p *PublicState) Pending() []WaitingProposal {
	list := make([]WaitingProposal, 0, len(p.proposals))
	for i := range p.proposals {
		if c := &p.proposals[i]; !c.dropped {
			list = append(list, WaitingProposal{c.Proposal, slices.Clone(c.ref), c.sender})
		}
	}
	return list
}

// waits reports whether any proposal waits for a commit.
func (p *PublicState) waits() bool {
	return slices.ContainsFunc(p.proposals, func(c cachedProposal) bool { return !c.dropped })
}

// Drop keeps this member from committing a waiting proposal: one that the delivery service refused, or
// that the application does not want. ErrMissing if no proposal of that reference waits.
//
// The proposal is not forgotten before the epoch ends: this member still follows a commit of somebody
// else's that holds it. It counts for Limits.Proposals until then.
func (g *Group) Drop(ref []byte) error {
	if err := g.active(); err != nil {
		return err
	}
	at, err := g.public().findWaiting(ref)
	if err != nil {
		return err
	}
	next := *g.public()
	next.proposals = slices.Clone(next.proposals)
	next.proposals[at].dropped = true
	var b Batch
	b.put(groupKey(g.name(), recordDropped, uint64Bytes(g.Epoch()), uint32Bytes(uint32(at))), []byte{stateVersion})
	if err := applyBatch(g.client.cfg.Store, b); err != nil {
		return err
	}
	g.state.public = &next
	return nil
}

// findWaiting finds a waiting proposal that has not been dropped.
func (p *PublicState) findWaiting(ref []byte) (int, error) {
	at := slices.IndexFunc(p.proposals, func(c cachedProposal) bool { return !c.dropped && bytes.Equal(c.ref, ref) })
	if at < 0 {
		return 0, fail(ErrMissing, "§12.4", fmt.Sprintf("proposal %x", ref), "does not wait for a commit")
	}
	return at, nil
}

// chosen gives the waiting proposals that CommitOptions.Refs names, in that order. Where Commit would skip
// one that nobody named, this fails.
func (g *Group) chosen(refs [][]byte) ([]sentProposal, error) {
	list := make([]sentProposal, 0, len(refs))
	seen := map[string]bool{}
	for _, ref := range refs {
		if seen[string(ref)] {
			return nil, fail(ErrMisuse, "§12.4", fmt.Sprintf("proposal %x", ref), "is named twice")
		}
		seen[string(ref)] = true
		at, err := g.public().findWaiting(ref)
		if err != nil {
			return nil, err
		}
		p := &g.public().proposals[at].sentProposal
		if err := g.checkWaiting(p); err != nil {
			return nil, err
		}
		list = append(list, *p)
	}
	return list, nil
}

// markDropped marks the proposals of the present epoch that were dropped.
func (l *loader) markDropped() error {
	list := l.head.state.public.proposals
	for _, at := range l.stored.dropped {
		if uint64(at) >= uint64(len(list)) {
			return fail(ErrMalformed, "", l.object, "proposal %d of %d was dropped", at, len(list))
		}
		list[at].dropped = true
	}
	return nil
}
