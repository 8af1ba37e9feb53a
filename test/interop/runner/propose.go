package runner

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// propose makes a member create a proposal.
func propose[Q any](p *play, s *Step, method func(pb.MLSClientClient, context.Context, *Q, ...grpc.CallOption) (*pb.ProposalResponse, error), request func(state uint32) (*Q, error)) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	q, err := request(a.state)
	if err != nil {
		return err
	}
	r, err := call(p, a, method, q)
	if err != nil {
		return err
	}
	p.made[p.at].proposal = r.Proposal
	return nil
}

func (p *play) addProposal(s *Step) error {
	return propose(p, s, pb.MLSClientClient.AddProposal, func(state uint32) (*pb.AddProposalRequest, error) {
		kp, err := p.earlier(s.KeyPackage, "KeyPackage", func(m *made) []byte { return m.keyPackage })
		return &pb.AddProposalRequest{StateId: state, KeyPackage: kp}, err
	})
}

func (p *play) updateProposal(s *Step) error {
	return propose(p, s, pb.MLSClientClient.UpdateProposal, func(state uint32) (*pb.UpdateProposalRequest, error) {
		return &pb.UpdateProposalRequest{StateId: state}, nil
	})
}

func (p *play) removeProposal(s *Step) error {
	return propose(p, s, pb.MLSClientClient.RemoveProposal, func(state uint32) (*pb.RemoveProposalRequest, error) {
		return &pb.RemoveProposalRequest{StateId: state, RemovedId: []byte(s.Removed)}, nil
	})
}

func (p *play) externalPSKProposal(s *Step) error {
	return propose(p, s, pb.MLSClientClient.ExternalPSKProposal, func(state uint32) (*pb.ExternalPSKProposalRequest, error) {
		id, err := p.earlier(s.PSK, "PSK", func(m *made) []byte { return m.pskID })
		return &pb.ExternalPSKProposalRequest{StateId: state, PskId: id}, err
	})
}

func (p *play) resumptionPSKProposal(s *Step) error {
	return propose(p, s, pb.MLSClientClient.ResumptionPSKProposal, func(state uint32) (*pb.ResumptionPSKProposalRequest, error) {
		return &pb.ResumptionPSKProposalRequest{StateId: state, EpochId: s.Epoch}, nil
	})
}

func (p *play) extensionsProposal(s *Step) error {
	return propose(p, s, pb.MLSClientClient.GroupContextExtensionsProposal, func(state uint32) (*pb.GroupContextExtensionsProposalRequest, error) {
		return &pb.GroupContextExtensionsProposalRequest{StateId: state, Extensions: extensions(s.Extensions)}, nil
	})
}

// newMemberAddProposal makes the joiner propose to be added, with a GroupInfo from the actor.
func (p *play) newMemberAddProposal(s *Step) error {
	info, err := p.info(s.Actor, false)
	if err != nil {
		return err
	}
	joiner, err := p.who(s.Joiner)
	if err != nil {
		return err
	}
	r, err := call(p, joiner, pb.MLSClientClient.NewMemberAddProposal, &pb.NewMemberAddProposalRequest{GroupInfo: info.GroupInfo, Identity: []byte(s.Joiner)})
	if err != nil {
		return err
	}
	joiner.transaction, joiner.joining = r.TransactionId, true
	p.made[p.at].proposal = r.Proposal
	return nil
}

// addExternalSigner makes the actor propose the signer as an external sender.
func (p *play) addExternalSigner(s *Step) error {
	from, err := p.who(s.Signer)
	if err != nil {
		return err
	}
	created, err := call(p, from, pb.MLSClientClient.CreateExternalSigner, &pb.CreateExternalSignerRequest{CipherSuite: p.suite, Identity: []byte(s.Signer)})
	if err != nil {
		return err
	}
	from.signer, from.signs, from.place = created.SignerId, true, p.signers
	p.signers++
	return propose(p, s, pb.MLSClientClient.AddExternalSigner, func(state uint32) (*pb.AddExternalSignerRequest, error) {
		return &pb.AddExternalSignerRequest{StateId: state, ExternalSender: created.ExternalSender}, nil
	})
}

// externalSignerProposal makes an external sender propose, with a GroupInfo and a tree from a member.
func (p *play) externalSignerProposal(s *Step) error {
	from, err := p.who(s.Actor)
	if err != nil {
		return err
	}
	info, err := p.info(s.Member, true)
	if err != nil {
		return err
	}
	if !from.signs {
		return fmt.Errorf("%s is no external sender", s.Actor)
	}
	request := &pb.ExternalSignerProposalRequest{SignerId: from.signer, SignerIndex: from.place, GroupInfo: info.GroupInfo, RatchetTree: info.RatchetTree}
	what := s.Description
	if what == nil {
		what = &Proposal{}
	}
	if request.Description, err = p.describe(what); err != nil {
		return err
	}
	r, err := call(p, from, pb.MLSClientClient.ExternalSignerProposal, request)
	if err != nil {
		return err
	}
	p.made[p.at].proposal = r.Proposal
	return nil
}
