package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The layout of keys: group<<40 | index, with indexes below 1<<39. The upper half of a group's range is for the
// store's own records.
const (
	groupShift = 40
	maxGroup   = 1<<24 - 1
	metaGroup  = maxGroup // the node's own area; not a group
	ownRange   = 1 << 39
	maxIndex   = ownRange - 1
	stateSlot  = ownRange // the state record
)

func entryKey(group uint32, index uint64) uint64 { return uint64(group)<<groupShift | index }
func stateKey(group uint32) uint64               { return uint64(group)<<groupShift | stateSlot }
func groupKeys(group uint32) keySpan {
	return keySpan{uint64(group) << groupShift, uint64(group)<<groupShift | (1<<groupShift - 1)}
}
func keyGroup(key uint64) uint32 { return uint32(key >> groupShift) }
func keyIndex(key uint64) uint64 { return key & (1<<groupShift - 1) }

// pair is a key and its record.
type pair struct {
	key uint64
	rec []byte
}

// keySpan is a closed range of keys.
type keySpan struct{ first, last uint64 }

// backend stores records under keys. One goroutine calls write and remove; any goroutine may call get, also while
// they run. An error that the disk is full satisfies noSpace and leaves the store usable; after any other error the
// store is not written to again.
type backend interface {
	// get returns a copy of the record, or errMissing.
	get(key uint64) ([]byte, error)
	// write makes all pairs durable together.
	write(pairs []pair) error
	// remove deletes all records within the span, durably and together.
	remove(span keySpan) error
	// copyTo makes a copy of the store in a folder, which openBackend opens. No write happens meanwhile.
	copyTo(dir string) error
	close() error
}

// visitor receives the keys that a backend holds at its opening, ascending: at least one of each group, and all of
// the node's own area. It returns the next key of interest: the backend may skip the keys before it.
type visitor func(key uint64) (next uint64)

// Names of the backends, for Config.Backend.
const (
	BackendBolt   = "bolt"
	BackendPebble = "pebble"
)

const (
	boltFile     = "raft.bolt"
	pebbleFolder = "raft.pebble"
)

// openBackend opens the backend that cfg names. A folder with the other backend's data is refused: with an empty log
// a node would have forgotten its votes.
func openBackend(cfg Config, visit visitor) (backend, error) {
	if cfg.Disk != nil {
		return cfg.Disk.open(visit)
	}
	if err := makeFolder(vfs.Default, cfg.Dir); err != nil {
		return nil, err
	}
	path, err := cfg.path()
	if err != nil {
		return nil, err
	}
	if cfg.Backend == BackendPebble {
		return openPebble(path, cfg, visit)
	}
	return openBolt(path, cfg, visit)
}

// path returns the backend's file or folder, or an error if Dir holds another backend's data.
func (c *Config) path() (string, error) {
	mine, other := boltFile, pebbleFolder
	if c.Backend == BackendPebble {
		mine, other = other, mine
	}
	if _, err := os.Stat(filepath.Join(c.Dir, other)); err == nil {
		return "", fmt.Errorf("raftlog: folder %s holds %s of another backend than %q: set the backend back, or empty the folder and let the replicas be fetched again",
			c.Dir, other, c.Backend)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("raftlog: open: %w", err)
	}
	return filepath.Join(c.Dir, mine), nil
}

// makeFolder creates dir and its missing parents, durably.
func makeFolder(files vfs.FS, dir string) error {
	var missing []string
	for d := dir; ; d = files.PathDir(d) {
		if _, err := files.Stat(d); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || d == files.PathDir(d) {
			return fmt.Errorf("raftlog: make folder: %w", err)
		}
		missing = append(missing, d)
	}
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("raftlog: make folder: %w", err)
	}
	for _, d := range missing {
		if err := syncFolder(files, files.PathDir(d)); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(files vfs.FS, dir string) error {
	d, err := files.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("raftlog: sync folder: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
