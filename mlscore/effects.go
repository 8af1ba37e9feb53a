package mlscore

import (
	"fmt"
	"slices"
)

// Effects reports to the application what a handshake message did.
type Effects struct {
	Kind              ContentType // proposal or commit
	Sender            Sender
	AuthenticatedData []byte

	// Of a proposal:
	Proposal *Proposal // the proposal, which now waits for a commit
	Ref      []byte    // the reference of the proposal: see WaitingProposal

	// Of a commit:
	Epoch             uint64 // the epoch that begins
	Committer         LeafIndex
	External          bool       // the committer joined by this commit
	Added             []Member   // by Add proposals, in their order
	Removed           []Member   // with their leaves before the commit
	Updated           []Member   // by Update proposals, with their new leaves
	Proposals         []Proposal // all that were committed, in their order
	ExtensionsChanged bool       // the GroupContext has other extensions now
	ReInit            *ReInit    // the group is closed in favour of this one
}

// MissingProposal is the cause of an error about a commit that refers to a proposal that was not received.
type MissingProposal struct {
	Position int    // in the commit
	Ref      []byte // ProposalRef (RFC 9420 §5.2)
}

// Error names the reference.
func (m *MissingProposal) Error() string { return fmt.Sprintf("entry %d, %x", m.Position, m.Ref) }

// effectsOfProposal describes the last proposal that was received.
func (p *PublicState) effectsOfProposal(ac *authenticatedContent) *Effects {
	return &Effects{
		Kind:              ContentProposal,
		Sender:            ac.content.sender,
		AuthenticatedData: ac.content.authenticatedData,
		Proposal:          ac.content.proposal,
		Ref:               slices.Clone(p.proposals[len(p.proposals)-1].ref),
	}
}

// effects describes a commit that led from before to after.
func (st *stagedCommit) effects(before, after *PublicState, ac *authenticatedContent) *Effects {
	e := &Effects{
		Kind:              ContentCommit,
		Sender:            ac.content.sender,
		AuthenticatedData: ac.content.authenticatedData,
		Epoch:             after.context.Epoch,
		Committer:         st.leaf,
		External:          st.external,
		ReInit:            st.reinit,
	}
	for _, p := range st.list {
		e.Proposals = append(e.Proposals, p.Proposal)
		e.ExtensionsChanged = e.ExtensionsChanged || p.Type == ProposalGroupContextExtensions
	}
	e.Added = after.membersAt(st.added)
	e.Updated = after.membersAt(st.updated)
	e.Removed = before.membersAt(st.removed)
	return e
}

func (p *PublicState) membersAt(leaves []LeafIndex) []Member {
	var list []Member
	for _, i := range leaves {
		if m, ok := p.Member(i); ok {
			list = append(list, m)
		}
	}
	return list
}
