package mlscore

import "slices"

// picker chooses the proposals of a commit among those that wait: as many as make a valid list, with the preferences
// of RFC 9420 §12.2. It reports an error for each proposal that it leaves out.
type picker struct {
	public    *PublicState
	committer Sender
	list      []sentProposal // fixed: the caller's own
	offered   []sentProposal
	skipped   []error
}

func newPicker(p *PublicState, committer Sender, list []sentProposal) *picker {
	return &picker{public: p, committer: committer, list: list}
}

// offer takes a waiting proposal, in the order of arrival.
func (k *picker) offer(p *sentProposal) { k.offered = append(k.offered, *p) }

func (k *picker) skip(p *sentProposal, format string, args ...any) {
	k.skipped = append(k.skipped, fail(ErrInvalid, "§12.2", "waiting proposal ("+p.Type.String()+" from "+p.sender.String()+")", format, args...))
}

// result returns the list to commit. If the waiting proposals together make no valid list, result tries smaller parts
// of them.
func (k *picker) result() ([]sentProposal, []error, error) {
	chosen := append(slices.Clone(k.list), k.prefer()...)
	if _, err := k.public.planList(chosen, k.committer, 0); err == nil || len(chosen) == len(k.list) {
		return chosen, k.skipped, nil // an error in the caller's own list is reported by its plan
	}
	candidates := chosen[len(k.list):]
	chosen = slices.Clone(k.list)
	for at := range candidates {
		trial := append(slices.Clone(chosen), candidates[at])
		if _, err := k.public.planList(trial, k.committer, 0); err != nil {
			k.skipped = append(k.skipped, within("waiting proposal ("+candidates[at].Type.String()+")", ErrInvalid, err))
			continue
		}
		chosen = trial
	}
	return chosen, k.skipped, nil
}

// prefer leaves out each proposal that loses against another one: an Update loses against a Remove of the same leaf
// and against a later Update, a ReInit loses against any other proposal. It also leaves out the proposals about the
// committer that the committer may not commit.
func (k *picker) prefer() []sentProposal {
	settled := map[LeafIndex]bool{} // leaves with a Remove
	updates := map[LeafIndex]int{}  // the last Update of each leaf
	for at := range k.list {
		if k.list[at].Type == ProposalRemove {
			settled[k.list[at].Remove] = true
		}
	}
	removed := map[LeafIndex]int{}
	reinit := -1 // the first ReInit
	others := len(k.list)
	for at := range k.offered {
		p := &k.offered[at]
		switch p.Type {
		case ProposalRemove:
			if _, twice := removed[p.Remove]; !twice {
				removed[p.Remove] = at
			}
		case ProposalUpdate:
			updates[LeafIndex(p.sender.Index)] = at
		}
		if p.Type != ProposalReInit {
			others++
		} else if reinit < 0 {
			reinit = at
		}
	}
	var out []sentProposal
	for at := range k.offered {
		p := &k.offered[at]
		_, gone := removed[LeafIndex(p.sender.Index)]
		switch {
		case p.Type == ProposalUpdate && p.sender == k.committer:
			k.skip(p, "the committer's own path replaces it")
		case p.Type == ProposalUpdate && (gone || settled[LeafIndex(p.sender.Index)]):
			k.skip(p, "its sender is being removed")
		case p.Type == ProposalUpdate && updates[LeafIndex(p.sender.Index)] != at:
			k.skip(p, "a later one replaces it")
		case p.Type == ProposalRemove && member(p.Remove) == k.committer:
			k.skip(p, "nobody can commit its own removal")
		case p.Type == ProposalRemove && (settled[p.Remove] || removed[p.Remove] != at):
			k.skip(p, "%s is being removed already", leafName(p.Remove))
		case p.Type == ProposalReInit && others > 0:
			k.skip(p, "other proposals go first")
		case p.Type == ProposalReInit && at != reinit:
			k.skip(p, "an earlier one goes first")
		default:
			out = append(out, *p)
		}
	}
	return out
}
