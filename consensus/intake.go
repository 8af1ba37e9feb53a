package consensus

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A snapshot replaces the whole state, so it is judged before Raft hears of it: the content is received
// aside, and restored into a scratch machine.

// spoolMemory is the size up to which a snapshot is received into memory, in bytes.
const spoolMemory = 4 << 20

// spool keeps what is received until it has been judged.
type spool struct {
	dir  string // "" keeps everything in memory
	size int64
	mem  bytes.Buffer
	file *os.File
}

// Write appends.
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

// content begins at the start.
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

// receiveState reads the whole content and restores it into a machine of its own.
func (l *live) receiveState(in *spool, req *snapshotRequest, conn io.Reader) (*machine.Machine, error) {
	body := io.TeeReader(io.LimitReader(conn, req.Size), in)
	state, err := machine.Restore(l.c.id, l.m.cfg.Public, body)
	if err == nil {
		err = l.m.vetState(state)
	}
	if err != nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, max(0, req.Size-in.size))) // so that the sender reads the answer
		return nil, err
	}
	if in.size != req.Size {
		return nil, wire.Errorf(wire.Malformed, "snapshot", "%d bytes, announced as %d", in.size, req.Size)
	}
	return state, nil
}
