package consensus

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// heldReader blocks until it is released, and then ends.
type heldReader struct{ reading, release chan struct{} }

// Read implements io.Reader.
func (r heldReader) Read([]byte) (int, error) {
	select {
	case r.reading <- struct{}{}:
	default:
	}
	<-r.release
	return 0, io.EOF
}

// TestSnapshotsAtOnceAreBounded checks that an organization cannot fill the memory with snapshots that it sends at once,
// each for another conversation. Other organizations can send theirs, and a single large one is taken.
func TestSnapshotsAtOnceAreBounded(t *testing.T) {
	simulate(t, func(cfg *Config) { cfg.Limits.Awake = 4 << 20 }, three, func(c *cluster) {
		ids := []wire.ConversationID{conv, "conversation-two"}
		for _, id := range ids {
			c.found(nodeA, id, wire.Policy{}, "a.example", "b.example", "c.example")
			c.settled(id, 3, 0)
			if err := c.nodes[nodeB].m.Wake(c.context(20*time.Second), id); err != nil {
				t.Fatal(err)
			}
		}
		m := c.nodes[nodeB].m
		send := func(from wire.NodeID, id wire.ConversationID, size int64, r io.Reader) error {
			cv, err := m.find(id)
			if err != nil {
				t.Fatal(err)
			}
			term := m.termOf(cv)
			_, err = m.installSnapshot(context.Background(), from, &snapshotRequest{Conversation: id, Term: term, Index: 1 << 20, IndexTerm: term, Size: size}, r)
			return err
		}
		r := heldReader{make(chan struct{}, 1), make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- send(nodeA, conv, 3<<20, r) }()
		<-r.reading
		empty := heldReader{make(chan struct{}, 1), make(chan struct{})}
		close(empty.release)
		if err := send(nodeA, ids[1], 1, empty); wire.CodeOf(err) != wire.Busy {
			t.Errorf("a second one of the same organization: %v", err)
		}
		if err := send(nodeC, ids[1], 1, empty); wire.CodeOf(err) != wire.Malformed {
			t.Errorf("one of another organization is not read: %v", err)
		}
		close(r.release)
		if err := <-done; wire.CodeOf(err) != wire.Malformed {
			t.Errorf("the first one is not read: %v", err)
		}
		if err := send(nodeA, ids[1], 1, empty); wire.CodeOf(err) != wire.Malformed {
			t.Errorf("afterwards: %v", err)
		}
	})
}
