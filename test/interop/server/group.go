package server

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mlsfed/mlsfed/mlscore"
	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// GroupInfo implements MLSClient.
func (s *Server) GroupInfo(_ context.Context, r *pb.GroupInfoRequest) (*pb.GroupInfoResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	out := &pb.GroupInfoResponse{}
	if out.GroupInfo, err = st.group.GroupInfo(mlscore.GroupInfoOptions{Tree: !r.ExternalTree, External: true}); err != nil {
		return nil, err
	}
	out.RatchetTree, err = separateTree(st.group.Public(), r.ExternalTree)
	return out, err
}

// separateTree returns the tree of a group if it is requested separately.
func separateTree(p *mlscore.PublicState, external bool) ([]byte, error) {
	if !external {
		return nil, nil
	}
	return p.Tree()
}

// StateAuth implements MLSClient.
func (s *Server) StateAuth(_ context.Context, r *pb.StateAuthRequest) (*pb.StateAuthResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	return &pb.StateAuthResponse{StateAuthSecret: st.group.EpochAuthenticator()}, nil
}

// Export implements MLSClient.
func (s *Server) Export(_ context.Context, r *pb.ExportRequest) (*pb.ExportResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	if r.KeyLength > 1<<20 {
		return nil, status.Errorf(codes.InvalidArgument, "%d bytes are more than any suite exports", r.KeyLength)
	}
	secret, err := st.group.Export(r.Label, r.Context, int(r.KeyLength))
	if err != nil {
		return nil, err
	}
	return &pb.ExportResponse{ExportedSecret: secret.Bytes()}, nil
}

// Protect implements MLSClient. The runner decides what is sent when: waiting proposals do not stop it.
func (s *Server) Protect(_ context.Context, r *pb.ProtectRequest) (*pb.ProtectResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	msg, err := st.group.Protect(r.Plaintext, mlscore.MessageOptions{AuthenticatedData: r.AuthenticatedData, DespiteProposals: true})
	if err != nil {
		return nil, err
	}
	return &pb.ProtectResponse{Ciphertext: msg}, nil
}

// Unprotect implements MLSClient.
func (s *Server) Unprotect(_ context.Context, r *pb.UnprotectRequest) (*pb.UnprotectResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	got, err := st.group.Process(r.Ciphertext)
	if err != nil {
		return nil, err
	}
	if got.Application == nil {
		return nil, status.Error(codes.InvalidArgument, "the message is a handshake")
	}
	return &pb.UnprotectResponse{AuthenticatedData: got.Application.AuthenticatedData, Plaintext: got.Application.Data}, nil
}

// take processes proposal messages, also those of this member, and returns their references.
func (st *state) take(messages [][]byte) ([][]byte, error) {
	refs := make([][]byte, len(messages))
	for i, msg := range messages {
		ref, known := st.refs[string(msg)]
		if !known {
			got, err := st.group.Process(msg)
			if err != nil {
				return nil, err
			}
			if got.Proposal == nil {
				return nil, status.Errorf(codes.InvalidArgument, "message %d is no proposal", i)
			}
			ref = got.Proposal.Ref
			st.refs[string(msg)] = ref
		}
		refs[i] = ref
	}
	return refs, nil
}

// Commit implements MLSClient.
func (s *Server) Commit(_ context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	refs, err := st.take(r.ByReference)
	if err != nil {
		return nil, err
	}
	opts := mlscore.CommitOptions{
		Refs:        refs,
		OmitPath:    !r.ForcePath,
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: !r.ExternalTree},
	}
	for _, d := range r.ByValue {
		p, err := describe(d, st.group.Public())
		if err != nil {
			return nil, err
		}
		opts.Proposals = append(opts.Proposals, p)
	}
	c, err := st.group.Commit(opts)
	if err != nil {
		return nil, err
	}
	out := &pb.CommitResponse{Commit: c.Message, Welcome: c.Welcome}
	out.RatchetTree, err = separateTree(c.Staged.Public(), r.ExternalTree)
	return out, err
}

// merge enters the epoch of a commit.
func (st *state) merge(c *mlscore.StagedCommit) ([]byte, error) {
	if err := st.group.Merge(c); err != nil {
		return nil, err
	}
	clear(st.refs)
	if c.RemovesSelf() {
		return nil, nil
	}
	return st.group.EpochAuthenticator(), nil
}

// mergePending enters the epoch of this member's own commit.
func (st *state) mergePending() ([]byte, error) {
	c, ok := st.group.Pending()
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "no commit waits")
	}
	return st.merge(c)
}

// follow processes proposals and a commit of them.
func (st *state) follow(r *pb.HandleCommitRequest) ([]byte, error) {
	if _, err := st.take(r.Proposal); err != nil {
		return nil, err
	}
	got, err := st.group.Process(r.Commit)
	if err != nil {
		return nil, err
	}
	if got.Commit == nil {
		return nil, status.Error(codes.InvalidArgument, "the message is no commit")
	}
	return st.merge(got.Commit)
}

// HandleCommit implements MLSClient. The state keeps its id.
func (s *Server) HandleCommit(_ context.Context, r *pb.HandleCommitRequest) (*pb.HandleCommitResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	authenticator, err := st.follow(r)
	return &pb.HandleCommitResponse{StateId: r.StateId, EpochAuthenticator: authenticator}, err
}

// HandlePendingCommit implements MLSClient. The state keeps its id.
func (s *Server) HandlePendingCommit(_ context.Context, r *pb.HandlePendingCommitRequest) (*pb.HandleCommitResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	authenticator, err := st.mergePending()
	return &pb.HandleCommitResponse{StateId: r.StateId, EpochAuthenticator: authenticator}, err
}
