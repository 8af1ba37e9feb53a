package server

import (
	"bytes"
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/codec"
	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// extensionsOf reads a list of extensions, whose types must have 16 bits.
func extensionsOf(list []*pb.Extension) (mlscore.Extensions, error) {
	var x mlscore.Extensions
	for _, e := range list {
		if e.ExtensionType > 0xffff {
			return nil, status.Errorf(codes.InvalidArgument, "extension type %d has more than 16 bits", e.ExtensionType)
		}
		x = append(x, mlscore.Extension{Type: mlscore.ExtensionType(e.ExtensionType), Data: e.ExtensionData})
	}
	return x, nil
}

// removal returns a Remove of the member with an identity.
func removal(p *mlscore.PublicState, identity []byte) (mlscore.Proposal, error) {
	m, ok := p.MemberByIdentity(identity)
	if !ok {
		return mlscore.Proposal{}, status.Errorf(codes.InvalidArgument, "%q is not a member", identity)
	}
	return mlscore.RemoveProposal(m.Leaf), nil
}

func externalPSK(p *mlscore.PublicState, id []byte) (mlscore.Proposal, error) {
	return mlscore.PSKProposal(nil, p.CipherSuite(), mlscore.PreSharedKeyID{Type: mlscore.PSKExternal, ID: id})
}

func resumptionPSK(p *mlscore.PublicState, epoch uint64) (mlscore.Proposal, error) {
	return mlscore.PSKProposal(nil, p.CipherSuite(), mlscore.PreSharedKeyID{
		Type: mlscore.PSKResumption, Usage: mlscore.UsageApplication, GroupID: p.GroupID(), Epoch: epoch,
	})
}

func reinitOf(suite uint32, groupID []byte, list []*pb.Extension) (mlscore.Proposal, error) {
	cs, err := suiteOf(suite)
	if err != nil {
		return mlscore.Proposal{}, err
	}
	x, err := extensionsOf(list)
	return mlscore.ReInitProposal(mlscore.ReInit{GroupID: groupID, Version: mlscore.MLS10, CipherSuite: cs, Extensions: x}), err
}

// describe returns the proposal that a description requests, in a group.
func describe(d *pb.ProposalDescription, p *mlscore.PublicState) (mlscore.Proposal, error) {
	switch string(d.GetProposalType()) {
	case "add":
		kp, err := mlscore.ParseKeyPackage(d.KeyPackage)
		return mlscore.AddProposal(kp), err
	case "remove":
		return removal(p, d.RemovedId)
	case "externalPSK":
		return externalPSK(p, d.PskId)
	case "resumptionPSK":
		return resumptionPSK(p, d.EpochId)
	case "groupContextExtensions":
		x, err := extensionsOf(d.Extensions)
		return mlscore.ExtensionsProposal(x), err
	case "reinit":
		return reinitOf(d.CipherSuite, d.GroupId, d.Extensions)
	}
	return mlscore.Proposal{}, status.Errorf(codes.InvalidArgument, "proposal type %q is not known", d.GetProposalType())
}

// propose sends a proposal as a member, and remembers its reference: the message comes back with the commit.
func (s *Server) propose(id uint32, make func(*mlscore.PublicState) (mlscore.Proposal, error)) (*pb.ProposalResponse, error) {
	st, err := find[*state](s, id)
	if err != nil {
		return nil, err
	}
	p, err := make(st.group.Public())
	if err != nil {
		return nil, err
	}
	msg, err := st.group.Propose(p, mlscore.ProposeOptions{})
	return st.proposed(msg, err)
}

func (st *state) proposed(msg []byte, err error) (*pb.ProposalResponse, error) {
	if err != nil {
		return nil, err
	}
	list := st.group.Public().Pending()
	st.refs[string(msg)] = list[len(list)-1].Ref
	return &pb.ProposalResponse{Proposal: msg}, nil
}

// AddProposal implements MLSClient.
func (s *Server) AddProposal(_ context.Context, r *pb.AddProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(*mlscore.PublicState) (mlscore.Proposal, error) {
		kp, err := mlscore.ParseKeyPackage(r.KeyPackage)
		return mlscore.AddProposal(kp), err
	})
}

// UpdateProposal implements MLSClient.
func (s *Server) UpdateProposal(_ context.Context, r *pb.UpdateProposalRequest) (*pb.ProposalResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	msg, err := st.group.ProposeUpdate(mlscore.LeafUpdate{}, mlscore.ProposeOptions{})
	return st.proposed(msg, err)
}

