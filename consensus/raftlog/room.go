package raftlog

import (
	"fmt"
	"syscall"
)

// checkRoom refuses entries when less than Config.MinFree is free, and other
// writes when less than a quarter of it is: terms, votes and records are small,
// and what removes entries makes room. It costs a few microseconds for each
// fsync. Where the system reports no free space, every write is permitted.
func (l *Log) checkRoom(entries bool) error {
	least := l.cfg.MinFree
	if !entries {
		least /= 4
	}
	if least <= 0 {
		return nil
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(l.cfg.Dir, &s); err != nil {
		return nil
	}
	free := s.Bavail * uint64(s.Bsize)
	if free < uint64(least) {
		return fmt.Errorf("%w: %d bytes free in %s, %d must stay free", ErrNoSpace, free, l.cfg.Dir, least)
	}
	return nil
}
