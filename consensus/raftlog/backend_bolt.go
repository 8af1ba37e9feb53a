package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// boltBackend keeps records as the data of raft-boltdb's entries, whose index
// is our key. The store's own FirstIndex, LastIndex and stable keys are not used.
type boltBackend struct {
	store *raftboltdb.BoltStore
	path  string
	torn  bool // one of the two meta pages was damaged at opening
}

// warning describes damage found at opening that may have cost the last transaction.
func (b *boltBackend) warning() string {
	if !b.torn {
		return ""
	}
	return "one of the two meta pages was not whole: the transaction before it is in force, the last one is lost if it had been finished"
}

// boltLockWait is the time to wait for another process to release the file.
const boltLockWait = 2 * time.Second

func openBolt(path string, cfg Config, visit visitor) (backend, error) {
	// The walk comes first: if a page is damaged, bbolt panics in a goroutine of its own while it looks for free
	// pages, and no caller can recover from that.
	torn, err := walkBolt(path, visit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	opts := *bbolt.DefaultOptions
	opts.Timeout = boltLockWait
	opts.NoFreelistSync = true
	opts.FreelistType = bbolt.FreelistMapType
	opts.NoGrowSync = cfg.noSync
	opts.NoStatistics = true
	var store *raftboltdb.BoltStore
	err = guarded(func() (err error) {
		store, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &opts, NoSync: cfg.noSync})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("raftlog: open %s: another process holds the file: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("raftlog: open %s: %w", path, err)
	}
	if !cfg.noSync {
		if err := syncFolder(vfs.Default, filepath.Dir(path)); err != nil {
			return nil, errors.Join(err, store.Close())
		}
	}
	return &boltBackend{store, path, torn}, nil
}

func (b *boltBackend) get(key uint64) (rec []byte, err error) {
	err = guarded(func() error {
		var outer raft.Log
		err := b.store.GetLog(key, &outer)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			return errMissing
		case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
			return ErrClosed
		case err != nil:
			return &damagedRead{fmt.Sprintf("envelope cannot be decoded: %v", err)}
		}
		rec = outer.Data
		return nil
	})
	return rec, err
}

func (b *boltBackend) write(pairs []pair) error {
	logs := make([]*raft.Log, len(pairs))
	outer := make([]raft.Log, len(pairs))
	for i, p := range pairs {
		outer[i] = raft.Log{Index: p.key, Data: p.rec}
		logs[i] = &outer[i]
	}
	return b.wrap("write", guarded(func() error { return b.store.StoreLogs(logs) }))
}

func (b *boltBackend) remove(span keySpan) error {
	return b.wrap("remove", guarded(func() error { return b.store.DeleteRange(span.first, span.last) }))
}

func (b *boltBackend) close() error {
	return guarded(b.store.Close)
}

// wrap recovers the error number that bbolt prints and drops when it cannot extend the file. That error occurs before
// anything is written.
func (b *boltBackend) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if !noSpace(err) && strings.HasPrefix(err.Error(), "file resize error") {
		for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
			if strings.HasSuffix(err.Error(), no.Error()) {
				err = fmt.Errorf("%w: %w", no, err)
			}
		}
	}
	return fmt.Errorf("raftlog: %s in %s: %w", op, b.path, err)
}
