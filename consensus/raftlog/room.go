package raftlog

import (
	"fmt"
	"syscall"
)

// checkRoom refuses a write when less than Config.MinFree is free. It costs a
// few microseconds beside an fsync. Where the system cannot tell, it permits.
func (l *Log) checkRoom() error {
	if l.cfg.MinFree <= 0 {
		return nil
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(l.cfg.Dir, &s); err != nil {
		return nil
	}
	free := s.Bavail * uint64(s.Bsize)
	if free < uint64(l.cfg.MinFree) {
		return fmt.Errorf("%w: %d bytes free in %s, %d must stay free", ErrNoSpace, free, l.cfg.Dir, l.cfg.MinFree)
	}
	return nil
}
