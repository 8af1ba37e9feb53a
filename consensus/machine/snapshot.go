package machine

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// A snapshot consists of the magic with its version, records, and a SHA-256 of everything before it. A record is its
// length in four bytes, big-endian, and CBOR in the deterministic encoding: one imageHeader, then as many imageHead,
// imageKept and submitted as the header says. Records are written and read one at a time, so that memory never holds
// a whole snapshot twice.
const snapshotMagic = "mlsfed state \x01"

// maxRecord limits one record: a head with a full delivery list, or a public state.
const maxRecord = 64 << 20

// maxRecent is the largest number of entries that a policy may keep.
const maxRecent = 4096

// Image is the state at one moment. It does not change when the machine advances, and can be written at the same
// time.
type Image struct {
	header  imageHeader
	heads   []head
	recent  []kept
	answers []submitted

	archive Archive // of the machine
	stored  string  // of the machine
	offsets []int64 // set when the image has been written: offset of the content of each entry in recent
}

type imageHeader struct {
	ID       wire.ConversationID `cbor:"1,keyasint"`
	Created  bool                `cbor:"2,keyasint"`
	Closed   bool                `cbor:"3,keyasint"`
	Policy   wire.Policy         `cbor:"4,keyasint"`
	Sequence wire.SequenceNumber `cbor:"5,keyasint"`
	Order    wire.Hash           `cbor:"6,keyasint"`
	Now      wire.Time           `cbor:"7,keyasint"`
	Spans    []Span              `cbor:"8,keyasint"`
	Replicas *wire.Replicas      `cbor:"9,keyasint,omitempty"`
	Since    wire.SequenceNumber `cbor:"10,keyasint"`
	Heads    uint32              `cbor:"11,keyasint"`
	Recent   uint32              `cbor:"12,keyasint"`
	Answers  uint32              `cbor:"13,keyasint"`
	Level    uint8               `cbor:"14,keyasint,omitempty"` // 0 for the first level, so that its snapshots do not change
	Clocks   []Clock             `cbor:"15,keyasint,omitempty"` // from level 2 on
}

type imageHead struct {
	Sequence  wire.SequenceNumber `cbor:"1,keyasint"`
	Epoch     wire.Epoch          `cbor:"2,keyasint"`
	Key       wire.SubmissionKey  `cbor:"3,keyasint"`
	Delivery  []wire.Address      `cbor:"4,keyasint"`
	Change    wire.DeliveryChange `cbor:"5,keyasint"`
	Public    []byte              `cbor:"6,keyasint,omitempty"`
	Info      *wire.Payload       `cbor:"7,keyasint,omitempty"`
	Tree      *wire.Payload       `cbor:"8,keyasint,omitempty"`
	Parent    *imagePoint         `cbor:"9,keyasint,omitempty"`
	Used      wire.Time           `cbor:"10,keyasint"`
	Proposals uint32              `cbor:"11,keyasint"`
	Trail     []imageAncestor     `cbor:"12,keyasint,omitempty"`
	Branch    *imageBranch        `cbor:"13,keyasint,omitempty"`
	Closed    bool                `cbor:"14,keyasint,omitempty"`
}

type imagePoint struct {
	Sequence wire.SequenceNumber `cbor:"1,keyasint"`
	Epoch    wire.Epoch          `cbor:"2,keyasint"`
	Key      wire.SubmissionKey  `cbor:"3,keyasint"`
	Public   []byte              `cbor:"4,keyasint,omitempty"`
	Winner   wire.SequenceNumber `cbor:"5,keyasint"`
}

type imageKept struct {
	_     struct{} `cbor:",toarray"`
	Time  wire.Time
	Order wire.Hash
	Entry []byte
}

// Snapshot takes an image. It copies no content, only references to data that never changes.
func (m *Machine) Snapshot() *Image {
	img := &Image{
		header: imageHeader{ID: m.id, Created: m.created, Closed: m.closed, Policy: m.policy, Sequence: m.seq, Order: m.order,
			Now: m.now, Spans: slices.Clone(m.spans), Replicas: m.replicas, Since: m.since,
			Heads: uint32(len(m.heads)), Recent: uint32(len(m.recent)), Answers: uint32(len(m.answered))},
		recent: slices.Clone(m.recent), archive: m.archive, stored: m.stored,
	}
	if m.level > wire.FirstLevel {
		img.header.Level, img.header.Clocks = m.level, slices.Clone(m.clocks)
	}
	for _, h := range m.heads {
		img.heads = append(img.heads, *h)
		img.heads[len(img.heads)-1].trail = slices.Clone(h.trail) // evidence is added in place
	}
	for _, id := range m.answered {
		img.answers = append(img.answers, m.answers[id])
	}
	return img
}

// Digest returns the SHA-256 that ends the snapshot: it is equal for replicas in the same state.
func (img *Image) Digest() (wire.Hash, error) {
	var out bytes.Buffer
	if _, err := img.WriteTo(&out); err != nil {
		return wire.Hash{}, err
	}
	return wire.Hash(out.Bytes()[out.Len()-sha256.Size:]), nil
}

