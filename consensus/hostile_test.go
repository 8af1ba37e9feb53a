package consensus

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// The tools of a hostile peer send everything explicitly over the links of an admitted node.

const nodeM wire.NodeID = "n1.mallory.example"

// xHeader is the header of a state as package machine writes it, for states that no machine produces.
type xHeader struct {
	ID       wire.ConversationID `cbor:"1,keyasint"`
	Created  bool                `cbor:"2,keyasint"`
	Closed   bool                `cbor:"3,keyasint"`
	Policy   wire.Policy         `cbor:"4,keyasint"`
	Sequence wire.SequenceNumber `cbor:"5,keyasint"`
	Order    wire.Hash           `cbor:"6,keyasint"`
	Now      wire.Time           `cbor:"7,keyasint"`
	Spans    []machine.Span      `cbor:"8,keyasint"`
	Replicas *wire.Replicas      `cbor:"9,keyasint,omitempty"`
	Since    wire.SequenceNumber `cbor:"10,keyasint"`
	Heads    uint32              `cbor:"11,keyasint"`
	Recent   uint32              `cbor:"12,keyasint"`
	Answers  uint32              `cbor:"13,keyasint"`
}

// xHead is a head in such a state.
type xHead struct {
	Sequence  wire.SequenceNumber `cbor:"1,keyasint"`
	Epoch     wire.Epoch          `cbor:"2,keyasint"`
	Key       wire.SubmissionKey  `cbor:"3,keyasint"`
	Delivery  []wire.Address      `cbor:"4,keyasint"`
	Change    wire.DeliveryChange `cbor:"5,keyasint"`
	Public    []byte              `cbor:"6,keyasint,omitempty"`
	Info      *wire.Payload       `cbor:"7,keyasint,omitempty"`
	Tree      *wire.Payload       `cbor:"8,keyasint,omitempty"`
	Used      wire.Time           `cbor:"10,keyasint"`
	Proposals uint32              `cbor:"11,keyasint"`
}

// forgeState makes a state without kept entries and with a valid checksum.
func forgeState(t testing.TB, h xHeader, heads ...xHead) []byte {
	var out bytes.Buffer
	out.WriteString("mlsfed state \x01")
	rec := func(v any) {
		b, err := wire.Encode(v)
		if err != nil {
			t.Fatal(err)
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

// plant opens a snapshot stream to a victim, as an admitted node can, and installs a state.
func plant(t testing.TB, c *cluster, from, to wire.NodeID, id wire.ConversationID, gen, term, index uint64, voters []wire.NodeID, state []byte) error {
	var cfg raft.Configuration
	for _, v := range voters {
		cfg.Servers = append(cfg.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	req := &snapshotRequest{Conversation: id, Generation: gen, Term: term, Index: index, IndexTerm: term, Configuration: raft.EncodeConfiguration(cfg), ConfigIndex: index, Size: int64(len(state))}
	b, err := wire.Encode(req)
	if err != nil {
		return err
	}
	conn, err := c.nodes[from].m.mesh.open(c.context(10*time.Second), to, streamSnapshot)
	if err != nil {
		return err
	}
	defer conn.Close()
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	_, err = exchangeSnapshot(conn, io.MultiReader(bytes.NewReader(head), bytes.NewReader(state)))
	return err
}

// inviteAs makes an admitted node invite another one to any conversation, with any members.
func inviteAs(t testing.TB, c *cluster, from, to wire.NodeID, id wire.ConversationID, gen uint64, members ...wire.NodeID) error {
	payload, err := wire.Encode(&invitation{Generation: gen, Members: members})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.nodes[from].m.mesh.ask(c.context(10*time.Second), to, &frame{kind: kindInvite, generation: gen, conversation: id, payload: payload})
	return err
}

// appendAs sends Raft entries to a node as their leader would.
func appendAs(t testing.TB, c *cluster, from, to wire.NodeID, id wire.ConversationID, a *raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, error) {
	b, err := c.nodes[from].m.mesh.ask(c.context(10*time.Second), to, &frame{kind: kindAppend, conversation: id, payload: encodeAppend(a)})
	if err != nil {
		return nil, err
	}
	return decodeAppendReply(b)
}
