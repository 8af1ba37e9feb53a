package core

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/stats"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
)

// load measures the opening of a group from a store in memory, in the state after some commits.
func (m *measures) load() error {
	const times, longest = 15, 3000
	ms, err := m.clock.repeated(times, longest, func() error {
		g, err := m.c.clients[1].LoadGroup(m.c.b.GroupID())
		runtime.KeepAlive(g)
		return err
	})
	if err != nil {
		return err
	}
	return m.row("load", ms, "ms", 0)
}

// storedCommits measures an empty commit by the first member whose state is in a file: created, merged, and on the
// disk. Bytes are those that the process passes to the operating system, where they are known.
func (m *measures) storedCommits() error {
	m.table.Progress("%d members: commits with a store in a file", m.n)
	dir, err := os.MkdirTemp("", "mlsfed-bench-core-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	g, store, err := m.c.storeFirst(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	const before, times = 3, 15 // the first commits rearrange the file
	var list []float64
	start := int64(0)
	for i := range before + times {
		if i == before {
			start = harness.BytesWritten()
		}
		ms, err := m.clock.timed(func() error {
			c, err := g.Commit(mlscore.CommitOptions{})
			if err != nil {
				return err
			}
			return g.Merge(c.Staged)
		})
		if err != nil {
			return errors.Join(err, store.Close())
		}
		list = append(list, ms)
	}
	written := harness.BytesWritten() - start
	if err := store.Close(); err != nil {
		return err
	}
	ms := stats.Median(list[before:])
	r := harness.Row{Name: "commit-stored", Suite: uint16(m.c.suite), N: m.n, Value: ms, Unit: "ms", Against: "commit", Ratio: ms / m.commit}
	if err := m.emit(r); err != nil || written <= 0 {
		return err
	}
	return m.row("commit-stored-written", float64(written)/times/1024, "KiB", 0)
}

// storeFirst copies the state of the first member to a file and opens the group there.
func (c *coreGroup) storeFirst(path string) (*mlscore.Group, *boltstore.Store, error) {
	key := make([]byte, boltstore.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, nil, err
	}
	store, err := boltstore.Open(path, mlscore.NewSecret(key), boltstore.Options{})
	if err != nil {
		return nil, nil, err
	}
	g, err := func() (*mlscore.Group, error) {
		var b mlscore.Batch
		err := c.stores[0].Scan(nil, func(key, value []byte) error {
			b.Writes = append(b.Writes, mlscore.Write{Key: key, Value: value})
			return nil
		})
		if err != nil {
			return nil, err
		}
		if err := store.Apply(b); err != nil {
			return nil, err
		}
		client, err := mlscore.NewClient(coreConfig(c.suite, store))
		if err != nil {
			return nil, err
		}
		return client.LoadGroup(c.a.GroupID())
	}()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("copy the group to %s: %w", path, err), store.Close())
	}
	return g, store, nil
}
