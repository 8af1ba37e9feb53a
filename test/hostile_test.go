package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// evil is mallory.example's modified node: it has the genuine identity, and nothing else of the software.
type evil struct {
	t *testing.T
	f *federation.Federation

	mu      sync.Mutex     // guards streams
	streams func(net.Conn) // serves ordering streams that other nodes open; nil: their data is discarded
}

// order serves a stream that another node has opened.
func (e *evil) order(_ context.Context, _ wire.NodeID, conn net.Conn) error {
	e.mu.Lock()
	serve := e.streams
	e.mu.Unlock()
	if serve != nil {
		serve(conn)
		return nil
	}
	_, err := io.Copy(io.Discard, conn)
	return err
}

// newEvil stops an organization's node and takes its place.
func newEvil(t *testing.T, c *cluster.Cluster, d wire.Domain) *evil { return newEvilWith(t, c, d, nil) }

// newEvilWith is newEvil with answers to other organizations' calls.
func newEvilWith(t *testing.T, c *cluster.Cluster, d wire.Domain, handlers map[wire.Method]federation.Handler) *evil {
	t.Helper()
	if err := c.Stop(d); err != nil {
		t.Fatal(err)
	}
	cfg := c.Config(d)
	id, err := organization.LoadIdentity(cfg.Identity)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := organization.OpenPeers(filepath.Join(cfg.Identity, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	e := &evil{t: t}
	e.f, err = federation.New(federation.Config{Identity: id, Peers: peers, Listen: cfg.Federation.Listen, Advertise: cfg.Federation.Advertise, Dir: t.TempDir(),
		Handlers: handlers, Ordering: e.order})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.f.Run(ctx) }()
	<-e.f.Ready()
	t.Cleanup(func() { cancel(); <-done })
	return e
}

// xframe returns a frame of the ordering streams.
func xframe(kind byte, number, generation uint64, id wire.ConversationID, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(1+8+8+1+len(id)+len(payload)))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, generation)
	b = append(b, byte(len(id)))
	b = append(b, id...)
	return append(b, payload...)
}

// frame sends one frame of ordering and returns the payload of the answer.
func (e *evil) frame(to wire.NodeID, kind byte, generation uint64, id wire.ConversationID, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := e.f.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(append([]byte("mlsfed consensus 1 F"), xframe(kind, 77, generation, id, payload)...)); err != nil {
		return nil, err
	}
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return nil, err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(conn, body); err != nil {
			return nil, err
		}
		if body[0] != 5 || binary.BigEndian.Uint64(body[1:]) != 77 {
			continue
		}
		p := body[18+int(body[17]):]
		if p[0] == 0 {
			return p[1:], nil
		}
		we := new(wire.Error)
		if err := wire.Decode(p[1:], wire.MaxError, we); err != nil {
			return nil, err
		}
		return nil, we
	}
}

// The following types are the content of frames and streams, as package consensus encodes them.

type xinvite struct {
	Generation uint64        `cbor:"1,keyasint"`
	Members    []wire.NodeID `cbor:"2,keyasint"`
}

// invite asks a node to hold a replica.
func (e *evil) invite(to wire.NodeID, id wire.ConversationID, generation uint64, members ...wire.NodeID) error {
	b, err := wire.Encode(&xinvite{generation, members})
	if err != nil {
		return err
	}
	_, err = e.frame(to, 10, generation, id, b)
	return err
}

type xspan struct {
	_            struct{} `cbor:",toarray"`
	Organization wire.Domain
	Since, Until wire.SequenceNumber
}

type xheader struct {
	ID       wire.ConversationID `cbor:"1,keyasint"`
	Created  bool                `cbor:"2,keyasint"`
	Closed   bool                `cbor:"3,keyasint"`
	Policy   wire.Policy         `cbor:"4,keyasint"`
	Sequence wire.SequenceNumber `cbor:"5,keyasint"`
	Order    wire.Hash           `cbor:"6,keyasint"`
	Now      wire.Time           `cbor:"7,keyasint"`
	Spans    []xspan             `cbor:"8,keyasint"`
	Replicas *wire.Replicas      `cbor:"9,keyasint,omitempty"`
	Since    wire.SequenceNumber `cbor:"10,keyasint"`
	Heads    uint32              `cbor:"11,keyasint"`
	Recent   uint32              `cbor:"12,keyasint"`
	Answers  uint32              `cbor:"13,keyasint"`
}

type xhead struct {
	Sequence  wire.SequenceNumber `cbor:"1,keyasint"`
	Epoch     wire.Epoch          `cbor:"2,keyasint"`
	Key       wire.SubmissionKey  `cbor:"3,keyasint"`
	Delivery  []wire.Address      `cbor:"4,keyasint"`
	Change    wire.DeliveryChange `cbor:"5,keyasint"`
	Used      wire.Time           `cbor:"10,keyasint"`
	Proposals uint32              `cbor:"11,keyasint"`
}

type xsnap struct {
	Conversation  wire.ConversationID `cbor:"1,keyasint"`
	Generation    uint64              `cbor:"2,keyasint"`
	Term          uint64              `cbor:"3,keyasint"`
	Index         uint64              `cbor:"4,keyasint"`
	IndexTerm     uint64              `cbor:"5,keyasint"`
	Configuration []byte              `cbor:"6,keyasint"`
	ConfigIndex   uint64              `cbor:"7,keyasint"`
	Size          int64               `cbor:"8,keyasint"`
}

// state returns a state without kept entries, with a valid checksum.
func (e *evil) state(h xheader, heads ...xhead) []byte {
	var out bytes.Buffer
	out.WriteString("mlsfed state \x01")
	rec := func(v any) {
		b, err := wire.Encode(v)
		if err != nil {
			e.t.Fatal(err)
		}
		out.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		out.Write(b)
	}
	h.Heads = uint32(len(heads))
	rec(&h)
	for i := range heads {
		rec(&heads[i])
	}
	sum := sha256.Sum256(out.Bytes())
	out.Write(sum[:])
	return out.Bytes()
}

// plant sends a state as a snapshot.
func (e *evil) plant(to wire.NodeID, id wire.ConversationID, term, index uint64, voters, learners []wire.NodeID, h xheader, heads ...xhead) error {
	state := e.state(h, heads...)
	var cfg raft.Configuration
	for _, v := range voters {
		cfg.Servers = append(cfg.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	for _, v := range learners {
		cfg.Servers = append(cfg.Servers, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	req, err := wire.Encode(&xsnap{Conversation: id, Term: term, Index: index, IndexTerm: term, Configuration: raft.EncodeConfiguration(cfg), ConfigIndex: index, Size: int64(len(state))})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := e.f.Dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := append([]byte("mlsfed consensus 1 S"), binary.BigEndian.AppendUint32(nil, uint32(len(req)))...)
	if _, err := conn.Write(append(append(b, req...), state...)); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		return err
	}
	if len(answer) > 5 && answer[4] == 1 {
		we := new(wire.Error)
		_ = wire.Decode(answer[5:], wire.MaxError, we)
		return we
	}
	return nil
}
