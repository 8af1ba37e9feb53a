package mlscore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// treeVersion is the version of the record of a tree in pieces. The record of version 1, which is still read, holds
// the whole tree.
const treeVersion = 2

// treePiece is the size of a piece of a stored tree in bytes. Some stores write a value again when a neighbouring
// record changes: pieces bound that cost. Two encrypted pieces and their keys fit into eight pages of 4 KiB.
const treePiece = 16<<10 - 256

// storedTree is the stored form of a tree: the encodings of all nodes in order up to the last non-blank one, and the
// tree hashes of all parents. Hash k belongs to node 2k+1. The hash is empty inside a collapsed blank subtree.
type storedTree struct{ bodies, hashes []string }

// stored returns the stored form of a tree.
func (t *ratchetTree) stored() *storedTree {
	s := new(storedTree)
	t.eachUpToLast(func(n *treeNode) { s.bodies = append(s.bodies, n.body) })
	s.hashes = make([]string, 1<<t.height()-1)
	s.take(t.root, 0)
	return s
}

// take collects the hashes of a node and of the parents below it.
func (s *storedTree) take(n *treeNode, first LeafIndex) {
	if n.level == 0 {
		return
	}
	s.hashes[nodeAt(first, int(n.level))/2] = n.hash
	if !n.collapsed() {
		s.take(n.left, first)
		s.take(n.right, first+1<<(n.level-1))
	}
}

// marshal encodes the number of nodes, their encodings as vectors, and the hashes as vectors.
func (s *storedTree) marshal() ([]byte, error) {
	size := 4
	for _, list := range [][]string{s.bodies, s.hashes} {
		for _, v := range list {
			size += 4 + len(v) // the longest header has four bytes
		}
	}
	if size > codec.MaxLength {
		return nil, fail(ErrLimit, "", "stored tree", "%d bytes, at most %d", size, codec.MaxLength)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, size), uint32(len(s.bodies)))
	for _, list := range [][]string{s.bodies, s.hashes} {
		for _, v := range list {
			b = appendVector(b, v)
		}
	}
	return b, nil
}

// parseStoredTree decodes the result of marshal. The nodes are parts of data and are not decoded: a checksum protects
// them against damage.
func parseStoredTree(data string, hashLen int) (*storedTree, error) {
	bad := func(format string, args ...any) (*storedTree, error) {
		return nil, fail(ErrMalformed, "", "stored tree", format, args...)
	}
	if len(data) < 4 {
		return bad("%d bytes", len(data))
	}
	count := int(binary.BigEndian.Uint32([]byte(data[:4])))
	rest := data[4:]
	if count%2 == 0 || count > 2*maxLeaves || count > len(rest) { // each node takes at least one byte
		return bad("%d nodes in %d bytes", count, len(rest))
	}
	parents := 1<<heightFor(count/2+1) - 1 // fewer than there are nodes
	s := &storedTree{make([]string, count), make([]string, parents)}
	ok := false
	for i := range s.bodies {
		if s.bodies[i], rest, ok = cutVector(rest); !ok {
			return bad("node %d is cut short", i)
		}
	}
	for i := range s.hashes {
		if s.hashes[i], rest, ok = cutVector(rest); !ok || len(s.hashes[i]) != 0 && len(s.hashes[i]) != hashLen {
			return bad("hash of node %d is cut short, or of another length", 2*i+1)
		}
	}
	switch {
	case rest != "":
		return bad("%d bytes follow it", len(rest))
	case s.bodies[count-1] == "":
		return bad("ends with a blank node")
	}
	return s, nil
}

