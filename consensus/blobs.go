package consensus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Blobs are transferred separately from the log, one after the other on one stream between two nodes. Before an entry
// that names a blob is proposed, a majority of the voters has the blob on disk; a replica that lacks it fetches it on
// request.
//
//	asking node                       answering node
//	size (4), blobRequest    ──▶
//	                         ◀──      blobHave, blobWant, or blobError with size (4) and an Error
//	content, for a put       ──▶
//	                         ◀──      content, for a get; blobHave or an error after a put

// BlobStore keeps content by its hash. Put verifies the content that it reads; the blob is durable when Put returns.
type BlobStore interface {
	// owner is charged for the content: an organization, a device, or "" for the node itself.
	Put(owner string, ref wire.BlobRef, content io.Reader) error
	Get(ref wire.BlobRef) (io.ReadCloser, error)
	Has(ref wire.BlobRef) (bool, error)
	// Sweep deletes blobs that were stored before a time and for which keep returns false.
	Sweep(before time.Time, keep func(wire.BlobRef) bool) error
}

const (
	blobHave  = 0
	blobWant  = 1
	blobError = 2
)

type blobOp uint8

const (
	blobPut blobOp = 1
	blobGet blobOp = 2
	blobHas blobOp = 3
)

type blobRequest struct {
	Op           blobOp              `cbor:"1,keyasint"`
	Conversation wire.ConversationID `cbor:"2,keyasint"`
	Ref          wire.BlobRef        `cbor:"3,keyasint"`
}

func (b *blobRequest) Check() error {
	if b.Op < blobPut || b.Op > blobHas || b.Ref.Size == 0 || b.Ref.Size > wire.MaxBlob {
		return wire.Errorf(wire.Malformed, "blob", "operation %d on %d bytes", b.Op, b.Ref.Size)
	}
	return b.Conversation.Check()
}

// blobLife is the time for which a blob may wait for the entry that names it.
const blobLife = time.Hour

// transferTime limits the time of one transfer: the rate is at least a quarter of a megabyte per second.
func transferTime(size uint64) time.Duration {
	return 10*time.Second + time.Duration(size/(256<<10))*time.Second
}

// PutBlob stores content on this node, for a submission that will name it. owner is charged for it.
func (m *Manager) PutBlob(owner string, ref wire.BlobRef, content io.Reader) error {
	if m.cfg.Blobs == nil {
		return wire.Errorf(wire.Invalid, "blob", "node %s stores no blobs", m.cfg.Node)
	}
	if ref.Size == 0 || ref.Size > wire.MaxBlob {
		return wire.Errorf(wire.TooLarge, "blob", "%d bytes, wanted 1 to %d", ref.Size, wire.MaxBlob)
	}
	return m.cfg.Blobs.Put(owner, ref, content)
}

// Blob opens content that a kept entry or a head of the conversation names, or that is held for devices that join. It
// returns wire.BlobMissing for content that belongs to another conversation. If this node lacks the content, another
// replica is asked. A node that has left the conversation still serves what it holds.
func (m *Manager) Blob(ctx context.Context, id wire.ConversationID, ref wire.BlobRef) (io.ReadCloser, error) {
	c, err := m.find(id)
	if wire.CodeOf(err) == wire.UnknownConversation && m.cfg.Blobs != nil && m.cfg.Holds != nil && m.cfg.Holds(id, ref) {
		return m.cfg.Blobs.Get(ref) // this organization has left, and a device here has not read the entry yet
	}
	if err != nil {
		return nil, err
	}
	if m.cfg.Blobs == nil {
		return nil, wire.Errorf(wire.BlobMissing, "blob", "node %s stores no blobs", m.cfg.Node)
	}
	if err := m.mustName(c, ref); err != nil {
		return nil, err
	}
	if have, err := m.cfg.Blobs.Has(ref); err != nil {
		return nil, err
	} else if have {
		return m.cfg.Blobs.Get(ref)
	}
	if err := m.bringBlob(ctx, c, ref); err != nil {
		return nil, err
	}
	return m.cfg.Blobs.Get(ref)
}

