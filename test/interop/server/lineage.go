package server

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mlsfed/mlsfed/mlscore"
	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// ReInitCommit implements MLSClient.
func (s *Server) ReInitCommit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	return s.Commit(ctx, r)
}

// HandlePendingReInitCommit implements MLSClient.
func (s *Server) HandlePendingReInitCommit(_ context.Context, r *pb.HandlePendingCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	authenticator, err := st.mergePending()
	if err != nil {
		return nil, err
	}
	return s.closed(st, authenticator)
}

// HandleReInitCommit implements MLSClient.
func (s *Server) HandleReInitCommit(_ context.Context, r *pb.HandleCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	authenticator, err := st.follow(r)
	if err != nil {
		return nil, err
	}
	return s.closed(st, authenticator)
}

// closed creates a KeyPackage for the successor of a closed group, in the store that has the group: the successor's
// Welcome needs the group's resumption PSK.
func (s *Server) closed(st *state, authenticator []byte) (*pb.HandleReInitCommitResponse, error) {
	r, ok := st.group.ReInit()
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "the commit holds no ReInit")
	}
	id, err := st.group.Identity()
	if err == nil && id.CipherSuite != r.CipherSuite {
		id, err = mlscore.NewIdentity(nil, r.CipherSuite, id.Credential)
	}
	if err != nil {
		return nil, err
	}
	kp, err := st.client.NewKeyPackage(id, mlscore.KeyPackageOptions{})
	if err != nil {
		return nil, err
	}
	ref, err := kp.Ref()
	if err != nil {
		return nil, err
	}
	message, err := kp.Message()
	if err != nil {
		return nil, err
	}
	reinitID, err := s.keep(&reinit{st, id, ref})
	return &pb.HandleReInitCommitResponse{ReinitId: reinitID, KeyPackage: message, EpochAuthenticator: authenticator}, err
}

// keyPackagesOf reads KeyPackages.
func keyPackagesOf(messages [][]byte) ([]*mlscore.KeyPackage, error) {
	list := make([]*mlscore.KeyPackage, len(messages))
	for i, msg := range messages {
		kp, err := mlscore.ParseKeyPackage(msg)
		if err != nil {
			return nil, err
		}
		list[i] = kp
	}
	return list, nil
}

// founded stores the state of a group that was founded from another group.
func (s *Server) founded(st *state, f *mlscore.Founding, externalTree bool) (*pb.CreateSubgroupResponse, error) {
	out := &pb.CreateSubgroupResponse{Welcome: f.Welcome, EpochAuthenticator: f.Group.EpochAuthenticator()}
	var err error
	if out.RatchetTree, err = separateTree(f.Group.Public(), externalTree); err != nil {
		return nil, err
	}
	out.StateId, err = s.enter(st.client, f.Group, st.options)
	return out, err
}

// ReInitWelcome implements MLSClient.
func (s *Server) ReInitWelcome(_ context.Context, r *pb.ReInitWelcomeRequest) (*pb.CreateSubgroupResponse, error) {
	re, err := find[*reinit](s, r.ReinitId)
	if err != nil {
		return nil, err
	}
	list, err := keyPackagesOf(r.KeyPackage)
	if err != nil {
		return nil, err
	}
	f, err := re.state.group.Successor(mlscore.FoundOptions{
		CreateOptions: mlscore.CreateOptions{GroupOptions: re.state.options},
		Identity:      &re.identity,
		KeyPackages:   list,
		OmitPath:      !r.ForcePath,
		WelcomeInfo:   mlscore.GroupInfoOptions{Tree: !r.ExternalTree},
	})
	if err != nil {
		return nil, err
	}
	if err := re.state.client.DeleteKeyPackage(re.ref); err != nil {
		return nil, err
	}
	delete(s.objects, r.ReinitId)
	return s.founded(re.state, f, r.ExternalTree)
}

// HandleReInitWelcome implements MLSClient.
func (s *Server) HandleReInitWelcome(_ context.Context, r *pb.HandleReInitWelcomeRequest) (*pb.JoinGroupResponse, error) {
	re, err := find[*reinit](s, r.ReinitId)
	if err != nil {
		return nil, err
	}
	g, err := re.state.client.Join(r.Welcome, mlscore.JoinOptions{GroupOptions: re.state.options, Tree: treeOf(r.RatchetTree)})
	if err != nil {
		return nil, err
	}
	delete(s.objects, r.ReinitId)
	id, err := s.enter(re.state.client, g, re.state.options)
	return &pb.JoinGroupResponse{StateId: id, EpochAuthenticator: g.EpochAuthenticator()}, err
}

// CreateBranch implements MLSClient.
func (s *Server) CreateBranch(_ context.Context, r *pb.CreateBranchRequest) (*pb.CreateSubgroupResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	list, err := keyPackagesOf(r.KeyPackages)
	if err != nil {
		return nil, err
	}
	x, err := extensionsOf(r.Extensions)
	if err != nil {
		return nil, err
	}
	f, err := st.group.Branch(r.GroupId, mlscore.FoundOptions{
		CreateOptions: mlscore.CreateOptions{GroupOptions: st.options, Extensions: x},
		KeyPackages:   list,
		OmitPath:      !r.ForcePath,
		WelcomeInfo:   mlscore.GroupInfoOptions{Tree: !r.ExternalTree},
	})
	if err != nil {
		return nil, err
	}
	return s.founded(st, f, r.ExternalTree)
}

// HandleBranch implements MLSClient. The KeyPackage was created separately from the old group. It moves to the store
// that has the group, and with the group the PSK that the Welcome needs.
func (s *Server) HandleBranch(_ context.Context, r *pb.HandleBranchRequest) (*pb.HandleBranchResponse, error) {
	st, err := find[*state](s, r.StateId)
	if err != nil {
		return nil, err
	}
	t, err := find[*transaction](s, r.TransactionId)
	if err != nil {
		return nil, err
	}
	kp, keys, err := t.client.ExportKeyPackage(t.ref)
	if err != nil {
		return nil, err
	}
	if err := st.client.ImportKeyPackage(kp, keys); err != nil {
		return nil, err
	}
	g, err := st.client.Join(r.Welcome, mlscore.JoinOptions{GroupOptions: st.options, Tree: treeOf(r.RatchetTree)})
	if err != nil {
		return nil, err
	}
	delete(s.objects, r.TransactionId)
	id, err := s.enter(st.client, g, st.options)
	return &pb.HandleBranchResponse{StateId: id, EpochAuthenticator: g.EpochAuthenticator()}, err
}
