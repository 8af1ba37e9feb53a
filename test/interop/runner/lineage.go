package runner

import (
	"fmt"
	"slices"

	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// without returns the names other than name, each once.
func without(names []string, name string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(n string) bool { return n == name || n == "" })
}

// reinit closes the group and enters its successor, with all its members.
func (p *play) reinit(s *Step) error {
	everybody := append(slices.Clone(s.Members), s.Proposer, s.Committer, s.Welcomer)
	proposal, err := p.reinitProposal(s)
	if err != nil {
		return err
	}
	ids, packages := map[string]uint32{}, map[string][]byte{}
	closed := func(name string, r *pb.HandleReInitCommitResponse) error {
		if len(r.KeyPackage) == 0 {
			return fmt.Errorf("%s gives no KeyPackage for the successor", name)
		}
		ids[name], packages[name] = r.ReinitId, r.KeyPackage
		return nil
	}
	committer, err := p.in(s.Committer)
	if err != nil {
		return err
	}
	c, err := call(p, committer, pb.MLSClientClient.ReInitCommit, &pb.CommitRequest{StateId: committer.state, ByReference: [][]byte{proposal}})
	if err != nil {
		return err
	}
	first, err := call(p, committer, pb.MLSClientClient.HandlePendingReInitCommit, &pb.HandlePendingCommitRequest{StateId: committer.state})
	if err != nil {
		return err
	}
	if err := closed(s.Committer, first); err != nil {
		return err
	}
	for _, name := range without(everybody, s.Committer) {
		a, err := p.in(name)
		if err != nil {
			return err
		}
		r, err := call(p, a, pb.MLSClientClient.HandleReInitCommit, &pb.HandleCommitRequest{StateId: a.state, Proposal: [][]byte{proposal}, Commit: c.Commit})
		if err != nil {
			return err
		}
		if err := same(name, r.EpochAuthenticator, first.EpochAuthenticator); err != nil {
			return err
		}
		if err := closed(name, r); err != nil {
			return err
		}
	}
	return p.succeed(s, without(everybody, s.Welcomer), ids, packages)
}

// reinitProposal makes the proposal, or finds the proposal of an external sender.
func (p *play) reinitProposal(s *Step) ([]byte, error) {
	if s.Proposer == "" {
		return p.earlier(s.ExternalReinitProposal, "proposal", func(m *made) []byte { return m.proposal })
	}
	a, err := p.in(s.Proposer)
	if err != nil {
		return nil, err
	}
	groupID, suite, err := p.next(&s.Proposal)
	if err != nil {
		return nil, err
	}
	r, err := call(p, a, pb.MLSClientClient.ReInitProposal, &pb.ReInitProposalRequest{
		StateId: a.state, CipherSuite: suite, GroupId: groupID, Extensions: extensions(s.Extensions),
	})
	if err != nil {
		return nil, err
	}
	return r.Proposal, nil
}

// succeed makes the welcomer found the successor and the others join it.
func (p *play) succeed(s *Step, others []string, ids map[string]uint32, packages map[string][]byte) error {
	welcomer, err := p.in(s.Welcomer)
	if err != nil {
		return err
	}
	request := &pb.ReInitWelcomeRequest{ReinitId: ids[s.Welcomer], ForcePath: s.path(), ExternalTree: s.tree()}
	for _, name := range others {
		request.KeyPackage = append(request.KeyPackage, packages[name])
	}
	f, err := call(p, welcomer, pb.MLSClientClient.ReInitWelcome, request)
	if err != nil {
		return err
	}
	if err := p.moved(welcomer, f.StateId); err != nil {
		return err
	}
	for _, name := range others {
		a := p.actors[name]
		r, err := call(p, a, pb.MLSClientClient.HandleReInitWelcome, &pb.HandleReInitWelcomeRequest{ReinitId: ids[name], Welcome: f.Welcome, RatchetTree: f.RatchetTree})
		if err != nil {
			return err
		}
		if err := same(name, r.EpochAuthenticator, f.EpochAuthenticator); err != nil {
			return err
		}
		if err := p.moved(a, r.StateId); err != nil {
			return err
		}
	}
	return p.agree(f.EpochAuthenticator, append(others, s.Welcomer)...)
}

// moved makes a new group the actor's, and frees the old one if its state is another.
func (p *play) moved(a *actor, state uint32) error {
	old := a.state
	a.set(state)
	if old == state {
		return nil
	}
	_, err := call(p, a, pb.MLSClientClient.Free, &pb.FreeRequest{StateId: old})
	return err
}

// branch founds a subgroup of the actor and the members. Then the actors exchange messages in the old group once
// more, and leave it.
func (p *play) branch(s *Step) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	request := &pb.CreateBranchRequest{
		StateId: a.state, GroupId: fmt.Appendf(nil, "branch-%x", randomBytes(8)), Extensions: extensions(s.Extensions), ForcePath: s.path(), ExternalTree: s.tree(),
	}
	for _, name := range s.Members {
		kp, err := p.newKeyPackage(name)
		if err != nil {
			return err
		}
		request.KeyPackages = append(request.KeyPackages, kp)
	}
	f, err := call(p, a, pb.MLSClientClient.CreateBranch, request)
	if err != nil {
		return err
	}
	entered := map[string]uint32{s.Actor: f.StateId}
	for _, name := range s.Members {
		m, err := p.in(name)
		if err != nil {
			return err
		}
		r, err := call(p, m, pb.MLSClientClient.HandleBranch, &pb.HandleBranchRequest{
			StateId: m.state, TransactionId: m.transaction, Welcome: f.Welcome, RatchetTree: f.RatchetTree,
		})
		if err != nil {
			return err
		}
		m.joining = false
		entered[name] = r.StateId
		if err := same(name, r.EpochAuthenticator, f.EpochAuthenticator); err != nil {
			return err
		}
	}
	// Some servers have one state for both groups: then the old group cannot be reached.
	kept := slices.DeleteFunc(slices.Clone(s.Members), func(name string) bool { return entered[name] == p.actors[name].state })
	if f.StateId != a.state {
		if err := p.stillOpen(a, kept); err != nil {
			return fmt.Errorf("the old group: %w", err)
		}
	}
	names := append([]string{s.Actor}, s.Members...)
	for _, name := range names {
		if err := p.moved(p.actors[name], entered[name]); err != nil {
			return err
		}
	}
	p.groupID = request.GroupId
	return p.agree(f.EpochAuthenticator, names...)
}

// stillOpen checks that a group still works after a branch.
func (p *play) stillOpen(from *actor, to []string) error {
	sent, err := call(p, from, pb.MLSClientClient.Protect, &pb.ProtectRequest{StateId: from.state, Plaintext: []byte("still here")})
	if err != nil {
		return err
	}
	for _, name := range to {
		a := p.actors[name]
		got, err := call(p, a, pb.MLSClientClient.Unprotect, &pb.UnprotectRequest{StateId: a.state, Ciphertext: sent.Ciphertext})
		if err != nil {
			return err
		}
		if string(got.Plaintext) != "still here" {
			return fmt.Errorf("%s reads %q", name, got.Plaintext)
		}
	}
	return nil
}
