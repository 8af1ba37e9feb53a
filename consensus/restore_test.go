package consensus

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRestoredNodeVotesForNothingItForgot: a node whose disk comes from a backup gives up its replicas,
// is taken out of the configuration and invited anew. A conversation of its own alone goes on.
func TestRestoredNodeVotesForNothingItForgot(t *testing.T) {
	const alone wire.ConversationID = "conversation-alone"
	restored := false
	nodes, start := tcpCluster(t, raftlog.BackendBolt, func(cfg *Config) { cfg.Restored = restored && cfg.Node == nodeC }, three...)
	b := &tcpBench{t: t, nodes: nodes}
	p := b.found(conv, "a.example", "b.example", "c.example")
	threeVoters := func() bool {
		s, err := nodes[nodeA].m.Status(conv)
		return err == nil && len(s.Voters) == 3 && slices.Contains(s.Voters, nodeC)
	}
	b.wait("three voters", threeVoters)
	own := b.foundAt(nodeC, alone, "c.example")
	p = b.commit(nodeA, p, 200)
	dir := nodes[nodeC].m.cfg.Dir
	backup := filepath.Join(t.TempDir(), "backup")
	if err := nodes[nodeC].m.cfg.Log.Copy(filepath.Join(backup, "log")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p = b.commit(nodeA, p, 200)
	}
	nodes[nodeC].stop()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	restored = true
	start(nodeC)
	if c, err := nodes[nodeC].m.find(conv); err != nil || !c.out.Load() && nodes[nodeC].m.Counts().Awake == 0 {
		t.Fatalf("the restored replica is still in service (%v)", err)
	}
	b.commit(nodeC, own, 100)
	p = b.commit(nodeB, p, 200)
	b.wait("it is a voter again, with everything", func() bool {
		s, err := nodes[nodeC].m.Status(conv)
		return threeVoters() && err == nil && s.Sequence >= p.Parent
	})
	want, err := nodes[nodeA].m.Status(conv)
	got, err2 := nodes[nodeC].m.Status(conv)
	if err != nil || err2 != nil || want.Order != got.Order && want.Sequence == got.Sequence {
		t.Fatalf("%v at %d here, %v at %d there (%v, %v)", got.Order, got.Sequence, want.Order, want.Sequence, err, err2)
	}
}
