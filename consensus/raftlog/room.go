package raftlog

import (
	"fmt"

	"github.com/mlsfed/mlsfed/internal/platform"
)

// checkRoom refuses entries when less than Config.MinFree is free, and other writes when less than a quarter of it
// is: terms, votes and records are small, and the removal of entries frees space. The check costs a few microseconds
// for each fsync. If the system does not report free space, every write is permitted.
func (l *Log) checkRoom(entries bool) error {
	least := l.cfg.MinFree
	if !entries {
		least /= 4
	}
	if least <= 0 {
		return nil
	}
	free, _, err := platform.Space(l.cfg.Dir)
	if err != nil {
		return nil
	}
	if free < uint64(least) {
		return fmt.Errorf("%w: %d bytes free in %s, %d must stay free", ErrNoSpace, free, l.cfg.Dir, least)
	}
	return nil
}
