package test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// contradictory returns states of a conversation that no state machine can have.
func contradictory(id wire.ConversationID) []xheader {
	private := wire.Policy{Handshakes: wire.HandshakesPrivate}
	return []xheader{
		{ID: id, Created: true, Policy: private, Sequence: math.MaxUint64, Spans: []xspan{{Organization: "a.example", Since: 1}}},
		{ID: id, Created: true, Policy: private, Sequence: 5},
		{ID: id, Created: true, Policy: private, Sequence: 5, Spans: []xspan{{Organization: "a.example"}}},
	}
}

var lonelyHead = xhead{Sequence: 1, Key: wire.SubmissionKey{1}, Delivery: []wire.Address{{Organization: "a.example", Token: wire.Token{1}}}}

// poisonDisk writes a state into the folder of a stopped node as an earlier build would have stored it: as the newest
// snapshot of a group of the log.
func poisonDisk(e *evil, dir string, group uint32, voter wire.NodeID, h xheader, heads ...xhead) {
	configuration := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(voter), Address: raft.ServerAddress(voter)}}})
	head, err := wire.Encode(&struct {
		Index         uint64 `cbor:"1,keyasint"`
		Term          uint64 `cbor:"2,keyasint"`
		Configuration []byte `cbor:"3,keyasint"`
		ConfigIndex   uint64 `cbor:"4,keyasint"`
	}{5, 5, configuration, 5})
	if err != nil {
		e.t.Fatal(err)
	}
	out := binary.BigEndian.AppendUint32([]byte("mlsfed snapshot \x01"), uint32(len(head)))
	out = append(out, head...)
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(head, crc32.MakeTable(crc32.Castagnoli)))
	out = append(out, e.state(h, heads...)...)
	if err := os.WriteFile(filepath.Join(dir, "snapshots", fmt.Sprintf("%08x-%016x-%016x.snap", group, 5, 5)), out, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// TestLongHostileStates checks contradictory states from an organization without a common conversation. The receiving
// node refuses them and continues to serve. If an earlier build has stored such a state, the node starts, shows that
// conversation in quarantine, keeps it there across a restart, and continues to serve.
func TestLongHostileStates(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("runs real nodes: set MLSFED_LONG to short or full")
	}
	c := newClusterIn(t, t.TempDir(), cluster.Options{}, "a.example", "mallory.example")
	alice := device(t, c, "a.example", "alice", "phone")
	ctx := t.Context()
	lunch, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	ev := newEvil(t, c, "mallory.example")
	const id = wire.ConversationID("made up by mallory")
	if err := cluster.Await(ctx, alice, func() (bool, error) {
		return ev.invite("n1.a.example", id, 0, "n1.mallory.example") == nil, nil // when the link is up
	}); err != nil {
		t.Fatal(err)
	}
	for i, h := range contradictory(id) {
		if err := ev.plant("n1.a.example", id, 5, uint64(5+i), []wire.NodeID{"n1.mallory.example"}, nil, h, lonelyHead); err == nil {
			t.Errorf("state %d is taken", i)
		}
	}
	say := func(text string) {
		t.Helper()
		if err := alice.Rename(ctx, lunch, text); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Await(ctx, alice, func() (bool, error) {
			v, err := alice.Conversation(ctx, lunch)
			return err == nil && v.Rules.Name == text, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	say("Dinner")
	if err := c.Stop("a.example"); err != nil {
		t.Fatal(err)
	}
	poisonDisk(ev, filepath.Join(c.Config("a.example").Data, "order"), 1, "n1.mallory.example", contradictory(id)[0], lonelyHead)
	for _, name := range []string{"Supper", "Breakfast"} {
		if err := c.Start(ctx, "a.example"); err != nil {
			t.Fatal(err)
		}
		say(name)
		var found *node.Conversation
		for end := time.Now().Add(20 * time.Second); found == nil || found.Quarantine == nil; {
			time.Sleep(10 * time.Millisecond)
			s := c.Node("a.example").Status()
			for i := range s.Conversations {
				if s.Conversations[i].ID == id.String() {
					found = &s.Conversations[i]
				}
			}
			if found == nil || time.Now().After(end) {
				t.Fatalf("not in quarantine: %+v", found)
			}
		}
		if found.Role != "quarantine" || found.Quarantine.Reason != "invalid_state" {
			t.Fatalf("status says %+v, %+v", found, found.Quarantine)
		}
		if err := c.Stop("a.example"); err != nil {
			t.Fatal(err)
		}
	}
}
