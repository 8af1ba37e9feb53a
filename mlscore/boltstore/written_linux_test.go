package boltstore

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/mlsbench"
)

// bytesWritten returns the number of bytes that this process has passed to the operating system.
func bytesWritten(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skipf("NOT RUN: the bytes that a process writes are not counted here: %v", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "wchar: %d", &n); err == nil {
			return n
		}
	}
	t.Skip("/proc/self/io does not have the number of written bytes")
	return 0
}

// TestLongStoredCommit checks the bytes that an empty commit and its merge write to the file, all folds included. They
// grow with the path of the committer, and not with the tree.
func TestLongStoredCommit(t *testing.T) {
	members := map[string]int{"": 1000, "short": 10_000, "full": 100_000}[os.Getenv("MLSFED_LONG")]
	for _, public := range []bool{true, false} {
		t.Run(fmt.Sprintf("public=%v", public), func(t *testing.T) {
			storedCommits(t, members, mlscore.GroupOptions{PublicHandshakes: public})
		})
	}
}

func storedCommits(t *testing.T, members int, opts mlscore.GroupOptions) {
	const commits, most = 60, 48 << 10 // bytes for each commit
	config := func(store mlscore.Store) mlscore.Config {
		return mlscore.Config{Auth: mlscore.TrustBasic{}, Store: store, Now: time.Now}
	}
	var clients [2]*mlscore.Client
	var ids [2]mlscore.Identity
	var stores [2]*mlscore.MemoryStore
	for i := range clients {
		stores[i] = mlscore.NewMemoryStore()
		var err error
		if clients[i], err = mlscore.NewClient(config(stores[i])); err != nil {
			t.Fatal(err)
		}
		key, _, err := mlscore.GenerateSignatureKey(nil, mlscore.MLS128X25519AES128Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = mlscore.Identity{CipherSuite: mlscore.MLS128X25519AES128Ed25519, Credential: mlscore.BasicCredential(fmt.Appendf(nil, "user %d", i)), SignatureKey: key}
	}
	first, _, err := mlsbench.Fabricate(members, clients, ids, []byte("large"), opts)
	if err != nil {
		t.Fatal(err)
	}
	store := openTest(t, newPath(t), Options{})
	defer mustClose(t, store)
	var b mlscore.Batch
	err = stores[0].Scan(nil, func(key, value []byte) error {
		b.Writes = append(b.Writes, mlscore.Write{Key: key, Value: value})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, store, b.Writes...)
	client, err := mlscore.NewClient(config(store))
	if err != nil {
		t.Fatal(err)
	}
	g, err := client.LoadGroup(first.GroupID())
	if err != nil {
		t.Fatal(err)
	}
	before, generation := bytesWritten(t), store.journal.generation
	for range commits {
		c, err := g.Commit(mlscore.CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
	}
	each := (bytesWritten(t) - before) / commits
	t.Logf("%d members: %d bytes for each commit, %d folds", members, each, store.journal.generation-generation)
	if each > most || store.journal.generation == generation {
		t.Errorf("%d bytes for each commit, at most %d; %d folds, at least 1", each, most, store.journal.generation-generation)
	}
}
