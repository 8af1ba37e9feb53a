package consensus

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A snapshot replaces the whole state, so it is validated before Raft receives it: the content is spooled, and restored
// into a scratch machine.

// spoolMemory is the size in bytes up to which a received snapshot stays in memory.
const spoolMemory = 4 << 20

// spool keeps received data until it has been validated.
type spool struct {
	dir  string // "" keeps everything in memory
	size int64
	mem  bytes.Buffer
	file *os.File
}

// Write appends to the spool.
func (s *spool) Write(b []byte) (int, error) {
	if s.file == nil && s.dir != "" && s.mem.Len()+len(b) > spoolMemory {
		file, err := os.CreateTemp(s.dir, "incoming-*.tmp")
		if err != nil {
			return 0, fmt.Errorf("snapshot: %w", err)
		}
		s.file = file
		if _, err := file.Write(s.mem.Bytes()); err != nil {
			return 0, fmt.Errorf("snapshot: %w", err)
		}
		s.mem = bytes.Buffer{}
	}
	s.size += int64(len(b))
	if s.file != nil {
		return s.file.Write(b)
	}
	return s.mem.Write(b)
}

// content returns a reader that begins at the start.
func (s *spool) content() (io.Reader, error) {
	if s.file == nil {
		return bytes.NewReader(s.mem.Bytes()), nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

func (s *spool) drop() {
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name())
	}
}

// intake counts the bytes of the snapshots that are being received, by the organization that sends them: each is in
// memory, decoded, until it has been validated.
type intake struct {
	mu sync.Mutex // guards by
	by map[wire.Domain]int64
}

// begin counts a snapshot, and returns the function that ends it. It refuses a snapshot that is not the only one of the
// organization if all of them together have more than most bytes.
func (s *intake) begin(org wire.Domain, size, most int64) (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.by[org]; have > 0 && have+size > most {
		return nil, false
	}
	if s.by == nil {
		s.by = make(map[wire.Domain]int64)
	}
	s.by[org] += size
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.by[org] -= size; s.by[org] <= 0 {
			delete(s.by, org)
		}
	}, true
}

// receiveState reads the whole content and restores it into a new machine.
func (l *live) receiveState(in *spool, req *snapshotRequest, conn io.Reader) (*machine.Machine, error) {
	body := io.TeeReader(io.LimitReader(conn, req.Size), in)
	state, err := machine.Restore(l.c.id, l.m.cfg.Public, body)
	if err == nil {
		err = l.m.checkForeignState(state)
	}
	if err != nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, max(0, req.Size-in.size))) // the sender reads the answer only after it has sent everything
		return nil, err
	}
	if in.size != req.Size {
		return nil, wire.Errorf(wire.Malformed, "snapshot", "%d bytes, announced as %d", in.size, req.Size)
	}
	return state, nil
}
