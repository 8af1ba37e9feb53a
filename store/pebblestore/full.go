package pebblestore

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/internal/quota"
)

// FullDisk keeps the shared database alive while the disk is full. Pebble ends the process when its
// write-ahead log finds no room. Its writes wait for room instead; nobody is answered meanwhile. Requests
// that would write are refused before they get there, since the reserve is used up by then.
type FullDisk struct {
	disk quota.Disk
	note func(full bool) // hears when a write begins to wait and when it goes on

	serving atomic.Bool // before it, and after stop, a full disk is an error
	waits   atomic.Int64
	stopped chan struct{}
	once    sync.Once
}

// enoughRoom is the free space, in bytes, with which waiting writes go on; the reserve where that is less.
const enoughRoom = 16 << 20

// roomPoll is how often a waiting write looks for room.
const roomPoll = 100 * time.Millisecond

// NewFullDisk makes one that looks for room on a disk.
func NewFullDisk(disk quota.Disk) *FullDisk {
	return &FullDisk{disk: disk, note: func(bool) {}, stopped: make(chan struct{})}
}

// wrap returns a file system whose writes wait while the disk is full.
func (f *FullDisk) wrap(fs vfs.FS) vfs.FS { return vfs.OnDiskFull(fs, f.wait) }

// Serve lets writes wait from here on.
func (f *FullDisk) Serve(note func(full bool)) {
	f.note = note
	f.serving.Store(true)
}

// Waits is how often a write has waited.
func (f *FullDisk) Waits() int64 { return f.waits.Load() }

// Stop ends all waiting: what has found no room fails.
func (f *FullDisk) Stop() { f.once.Do(func() { close(f.stopped) }) }

func (f *FullDisk) stopping() bool {
	select {
	case <-f.stopped:
		return true
	default:
		return false
	}
}

// wait returns when there is room, or when there is no point in waiting.
func (f *FullDisk) wait() {
	if !f.serving.Load() || f.stopping() {
		return
	}
	f.waits.Add(1)
	f.note(true)
	tick := time.NewTicker(roomPoll)
	defer tick.Stop()
	for {
		select {
		case <-f.stopped:
			return
		case <-tick.C:
			free, reserved, err := f.disk.Free()
			if err == nil && free > 0 && free >= min(reserved, enoughRoom) {
				f.note(false)
				return
			}
		}
	}
}

// quiet keeps Pebble from printing; what fails is returned to who asked.
type quiet struct{ full *FullDisk }

// Infof does nothing.
func (quiet) Infof(string, ...any) {}

// Errorf does nothing.
func (quiet) Errorf(string, ...any) {}

// Fatalf ends the process, since Pebble cannot go on. While the node stops with a full disk, only the
// goroutine ends whose write has failed: no caller has got an answer for it.
func (q quiet) Fatalf(format string, args ...any) {
	if q.full.stopping() && q.full.waits.Load() > 0 {
		runtime.Goexit()
	}
	panic(fmt.Sprintf("pebble: "+format, args...))
}
