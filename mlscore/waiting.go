package mlscore

import (
	"bytes"
	"fmt"
	"slices"
)

// WaitingProposal is a proposal that waits for a commit.
type WaitingProposal struct {
	Proposal
	Ref    []byte // ProposalRef (RFC 9420 §5.2): the proposal's name for CommitOptions.Refs and Group.Drop
	Sender Sender
}

// Pending lists the proposals that wait for a commit, in the order of arrival, without those that Group.Drop dropped.
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

// Drop prevents this member from committing a waiting proposal, which the delivery service refused or the application
// does not want. It returns ErrMissing if no proposal with that reference waits.
//
// The proposal is kept until the epoch ends: this member can still process another member's commit that contains it.
// Until then the proposal counts for Limits.Proposals.
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

// findWaiting returns the index of a waiting proposal that has not been dropped.
func (p *PublicState) findWaiting(ref []byte) (int, error) {
	at := slices.IndexFunc(p.proposals, func(c cachedProposal) bool { return !c.dropped && bytes.Equal(c.ref, ref) })
	if at < 0 {
		return 0, fail(ErrMissing, "§12.4", fmt.Sprintf("proposal %x", ref), "does not wait for a commit")
	}
	return at, nil
}

// chosen returns the waiting proposals that CommitOptions.Refs names, in that order. Commit skips an invalid proposal
// that Refs does not name; chosen fails for an invalid proposal.
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
