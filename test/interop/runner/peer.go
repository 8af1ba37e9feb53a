package runner

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// Peer is an implementation under test.
type Peer struct {
	Address string
	Name    string   // the name that the peer reports
	Suites  []uint32 // the supported suites, ascending

	conn *grpc.ClientConn
	rpc  pb.MLSClientClient
}

// Connect connects to the server at an address, and asks for its name and suites.
func Connect(ctx context.Context, address string, timeout time.Duration) (*Peer, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	p := &Peer{Address: address, conn: conn, rpc: pb.NewMLSClientClient(conn)}
	if err := p.introduce(ctx, timeout); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return p, nil
}

func (p *Peer) introduce(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name, err := p.rpc.Name(ctx, &pb.NameRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	suites, err := p.rpc.SupportedCiphersuites(ctx, &pb.SupportedCiphersuitesRequest{})
	if err != nil {
		return err
	}
	p.Name, p.Suites = name.Name, suites.Ciphersuites
	slices.Sort(p.Suites)
	return nil
}

// Close ends the connection.
func (p *Peer) Close() error { return p.conn.Close() }

func (p *Peer) supports(suite uint32) bool { return slices.Contains(p.Suites, suite) }