// cutVector splits b into the content of the vector at its beginning and the rest. A header must have its shortest
// form (RFC 9420 §2.1.2).
func cutVector(b string) (v, rest string, ok bool) {
	if b == "" {
		return "", "", false
	}
	header, size := 1, int(b[0])
	switch {
	case b[0] < 0x40:
	case b[0] < 0x80 && len(b) >= 2:
		header, size = 2, int(b[0]&0x3f)<<8|int(b[1])
		ok = size < 1<<6
	case b[0] >= 0x80 && b[0] < 0xc0 && len(b) >= 4:
		header, size = 4, int(b[0]&0x3f)<<24|int(b[1])<<16|int(b[2])<<8|int(b[3])
		ok = size < 1<<14
	default:
		return "", "", false
	}
	if ok || len(b) < header+size { // ok: a shorter header would do
		return "", "", false
	}
	return b[header : header+size], b[header+size:], true
}

// treeRecord is the record before the pieces of a tree.
type treeRecord struct {
	pieces uint32
	size   uint32 // of all pieces, in bytes
	sum    uint32 // CRC-32C of all pieces, against damage; only the client can write to its store
}

func (r *treeRecord) marshal() []byte {
	var w codec.Writer
	w.Uint8(treeVersion)
	w.Uint32(r.pieces)
	w.Uint32(r.size)
	w.Uint32(r.sum)
	return w.Buffer()
}

func parseTreeRecord(b []byte) (*treeRecord, error) {
	r := codec.NewReader(b, ownLimits(b))
	if v := checkVersion(r, treeVersion); r.Err() == nil && v != treeVersion {
		r.Fail(fmt.Errorf("%w: record of version %d", ErrUnsupported, v))
	}
	t := &treeRecord{pieces: r.Uint32(), size: r.Uint32(), sum: r.Uint32()}
	return t, malformed("stored tree", r.Finish())
}

// writeTree writes a tree in pieces.
func writeTree(b *Batch, group groupName, t *ratchetTree) error {
	data, err := t.stored().marshal()
	if err != nil {
		return err
	}
	r := &treeRecord{uint32((len(data) + treePiece - 1) / treePiece), uint32(len(data)), crc32.Checksum(data, castagnoli)}
	b.put(groupKey(group, recordTree), r.marshal())
	for i := range r.pieces {
		at := int(i) * treePiece
		end := min(at+treePiece, len(data))
		b.put(groupKey(group, recordTree, uint32Bytes(i)), data[at:end:end])
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// treeReading collects a stored tree from its records, in the order of their keys.
type treeReading struct {
	whole  []byte // of version 1
	record *treeRecord
	pieces uint32
	data   strings.Builder
	sum    uint32 // of data
}

// take reads one record. rest is the part of its key after the kind.
func (t *treeReading) take(rest, value []byte) error {
	switch {
	case len(rest) == 0 && len(value) > 0 && value[0] == stateVersion:
		t.whole = bytes.Clone(value)
		return nil
	case len(rest) == 0:
		var err error
		if t.record, err = parseTreeRecord(value); err == nil {
			t.data.Grow(int(min(t.record.size, 64<<20))) // bounds the memory that a damaged size can cost
		}
		return err
	case t.record == nil || len(rest) != 4 || binary.BigEndian.Uint32(rest) != t.pieces || t.pieces >= t.record.pieces:
		return fail(ErrMalformed, "", "stored tree", "a piece is missing, or one too many")
	}
	t.pieces++
	t.data.Write(value)
	t.sum = crc32.Update(t.sum, castagnoli, value)
	return nil
}

// finish returns the tree after the last record.
func (t *treeReading) finish(hashLen int) (*storedTree, error) {
	if t.whole != nil && t.record == nil {
		bodies, err := splitTree(t.whole[1:], ownLimits(t.whole))
		return &storedTree{bodies: bodies}, err
	}
	switch {
	case t.record == nil:
		return nil, fail(ErrMalformed, "", "stored tree", "is missing")
	case t.pieces != t.record.pieces || uint32(t.data.Len()) != t.record.size:
		return nil, fail(ErrMalformed, "", "stored tree", "%d pieces of %d bytes, %d of %d were written", t.pieces, t.data.Len(), t.record.pieces, t.record.size)
	case t.sum != t.record.sum:
		return nil, fail(ErrMalformed, "", "stored tree", "is damaged")
	}
	return parseStoredTree(t.data.String(), hashLen)
}