// RemoveProposal implements MLSClient.
func (s *Server) RemoveProposal(_ context.Context, r *pb.RemoveProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(p *mlscore.PublicState) (mlscore.Proposal, error) { return removal(p, r.RemovedId) })
}

// ExternalPSKProposal implements MLSClient.
func (s *Server) ExternalPSKProposal(_ context.Context, r *pb.ExternalPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(p *mlscore.PublicState) (mlscore.Proposal, error) { return externalPSK(p, r.PskId) })
}

// ResumptionPSKProposal implements MLSClient.
func (s *Server) ResumptionPSKProposal(_ context.Context, r *pb.ResumptionPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(p *mlscore.PublicState) (mlscore.Proposal, error) { return resumptionPSK(p, r.EpochId) })
}

// GroupContextExtensionsProposal implements MLSClient.
func (s *Server) GroupContextExtensionsProposal(_ context.Context, r *pb.GroupContextExtensionsProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(*mlscore.PublicState) (mlscore.Proposal, error) {
		x, err := extensionsOf(r.Extensions)
		return mlscore.ExtensionsProposal(x), err
	})
}

// ReInitProposal implements MLSClient.
func (s *Server) ReInitProposal(_ context.Context, r *pb.ReInitProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(*mlscore.PublicState) (mlscore.Proposal, error) {
		return reinitOf(r.CipherSuite, r.GroupId, r.Extensions)
	})
}

// CreateExternalSigner implements MLSClient.
func (s *Server) CreateExternalSigner(_ context.Context, r *pb.CreateExternalSignerRequest) (*pb.CreateExternalSignerResponse, error) {
	cs, err := suiteOf(r.CipherSuite)
	if err != nil {
		return nil, err
	}
	key, public, err := mlscore.GenerateSignatureKey(nil, cs)
	if err != nil {
		return nil, err
	}
	id := mlscore.Identity{CipherSuite: cs, Credential: mlscore.BasicCredential(r.Identity), SignatureKey: key}
	list, err := mlscore.ExternalSendersExtension([]mlscore.ExternalSender{{SignatureKey: public, Credential: id.Credential}})
	if err != nil {
		return nil, err
	}
	// The extension is a vector of senders, with one sender as content.
	content := codec.NewReader(list.Data, codec.DefaultLimits)
	sender := content.Bytes()
	if err := content.Finish(); err != nil {
		return nil, err
	}
	signerID, err := s.keep(&signer{id, public})
	return &pb.CreateExternalSignerResponse{SignerId: signerID, ExternalSender: sender}, err
}

// AddExternalSigner implements MLSClient: it proposes the group's extensions with one more external sender.
func (s *Server) AddExternalSigner(_ context.Context, r *pb.AddExternalSignerRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, func(p *mlscore.PublicState) (mlscore.Proposal, error) {
		one := mlscore.Extensions{{Type: mlscore.ExtensionExternalSenders, Data: codec.AppendBytes(nil, r.ExternalSender)}}
		added, err := one.ExternalSenders()
		if err != nil {
			return mlscore.Proposal{}, err
		}
		x := p.Context().Extensions
		senders, err := x.ExternalSenders()
		if err != nil {
			return mlscore.Proposal{}, err
		}
		all, err := mlscore.ExternalSendersExtension(append(senders, added...))
		return mlscore.ExtensionsProposal(x.With(all)), err
	})
}

// ExternalSignerProposal implements MLSClient. Some runners leave signer_index at zero, so the index is found by the
// signer's own key.
func (s *Server) ExternalSignerProposal(_ context.Context, r *pb.ExternalSignerProposalRequest) (*pb.ProposalResponse, error) {
	from, err := find[*signer](s, r.SignerId)
	if err != nil {
		return nil, err
	}
	p, err := mlscore.NewPublicState(r.GroupInfo, treeOf(r.RatchetTree), mlscore.PublicConfig{Auth: mlscore.TrustBasic{}, Intake: s.config.Intake})
	if err != nil {
		return nil, err
	}
	senders, err := p.Context().Extensions.ExternalSenders()
	if err != nil {
		return nil, err
	}
	for at, sender := range senders {
		if !bytes.Equal(sender.SignatureKey, from.public) {
			continue
		}
		proposal, err := describe(r.Description, p)
		if err != nil {
			return nil, err
		}
		msg, err := mlscore.ProposeExternally(uint32(at), from.identity.SignatureKey, p.Context(), proposal)
		return &pb.ProposalResponse{Proposal: msg}, err
	}
	return nil, status.Error(codes.FailedPrecondition, "the signer is none of the group's external senders")
}
