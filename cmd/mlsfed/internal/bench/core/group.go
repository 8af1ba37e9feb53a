package core

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/mlsbench"
)

// coreGroup is a fabricated group with its two real members and their stores.
type coreGroup struct {
	suite   mlscore.CipherSuite
	n       int
	stores  [2]*countingStore
	clients [2]*mlscore.Client
	a, b    *mlscore.Group
}

// countingStore notes how much the last batch wrote.
type countingStore struct {
	*mlscore.MemoryStore
	written int
}

// Apply implements mlscore.Store.
func (s *countingStore) Apply(b mlscore.Batch) error {
	s.written = 0
	for _, w := range b.Writes {
		s.written += len(w.Key) + len(w.Value)
	}
	return s.MemoryStore.Apply(b)
}

// coreName returns a name of the same length for every real member, so that a commit's size depends only on the tree.
func coreName(i int) string { return fmt.Sprintf("user-%06d", i) }

// coreConfig returns the configuration of a client that announces only what the group needs.
func coreConfig(suite mlscore.CipherSuite, store mlscore.Store) mlscore.Config {
	return mlscore.Config{
		Auth:         mlscore.TrustBasic{},
		Store:        store,
		Now:          time.Now,
		CipherSuites: []mlscore.CipherSuite{suite},
		GREASE:       mlscore.GREASENowhere,
	}
}

// newCoreClient returns a client with a store in memory.
func newCoreClient(suite mlscore.CipherSuite, name string) (*mlscore.Client, *countingStore, mlscore.Identity, error) {
	store := &countingStore{MemoryStore: mlscore.NewMemoryStore()}
	client, err := mlscore.NewClient(coreConfig(suite, store))
	if err != nil {
		return nil, nil, mlscore.Identity{}, err
	}
	key, _, err := mlscore.GenerateSignatureKey(nil, suite)
	return client, store, mlscore.Identity{CipherSuite: suite, Credential: mlscore.BasicCredential([]byte(name)), SignatureKey: key}, err
}

func newCoreGroup(suite mlscore.CipherSuite, n int) (*coreGroup, error) {
	c := &coreGroup{suite: suite, n: n}
	var ids [2]mlscore.Identity
	for k, name := range []string{coreName(0), coreName(n - 1)} {
		var err error
		if c.clients[k], c.stores[k], ids[k], err = newCoreClient(suite, name); err != nil {
			return nil, err
		}
	}
	var err error
	c.a, c.b, err = mlsbench.Fabricate(n, c.clients, ids, make([]byte, 16), mlscore.GroupOptions{PublicHandshakes: true})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// pathLength returns the number of parents above the first leaf.
func (c *coreGroup) pathLength() int { return bits.Len(uint(c.n - 1)) }

// commit creates a commit by the first member, and merges it there.
func (c *coreGroup) commit(proposals ...mlscore.Proposal) (*mlscore.Commit, error) {
	commit, err := c.a.Commit(mlscore.CommitOptions{Proposals: proposals})
	if err != nil {
		return nil, err
	}
	return commit, c.a.Merge(commit.Staged)
}

// follow processes a commit at the last member, and merges it there.
func (c *coreGroup) follow(commit *mlscore.Commit) error {
	r, err := c.b.Process(commit.Message)
	if err != nil {
		return err
	}
	return c.b.Merge(r.Commit)
}