// WriteTo writes the snapshot. It reads content from the archive, and fails with ErrMoved if another snapshot has
// replaced the one with the content.
func (img *Image) WriteTo(w io.Writer) (int64, error) {
	out := &recordWriter{w: w, sum: sha256.New()}
	img.offsets = nil
	out.raw([]byte(snapshotMagic))
	out.record(&img.header)
	for i := range img.heads {
		rec, err := packHead(&img.heads[i])
		if err != nil {
			return out.n, fmt.Errorf("snapshot %v: %w", img.header.ID, err)
		}
		out.record(rec)
	}
	reader := &archiveReader{archive: img.archive, snapshot: img.stored}
	defer reader.close()
	for i := range img.recent {
		k := &img.recent[i]
		c, err := reader.read(k)
		if err != nil {
			return out.n, fmt.Errorf("snapshot %v: %w", img.header.ID, err)
		}
		out.record(&imageKept{Time: k.time, Order: k.Order, Entry: c.Entry})
		img.offsets = append(img.offsets, out.n-int64(len(c.Entry))) // the content ends its record
	}
	for i := range img.answers {
		out.record(&img.answers[i])
	}
	out.raw(out.sum.Sum(nil))
	if out.err != nil {
		return out.n, fmt.Errorf("snapshot %v: %w", img.header.ID, out.err)
	}
	return out.n, nil
}

func packHead(h *head) (*imageHead, error) {
	rec := &imageHead{Sequence: h.seq, Epoch: h.epoch, Key: h.key, Delivery: h.delivery, Change: h.change,
		Info: h.info, Tree: h.tree, Used: h.used, Proposals: uint32(h.proposals)}
	var err error
	if rec.Public, err = packPublic(h.public); err != nil {
		return nil, err
	}
	if h.parent != nil {
		if rec.Parent, err = packPoint(h.parent); err != nil {
			return nil, err
		}
	}
	return rec, packTrail(rec, h)
}

func packPublic(g PublicGroup) ([]byte, error) {
	if g == nil {
		return nil, nil
	}
	return g.MarshalBinary()
}

// ErrInvalid means that a snapshot arrived as it was written, but no state machine produces its content. Damaged
// snapshots are refused with other errors.
var ErrInvalid = errors.New("state is not one that a state machine makes")

// Restore reads a snapshot of conversation id. It consumes r to its end. It refuses damaged data, and with ErrInvalid
// a state that contradicts itself.
func Restore(id wire.ConversationID, rules PublicRules, r io.Reader) (*Machine, error) {
	m := New(id, rules)
	in := &recordReader{r: r, sum: sha256.New()}
	if err := m.read(in); err != nil {
		if in.intact() {
			return nil, fmt.Errorf("restore %v: %w: %w", id, ErrInvalid, err)
		}
		return nil, fmt.Errorf("restore %v: %w", id, err)
	}
	return m, nil
}

func (m *Machine) read(in *recordReader) error {
	if magic, err := in.raw(len(snapshotMagic)); err != nil {
		return err
	} else if string(magic) != snapshotMagic {
		return wire.Errorf(wire.Version, "restore", "not a snapshot of a version that this node knows")
	}
	var h imageHeader
	if err := in.record(&h); err != nil {
		return err
	}
	if h.ID != m.id {
		return fmt.Errorf("is a snapshot of conversation %v", h.ID)
	}
	if h.Heads > MaxBranches || h.Heads > MaxHeads && h.Level < 2 || h.Recent > maxRecent || h.Answers > MaxSubmissions || wire.SequenceNumber(h.Recent) > h.Sequence ||
		h.Created && h.Heads == 0 {
		return fmt.Errorf("names %d heads, %d entries of %d, %d answers", h.Heads, h.Recent, h.Sequence, h.Answers)
	}
	m.created, m.closed, m.policy, m.seq, m.order, m.now = h.Created, h.Closed, h.Policy, h.Sequence, h.Order, h.Now
	m.spans = h.Spans
	m.setReplicas(h.Replicas, h.Since)
	if h.Level == wire.FirstLevel || h.Level > wire.LastLevel {
		return wire.Errorf(wire.Version, "restore", "rules of level %d, this node knows up to %d", h.Level, wire.LastLevel)
	}
	m.level, m.clocks = max(h.Level, wire.FirstLevel), h.Clocks
	for range h.Heads {
		if err := m.readHead(in); err != nil {
			return err
		}
	}
	// The entries are in memory until the state has been validated. So what the policy would not keep is refused before
	// it is read.
	count, size, _ := keepLimits(h.Policy)
	if h.Created {
		if err := h.Policy.Check(); err != nil {
			return err
		}
	}
	if int(h.Recent) > count {
		return fmt.Errorf("keeps %d entries, the policy %d", h.Recent, count)
	}
	entries := make([]*wire.Entry, h.Recent)
	for i := range h.Recent {
		var err error
		if entries[i], err = m.readKept(in, h.Sequence-wire.SequenceNumber(h.Recent-1-i)); err != nil {
			return err
		}
		if i > 0 && m.recentBytes > size {
			return fmt.Errorf("keeps more than %d bytes of entries", size)
		}
	}
	for range h.Answers {
		var s submitted
		if err := in.record(&s); err != nil {
			return err
		}
		if _, twice := m.answers[s.ID]; twice {
			return fmt.Errorf("answers submission %v twice", s.ID)
		}
		m.noteSubmission(s)
	}
	if err := in.end(); err != nil {
		return err
	}
	if m.level >= 2 {
		m.updateHolders()
	}
	return m.validate(entries)
}