func (m *Manager) members(c *conversation) []wire.NodeID {
	if l := c.awake(); l != nil {
		if peers := l.peers(); len(peers) > 0 {
			return peers
		}
	}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return nil
	}
	return rec.members()
}

// fetchBlob gets content from the first node that has it. payer is charged for it. If no node has it, lacking lists
// the nodes that said so, and this node.
func (m *Manager) fetchBlob(ctx context.Context, c *conversation, payer wire.Domain, ref wire.BlobRef, from []wire.NodeID) (lacking []wire.NodeID, err error) {
	last := error(wire.Errorf(wire.BlobMissing, "blob", "%v is on no replica of %v that can be reached", ref, c.id))
	lacking = []wire.NodeID{m.cfg.Node}
	for _, n := range from {
		if n == m.cfg.Node {
			continue
		}
		err := m.withBlobStream(ctx, n, &blobRequest{Op: blobGet, Conversation: c.id, Ref: ref}, func(conn net.Conn, answer byte) error {
			return m.readBlob(conn, payer, ref)
		})
		if err == nil {
			return nil, nil
		}
		last = err
		if wire.CodeOf(err) == wire.BlobMissing {
			lacking = append(lacking, n)
		}
		m.log.Debug("blob not fetched", "blob", ref, "peer", n, "error", err)
	}
	return lacking, last
}

// bringBlob fetches content that the conversation names and this node lacks. wire.BlobMissing means that the content
// is lost: a majority of the voters, which had it when it was named, say that they do not have it. wire.Unavailable
// means that nodes which may have it cannot be reached.
func (m *Manager) bringBlob(ctx context.Context, c *conversation, ref wire.BlobRef) error {
	lacking, err := m.fetchBlob(ctx, c, c.book.payer, ref, m.members(c))
	switch code := wire.CodeOf(err); {
	case err == nil, code == wire.Quota, code == wire.NotAdmitted:
		return err
	}
	voters := m.voters(c)
	without := 0
	for _, n := range voters {
		if contains(lacking, n) {
			without++
		}
	}
	if 2*without > len(voters) {
		return wire.Errorf(wire.BlobMissing, "blob", "%v is on no replica of %v: %d of %d voters do not have it", ref, c.id, without, len(voters))
	}
	return wire.Errorf(wire.Unavailable, "blob", "%v is on no replica of %v that can be reached: %v", ref, c.id, err)
}

// placeBlobs makes sure that a majority of the voters holds the blobs that e names. payer, the organization that
// brings the submission, is charged for fetched blobs.
func (m *Manager) placeBlobs(ctx context.Context, c *conversation, payer wire.Domain, e *wire.Envelope) error {
	for _, ref := range e.Blobs() {
		if m.cfg.Blobs == nil {
			return wire.Errorf(wire.BlobMissing, "submit", "node %s stores no blobs", m.cfg.Node)
		}
		have, err := m.cfg.Blobs.Has(ref)
		if err != nil {
			return err
		}
		if !have {
			if _, err := m.fetchBlob(ctx, c, payer, ref, m.members(c)); err != nil {
				if code := wire.CodeOf(err); code == wire.Quota || code == wire.Unavailable || code == wire.NotAdmitted {
					return err
				}
				return wire.Errorf(wire.BlobMissing, "submit", "blob %v is named but not stored: upload it first", ref)
			}
		}
		if err := m.spreadBlob(ctx, c, ref); err != nil {
			return err
		}
	}
	return nil
}

