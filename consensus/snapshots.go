package consensus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// snapshotFactory creates the snapshot store of a group, and deletes it.
type snapshotFactory interface {
	store(group uint32) raft.SnapshotStore
	drop(group uint32) error
	// sizes returns the bytes on disk, by group.
	sizes() (map[uint32]uint64, error)
}

// fileSnapshots keeps snapshots as files in one folder, the newest of each group:
//
//	GROUP-INDEX-TERM.snap: magic, size of header (4 bytes), header in CBOR, CRC-32C of the header, content
//
// A file is written under another name, synced and renamed, so a file with the final name is complete. The content
// ends with its own checksum (package machine).
type fileSnapshots struct{ dir string }

const snapshotFileMagic = "mlsfed snapshot \x01"

type snapshotHeader struct {
	Index         uint64 `cbor:"1,keyasint"`
	Term          uint64 `cbor:"2,keyasint"`
	Configuration []byte `cbor:"3,keyasint"`
	ConfigIndex   uint64 `cbor:"4,keyasint"`
}

func openSnapshots(dir string) (*fileSnapshots, error) {
	dir = filepath.Join(dir, "snapshots")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("snapshots: %w", err)
	}
	unfinished, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil {
		return nil, fmt.Errorf("snapshots: %w", err)
	}
	for _, name := range unfinished {
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("snapshots: remove an unfinished one: %w", err)
		}
	}
	return &fileSnapshots{dir}, nil
}

func (f *fileSnapshots) store(group uint32) raft.SnapshotStore { return &groupSnapshots{f, group} }

func (f *fileSnapshots) drop(group uint32) error {
	var all error
	for _, name := range f.files(group) {
		all = errors.Join(all, os.Remove(name))
	}
	return all
}

func (f *fileSnapshots) sizes() (map[uint32]uint64, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("snapshots: %w", err)
	}
	sizes := make(map[uint32]uint64)
	for _, e := range entries {
		var group uint32
		if _, err := fmt.Sscanf(e.Name(), "%08x-", &group); err != nil {
			continue
		}
		if info, err := e.Info(); err == nil {
			sizes[group] += uint64(info.Size())
		}
	}
	return sizes, nil
}

// files returns the snapshots of a group, newest first: their names have numbers of a fixed width.
func (f *fileSnapshots) files(group uint32) []string {
	names, err := filepath.Glob(filepath.Join(f.dir, fmt.Sprintf("%08x-*.snap", group)))
	if err != nil {
		return nil // the pattern is constant and valid
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names
}

type groupSnapshots struct {
	all   *fileSnapshots
	group uint32
}

var _ raft.SnapshotStore = (*groupSnapshots)(nil)

// Create begins a snapshot, which takes effect when Close returns.
func (g *groupSnapshots) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	name := fmt.Sprintf("%08x-%016x-%016x", g.group, index, term)
	tmp, err := os.CreateTemp(g.all.dir, name+"-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	s := &fileSink{g: g, id: name, file: tmp, out: bufio.NewWriterSize(tmp, 64<<10),
		head: snapshotHeader{Index: index, Term: term, Configuration: raft.EncodeConfiguration(c), ConfigIndex: configIndex}}
	if err := s.writeHeader(s.out); err != nil {
		return nil, errors.Join(err, s.Cancel())
	}
	return s, nil
}

// List returns the existing snapshots, newest first.
func (g *groupSnapshots) List() ([]*raft.SnapshotMeta, error) {
	var list []*raft.SnapshotMeta
	for _, name := range g.all.files(g.group) {
		meta, file, err := readSnapshot(name)
		if err != nil {
			return nil, err
		}
		file.Close()
		list = append(list, meta)
	}
	return list, nil
}

// Open returns the content of a snapshot.
func (g *groupSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	return readSnapshot(filepath.Join(g.all.dir, filepath.Base(id)+".snap"))
}

func readSnapshot(name string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot: %w", err)
	}
	meta, err := readSnapshotMeta(file)
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("snapshot %s: %w", filepath.Base(name), err)
	}
	meta.ID = strings.TrimSuffix(filepath.Base(name), ".snap")
	return meta, file, nil
}

// readSnapshotMeta reads the header and leaves file at the content. The size of the content is the size of the file
// without the header.
func readSnapshotMeta(file *os.File) (*raft.SnapshotMeta, error) {
	head, err := readSnapshotHeader(file)
	if err != nil {
		return nil, err
	}
	c, err := decodeConfiguration(head.Configuration)
	if err != nil {
		return nil, err
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return &raft.SnapshotMeta{Version: 1, Index: head.Index, Term: head.Term,
		Configuration: c, ConfigurationIndex: head.ConfigIndex, Size: info.Size() - at}, nil
}

func readSnapshotHeader(r io.Reader) (*snapshotHeader, error) {
	fixed := make([]byte, len(snapshotFileMagic)+4)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, err
	}
	if string(fixed[:len(snapshotFileMagic)]) != snapshotFileMagic {
		return nil, wire.Errorf(wire.Version, "snapshot", "not of a version that this node knows")
	}
	n := binary.BigEndian.Uint32(fixed[len(snapshotFileMagic):])
	if n > 1<<20 {
		return nil, fmt.Errorf("header of %d bytes", n)
	}
	body := make([]byte, n+4)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if crc32.Checksum(body[:n], castagnoli()) != binary.BigEndian.Uint32(body[n:]) {
		return nil, errors.New("header is damaged")
	}
	h := new(snapshotHeader)
	return h, wire.Decode(body[:n], 1<<20, h)
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// fileSink is a snapshot that is being written.
type fileSink struct {
	g    *groupSnapshots
	id   string
	file *os.File
	out  *bufio.Writer
	head snapshotHeader
	over bool
}

func (s *fileSink) ID() string { return s.id }

func (s *fileSink) Write(b []byte) (int, error) {
	return s.out.Write(b)
}

func (s *fileSink) writeHeader(w io.Writer) error {
	b, err := wire.Encode(&s.head)
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32([]byte(snapshotFileMagic), uint32(len(b)))
	head = append(head, b...)
	_, err = w.Write(binary.BigEndian.AppendUint32(head, crc32.Checksum(b, castagnoli())))
	return err
}

// Cancel removes the written data.
func (s *fileSink) Cancel() error {
	if s.over {
		return nil
	}
	s.over = true
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}

// Close makes the snapshot effective: it is on disk when Close returns. Older snapshots of the group are deleted.
func (s *fileSink) Close() error {
	if s.over {
		return nil
	}
	if err := s.finish(); err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", s.id, err), s.Cancel())
	}
	s.over = true
	older := s.g.all.files(s.g.group)
	final := filepath.Join(s.g.all.dir, s.id+".snap")
	if err := errors.Join(s.file.Close(), os.Rename(s.file.Name(), final), syncDir(s.g.all.dir)); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.id, err)
	}
	for _, name := range older {
		if name != final && name < final {
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("snapshot: remove an older one: %w", err)
			}
		}
	}
	return nil
}

func (s *fileSink) finish() error {
	if err := s.out.Flush(); err != nil {
		return err
	}
	return s.file.Sync()
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