func (m *Machine) readHead(in *recordReader) error {
	var rec imageHead
	err := in.record(&rec)
	if err != nil {
		return err
	}
	h := &head{seq: rec.Sequence, epoch: rec.Epoch, key: rec.Key, delivery: rec.Delivery, change: rec.Change,
		info: rec.Info, tree: rec.Tree, used: rec.Used, proposals: int(rec.Proposals)}
	if h.public, err = m.unpackPublic(rec.Public); err != nil {
		return err
	}
	if rec.Parent != nil {
		if h.parent, err = m.unpackPoint(rec.Parent); err != nil {
			return err
		}
	}
	if err := m.readTrail(&rec, h); err != nil {
		return err
	}
	m.heads = append(m.heads, h)
	return nil
}

func (m *Machine) readKept(in *recordReader, seq wire.SequenceNumber) (*wire.Entry, error) {
	var rec imageKept
	if err := in.record(&rec); err != nil {
		return nil, err
	}
	k := kept{Committed: wire.Committed{Sequence: seq, Order: rec.Order, Entry: rec.Entry}, time: rec.Time,
		at: location{offset: in.n - int64(len(rec.Entry)), size: len(rec.Entry)}}
	e, err := k.Open()
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", seq, err)
	}
	if e.Envelope != nil {
		k.submission, k.blobs = e.Envelope.Submission, e.Envelope.Blobs()
	}
	m.recent = append(m.recent, k)
	m.recentBytes += len(k.Entry)
	m.held += len(k.Entry)
	return e, nil
}

func (m *Machine) unpackPublic(data []byte) (PublicGroup, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if m.public == nil {
		return nil, errors.New("has public handshakes, which this node does not validate")
	}
	return m.public.Restore(data)
}

type recordWriter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
	err error
}

func (w *recordWriter) raw(b []byte) {
	if w.err != nil {
		return
	}
	w.sum.Write(b)
	n, err := w.w.Write(b)
	w.n, w.err = w.n+int64(n), err
}

func (w *recordWriter) record(v any) {
	b, err := wire.Encode(v)
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("record %T of %d bytes, at most %d", v, len(b), maxRecord)
	}
	if w.err == nil {
		w.err = err
	}
	w.raw(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	w.raw(b)
}

type recordReader struct {
	r     io.Reader
	sum   hash.Hash
	n     int64  // bytes read
	rest  []byte // bytes received if fewer than required
	ended bool   // the checksum has been checked and matches
}

// intact reads the rest of a snapshot that was refused, and reports whether its checksum matches.
func (r *recordReader) intact() bool {
	if r.ended {
		return true
	}
	in := bufio.NewReader(io.MultiReader(bytes.NewReader(r.rest), r.r))
	for {
		b, err := in.Peek(sha256.Size + 1)
		if err != nil {
			return errors.Is(err, io.EOF) && bytes.Equal(b, r.sum.Sum(nil))
		}
		n := min(in.Buffered(), 4096) - sha256.Size
		b, err = in.Peek(n)
		if err != nil {
			return false
		}
		r.sum.Write(b)
		if _, err := in.Discard(n); err != nil {
			return false
		}
	}
}

// raw reads n bytes. The buffer grows with the received data, so that a false length costs nothing.
func (r *recordReader) raw(n int) ([]byte, error) {
	var buf bytes.Buffer
	got, err := io.CopyN(&buf, r.r, int64(n))
	if err != nil {
		r.rest = buf.Bytes()
		return nil, fmt.Errorf("ends after %d of %d bytes: %w", got, n, io.ErrUnexpectedEOF)
	}
	r.sum.Write(buf.Bytes())
	r.n += got
	return buf.Bytes(), nil
}

func (r *recordReader) record(v any) error {
	size, err := r.raw(4)
	if err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size)
	if n > maxRecord {
		return fmt.Errorf("record of %d bytes, at most %d", n, maxRecord)
	}
	b, err := r.raw(int(n))
	if err != nil {
		return err
	}
	return wire.Decode(b, maxRecord, v)
}

func (r *recordReader) end() error {
	want := r.sum.Sum(nil)
	got, err := r.raw(sha256.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("checksum differs: the snapshot is damaged")
	}
	r.ended = true
	if n, _ := io.Copy(io.Discard, io.LimitReader(r.r, 1)); n != 0 {
		return errors.New("bytes follow its end")
	}
	return nil
}
