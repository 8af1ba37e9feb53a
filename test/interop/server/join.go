package server

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mlsfed/mlsfed/mlscore"
	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// CreateGroup implements MLSClient.
func (s *Server) CreateGroup(_ context.Context, r *pb.CreateGroupRequest) (*pb.CreateGroupResponse, error) {
	client, id, err := s.newDevice(r.CipherSuite, r.Identity)
	if err != nil {
		return nil, err
	}
	options := optionsFor(r.EncryptHandshake)
	g, err := client.CreateGroup(id, r.GroupId, mlscore.CreateOptions{GroupOptions: options})
	if err != nil {
		return nil, err
	}
	state, err := s.enter(client, g, options)
	return &pb.CreateGroupResponse{StateId: state}, err
}

// published is a KeyPackage with its private keys, as the protocol returns it.
type published struct {
	transaction uint32
	message     []byte
	keys        mlscore.KeyPackageKeys
}

// publish keeps a transaction for a KeyPackage.
func (s *Server) publish(client *mlscore.Client, kp *mlscore.KeyPackage) (p published, err error) {
	ref, err := kp.Ref()
	if err != nil {
		return p, err
	}
	if p.message, err = kp.Message(); err != nil {
		return p, err
	}
	if _, p.keys, err = client.ExportKeyPackage(ref); err != nil {
		return p, err
	}
	p.transaction, err = s.keep(&transaction{client, ref})
	return p, err
}

// CreateKeyPackage implements MLSClient.
func (s *Server) CreateKeyPackage(_ context.Context, r *pb.CreateKeyPackageRequest) (*pb.CreateKeyPackageResponse, error) {
	client, id, err := s.newDevice(r.CipherSuite, r.Identity)
	if err != nil {
		return nil, err
	}
	kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{})
	if err != nil {
		return nil, err
	}
	p, err := s.publish(client, kp)
	if err != nil {
		return nil, err
	}
	return &pb.CreateKeyPackageResponse{
		TransactionId:  p.transaction,
		KeyPackage:     p.message,
		InitPriv:       p.keys.Init.Bytes(),
		EncryptionPriv: p.keys.Leaf.Bytes(),
		SignaturePriv:  p.keys.Signature.Bytes(),
	}, nil
}

// JoinGroup implements MLSClient.
func (s *Server) JoinGroup(_ context.Context, r *pb.JoinGroupRequest) (*pb.JoinGroupResponse, error) {
	t, err := find[*transaction](s, r.TransactionId)
	if err != nil {
		return nil, err
	}
	options := optionsFor(r.EncryptHandshake)
	w, err := t.client.OpenWelcome(r.Welcome, mlscore.JoinOptions{GroupOptions: options, Tree: treeOf(r.RatchetTree)})
	if err != nil {
		return nil, err
	}
	if ref, err := w.KeyPackage().Ref(); err != nil || !slices.Equal(ref, t.ref) {
		w.Drop()
		return nil, status.Error(codes.InvalidArgument, "the Welcome is for another KeyPackage than that of the transaction")
	}
	g, err := w.Join()
	if err != nil {
		return nil, err
	}
	delete(s.objects, r.TransactionId)
	state, err := s.enter(t.client, g, options)
	return &pb.JoinGroupResponse{StateId: state, EpochAuthenticator: g.EpochAuthenticator()}, err
}

// ExternalJoin implements MLSClient.
func (s *Server) ExternalJoin(_ context.Context, r *pb.ExternalJoinRequest) (*pb.ExternalJoinResponse, error) {
	info, err := mlscore.ParseGroupInfo(r.GroupInfo)
	if err != nil {
		return nil, err
	}
	client, id, err := s.newDevice(uint32(info.Context().CipherSuite), r.Identity)
	if err != nil {
		return nil, err
	}
	options := optionsFor(r.EncryptHandshake)
	opts := mlscore.ExternalOptions{GroupOptions: options, Tree: treeOf(r.RatchetTree), Resync: r.RemovePrior}
	for _, psk := range r.Psks {
		if err := client.StorePSK(psk.PskId, mlscore.NewSecret(psk.PskSecret)); err != nil {
			return nil, err
		}
		opts.PSKs = append(opts.PSKs, mlscore.PreSharedKeyID{Type: mlscore.PSKExternal, ID: psk.PskId})
	}
	x, err := client.ExternalJoin(id, r.GroupInfo, opts)
	if err != nil {
		return nil, err
	}
	g, err := x.Complete()
	if err != nil {
		return nil, err
	}
	state, err := s.enter(client, g, options)
	return &pb.ExternalJoinResponse{StateId: state, Commit: x.Message, EpochAuthenticator: g.EpochAuthenticator()}, err
}

// NewMemberAddProposal implements MLSClient.
func (s *Server) NewMemberAddProposal(_ context.Context, r *pb.NewMemberAddProposalRequest) (*pb.NewMemberAddProposalResponse, error) {
	info, err := mlscore.ParseGroupInfo(r.GroupInfo)
	if err != nil {
		return nil, err
	}
	client, id, err := s.newDevice(uint32(info.Context().CipherSuite), r.Identity)
	if err != nil {
		return nil, err
	}
	proposal, kp, err := client.ProposeSelf(id, info.Context(), mlscore.KeyPackageOptions{})
	if err != nil {
		return nil, err
	}
	p, err := s.publish(client, kp)
	if err != nil {
		return nil, err
	}
	return &pb.NewMemberAddProposalResponse{
		TransactionId:  p.transaction,
		Proposal:       proposal,
		InitPriv:       p.keys.Init.Bytes(),
		EncryptionPriv: p.keys.Leaf.Bytes(),
		SignaturePriv:  p.keys.Signature.Bytes(),
	}, nil
}

// StorePSK implements MLSClient.
func (s *Server) StorePSK(_ context.Context, r *pb.StorePSKRequest) (*pb.StorePSKResponse, error) {
	var client *mlscore.Client
	switch o := s.objects[r.StateOrTransactionId].(type) {
	case *state:
		client = o.client
	case *transaction:
		client = o.client
	default:
		return nil, status.Errorf(codes.NotFound, "id %d is not that of a state or a transaction", r.StateOrTransactionId)
	}
	return &pb.StorePSKResponse{}, client.StorePSK(r.PskId, mlscore.NewSecret(r.PskSecret))
}
