package server

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mlsfed/mlsfed/mlscore"
	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// TestListen checks that only loopback addresses are served.
func TestListen(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "[::]:0", "no port"} {
		if l, err := Listen(address); err == nil {
			_ = l.Close()
			t.Errorf("%s is served", address)
		}
	}
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// ask makes a call as if it came over the connection.
func ask[Q, R any](s *Server, method func(*Server, context.Context, *Q) (*R, error), request *Q) (*R, error) {
	r, err := s.serial(context.Background(), request, &grpc.UnaryServerInfo{}, func(ctx context.Context, q any) (any, error) {
		return method(s, ctx, q.(*Q))
	})
	if err != nil {
		return nil, err
	}
	return r.(*R), nil
}

// TestRefusals checks that impossible calls are refused with the right code, and that the server continues.
func TestRefusals(t *testing.T) {
	s := New(Config{})
	g, err := ask(s, (*Server).CreateGroup, &pb.CreateGroupRequest{CipherSuite: 1, Identity: []byte("ann")})
	if err != nil {
		t.Fatal(err)
	}
	kp, err := ask(s, (*Server).CreateKeyPackage, &pb.CreateKeyPackageRequest{CipherSuite: 1, Identity: []byte("ben")})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ask(s, (*Server).CreateKeyPackage, &pb.CreateKeyPackageRequest{CipherSuite: 1, Identity: []byte("cleo")})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ask(s, (*Server).Commit, &pb.CommitRequest{StateId: g.StateId, ByValue: []*pb.ProposalDescription{{ProposalType: []byte("add"), KeyPackage: kp.KeyPackage}}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ask(s, (*Server).CreateExternalSigner, &pb.CreateExternalSignerRequest{CipherSuite: 1, Identity: []byte("server")})
	if err != nil {
		t.Fatal(err)
	}
	info, err := ask(s, (*Server).GroupInfo, &pb.GroupInfoRequest{StateId: g.StateId})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(_ any, err error) codes.Code { return status.Code(err) }
	byValue := func(d *pb.ProposalDescription) codes.Code {
		return refused(ask(s, (*Server).Commit, &pb.CommitRequest{StateId: g.StateId, ByValue: []*pb.ProposalDescription{d}}))
	}
	for name, got := range map[string]struct{ code, want codes.Code }{
		"a state that is not there":         {refused(ask(s, (*Server).StateAuth, &pb.StateAuthRequest{StateId: 99})), codes.NotFound},
		"a transaction for a state":         {refused(ask(s, (*Server).Free, &pb.FreeRequest{StateId: kp.TransactionId})), codes.NotFound},
		"a PSK for a signer":                {refused(ask(s, (*Server).StorePSK, &pb.StorePSKRequest{StateOrTransactionId: signer.SignerId})), codes.NotFound},
		"a suite of 17 bits":                {refused(ask(s, (*Server).CreateGroup, &pb.CreateGroupRequest{CipherSuite: 1<<16 + 1})), codes.InvalidArgument},
		"a suite that is unknown":           {refused(ask(s, (*Server).CreateGroup, &pb.CreateGroupRequest{CipherSuite: 0xff00})), codes.Unimplemented},
		"an extension type of 17 bits":      {byValue(&pb.ProposalDescription{ProposalType: []byte("groupContextExtensions"), Extensions: []*pb.Extension{{ExtensionType: 1 << 16}}}), codes.InvalidArgument},
		"a proposal of an unknown type":     {byValue(&pb.ProposalDescription{ProposalType: []byte("dance")}), codes.InvalidArgument},
		"a KeyPackage that is none":         {byValue(&pb.ProposalDescription{ProposalType: []byte("add"), KeyPackage: []byte("no")}), codes.InvalidArgument},
		"the removal of a stranger":         {byValue(&pb.ProposalDescription{ProposalType: []byte("remove"), RemovedId: []byte("eve")}), codes.InvalidArgument},
		"a PSK that is not here":            {byValue(&pb.ProposalDescription{ProposalType: []byte("externalPSK"), PskId: []byte("?")}), codes.FailedPrecondition},
		"a Welcome to somebody else":        {refused(ask(s, (*Server).JoinGroup, &pb.JoinGroupRequest{TransactionId: other.TransactionId, Welcome: c.Welcome})), codes.Aborted},
		"a signer who is none of the group": {refused(ask(s, (*Server).ExternalSignerProposal, &pb.ExternalSignerProposalRequest{SignerId: signer.SignerId, GroupInfo: info.GroupInfo})), codes.FailedPrecondition},
		"a handshake as a message":          {refused(ask(s, (*Server).Unprotect, &pb.UnprotectRequest{StateId: g.StateId, Ciphertext: c.Commit})), codes.InvalidArgument},
		"a commit as a proposal":            {refused(ask(s, (*Server).Commit, &pb.CommitRequest{StateId: g.StateId, ByReference: [][]byte{c.Commit}})), codes.InvalidArgument},
		"an export without end":             {refused(ask(s, (*Server).Export, &pb.ExportRequest{StateId: g.StateId, KeyLength: 1 << 31})), codes.InvalidArgument},
		"a ReInit that was none":            {refused(ask(s, (*Server).HandlePendingReInitCommit, &pb.HandlePendingCommitRequest{StateId: g.StateId})), codes.InvalidArgument},
	} {
		if got.code != got.want {
			t.Errorf("%s: %v, want %v", name, got.code, got.want)
		}
	}
}

// TestObjectLimit checks that the server keeps a limited number of objects, and accepts others once some are freed.
func TestObjectLimit(t *testing.T) {
	s := New(Config{Objects: 2})
	create := func() (uint32, codes.Code) {
		r, err := ask(s, (*Server).CreateGroup, &pb.CreateGroupRequest{CipherSuite: 1, Identity: []byte("ann")})
		return r.GetStateId(), status.Code(err)
	}
	first, code := create()
	if code != codes.OK {
		t.Fatal(code)
	}
	if _, code := create(); code != codes.OK {
		t.Fatal(code)
	}
	if _, code := create(); code != codes.ResourceExhausted {
		t.Errorf("one too many: %v", code)
	}
	if _, err := ask(s, (*Server).Free, &pb.FreeRequest{StateId: first}); err != nil {
		t.Fatal(err)
	}
	if _, code := create(); code != codes.OK {
		t.Errorf("after one was freed: %v", code)
	}
}

// TestSuites checks the suites that a server reports.
func TestSuites(t *testing.T) {
	s := New(Config{Suites: []mlscore.CipherSuite{3, 1}})
	r, err := ask(s, (*Server).SupportedCiphersuites, &pb.SupportedCiphersuitesRequest{})
	if err != nil || len(r.Ciphersuites) != 2 || r.Ciphersuites[0] != 3 {
		t.Errorf("%v, %v", r, err)
	}
}