// spreadBlob copies a local blob to as many voters as a majority needs.
func (m *Manager) spreadBlob(ctx context.Context, c *conversation, ref wire.BlobRef) error {
	voters := m.voters(c)
	have := 0
	if contains(voters, m.cfg.Node) {
		have = 1
	}
	var missing []wire.NodeID
	for _, n := range voters {
		if have > len(voters)/2 {
			return nil
		}
		if n == m.cfg.Node {
			continue
		}
		err := m.withBlobStream(ctx, n, &blobRequest{Op: blobPut, Conversation: c.id, Ref: ref}, func(conn net.Conn, answer byte) error {
			if answer == blobHave {
				return nil
			}
			content, err := m.cfg.Blobs.Get(ref)
			if err != nil {
				return err
			}
			defer content.Close()
			if _, err := io.Copy(conn, content); err != nil {
				return err
			}
			_, err = readBlobAnswer(conn)
			return err
		})
		if err != nil {
			missing = append(missing, n)
			m.log.Debug("blob not placed", "blob", ref, "peer", n, "error", err)
			continue
		}
		have++
	}
	if have > len(voters)/2 {
		return nil
	}
	e := wire.Errorf(wire.NoQuorum, "submit", "blob %v is on %d of %d voters: try again", ref, have, len(voters))
	e.Nodes = missing
	return e
}

func readBlobAnswer(r io.Reader) (byte, error) {
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return 0, fmt.Errorf("blob: no answer: %w", err)
	}
	if kind[0] != blobError {
		return kind[0], nil
	}
	b, err := readSized(r, wire.MaxError)
	if err != nil {
		return 0, err
	}
	e := new(wire.Error)
	if err := wire.Decode(b, wire.MaxError, e); err != nil {
		return 0, err
	}
	return 0, e
}

// readSized reads a size of four bytes and as much content, at most limit.
func readSized(r io.Reader, limit int) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if uint64(n) > uint64(limit) {
		return nil, wire.Errorf(wire.TooLarge, "stream", "message of %d bytes, at most %d", n, limit)
	}
	return readBody(r, int(n))
}

// serveBlobs answers the requests of another node on one stream, one after the other, until that node ends the stream
// or pauses for blobIdle. A node of an older build ends it after one request.
func (m *Manager) serveBlobs(from wire.NodeID, conn net.Conn) error {
	for patience := m.cfg.Timers.Call; ; patience = blobIdle {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		b, err := readSized(conn, 1024)
		if patience == blobIdle && (errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded)) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := m.serveBlob(from, conn, b); err != nil {
			return err
		}
	}
}

// serveBlob answers one request. An error ends the stream.
func (m *Manager) serveBlob(from wire.NodeID, conn net.Conn, b []byte) (err error) {
	req := new(blobRequest)
	defer func() { m.quarantineOnPanicAt(recover(), req.Conversation, "blob", &err) }()
	if err := wire.Decode(b, 1024, req); err != nil {
		return errors.Join(err, answerBlobError(conn, err))
	}
	if err := conn.SetDeadline(time.Now().Add(transferTime(req.Ref.Size))); err != nil {
		return err
	}
	c, err := m.findWithRole(from, req.Conversation, roleOfBlob)
	if err != nil {
		return answerBlobError(conn, err)
	}
	if m.cfg.Blobs == nil {
		return answerBlobError(conn, wire.Errorf(wire.BlobMissing, "blob", "node %s stores no blobs", m.cfg.Node))
	}
	have, err := m.cfg.Blobs.Has(req.Ref)
	if err != nil {
		return answerBlobError(conn, err)
	}
	switch {
	case have && req.Op == blobGet:
		return m.sendBlob(conn, c, req.Ref)
	case have:
		_, err := conn.Write([]byte{blobHave})
		return err
	case req.Op == blobPut:
		if err := m.mayPlace(c); err != nil {
			return answerBlobError(conn, err)
		}
		return m.takeBlob(conn, m.payer(from.Organization()), req.Ref)
	}
	return answerBlobError(conn, wire.Errorf(wire.BlobMissing, "blob", "node %s does not have %v", m.cfg.Node, req.Ref))
}

// mayPlace refuses a blob for a conversation of which this node has no entry: no entry here can name it. A voter that
// is asked to hold a blob has the conversation.
func (m *Manager) mayPlace(c *conversation) error {
	created := false
	if err := m.view(c, func(s *machine.Machine) { created = s.Created() && !s.Closed() }); err != nil {
		return err
	}
	if !created {
		return wire.Errorf(wire.NotReplica, "blob", "node %s has no open conversation %v: no entry of it can name a blob", m.cfg.Node, c.id)
	}
	return nil
}

