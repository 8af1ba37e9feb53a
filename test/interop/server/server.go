// Package server runs mlscore for a test runner: it serves the MLSClient protocol with only mlscore's public API. It
// is for tests: its answers have private keys, as the protocol requires. It listens on loopback addresses only.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mlsfed/mlsfed/mlscore"
	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// Config configures a server.
type Config struct {
	Name   string                // what it calls itself; empty means "mlsfed"
	Suites []mlscore.CipherSuite // nil means those of RFC 9420
	Intake mlscore.Intake
	// Called gets the name of each call, such as "/mls_client.MLSClient/Name"; may be nil. It is called serially.
	Called func(method string)
	// Objects is how many states, transactions, reinits and signers the server keeps at once; zero means 4,096.
	Objects int
}

// Server serves one implementation. Its calls are serial.
type Server struct {
	pb.UnimplementedMLSClientServer
	config Config

	mu      sync.Mutex
	last    uint32 // id given out; all kinds share the ids, since StorePSK takes two kinds
	objects map[uint32]any
}

// New returns a server.
func New(config Config) *Server {
	if config.Name == "" {
		config.Name = "mlsfed"
	}
	if config.Suites == nil {
		config.Suites = mlscore.CipherSuites()
	}
	if config.Objects == 0 {
		config.Objects = 4096
	}
	return &Server{config: config, objects: map[uint32]any{}}
}

// Listen opens a TCP address, which must be a loopback address: the protocol has no authentication and returns
// private keys.
func Listen(address string) (net.Listener, error) {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if !at.IP.IsLoopback() {
		return nil, fmt.Errorf("listen on %s: only loopback addresses are served, such as 127.0.0.1:0", address)
	}
	return net.ListenTCP("tcp", at)
}

// Serve answers until the listener is closed or ctx ends, and returns nil then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return s.ServeAs(ctx, l, s) }

// ServeAs is Serve with some answers replaced, for tests of runners.
func (s *Server) ServeAs(ctx context.Context, l net.Listener, answers pb.MLSClientServer) error {
	g := grpc.NewServer(grpc.UnaryInterceptor(s.serial))
	pb.RegisterMLSClientServer(g, answers)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// serial runs one call at a time, and gives mlscore's errors a status.
func (s *Server) serial(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Called != nil {
		s.config.Called(info.FullMethod)
	}
	response, err := handler(ctx, request)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codeOf(err), err.Error())
		}
	}
	return response, err
}

func codeOf(err error) codes.Code {
	for _, k := range []struct {
		kind error
		code codes.Code
	}{
		{mlscore.ErrMalformed, codes.InvalidArgument},
		{mlscore.ErrMisuse, codes.InvalidArgument},
		{mlscore.ErrUnsupported, codes.Unimplemented},
		{mlscore.ErrMissing, codes.FailedPrecondition},
		{mlscore.ErrLimit, codes.ResourceExhausted},
		{mlscore.ErrForged, codes.Unauthenticated},
		{mlscore.ErrPolicy, codes.PermissionDenied},
	} {
		if errors.Is(err, k.kind) {
			return k.code
		}
	}
	return codes.Aborted
}

// state is one member's view of one group.
type state struct {
	client  *mlscore.Client
	group   *mlscore.Group
	options mlscore.GroupOptions
	refs    map[string][]byte // of the proposal messages that were processed in this epoch
}

// transaction is a KeyPackage that waits for its Welcome.
type transaction struct {
	client *mlscore.Client
	ref    []byte
}

// reinit is a member of a closed group.
type reinit struct {
	state    *state
	identity mlscore.Identity // in the successor
	ref      []byte           // of its KeyPackage
}

// signer is an external sender.
type signer struct {
	identity mlscore.Identity
	public   []byte
}

// keep stores an object and returns its id.
func (s *Server) keep(o any) (uint32, error) {
	if len(s.objects) >= s.config.Objects {
		return 0, status.Errorf(codes.ResourceExhausted, "%d objects are kept: free some", len(s.objects))
	}
	s.last++
	s.objects[s.last] = o
	return s.last, nil
}

// find returns the object of a kind with an id.
func find[T any](s *Server, id uint32) (T, error) {
	o, ok := s.objects[id].(T)
	if !ok {
		return o, status.Errorf(codes.NotFound, "id %d is not that of a %T", id, o)
	}
	return o, nil
}

// newClient returns a client with a store of its own, since every actor of a script is a separate device.
func (s *Server) newClient() (*mlscore.Client, error) {
	return mlscore.NewClient(mlscore.Config{
		Auth:   mlscore.TrustBasic{},
		Store:  mlscore.NewMemoryStore(),
		Now:    time.Now,
		Intake: s.config.Intake,
	})
}

// newDevice is newClient with an identity.
func (s *Server) newDevice(suite uint32, name []byte) (*mlscore.Client, mlscore.Identity, error) {
	cs, err := suiteOf(suite)
	if err != nil {
		return nil, mlscore.Identity{}, err
	}
	client, err := s.newClient()
	if err != nil {
		return nil, mlscore.Identity{}, err
	}
	id, err := mlscore.NewIdentity(nil, cs, mlscore.BasicCredential(name))
	return client, id, err
}

// suiteOf checks that a number has 16 bits.
func suiteOf(suite uint32) (mlscore.CipherSuite, error) {
	if suite > 0xffff {
		return 0, status.Errorf(codes.InvalidArgument, "cipher suite %d has more than 16 bits", suite)
	}
	return mlscore.CipherSuite(suite), nil
}

func optionsFor(encryptHandshake bool) mlscore.GroupOptions {
	return mlscore.GroupOptions{PublicHandshakes: !encryptHandshake}
}

// enter stores the state of a group that was just joined.
func (s *Server) enter(client *mlscore.Client, g *mlscore.Group, options mlscore.GroupOptions) (uint32, error) {
	return s.keep(&state{client: client, group: g, options: options, refs: map[string][]byte{}})
}

// treeOf returns the ratchet tree that came with a message, if there is one.
func treeOf(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// Name implements MLSClient.
func (s *Server) Name(context.Context, *pb.NameRequest) (*pb.NameResponse, error) {
	return &pb.NameResponse{Name: s.config.Name}, nil
}

// SupportedCiphersuites implements MLSClient.
func (s *Server) SupportedCiphersuites(context.Context, *pb.SupportedCiphersuitesRequest) (*pb.SupportedCiphersuitesResponse, error) {
	list := make([]uint32, len(s.config.Suites))
	for i, cs := range s.config.Suites {
		list[i] = uint32(cs)
	}
	return &pb.SupportedCiphersuitesResponse{Ciphersuites: list}, nil
}

// Free implements MLSClient.
func (s *Server) Free(_ context.Context, r *pb.FreeRequest) (*pb.FreeResponse, error) {
	if _, err := find[*state](s, r.StateId); err != nil {
		return nil, err
	}
	delete(s.objects, r.StateId)
	return &pb.FreeResponse{}, nil
}
