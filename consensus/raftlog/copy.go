package raftlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
)

// Copy makes a copy of the log, as it is between two transactions, in an empty folder, for a backup. Writes wait
// while the Bolt file is copied; Pebble's files are linked. A replica that is started from a copy has lost everything
// that it acknowledged since, and must not vote.
func (l *Log) Copy(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("raftlog: copy: %w", err)
	}
	if err := l.do(&request{op: opCopy, dir: dir}); err != nil {
		return fmt.Errorf("raftlog: copy: %w", err)
	}
	return nil
}

func (b *boltBackend) copyTo(dir string) error {
	in, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, boltFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

func (p *pebbleBackend) copyTo(dir string) error {
	return p.db.Checkpoint(filepath.Join(dir, pebbleFolder), pebble.WithFlushedWAL())
}

func (b *diskBackend) copyTo(string) error { return errors.ErrUnsupported }