// mustName refuses content that neither a kept entry nor a head of the conversation names, and that is not held for
// devices that join it: a member of one conversation has no claim to content of another.
func (m *Manager) mustName(c *conversation, ref wire.BlobRef) error {
	named := false
	if err := m.view(c, func(s *machine.Machine) { named = s.Names(ref) }); err != nil {
		return err
	}
	if !named && (m.cfg.Holds == nil || !m.cfg.Holds(c.id, ref)) {
		return wire.Errorf(wire.BlobMissing, "blob", "conversation %v does not name %v", c.id, ref)
	}
	return nil
}

// sendBlob sends content that the conversation names, or that a submission in progress here names.
func (m *Manager) sendBlob(conn net.Conn, c *conversation, ref wire.BlobRef) error {
	if !m.offered(c.id, ref) {
		if err := m.mustName(c, ref); err != nil {
			return answerBlobError(conn, err)
		}
	}
	content, err := m.cfg.Blobs.Get(ref)
	if err != nil {
		return answerBlobError(conn, err)
	}
	defer content.Close()
	if _, err := conn.Write([]byte{blobHave}); err != nil {
		return err
	}
	_, err = io.Copy(conn, content)
	return err
}

// offered reports whether a submission in progress here names ref: the leader may then fetch it.
func (m *Manager) offered(id wire.ConversationID, ref wire.BlobRef) bool {
	_, ok := m.offers.Load(offer{id, ref})
	return ok
}

type offer struct {
	id  wire.ConversationID
	ref wire.BlobRef
}

func (m *Manager) takeBlob(conn net.Conn, payer wire.Domain, ref wire.BlobRef) error {
	if _, err := conn.Write([]byte{blobWant}); err != nil {
		return err
	}
	if err := m.readBlob(conn, payer, ref); err != nil {
		return errors.Join(err, answerBlobError(conn, err)) // some of the content may still be on its way
	}
	_, err := conn.Write([]byte{blobHave})
	return err
}

// readBlob stores content from a stream. It reads all of the content, even if another request has stored it
// meanwhile. payer is charged for it.
func (m *Manager) readBlob(conn net.Conn, payer wire.Domain, ref wire.BlobRef) error {
	content := io.LimitReader(conn, int64(ref.Size))
	if err := m.cfg.Blobs.Put(string(payer), ref, content); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, content)
	return err
}

// answerBlobError refuses a request. The stream can serve another request afterwards.
func answerBlobError(conn net.Conn, cause error) error {
	b, err := wire.Encode(wire.AsError("blob", cause))
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint32([]byte{blobError}, uint32(len(b))), b...))
	return err
}

// sweepBlobs deletes, at intervals, blobs that no conversation names.
func (m *Manager) sweepBlobs(ctx context.Context) {
	if m.cfg.Blobs == nil {
		return
	}
	for pause(ctx, blobLife) {
		if err := m.sweepBlobsOnce(time.Now()); err != nil {
			m.log.Warn("blobs not swept", "error", err)
		}
	}
}

// sweepBlobsOnce deletes nothing if a conversation cannot be read, because its blobs are not known. A conversation in
// quarantine keeps its blobs if its state can be read; if not, it does not keep the blobs of all other conversations.
func (m *Manager) sweepBlobsOnce(now time.Time) error {
	named := make(map[wire.BlobRef]bool)
	for _, c := range m.list() {
		if err := m.viewAny(c, func(s *machine.Machine) {
			for _, ref := range s.Blobs() {
				named[ref] = true
			}
		}); err != nil && c.shut.Load() == nil && wire.CodeOf(err) != wire.UnknownConversation {
			return err
		}
	}
	return m.cfg.Blobs.Sweep(now.Add(-blobLife), func(ref wire.BlobRef) bool { return named[ref] })
}
