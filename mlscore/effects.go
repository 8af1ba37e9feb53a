package mlscore

import (
	"fmt"
	"slices"
)

// Effects says what a handshake message did, for the application.
type Effects struct {
	Kind              ContentType // proposal or commit
	Sender            Sender
	AuthenticatedData []byte

	// Of a proposal:
	Proposal *Proposal // it waits for a commit now
	Ref      []byte    // names it: see WaitingProposal

	// Of a commit:
	Epoch             uint64 // the one that begins
	Committer         LeafIndex
	External          bool       // the committer joined by this commit
	Added             []Member   // by Add proposals, in their order
	Removed           []Member   // as they were before
	Updated           []Member   // by Update proposals, as they are now
	Proposals         []Proposal // all that were committed, in their order
	ExtensionsChanged bool       // the GroupContext has other extensions now
	ReInit            *ReInit    // the group is closed in favour of this one
}

// MissingProposal is the cause when a commit refers to a proposal that was not received.
type MissingProposal struct {
	Position int    // in the commit
	Ref      []byte // ProposalRef (RFC 9420 §5.2)
}

// Error names the reference.
func (m *MissingProposal) Error() string { return fmt.Sprintf("entry %d, %x", m.Position, m.Ref) }

// effectsOfProposal describes the proposal that came last.
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
