package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Verify reports whether the log in cfg.Dir can be opened with cfg.Backend, and changes nothing. A folder without a log
// is no error: Open makes one. It does not notice that another process holds the log.
func Verify(cfg Config) error {
	if err := cfg.setDefaults(); err != nil {
		return err
	}
	path, err := cfg.path()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("raftlog: %w", err)
	}
	if cfg.Backend == BackendBolt {
		_, err := walkBolt(path, func(key uint64) uint64 { return groupKeys(keyGroup(key)).last + 1 })
		return err
	}
	if err := checkWAL(vfs.Default, path); err != nil {
		return err
	}
	return guarded(func() error {
		db, err := pebble.Open(path, &pebble.Options{ReadOnly: true, ErrorIfNotExists: true, Logger: pebbleLog{}, FormatMajorVersion: pebble.FormatNewest})
		if err != nil {
			return fmt.Errorf("raftlog: open %s: %w", path, err)
		}
		return db.Close()
	})
}
